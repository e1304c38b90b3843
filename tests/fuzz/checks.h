/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold of the sample store and of the checkpoint slots, on the flash model. Each check
 * returns 0, or a number that says which line of it failed. */
#ifndef CHECKS_H
#define CHECKS_H

#include "bt_slots.h"
#include "bt_store.h"
#include "nor.h"

#define SAMPLES_MOST 1024
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return __LINE__;                                                                       \
    } while (0)

/* Sample i of window `id`; the first two tell the id and the label. */
static inline int16_t sample_of(uint32_t id, uint32_t label, uint32_t i)
{
    return i == 0u ? (int16_t)(id & 0x7fffu) : i == 1u ? (int16_t)label
                                                       : (int16_t)(bt_mixed(id ^ i << 16) & 0x7fffu);
}

static inline bt_status append_id(bt_store *s, uint32_t id, uint32_t label)
{
    int16_t x[SAMPLES_MOST];
    for (uint32_t i = 0; i < s->samples; i++)
        x[i] = sample_of(id, label, i);
    return bt_store_append(s, x, (int32_t)label);
}

/* Every window reads well and is one that was written; *sum: of all of them, in any order. */
static inline int check_windows(const bt_store *s, uint32_t *sum)
{
    uint32_t by_class[BT_STORE_CLASSES] = {0};
    *sum = 0;
    MUST(s->count <= s->capacity || s->capacity == 0u); /* 0: worn out */
    for (uint32_t index = 0; index < s->count; index++) {
        int16_t x[SAMPLES_MOST];
        int32_t label, again;
        uint32_t age;
        MUST(bt_store_read(s, index, x, &label) == BT_OK);
        MUST(bt_store_label(s, index, &again, &age) == BT_OK && again == label);
        MUST(age < s->number);
        const uint32_t id = (uint32_t)x[0];
        for (uint32_t i = 0; i < s->samples; i++)
            MUST(x[i] == sample_of(id, (uint32_t)label, i));
        by_class[label]++;
        *sum += bt_mixed(id * 16u + (uint32_t)label + 1u);
    }
    for (uint32_t c = 0; c < s->classes; c++)
        MUST(by_class[c] == s->by_class[c]);
    int16_t x[SAMPLES_MOST];
    int32_t label;
    MUST(bt_store_read(s, s->count, x, &label) == BT_ERR_STORE_INDEX);
    return 0;
}

typedef struct bench {
    nor flash, saved;
    bt_flash driver;
    bt_store store;
    uint32_t samples, classes;
} bench;

static inline bt_status bench_mount(bench *b)
{
    nor_power_on(&b->flash);
    return bt_store_mount(&b->store, &b->driver, 0, b->flash.pages, b->samples, b->classes);
}

static inline bt_status bench_init(bench *b, uint32_t page_bytes, uint32_t pages, uint32_t unit,
                                   uint32_t samples, uint32_t classes, bool old)
{
    nor_init(&b->flash, page_bytes, pages, unit, old);
    b->driver = nor_driver(&b->flash);
    b->samples = samples;
    b->classes = classes;
    return bench_mount(b);
}

/* Appends window `id` with power cut at every step of it. After each cut the store holds what it held
 * before or after, and takes the next window; where `twice`, power goes during the first mount too, at
 * step `cut` modulo 37. Then appends without a cut. *cuts counts. */
static inline int append_with_cuts(bench *b, uint32_t id, uint32_t label, bool twice, uint64_t *cuts)
{
    uint32_t before, after, now, then;
    MUST(bench_mount(b) == BT_OK && check_windows(&b->store, &before) == 0);
    b->saved = b->flash;
    MUST(append_id(&b->store, id, label) == BT_OK && b->flash.breaches == 0u);
    MUST(check_windows(&b->store, &after) == 0);
    const uint64_t steps = b->flash.steps;
    for (uint64_t cut = 1; cut <= steps; cut++, ++*cuts) {
        b->flash = b->saved;
        MUST(bench_mount(b) == BT_OK);
        b->flash.noise ^= (uint32_t)cut * 2654435761u;
        nor_cut(&b->flash, cut);
        (void)append_id(&b->store, id, label);
        MUST(b->flash.off);
        if (twice) {
            nor_power_on(&b->flash);
            nor_cut(&b->flash, 1u + cut % 37u);
            (void)bt_store_mount(&b->store, &b->driver, 0, b->flash.pages, b->samples, b->classes);
        }
        MUST(bench_mount(b) == BT_OK && check_windows(&b->store, &now) == 0);
        MUST(now == before || now == after);
        MUST(append_id(&b->store, id + 1u, label) == BT_OK && check_windows(&b->store, &then) == 0);
        MUST(then != now && b->flash.breaches == 0u);
        MUST(bench_mount(b) == BT_OK && check_windows(&b->store, &now) == 0 && now == then);
    }
    b->flash = b->saved;
    MUST(bench_mount(b) == BT_OK && append_id(&b->store, id, label) == BT_OK);
    return 0;
}

/* ---- checkpoint slots ---- */

typedef struct model {
    uint32_t weights[21];
    uint8_t counters[7];
} model;

static inline void model_fill(model *m, uint32_t version)
{
    for (uint32_t i = 0; i < 21u; i++)
        m->weights[i] = bt_mixed(version * 64u + i);
    m->weights[0] = version;
    for (uint32_t i = 0; i < 7u; i++)
        m->counters[i] = (uint8_t)(version + i);
}

/* The version that the model holds, or 0 where it is no version's. */
static inline uint32_t model_version(const model *m)
{
    model want;
    model_fill(&want, m->weights[0]);
    const bool same = memcmp(want.weights, m->weights, sizeof want.weights) == 0 &&
                      memcmp(want.counters, m->counters, sizeof want.counters) == 0;
    return same ? m->weights[0] : 0u;
}

typedef struct slots_bench {
    nor flash, saved;
    bt_flash driver;
    model state;
    bt_segment segments[3];
    bt_slots slots;
} slots_bench;

static inline void slots_init(slots_bench *b, uint32_t page_bytes, uint32_t pages, uint32_t unit,
                              bool old)
{
    nor_init(&b->flash, page_bytes, pages, unit, old);
    b->driver = nor_driver(&b->flash);
    b->segments[0].data = b->state.weights;
    b->segments[0].bytes = sizeof b->state.weights;
    b->segments[1].data = NULL;
    b->segments[1].bytes = 0;
    b->segments[2].data = b->state.counters;
    b->segments[2].bytes = sizeof b->state.counters;
    const bt_slots slots = {&b->driver, 0, pages, b->segments, 3, 0x600df00du};
    b->slots = slots;
}

/* The version that loading gives; 0: none. */
static inline uint32_t slots_loaded(slots_bench *b)
{
    model_fill(&b->state, 999);
    const bt_status status = bt_slots_load(&b->slots);
    if (status != BT_OK)
        return model_version(&b->state) == 999u ? 0u : 1000000u; /* the state must be untouched */
    return model_version(&b->state);
}

enum { SLOTS_SAVE, SLOTS_BACK, SLOTS_FACTORY };

static inline bt_status slots_do(slots_bench *b, int what, uint32_t version)
{
    model_fill(&b->state, version);
    return what == SLOTS_SAVE   ? bt_slots_save(&b->slots)
           : what == SLOTS_BACK ? bt_slots_back(&b->slots)
                                : bt_slots_factory(&b->slots);
}

/* The version that going back gives; where there is none, that which is there. */
static inline uint32_t slots_backed(slots_bench *b)
{
    static nor kept;
    kept = b->flash;
    nor_power_on(&b->flash);
    (void)bt_slots_back(&b->slots);
    const uint32_t version = slots_loaded(b);
    b->flash = kept;
    return version;
}

/* Does it with power cut at every step: after each the newest is what it was before or after, and so
 * is the one before it, unless it is gone; and a save works. Then without a cut. */
static inline int slots_with_cuts(slots_bench *b, int what, uint32_t version, uint64_t *cuts)
{
    nor_power_on(&b->flash);
    const uint32_t before = slots_loaded(b), back_before = slots_backed(b);
    b->saved = b->flash;
    MUST(slots_do(b, what, version) == BT_OK && b->flash.breaches == 0u);
    const uint64_t steps = b->flash.steps;
    const uint32_t after = slots_loaded(b), back_after = slots_backed(b);
    for (uint64_t cut = 1; cut <= steps; cut++, ++*cuts) {
        b->flash = b->saved;
        b->flash.noise ^= (uint32_t)cut * 2654435761u;
        nor_cut(&b->flash, cut);
        (void)slots_do(b, what, version);
        MUST(b->flash.off);
        nor_power_on(&b->flash);
        const uint32_t now = slots_loaded(b);
        MUST(now == before || now == after);
        const uint32_t back = slots_backed(b);
        MUST(back == back_before || back == back_after || back == now);
        MUST(slots_do(b, SLOTS_SAVE, version + 1u) == BT_OK && slots_loaded(b) == version + 1u);
        MUST(b->flash.breaches == 0u);
    }
    b->flash = b->saved;
    nor_power_on(&b->flash);
    MUST(slots_do(b, what, version) == BT_OK && slots_loaded(b) == after);
    return 0;
}

/* ---- damage ---- */

/* Mounts whatever lies in flash: what it then shows was written once, and it goes on working. The
 * model's rule of one program per unit ends at damage: blank bits count as erased. */
static inline int store_survives(bench *b, uint32_t id)
{
    uint32_t sum;
    const uint32_t unit = b->flash.unit_bytes;
    for (uint32_t i = 0; i < b->flash.page_bytes * b->flash.pages / unit; i++)
        b->flash.programmed[i] = nor_marked(&b->flash, i);
    b->flash.breaches = 0;
    MUST(bench_mount(b) == BT_OK && check_windows(&b->store, &sum) == 0);
    for (uint32_t i = 0; i < 3u; i++) {
        MUST(append_id(&b->store, id + i, (id + i) % b->classes) == BT_OK);
        MUST(check_windows(&b->store, &sum) == 0);
    }
    const uint32_t count = b->store.count;
    MUST(bench_mount(b) == BT_OK && check_windows(&b->store, &sum) == 0 && b->store.count == count);
    MUST(b->flash.breaches == 0u);
    return 0;
}

/* Loads whatever lies in flash: nothing, or a version that was saved (1 to `newest`). Then saves. */
static inline int slots_survive(slots_bench *b, uint32_t newest)
{
    nor_power_on(&b->flash);
    memset(b->flash.programmed, 0, sizeof b->flash.programmed);
    MUST(slots_loaded(b) <= newest);
    MUST(slots_do(b, SLOTS_SAVE, newest + 1u) == BT_OK && slots_loaded(b) == newest + 1u);
    return 0;
}

#endif

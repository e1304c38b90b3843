/* SPDX-License-Identifier: Apache-2.0 */
/* Worn flash under the sample store and the checkpoint slots. As in checks.h a check returns 0, or the
 * line that failed. */
#ifndef WORN_H
#define WORN_H

#include "checks.h"

/* Is the newest window there? */
static inline bool newest_is(const bt_store *s, uint32_t id)
{
    for (uint32_t i = 0; i < s->count; i++) {
        int16_t x[SAMPLES_MOST];
        int32_t label;
        uint32_t age;
        if (bt_store_label(s, i, &label, &age) == BT_OK && age == 0u)
            return bt_store_read(s, i, x, &label) == BT_OK && (uint32_t)x[0] == id;
    }
    return false;
}

/* Appends windows until the store refuses, or `most`. Each that is accepted is there, none is wrong, no
 * mount changes what is there; the store holds as many as its capacity says and `lost` fewer at most.
 * It refuses where fewer than two blocks work; what it holds then stays. */
static inline int append_worn(bench *b, uint32_t most, uint32_t lost, uint32_t *appended)
{
    uint32_t sum, again;
    *appended = 0;
    MUST(bench_mount(b) == BT_OK);
    for (uint32_t id = 1; id <= most; id++) {
        const uint32_t count = b->store.count;
        const bt_status status = append_id(&b->store, id, bt_mixed(id) % b->classes);
        MUST(check_windows(&b->store, &sum) == 0 && b->flash.breaches == 0u);
        if (status != BT_OK) {
            MUST(status == BT_ERR_STORE_FLASH && b->store.capacity == 0u);
            MUST(b->store.worn > (b->store.blocks - 2u) * b->store.per_block);
            (void)bench_mount(b); /* what is worn is found anew, and nothing is lost by that */
            MUST(check_windows(&b->store, &again) == 0 && again == sum);
            for (uint32_t i = b->store.blocks * b->store.per_block; i > 0u; i--)
                if (append_id(&b->store, ++id, 0) != BT_OK) /* a block may have slots left */
                    break;
                else
                    MUST(check_windows(&b->store, &sum) == 0 && newest_is(&b->store, id));
            MUST(append_id(&b->store, id, 0) == BT_ERR_STORE_FLASH);
            return 0;
        }
        ++*appended;
        MUST(newest_is(&b->store, id));
        const uint32_t want = count < b->store.capacity ? count + 1u : b->store.capacity;
        MUST(b->store.count + lost >= want);
        lost -= b->store.count < want ? want - b->store.count : 0u;
        if (id % 7u == 0u) {
            MUST(bench_mount(b) == BT_OK);
            MUST(check_windows(&b->store, &again) == 0 && again == sum);
        }
    }
    return 0;
}

/* One bit is stuck from the start: as long as two blocks work nothing is lost. */
static inline int stuck_bit(bench *b, uint32_t at, uint8_t to, uint32_t most)
{
    uint32_t appended;
    b->flash = b->saved;
    b->flash.stuck = true;
    b->flash.stuck_at = at;
    b->flash.stuck_to = to;
    const int line = append_worn(b, most, 0, &appended);
    MUST(line != 0 || appended == most || b->store.blocks == 2u);
    return line;
}

/* Pages die, `death` says how: each costs the windows of its block at most. */
static inline int dying_pages(bench *b, int death, uint32_t most, uint32_t *appended)
{
    uint32_t dying = 0;
    for (uint32_t page = 0; page < b->flash.pages; page++)
        dying += b->flash.life[page] != 0u ? 1u : 0u;
    b->flash.death = death;
    return append_worn(b, most, dying * b->store.per_block, appended);
}

/* One bit of a full store changes: one window is lost at most, and the store goes on. */
static inline int rotten_bit(bench *b, uint32_t at)
{
    uint32_t sum;
    b->flash = b->saved;
    MUST(bench_mount(b) == BT_OK);
    const uint32_t count = b->store.count;
    b->flash.memory[at / 8u] ^= (uint8_t)(1u << at % 8u);
    MUST(bench_mount(b) == BT_OK && check_windows(&b->store, &sum) == 0);
    MUST(b->store.count + 1u >= count);
    return store_survives(b, 1000);
}

/* A bit of the slots is stuck: a save that is OK is there, after one that is not the one before is, and
 * nothing is there after a reset. */
static inline int slots_stuck_bit(slots_bench *b, uint32_t at, uint8_t to)
{
    uint32_t last = 0;
    b->flash = b->saved;
    b->flash.stuck = true;
    b->flash.stuck_at = at;
    b->flash.stuck_to = to;
    for (uint32_t version = 1; version <= 5u; version++) {
        if (slots_do(b, SLOTS_SAVE, version) == BT_OK)
            last = version;
        MUST(slots_loaded(b) == last);
    }
    MUST(last > 0u); /* one slot of the two is good */
    (void)slots_do(b, SLOTS_FACTORY, 9);
    MUST(slots_loaded(b) == 0u);
    return 0;
}

/* Pages that are not erased any more: what is withdrawn is withdrawn. */
static inline int slots_dying(slots_bench *b, int death, uint32_t page)
{
    b->flash = b->saved;
    b->flash.death = death;
    uint32_t last = 0;
    for (uint32_t version = 1; version <= 6u; version++) {
        if (version == 3u)
            b->flash.life[page] = b->flash.wear[page] == 0u ? 1u : b->flash.wear[page];
        if (slots_do(b, SLOTS_SAVE, version) == BT_OK)
            last = version;
        MUST(slots_loaded(b) == last && (version < 3u || last >= 2u));
    }
    (void)slots_do(b, SLOTS_FACTORY, 9);
    MUST(slots_loaded(b) == 0u && b->flash.breaches == 0u);
    return 0;
}

/* ---- sweeps: the first place that fails is left in *at ---- */

static inline int sweep_stuck(bench *b, uint32_t *at, uint32_t to, uint32_t step)
{
    const uint32_t appends = 2u * b->store.capacity + 5u;
    b->saved = b->flash;
    for (; *at < to; *at += step)
        for (uint8_t value = 0; value < 2u; value++) {
            const int line = stuck_bit(b, *at, value, appends);
            if (line != 0)
                return line;
        }
    return 0;
}

static inline int sweep_rot(bench *b, uint32_t *at, uint32_t step)
{
    for (uint32_t id = 1; id < 3u * b->store.capacity; id++)
        MUST(append_id(&b->store, id, id % b->classes) == BT_OK);
    b->saved = b->flash;
    for (; *at < 8u * b->flash.pages * b->flash.page_bytes; *at += step) {
        const int line = rotten_bit(b, *at);
        if (line != 0)
            return line;
    }
    return 0;
}

/* One page dies after 1, 2 and 3 erasures. */
static inline int sweep_dying(bench *b, int death, uint32_t *at, uint32_t step)
{
    uint32_t appended;
    const uint32_t most = 4u * b->store.capacity + 20u;
    b->saved = b->flash;
    for (; *at < 3u * b->flash.pages; *at += step) {
        b->flash = b->saved;
        b->flash.life[*at / 3u] = 1u + *at % 3u;
        const int line = dying_pages(b, death, most, &appended);
        if (line != 0)
            return line;
        MUST(appended == most || b->store.blocks == 2u);
    }
    return 0;
}

/* Every page dies, one after the other. */
static inline int wear_out(bench *b, int death, uint32_t *appended)
{
    for (uint32_t page = 0; page < b->flash.pages; page++)
        b->flash.life[page] = 10u + bt_mixed(page) % 20u;
    return dying_pages(b, death, 100000, appended);
}

static inline int sweep_slots(slots_bench *b, uint32_t *at, uint32_t step)
{
    b->saved = b->flash;
    for (; *at < 8u * b->flash.pages * b->flash.page_bytes; *at += step)
        for (uint8_t value = 0; value < 2u; value++) {
            const int line = slots_stuck_bit(b, *at, value);
            if (line != 0)
                return line;
        }
    for (uint32_t i = 0; i < (uint32_t)DEATHS * b->flash.pages; i++) {
        const int line = slots_dying(b, (int)(i % (uint32_t)DEATHS), i / (uint32_t)DEATHS);
        if (line != 0)
            return line;
    }
    return 0;
}

#endif

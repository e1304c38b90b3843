/* SPDX-License-Identifier: Apache-2.0 */
/* The calls that tests/test_store.py makes. */
#include <stdlib.h>

#include "worn.h"

bench *bench_new(void); slots_bench *slots_new(void); void forget(void *p);
int init(bench *b, uint32_t page, uint32_t pages, uint32_t unit, uint32_t n, uint32_t classes,
             int old);
int mount(bench *b); int append(bench *b, uint32_t id, uint32_t label);
int clear(bench *b); int check(bench *b);
void cut(bench *b, uint32_t steps); void fail_next(bench *b);
uint32_t programmed(bench *b); uint32_t breaches(bench *b);
uint32_t capacity(bench *b); uint32_t count(bench *b); uint32_t blocks(bench *b);
uint32_t block_pages(bench *b);
uint32_t per_block(bench *b); uint32_t page_wear(bench *b, uint32_t page);
uint8_t *memory(bench *b); uint32_t context_bytes(void);
int window(bench *b, uint32_t index, uint32_t *row);
int all_cuts(bench *b, uint32_t id, uint32_t label, int twice, uint64_t *cuts);
void slots_start(slots_bench *b, uint32_t page, uint32_t pages, uint32_t unit, int old);
int slots_cuts(slots_bench *b, int what, uint32_t version, uint64_t *cuts);
uint32_t slots_version(slots_bench *b);
int slots_call(slots_bench *b, int what, uint32_t version);
uint32_t slots_breaches(slots_bench *b); uint8_t *slots_memory(slots_bench *b);
void shuffled(uint32_t n, uint32_t seed, uint32_t epoch, uint32_t *out);
uint32_t worn(bench *b);
int stuck_bits(bench *b, uint32_t *at, uint32_t to, uint32_t step);
int rotten_bits(bench *b, uint32_t *at, uint32_t step);
int dying(bench *b, int death, uint32_t *at, uint32_t step);
int worn_out(bench *b, int death, uint32_t *appended);
int slots_worn(slots_bench *b, uint32_t *at, uint32_t step);

bench *bench_new(void) { return (bench *)calloc(1, sizeof(bench)); }
slots_bench *slots_new(void) { return (slots_bench *)calloc(1, sizeof(slots_bench)); }
void forget(void *p) { free(p); }
int init(bench *b, uint32_t page, uint32_t pages, uint32_t unit, uint32_t n, uint32_t classes, int old)
{ return (int)bench_init(b, page, pages, unit, n, classes, old != 0); }
int mount(bench *b) { return (int)bench_mount(b); }
int append(bench *b, uint32_t id, uint32_t label) { return (int)append_id(&b->store, id, label); }
int clear(bench *b) { return (int)bt_store_clear(&b->store); }
int check(bench *b) { uint32_t sum; return check_windows(&b->store, &sum); }
void cut(bench *b, uint32_t n) { nor_cut(&b->flash, n); }
void fail_next(bench *b) { b->flash.fail_next = true; }
uint32_t programmed(bench *b) { return (uint32_t)b->flash.steps; }
uint32_t breaches(bench *b) { return b->flash.breaches; }
uint32_t capacity(bench *b) { return b->store.capacity; }
uint32_t count(bench *b) { return b->store.count; }
uint32_t block_pages(bench *b) { return b->store.block_bytes / b->flash.page_bytes; }
uint32_t blocks(bench *b) { return b->store.blocks; }
uint32_t per_block(bench *b) { return b->store.per_block; }
uint32_t page_wear(bench *b, uint32_t page) { return b->flash.wear[page]; }
uint8_t *memory(bench *b) { return b->flash.memory; }
uint32_t context_bytes(void) { return (uint32_t)sizeof(bt_store); }
int window(bench *b, uint32_t index, uint32_t *row)
{
    int16_t x[SAMPLES_MOST];
    int32_t label;
    const bt_status status = bt_store_read(&b->store, index, x, &label);
    if (status != BT_OK)
        return (int)status;
    row[0] = (uint32_t)x[0];
    return (int)bt_store_label(&b->store, index, (int32_t *)&row[1], &row[2]);
}
int all_cuts(bench *b, uint32_t id, uint32_t label, int twice, uint64_t *cuts)
{ return append_with_cuts(b, id, label, twice != 0, cuts); }
void slots_start(slots_bench *b, uint32_t page, uint32_t pages, uint32_t unit, int old)
{ slots_init(b, page, pages, unit, old != 0); }
int slots_cuts(slots_bench *b, int what, uint32_t version, uint64_t *cuts)
{ return slots_with_cuts(b, what, version, cuts); }
uint32_t slots_version(slots_bench *b) { return slots_loaded(b); }
int slots_call(slots_bench *b, int what, uint32_t version)
{ return (int)slots_do(b, what, version); }
uint32_t slots_breaches(slots_bench *b) { return b->flash.breaches; }
uint8_t *slots_memory(slots_bench *b) { return b->flash.memory; }
void shuffled(uint32_t n, uint32_t seed, uint32_t epoch, uint32_t *out)
{
    for (uint32_t i = 0; i < n; i++)
        out[i] = bt_shuffled(n, seed, epoch, i);
}
uint32_t worn(bench *b) { return b->store.worn; }
int stuck_bits(bench *b, uint32_t *at, uint32_t to, uint32_t step)
{ return sweep_stuck(b, at, to, step); }
int rotten_bits(bench *b, uint32_t *at, uint32_t step) { return sweep_rot(b, at, step); }
int dying(bench *b, int death, uint32_t *at, uint32_t step)
{ return sweep_dying(b, death, at, step); }
int worn_out(bench *b, int death, uint32_t *appended) { return wear_out(b, death, appended); }
int slots_worn(slots_bench *b, uint32_t *at, uint32_t step) { return sweep_slots(b, at, step); }

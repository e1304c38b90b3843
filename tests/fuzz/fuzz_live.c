/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damaged flash under a device that lives: a package's C, and an image of its flash in the middle of a
 * calibration (image.h: image[], programmed[]). Whatever is changed, the device must start with weights
 * that were good: the factory's, or those of a checkpoint in the image; and it must go on.
 *
 *     live_damage COUNT          so many damaged images, by number
 *     -DFUZZ                     a target for libFuzzer: triples (place, low and high byte; value)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "live.h"
#include "sim_flash.h"

#define BYTES (BT_LIVE_PAGES * BT_LIVE_PAGE_BYTES)
#define UNITS (BYTES / BT_LIVE_UNIT_BYTES)

static bt_live live;
static uint8_t memory[BYTES], programmed[UNITS];
static uint32_t wear[BT_LIVE_PAGES];
static sim_flash flash = {memory, programmed, wear, BT_LIVE_PAGE_BYTES, BT_LIVE_PAGES,
                          BT_LIVE_UNIT_BYTES, 0, 0, 0, 2463534242u, 0, 0};
static uint32_t good[5], goods, state = 88172645u;

static uint32_t random32(void)
{
    return bt_mixed(state += 0x9e3779b9u);
}

static void must(int holds, int line)
{
    if (holds)
        return;
    printf("fuzz_live.c:%d, weights %08x\n", line, (unsigned)bt_weights_crc32(&live.model));
    fflush(stdout);
    abort();
}

static void fresh(void)
{
    memcpy(memory, image, sizeof memory);
    memcpy(programmed, blanked, sizeof programmed);
    flash.breaches = 0;
}

static void start(void)
{
    const bt_flash driver = sim_driver(&flash);
    (void)bt_live_start(&live, &driver);
    const uint32_t crc = bt_weights_crc32(&live.model);
    int known = 0;
    for (uint32_t i = 0; i < goods; i++)
        known |= crc == good[i];
    must(known, __LINE__);
    must(live.store.count <= live.store.capacity, __LINE__);
}

/* The weights come first in a payload. */
static void learn_what_is_good(void)
{
    const uint32_t first = BT_LIVE_FIRST_PAGE + BT_LIVE_STORE_PAGES;
    const uint32_t pages[4] = {first, first + BT_LIVE_SESSION_PAGES / 2,
                               first + BT_LIVE_SESSION_PAGES,
                               first + BT_LIVE_SESSION_PAGES + BT_LIVE_WORK_PAGES / 2};
    bt_init(&live.model);
    good[goods++] = bt_weights_crc32(&live.model);
    for (int i = 0; i < 4; i++)
        good[goods++] = bt_crc32(0, image + pages[i] * BT_LIVE_PAGE_BYTES + BT_CHECKPOINT_HEADER_BYTES,
                                 sizeof live.model.p);
}

/* Starts, works for a while, and starts again. Only units that are blank can be programmed then. */
static void live_on(uint32_t calls)
{
    for (uint32_t unit = 0; unit < UNITS; unit++) {
        programmed[unit] = 0;
        for (uint32_t i = 0; i < BT_LIVE_UNIT_BYTES; i++)
            programmed[unit] |= memory[unit * BT_LIVE_UNIT_BYTES + i] != 0xffu;
    }
    start();
    bt_raw frame[BT_LIVE_CHANS];
    for (uint32_t i = 0; i < calls; i++) {
        for (int c = 0; c < BT_LIVE_CHANS; c++)
            frame[c] = (bt_raw)(random32() % 400u);
        bt_live_push(&live, frame, (int32_t)(i / 64u % 4u) - 1);
        (void)bt_live_work(&live, 20000);
    }
}

#ifdef FUZZ
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (goods == 0)
        learn_what_is_good();
    fresh();
    for (; size >= 3; data += 3, size -= 3)
        memory[((uint32_t)data[0] | (uint32_t)data[1] << 8) % BYTES] ^= data[2];
    live_on(12);
    return 0;
}
#else
static void damage(void)
{
    const uint32_t how = random32() % 5u;
    if (how == 0u) {
        memcpy(memory + random32() % BT_LIVE_PAGES * BT_LIVE_PAGE_BYTES,
               image + random32() % BT_LIVE_PAGES * BT_LIVE_PAGE_BYTES, BT_LIVE_PAGE_BYTES);
    } else if (how == 1u) {
        const uint32_t at = random32() % BYTES, n = random32() % 64u;
        for (uint32_t i = at; i < at + n && i < BYTES; i++)
            memory[i] = (uint8_t)random32();
    } else if (how == 2u) {
        memset(memory + random32() % BT_LIVE_PAGES * BT_LIVE_PAGE_BYTES, 0xff, BT_LIVE_PAGE_BYTES);
    } else {
        const uint32_t first = (BT_LIVE_FIRST_PAGE + BT_LIVE_STORE_PAGES) * BT_LIVE_PAGE_BYTES;
        for (uint32_t n = 1u + random32() % 40u; n > 0u; n--) {
            const uint32_t at = how == 3u ? first + random32() % (BYTES - first) : random32() % BYTES;
            memory[at] ^= (uint8_t)(1u << random32() % 8u);
        }
    }
}

int main(int argc, char **argv)
{
    const unsigned long count = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    learn_what_is_good();
    for (unsigned long i = 0; i < count; i++) {
        fresh();
        for (uint32_t n = 1u + random32() % 2u; n > 0u; n--)
            damage();
        live_on(i % 64u == 0u ? 200 : 2);
    }
    printf("%lu images\n", count);
    return 0;
}
#endif

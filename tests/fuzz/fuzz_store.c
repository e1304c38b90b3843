/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libFuzzer: damaged flash under the sample store and the checkpoint slots.
 *
 *     clang -std=c99 -g -O1 -fsanitize=fuzzer,address,undefined -I src/biotrain/rt tests/fuzz/fuzz_store.c
 *
 * The first byte chooses the flash and what is in it; then triples (place, low and high byte; value)
 * change bytes, or cut power during an append. What was left must mount, show only what was written,
 * and go on working.
 */
#include <stdlib.h>

#include "checks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int line)
{
    if (line != 0)
        abort();
}

static void store(const uint8_t *data, size_t size, uint8_t kind)
{
    static bench b;
    const uint32_t unit = kind & 1u ? 32u : 4u, samples = kind & 2u ? 150u : 20u;
    const uint32_t windows = kind >> 2 & 15u;
    must(bench_init(&b, 256, 12, unit, samples, 3, false) != BT_OK);
    for (uint32_t id = 0; id < windows * 3u; id++)
        must(append_id(&b.store, id, bt_mixed(id) % 3u) != BT_OK);
    for (; size >= 3; data += 3, size -= 3) {
        const uint32_t at = (uint32_t)data[0] | (uint32_t)data[1] << 8;
        if (at & 0x8000u) {
            nor_cut(&b.flash, 1u + (at & 0xfffu));
            (void)append_id(&b.store, 200u + data[2], data[2] % 3u);
            if (bench_mount(&b) != BT_OK)
                abort();
            continue;
        }
        b.flash.memory[at % (12u * 256u)] ^= data[2];
        memset(b.flash.programmed, 0, sizeof b.flash.programmed);
        b.flash.breaches = 0;
    }
    must(store_survives(&b, 1000));
}

static void slots(const uint8_t *data, size_t size, uint8_t kind)
{
    static slots_bench b;
    const uint32_t saves = kind & 3u;
    slots_init(&b, 128, 4, kind & 4u ? 16u : 4u, false);
    for (uint32_t version = 1; version <= saves; version++)
        must(slots_do(&b, SLOTS_SAVE, version) != BT_OK);
    for (; size >= 3; data += 3, size -= 3)
        b.flash.memory[((uint32_t)data[0] | (uint32_t)data[1] << 8) % 512u] ^= data[2];
    must(slots_survive(&b, saves));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 0x80u)
        slots(data + 1, size - 1, data[0]);
    else
        store(data + 1, size - 1, data[0]);
    return 0;
}

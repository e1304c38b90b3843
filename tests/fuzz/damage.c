/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged images by the number (first argument): bits, runs, a page in the place of another. What is
 * left of store and slots must mount, show only what was written, and go on working. */
#include <stdio.h>
#include <stdlib.h>
#include "checks.h"
static bench b;
static slots_bench sb;
static uint32_t state = 88172645u;
static uint32_t random32(void) { return bt_mixed(state += 0x9e3779b9u); }
static void damage(uint8_t *memory, const uint8_t *other, uint32_t page, uint32_t pages)
{
    const uint32_t bytes = page * pages, how = random32() % 4u;
    if (how == 0u) {
        memcpy(memory + random32() % pages * page, other + random32() % pages * page, page);
    } else if (how == 1u) {
        const uint32_t at = random32() % bytes, n = random32() % 64u;
        for (uint32_t i = at; i < at + n && i < bytes; i++)
            memory[i] = (uint8_t)random32();
    } else {
        for (uint32_t n = 1u + random32() % 40u; n > 0u; n--)
            memory[random32() % bytes] ^= (uint8_t)(1u << random32() % 8u);
    }
}
int main(int argc, char **argv)
{
    const uint32_t geometries[4][4] = {
        {256, 8, 4, 20}, {256, 8, 32, 20}, {256, 6, 4, 150}, {1024, 4, 4, 20}};
    const unsigned long images = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    for (unsigned long i = 0; i < images; i++) {
        if (i % 25u == 0u) {
            const uint32_t *g = geometries[random32() % 4u];
            if (bench_init(&b, g[0], g[1], g[2], g[3], 3, random32() % 2u != 0u) != BT_OK)
                return 1;
            for (uint32_t id = 1; id <= random32() % 50u; id++)
                if (append_id(&b.store, id, random32() % 3u) != BT_OK)
                    return 2;
            if (random32() % 2u) {
                nor_cut(&b.flash, 1u + random32() % 200u);
                (void)append_id(&b.store, 77, 1);
            }
            b.saved = b.flash;
            slots_init(&sb, 128, 4, 4u << random32() % 4u, false);
            for (uint32_t version = 1; version <= i / 25u % 4u; version++)
                (void)slots_do(&sb, SLOTS_SAVE, version);
            sb.saved = sb.flash;
        }
        memcpy(b.flash.memory, b.saved.memory, b.flash.page_bytes * b.flash.pages);
        damage(b.flash.memory, b.saved.memory, b.flash.page_bytes, b.flash.pages);
        int line = store_survives(&b, 1000);
        memcpy(sb.flash.memory, sb.saved.memory, 512);
        damage(sb.flash.memory, sb.saved.memory, 128, 4);
        if (line == 0)
            line = slots_survive(&sb, 3);
        if (line != 0) {
            printf("image %lu: checks.h:%d, breach %u\n", i, line, (unsigned)b.flash.breaches);
            return 3;
        }
    }
    printf("%lu images\n", images);
    return 0;
}

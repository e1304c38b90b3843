/* SPDX-License-Identifier: Apache-2.0 */
/* NOR flash in memory: keeps its rules, counts breaches and wear, loses power where asked, and wears
 * out: bits that are stuck, pages that are erased so many times and no more. */
#ifndef NOR_H
#define NOR_H

#include <string.h>

#include "sim_flash.h"

#define NOR_BYTES 65536
#define NOR_PAGES 1024

typedef struct nor {
    uint8_t memory[NOR_BYTES];
    uint8_t programmed[NOR_BYTES]; /* per unit, since the last erasure */
    uint32_t wear[NOR_PAGES];      /* erasures of each page */
    uint32_t page_bytes, pages, unit_bytes;
    uint32_t breaches; /* of the rules; the first one */
    uint64_t steps;    /* bytes programmed, and ERASE_STEPS for each page erased */
    uint64_t cut_at;   /* the step at which power goes; 0: never */
    uint32_t noise;    /* state of the generator for what a cut leaves */
    bool off;
    bool fail_next;    /* the next program is refused, and nothing is changed */
    uint32_t life[NOR_PAGES]; /* erasures that a page stands; 0: any number */
    int death;                /* what an erasure does then: a DEATH_ */
    bool stuck;               /* one bit reads as it does for good */
    uint32_t stuck_at;        /* its number: 8 address + bit */
    uint8_t stuck_to;
} nor;

enum {
    DEATH_REFUSES, /* the driver says so, the page is as it was */
    DEATH_PART,    /* the driver says so, a part of it is erased */
    DEATH_SILENT,  /* the driver does not know, the page is as it was */
    DEATH_BITS,    /* the driver does not know, any bits are erased */
    DEATHS
};

enum { BREACH_RANGE = 1, BREACH_UNIT, BREACH_TWICE, BREACH_SETS_BIT, BREACH_CROSSES, BREACH_RAM };
enum { ERASE_STEPS = 24 }; /* of a page: the parts of SIM_, most of them several times */

static inline uint32_t nor_noise(nor *n)
{
    return sim_noise(&n->noise);
}

static inline bool nor_breach(nor *n, uint32_t which)
{
    if (n->breaches == 0u)
        n->breaches = which;
    return false;
}

static inline bool nor_goes_off(nor *n, uint64_t steps)
{
    n->steps += steps;
    n->off = n->cut_at != 0u && n->steps >= n->cut_at;
    return n->off;
}

/* Has the unit a cleared bit? One that a cut left as it was can be programmed still. */
static inline uint8_t nor_marked(const nor *n, uint32_t unit)
{
    for (uint32_t i = 0; i < n->unit_bytes; i++)
        if (n->memory[unit * n->unit_bytes + i] != 0xffu)
            return 1;
    return 0;
}

static inline bool nor_erase(void *context, uint32_t page)
{
    nor *n = (nor *)context;
    if (n->off)
        return false;
    if (page >= n->pages)
        return nor_breach(n, BREACH_RANGE);
    uint8_t *at = n->memory + page * n->page_bytes;
    for (uint32_t step = 0; step < ERASE_STEPS; step++) {
        if (!nor_goes_off(n, 1))
            continue;
        const uint32_t part = step < SIM_BITS          ? step
                              : step < ERASE_STEPS - 1 ? SIM_BITS + step % 3u
                                                       : SIM_ALL;
        sim_erase_part(at, n->page_bytes, part, &n->noise);
        return false;
    }
    n->wear[page]++;
    const uint32_t units = n->page_bytes / n->unit_bytes;
    if (n->life[page] != 0u && n->wear[page] > n->life[page]) {
        sim_erase_part(at, n->page_bytes,
                       n->death == DEATH_PART   ? SIM_LINES
                       : n->death == DEATH_BITS ? SIM_BITS
                                                : SIM_NONE,
                       &n->noise);
        for (uint32_t i = page * units; i < (page + 1u) * units; i++)
            n->programmed[i] = nor_marked(n, i);
        return n->death == DEATH_SILENT || n->death == DEATH_BITS;
    }
    memset(at, 0xff, n->page_bytes);
    memset(n->programmed + page * units, 0, units);
    return true;
}

static inline bool nor_program(void *context, uint32_t address, const void *data, size_t bytes)
{
    nor *n = (nor *)context;
    const uint8_t *from = (const uint8_t *)data;
    if (n->off)
        return false;
    if (n->fail_next) {
        n->fail_next = false;
        return false;
    }
    if (address > n->pages * n->page_bytes || bytes > n->pages * n->page_bytes - address)
        return nor_breach(n, BREACH_RANGE);
    if (bytes == 0u || address % n->unit_bytes != 0u || bytes % n->unit_bytes != 0u)
        return nor_breach(n, BREACH_UNIT);
    if (address / 64u != (address + (uint32_t)bytes - 1u) / 64u)
        return nor_breach(n, BREACH_CROSSES);
    if ((size_t)from % 4u != 0u)
        return nor_breach(n, BREACH_RAM);
    for (uint32_t i = 0; i < bytes; i++) {
        uint8_t *at = &n->memory[address + i];
        uint8_t *unit = &n->programmed[(address + i) / n->unit_bytes];
        if ((address + i) % n->unit_bytes == 0u) {
            if (*unit)
                return nor_breach(n, BREACH_TWICE);
            *unit = 1;
        }
        if ((from[i] & ~*at) != 0)
            return nor_breach(n, BREACH_SETS_BIT);
        if (nor_goes_off(n, 1)) {
            *at &= (uint8_t)(from[i] | nor_noise(n)); /* some of its bits */
            *unit = nor_marked(n, (address + i) / n->unit_bytes);
            return false;
        }
        *at = from[i];
    }
    return true;
}

static inline bool nor_read(void *context, uint32_t address, void *data, size_t bytes)
{
    nor *n = (nor *)context;
    if (n->off)
        return false;
    if (address > n->pages * n->page_bytes || bytes > n->pages * n->page_bytes - address)
        return nor_breach(n, BREACH_RANGE);
    memcpy(data, n->memory + address, bytes);
    const uint32_t at = n->stuck_at / 8u;
    if (n->stuck && at >= address && at - address < bytes) {
        uint8_t *byte = (uint8_t *)data + (at - address);
        const uint8_t bit = (uint8_t)(1u << n->stuck_at % 8u);
        *byte = (uint8_t)(n->stuck_to ? *byte | bit : *byte & ~bit);
    }
    return true;
}

/* Blank, or full of what lay there before. */
static inline void nor_init(nor *n, uint32_t page_bytes, uint32_t pages, uint32_t unit_bytes, bool old)
{
    memset(n, 0, sizeof *n);
    n->page_bytes = page_bytes;
    n->pages = pages;
    n->unit_bytes = unit_bytes;
    n->noise = 2463534242u;
    memset(n->memory, 0xff, sizeof n->memory);
    for (uint32_t i = 0; old && i < page_bytes * pages; i++)
        n->memory[i] = (uint8_t)nor_noise(n);
    memset(n->programmed, old ? 1 : 0, sizeof n->programmed);
}

static inline void nor_power_on(nor *n)
{
    n->off = false;
    n->cut_at = 0;
    n->steps = 0;
}

/* Power goes after so many steps from now on, at least one. */
static inline void nor_cut(nor *n, uint64_t steps)
{
    n->steps = 0;
    n->cut_at = steps;
}

static inline bt_flash nor_driver(nor *n)
{
    const bt_flash f = {n, n->page_bytes, n->unit_bytes, nor_erase, nor_program, nor_read};
    return f;
}

#endif

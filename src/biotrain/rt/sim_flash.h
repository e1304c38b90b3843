/* SPDX-License-Identifier: Apache-2.0 */
/* NOR flash in memory, for trials on this machine and in an emulator; not part of a package. It
 * keeps the rules of bt_flash.h and counts breaches of them, and power goes at the step that is
 * asked for: a programmed byte is a step, an erased page four. What the cut hits is left half
 * done, a page in whatever order it is erased. */
#ifndef SIM_FLASH_H
#define SIM_FLASH_H

#include "bt_flash.h"

#define SIM_ERASE_STEPS 4u

typedef struct sim_flash {
  uint8_t *memory;
  uint8_t *programmed; /* per unit: since the last erasure */
  uint32_t *wear;      /* erasures of each page */
  uint32_t page_bytes;
  uint32_t pages;
  uint32_t unit_bytes;
  uint32_t breaches;   /* calls that broke a rule of bt_flash.h */
  uint32_t steps;      /* since power came */
  uint32_t cut_at;     /* power goes at this step; 0: never */
  uint32_t noise;      /* state of the generator for what a cut leaves */
  uint32_t off;        /* 1: power has gone */
} sim_flash;

static inline uint32_t sim_noise(uint32_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

/* What a cut erasure leaves of a page; no flash promises an order. */
enum {
  SIM_NONE = 0,
  SIM_FRONT, /* the first half is erased */
  SIM_BACK,  /* the second half */
  SIM_BITS,  /* any bits */
  SIM_LINES, /* any lines of 32 bytes */
  SIM_WORDS, /* the words up to a place, or from a place on */
  SIM_ALL
};

static inline void sim_erase_part(uint8_t *at, uint32_t bytes, uint32_t part, uint32_t *noise)
{
  const bool rest = (sim_noise(noise) & 1u) != 0u, edge = (sim_noise(noise) & 1u) != 0u;
  uint32_t place = sim_noise(noise) % ((edge ? 16u : bytes / 4u) + 1u) * 4u;
  if (edge && rest) /* the first words only, or the last: what says what a page is lies there */
    place = bytes - place;
  uint32_t line = 0;
  for (uint32_t i = 0; i < bytes; i++) {
    const uint8_t bits = (uint8_t)sim_noise(noise);
    if (i % 32u == 0u)
      line = sim_noise(noise) & 1u;
    if (part == SIM_ALL || (part == SIM_FRONT && i < bytes / 2u) ||
        (part == SIM_BACK && i >= bytes / 2u) || (part == SIM_LINES && line != 0u) ||
        (part == SIM_WORDS && (i >= place) == rest))
      at[i] = 0xffu;
    else if (part == SIM_BITS)
      at[i] = (uint8_t)(at[i] | bits);
  }
}

/* One step; true: power has gone. */
static inline bool sim_goes(sim_flash *f)
{
  f->steps++;
  if (f->cut_at != 0u && f->steps >= f->cut_at)
    f->off = 1;
  return f->off != 0u;
}

static inline bool sim_refuse(sim_flash *f)
{
  f->breaches++;
  return false;
}

static inline bool sim_erase(void *context, uint32_t page)
{
  sim_flash *f = (sim_flash *)context;
  if (f->off != 0u)
    return false;
  if (page >= f->pages)
    return sim_refuse(f);
  uint8_t *at = f->memory + (size_t)page * f->page_bytes;
  for (uint32_t step = 0; step < SIM_ERASE_STEPS; step++) {
    if (!sim_goes(f))
      continue;
    /* Nothing yet; a half; any bits, lines or words; all of it. */
    const uint32_t any = sim_noise(&f->noise);
    const uint32_t part = step == 0u   ? SIM_NONE
                          : step == 1u ? SIM_FRONT + any % 2u
                          : step == 2u ? SIM_BITS + any % 3u
                                       : SIM_ALL;
    sim_erase_part(at, f->page_bytes, part, &f->noise);
    return false;
  }
  const uint32_t units = f->page_bytes / f->unit_bytes;
  for (uint32_t i = 0; i < f->page_bytes; i++)
    at[i] = 0xffu;
  for (uint32_t i = 0; i < units; i++)
    f->programmed[(size_t)page * units + i] = 0;
  f->wear[page]++;
  return true;
}

static inline bool sim_program(void *context, uint32_t address, const void *data, size_t bytes)
{
  sim_flash *f = (sim_flash *)context;
  const uint8_t *from = (const uint8_t *)data;
  const uint32_t size = f->pages * f->page_bytes;
  if (f->off != 0u)
    return false;
  if (bytes == 0u || address > size || bytes > size - address || address % f->unit_bytes != 0u ||
      bytes % f->unit_bytes != 0u || (uintptr_t)from % 4u != 0u ||
      address / BT_FLASH_CHUNK != (address + (uint32_t)bytes - 1u) / BT_FLASH_CHUNK)
    return sim_refuse(f);
  for (uint32_t i = 0; i < bytes; i++) {
    uint8_t *at = f->memory + address + i;
    uint8_t *unit = f->programmed + (address + i) / f->unit_bytes;
    if ((address + i) % f->unit_bytes == 0u) {
      if (*unit != 0u)
        return sim_refuse(f);
      *unit = 1;
    }
    if ((from[i] & ~*at & 0xff) != 0)
      return sim_refuse(f);
    if (sim_goes(f)) {
      *at = (uint8_t)(*at & (from[i] | sim_noise(&f->noise))); /* some of its bits */
      /* A unit that reads as blank may be programmed again (docs/on-device.md, limits). */
      const uint32_t first = (address + i) / f->unit_bytes * f->unit_bytes;
      *unit = 0;
      for (uint32_t k = 0; k < f->unit_bytes; k++)
        *unit |= f->memory[first + k] != 0xffu;
      return false;
    }
    *at = from[i];
  }
  return true;
}

static inline bool sim_read(void *context, uint32_t address, void *data, size_t bytes)
{
  sim_flash *f = (sim_flash *)context;
  const uint32_t size = f->pages * f->page_bytes;
  if (f->off != 0u)
    return false;
  if (address > size || bytes > size - address)
    return sim_refuse(f);
  for (size_t i = 0; i < bytes; i++)
    ((uint8_t *)data)[i] = f->memory[address + i];
  return true;
}

static inline bt_flash sim_driver(sim_flash *f)
{
  const bt_flash driver = {f, f->page_bytes, f->unit_bytes, sim_erase, sim_program, sim_read};
  return driver;
}

#endif

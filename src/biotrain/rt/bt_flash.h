/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NOR flash as the store and the checkpoint slots see it: three calls that the firmware supplies.
 *
 * What is asked of the flash: erasing sets all bits of a page; programming only clears bits; a unit
 * is programmed at most once between two erasures (so flash with error correction will do), its
 * data in RAM on a word boundary, and never across an address that 64 divides. A power cut may
 * leave the unit or the page that it hits with any content: a page may be erased in any order. A
 * unit that cannot be read is a false from `read`. A false from `erase` or `program` says that the
 * place is worn out, and the store goes on without it: what a second try mends is the driver's.
 */
#ifndef BT_FLASH_H
#define BT_FLASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BT_FLASH_CHUNK 64u /* bytes that one call of `program` writes at most; the largest unit */

typedef struct bt_flash {
  void *context;       /* handed to the calls */
  uint32_t page_bytes; /* what one erasure clears; a multiple of 64 */
  uint32_t unit_bytes; /* the least that can be programmed: a power of two, 1 to 64 */
  bool (*erase)(void *context, uint32_t page);
  bool (*program)(void *context, uint32_t address, const void *data, size_t bytes);
  bool (*read)(void *context, uint32_t address, void *data, size_t bytes);
} bt_flash;

/* Units of 1 and 2 bytes are programmed as words. */
static inline uint32_t bt_flash_unit(const bt_flash *f)
{
  return f->unit_bytes < 4u ? 4u : f->unit_bytes;
}

static inline uint32_t bt_flash_up(const bt_flash *f, uint32_t bytes)
{
  const uint32_t unit = bt_flash_unit(f);
  return (bytes + unit - 1u) / unit * unit;
}

static inline bool bt_flash_usable(const bt_flash *f)
{
  const uint32_t unit = f->unit_bytes;
  return unit >= 1u && unit <= BT_FLASH_CHUNK && (unit & (unit - 1u)) == 0u &&
         f->page_bytes >= BT_FLASH_CHUNK && f->page_bytes % BT_FLASH_CHUNK == 0u;
}

static inline bool bt_flash_erase(const bt_flash *f, uint32_t page, uint32_t pages)
{
  for (uint32_t i = 0; i < pages; i++)
    if (!f->erase(f->context, page + i))
      return false;
  return true;
}

/* Is every bit set? What cannot be read is not blank. */
static inline bool bt_flash_blank(const bt_flash *f, uint32_t address, uint32_t bytes)
{
  uint32_t words[BT_FLASH_CHUNK / 4u];
  while (bytes > 0u) {
    const uint32_t n = bytes < BT_FLASH_CHUNK ? bytes : BT_FLASH_CHUNK;
    if (!f->read(f->context, address, words, n))
      return false;
    for (uint32_t i = 0; i < n; i++)
      if (((const uint8_t *)words)[i] != 0xffu)
        return false;
    address += n;
    bytes -= n;
  }
  return true;
}

/* Does flash hold these bytes? */
static inline bool bt_flash_holds(const bt_flash *f, uint32_t address, const uint8_t *data,
                                  uint32_t bytes)
{
  uint8_t there[BT_FLASH_CHUNK];
  if (!f->read(f->context, address, there, bytes))
    return false;
  for (uint32_t i = 0; i < bytes; i++)
    if (there[i] != data[i])
      return false;
  return true;
}

/* Clears one unit: a mark that what stands before it no longer counts. Any cleared bit makes the
 * mark, so a power cut leaves it made or not made. */
static inline bool bt_flash_mark(const bt_flash *f, uint32_t address)
{
  const uint32_t zeros[BT_FLASH_CHUNK / 4u] = {0};
  return f->program(f->context, address, zeros, bt_flash_unit(f));
}

/* Collects bytes and programs them in rising order, in whole units. */
typedef struct bt_flash_writer {
  const bt_flash *flash;
  uint32_t address; /* of the first byte that is not programmed yet; on a unit's border */
  uint32_t filled;  /* bytes in words */
  uint32_t words[BT_FLASH_CHUNK / 4u];
} bt_flash_writer;

static inline bt_flash_writer bt_flash_write_at(const bt_flash *f, uint32_t address)
{
  const bt_flash_writer w = {f, address, 0, {0}};
  return w;
}

static inline bool bt_flash_write(bt_flash_writer *w, const void *data, size_t bytes)
{
  const uint8_t *from = (const uint8_t *)data;
  for (size_t i = 0; i < bytes; i++) {
    ((uint8_t *)w->words)[w->filled++] = from[i];
    if ((w->address + w->filled) % BT_FLASH_CHUNK != 0u)
      continue;
    if (!w->flash->program(w->flash->context, w->address, w->words, w->filled))
      return false;
    w->address += w->filled;
    w->filled = 0;
  }
  return true;
}

/* Programs the rest; the last unit is filled up with ones. */
static inline bool bt_flash_finish(bt_flash_writer *w)
{
  const uint8_t ones = 0xffu;
  while (w->filled % bt_flash_unit(w->flash) != 0u)
    if (!bt_flash_write(w, &ones, 1))
      return false;
  return w->filled == 0u || w->flash->program(w->flash->context, w->address, w->words, w->filled);
}

/* Programs up to BT_FLASH_CHUNK bytes, and looks whether flash then holds them. */
static inline bool bt_flash_put(const bt_flash *f, uint32_t address, const uint8_t *data,
                                uint32_t bytes)
{
  bt_flash_writer w = bt_flash_write_at(f, address);
  return bt_flash_write(&w, data, bytes) && bt_flash_finish(&w) &&
         bt_flash_holds(f, address, data, bytes);
}

#endif

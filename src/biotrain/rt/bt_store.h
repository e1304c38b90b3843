/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sample store: labelled windows of the converter's integers, in flash, for several epochs.
 *
 * The region is cut into blocks of whole pages, each with `per_block` slots for one window; the
 * block size is that at which most windows fit. One block is filled at a time.
 *
 *   block   header (magic, window size, erasures, CRC-32) twice, a unit for the mark "dead", two
 *           notes (block, erasures, CRC-32), the slots
 *   slot    head | samples | CRC-32 of both, in the last word | a unit for the mark "dropped"
 *   head    magic with kind, label, number (age), serial (order of writing), what it takes the
 *           place of (slot, serial)
 *
 * A window counts from the moment its last word is written. When the store is full it takes the
 * place of the oldest window among those of the most frequent classes, itself counted: its head
 * names that window, so both happen at once, and a mark then says it for good.
 *
 * Erasing: where the last empty block is opened, the windows of the block with the fewest are
 * copied into it and that block is erased, so there is always an empty block. Empty blocks are
 * taken by the fewest erasures; a block that lags BT_STORE_LAG erasures behind is moved, so wear is
 * spread even if some windows stay for good.
 *
 * Power cuts: mounting ignores what has no valid CRC (torn records), finishes a replacement that
 * lacks its mark, and undoes an interrupted move: the copies go while the originals count. Before a
 * block is erased, another one notes it and how often it was erased: with that many erasures it
 * counts no longer, whatever a cut erasure leaves of it. Mounting erases what is noted.
 *
 * Worn flash: headers, notes and windows are read back. A slot that does not hold what was written, or
 * is not blank after an erasure, is used no more, and nor is a block whose header fails or which
 * refuses to be erased (its mark "dead" says so); `worn` counts these slots. The store goes on with the
 * others: `capacity` falls, and with it the oldest windows of the most frequent classes. Which slots
 * are worn is found anew after the next mount.
 */
#ifndef BT_STORE_H
#define BT_STORE_H

#include "bt_blocks.h"
#include "bt_shuffle.h"

/* ---- mounting ---- */

/* Windows that fit if a block has so many pages; leaves the geometry in s. */
static inline uint32_t bt_store_layout(bt_store *s, uint32_t pages, uint32_t block_pages)
{
  s->block_bytes = block_pages * s->flash->page_bytes;
  if (s->block_bytes < bt_store_header_bytes(s))
    return s->capacity = 0;
  s->per_block = (s->block_bytes - bt_store_header_bytes(s)) / s->slot_bytes;
  s->blocks = pages / block_pages;
  if (s->blocks > BT_STORE_SLOTS)
    s->blocks = BT_STORE_SLOTS;
  if (s->per_block > BT_STORE_SLOTS / s->blocks)
    s->per_block = BT_STORE_SLOTS / s->blocks;
  s->enough = s->per_block;
  return s->capacity = s->per_block == 0u ? 0u : bt_store_holds(s->blocks, s->per_block);
}

/* Finds the windows of a block, and whether it is the one that was being filled. */
static inline void bt_store_scan(bt_store *s, uint32_t block)
{
  uint32_t used = 0, found = 0, erasures;
  if (!bt_store_formatted(s, block, &erasures))
    return;
  s->erasures = erasures > s->erasures ? erasures : s->erasures;
  if (bt_store_noted(s, block) > erasures) { /* its erasure was cut short */
    (void)bt_store_format(s, block);
    return;
  }
  for (uint32_t i = 0; i < s->per_block; i++) {
    const uint32_t slot = block * s->per_block + i;
    bt_store_head h;
    if (!bt_store_valid(s, slot, &h)) {
      if (!bt_flash_blank(s->flash, bt_store_slot_at(s, slot), s->slot_bytes))
        used = i + 1u;
      continue;
    }
    used = i + 1u;
    s->number = h.number >= s->number ? h.number + 1u : s->number;
    s->serial = h.serial >= s->serial ? h.serial + 1u : s->serial;
    if (!bt_flash_blank(s->flash, bt_store_mark_at(s, slot), bt_flash_unit(s->flash)))
      continue;
    bt_store_count(s, slot, &h);
    found++;
  }
  if (found > 0u && used < s->per_block) {
    s->open = block;
    s->next = used;
  }
}

/* Settles what a power cut left half done: true where something was changed, then call it again. What
 * flash refuses here does not count in RAM all the same. */
static inline bool bt_store_settle(bt_store *s)
{
  for (uint32_t slot = 0; slot < s->blocks * s->per_block; slot++) {
    bt_store_head h, old;
    uint32_t crc;
    if (!bt_store_is_live(s, slot) || !bt_store_read_head(s, slot, &h, &crc) ||
        h.old_slot == slot || !bt_store_is_live(s, h.old_slot) ||
        !bt_store_read_head(s, h.old_slot, &old, &crc) || old.serial != h.old_serial)
      continue;
    if (h.kind == BT_STORE_NEW) {
      (void)bt_store_drop(s, h.old_slot);
      return true;
    }
    /* Twice the same window: the copies go, unless flash refused the erasure of the originals
         * and their block was used since. */
    const uint32_t copies = slot / s->per_block, originals = h.old_slot / s->per_block;
    bool complete = false;
    for (uint32_t i = 0; i < s->per_block; i++) {
      const uint32_t other = copies * s->per_block + i;
      if (!bt_store_is_live(s, other) || !bt_store_read_head(s, other, &h, &crc))
        continue;
      if (h.kind != BT_STORE_COPY || !bt_store_is_live(s, h.old_slot) ||
          !bt_store_read_head(s, h.old_slot, &old, &crc) || old.serial != h.old_serial)
        complete = true;
    }
    const uint32_t block = complete ? originals : copies;
    if (block == s->open)
      s->open = BT_STORE_NONE;
    (void)bt_store_format(s, block);
    return true;
  }
  return false;
}

/*
 * Opens the store in `pages` pages of flash from first_page on, for windows of so many int16 and
 * labels 0 .. classes-1. Flash that holds anything else is an empty store, and is erased block by
 * block as it is filled. BT_OK, BT_ERR_STORE_SPACE, BT_ERR_LABEL (too many classes),
 * BT_ERR_STORE_FLASH (fewer than two blocks work: what can be read is there).
 */
static inline bt_status bt_store_mount(bt_store *s, const bt_flash *flash, uint32_t first_page,
                                       uint32_t pages, uint32_t samples, uint32_t classes)
{
  memset(s, 0, sizeof *s);
  s->flash = flash;
  s->first_page = first_page;
  s->samples = samples;
  s->classes = classes;
  s->open = BT_STORE_NONE;
  if (classes == 0u || classes > BT_STORE_CLASSES)
    return BT_ERR_LABEL;
  if (!bt_flash_usable(flash) || samples == 0u || samples > 0x1000000u || pages < 2u ||
      pages > 0x40000000u / flash->page_bytes)
    return BT_ERR_STORE_SPACE;
  s->slot_bytes =
      bt_flash_up(flash, BT_STORE_HEAD_BYTES + 2u * samples + 4u) + bt_flash_unit(flash);
  uint32_t best = 0, most = 0;
  for (uint32_t block_pages = 1; block_pages <= pages / 2u; block_pages++)
    if (bt_store_layout(s, pages, block_pages) > most) {
      most = s->capacity;
      best = block_pages;
    }
  if (most == 0u)
    return BT_ERR_STORE_SPACE;
  (void)bt_store_layout(s, pages, best);

  for (uint32_t block = 0; block < s->blocks; block++)
    bt_store_scan(s, block);
  while (bt_store_settle(s)) {
  }
  bt_store_evict(s, BT_STORE_NONE);
  return s->capacity > 0u ? BT_OK : BT_ERR_STORE_FLASH;
}

/* ---- what a program calls ---- */

/* Stores a window: BT_OK (flash holds it); BT_ERR_LABEL; BT_ERR_STORE_FLASH: not stored, for fewer than
 * two blocks of the flash work. */
static inline bt_status bt_store_append(bt_store *s, const int16_t *x, int32_t label)
{
  bt_store_head h, old;
  memset(&old, 0, sizeof old);
  bt_status status;
  if (label < 0 || (uint32_t)label >= s->classes)
    return BT_ERR_LABEL;
  do {
    status = bt_store_room(s);
    if (status != BT_OK)
      return status;
    const bt_store_head fresh = {BT_STORE_NEW, (uint32_t)label, s->number,
                                 s->serial, BT_STORE_NONE, BT_STORE_NONE};
    h = fresh;
    if (s->count >= s->capacity) {
      h.old_slot = bt_store_surplus(s, h.label, &old);
      h.old_serial = old.serial;
    }
    status = bt_store_write(s, &h, x, 0);
    if (status != BT_OK)
      bt_store_spoil(s, s->open * s->per_block + s->next - 1u);
  } while (status != BT_OK);
  s->number++;
  if (h.old_slot != BT_STORE_NONE)
    (void)bt_store_drop(s, h.old_slot); /* without its mark, the next mount drops it */
  return BT_OK;
}

/* The slot of window `index`, 0 .. count-1, in the order of flash. */
static inline uint32_t bt_store_find(const bt_store *s, uint32_t index)
{
  for (uint32_t slot = 0; slot < s->blocks * s->per_block; slot++)
    if (bt_store_is_live(s, slot) && index-- == 0u)
      return slot;
  return BT_STORE_NONE;
}

/* Label of window `index`, and its age: how many windows came after it. */
static inline bt_status bt_store_label(const bt_store *s, uint32_t index, int32_t *label,
                                       uint32_t *age)
{
  bt_store_head h;
  uint32_t crc;
  const uint32_t slot = bt_store_find(s, index);
  if (slot == BT_STORE_NONE)
    return BT_ERR_STORE_INDEX;
  if (!bt_store_read_head(s, slot, &h, &crc))
    return BT_ERR_STORE_CORRUPT;
  *label = (int32_t)h.label;
  *age = s->number - 1u - h.number;
  return BT_OK;
}

/* Copies the window of a slot to x and checks its CRC: BT_OK, BT_ERR_STORE_INDEX (none is there),
 * BT_ERR_STORE_CORRUPT. */
static inline bt_status bt_store_read_slot(const bt_store *s, uint32_t slot, int16_t *x,
                                           int32_t *label)
{
  bt_store_head h;
  uint32_t crc;
  if (!bt_store_is_live(s, slot))
    return BT_ERR_STORE_INDEX;
  const uint32_t at = bt_store_slot_at(s, slot) + BT_STORE_HEAD_BYTES;
  if (!bt_store_read_head(s, slot, &h, &crc) ||
      !s->flash->read(s->flash->context, at, x, 2u * s->samples) ||
      !bt_store_crc_fits(s, slot, bt_crc32(crc, x, 2u * s->samples)))
    return BT_ERR_STORE_CORRUPT;
  *label = (int32_t)h.label;
  return BT_OK;
}

#define BT_STORE_READ_BYTES 256u /* most that one call of bt_store_read_more reads */

/* How far a window is read; zeros: not begun. */
typedef struct bt_store_reading {
  uint32_t done; /* bytes */
  uint32_t crc;
} bt_store_reading;

/* bt_store_read_slot in slices: BT_MORE until the whole window is there. */
static inline bt_status bt_store_read_more(const bt_store *s, uint32_t slot, int16_t *x,
                                           int32_t *label, bt_store_reading *r)
{
  bt_store_head h;
  if (!bt_store_is_live(s, slot))
    return BT_ERR_STORE_INDEX;
  if (r->done == 0u) {
    if (!bt_store_read_head(s, slot, &h, &r->crc))
      return BT_ERR_STORE_CORRUPT;
    *label = (int32_t)h.label;
  }
  const uint32_t left = 2u * s->samples - r->done;
  const uint32_t n = left < BT_STORE_READ_BYTES ? left : BT_STORE_READ_BYTES;
  uint8_t *const to = (uint8_t *)x + r->done;
  if (!s->flash->read(s->flash->context, bt_store_slot_at(s, slot) + BT_STORE_HEAD_BYTES + r->done,
                      to, n))
    return BT_ERR_STORE_CORRUPT;
  r->crc = bt_crc32(r->crc, to, n);
  r->done += n;
  if (n < left)
    return BT_MORE;
  return bt_store_crc_fits(s, slot, r->crc) ? BT_OK : BT_ERR_STORE_CORRUPT;
}

/* The same of window `index`. For the order of an epoch: index = bt_shuffled(s->count, seed, epoch,
 * i). */
static inline bt_status bt_store_read(const bt_store *s, uint32_t index, int16_t *x, int32_t *label)
{
  return bt_store_read_slot(s, bt_store_find(s, index), x, label);
}

/* Would a window be stored without moving or replacing another? */
static inline bool bt_store_has_room(const bt_store *s)
{
  uint32_t erasures, lowest;
  if (s->count >= s->capacity)
    return false;
  if (s->open != BT_STORE_NONE && s->next < s->per_block)
    return true;
  const uint32_t block = bt_store_least(s, BT_STORE_NONE, false);
  const uint32_t other = block == BT_STORE_NONE ? block : bt_store_least(s, block, false);
  if (other == BT_STORE_NONE || bt_store_live_in(s, block) > 0u || bt_store_live_in(s, other) > 0u)
    return false; /* the last empty block is opened by moving windows */
  (void)bt_store_formatted(s, block, &erasures);
  (void)bt_store_formatted(s, bt_store_least(s, block, true), &lowest);
  return lowest + BT_STORE_LAG > erasures + 1u;
}

/* Forgets all windows: every block that holds anything is erased, dropped windows too. A power cut
 * leaves some of them. BT_ERR_STORE_FLASH: flash refused to erase a block; its windows count no longer,
 * but bits of them are there. */
static inline bt_status bt_store_clear(bt_store *s)
{
  bt_status status = BT_OK;
  s->open = BT_STORE_NONE;
  for (uint32_t block = 0; block < s->blocks; block++) {
    const uint32_t at = bt_store_block_at(s, block) + bt_store_header_bytes(s);
    if (!bt_flash_blank(s->flash, at, s->per_block * s->slot_bytes) &&
        bt_store_format(s, block) != BT_OK)
      status = BT_ERR_STORE_FLASH;
  }
  return status;
}

#endif

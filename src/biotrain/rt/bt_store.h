/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sample store: labelled windows of the converter's integers, in flash, for several epochs.
 *
 * The region is cut into blocks of whole pages, each with `per_block` slots for one window; the
 * block size is that at which most windows fit. One block is filled at a time.
 *
 *   block   header (magic, window size, erasures, CRC-32), a unit for the mark "erasing", the slots
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
 * lacks its mark, and undoes an interrupted move: the copies go while the originals count, that is
 * until the mark "erasing".
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
  if (s->per_block == 0u || s->blocks < 2u)
    return s->capacity = 0;
    /* One block stays empty. Dropped windows leave gaps; slots to spare let them gather before a
     * block is moved: with a sixteenth and half a block, up to 4 windows are written for one that
     * comes. */
  const uint32_t slots = s->blocks * s->per_block;
  const uint32_t spare = s->per_block > 1u ? slots / 16u + s->per_block / 2u : 0u;
  return s->capacity = slots - s->per_block - spare;
}

/* Finds the windows of a block, and whether it is the one that was being filled. */
static inline void bt_store_scan(bt_store *s, uint32_t block)
{
  uint32_t used = 0, found = 0, erasures;
  if (!bt_store_formatted(s, block, &erasures))
    return;
  s->erasures = erasures > s->erasures ? erasures : s->erasures;
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

/* Settles what a power cut left half done: true where something was changed, then call it again. */
static inline bool bt_store_settle(bt_store *s, bt_status *status)
{
  for (uint32_t slot = 0; slot < s->blocks * s->per_block; slot++) {
    bt_store_head h, old;
    uint32_t crc;
    if (!bt_store_is_live(s, slot) || !bt_store_read_head(s, slot, &h, &crc) ||
        h.old_slot == slot || !bt_store_is_live(s, h.old_slot) ||
        !bt_store_read_head(s, h.old_slot, &old, &crc) || old.serial != h.old_serial)
      continue;
    if (h.kind == BT_STORE_NEW) {
      *status = bt_store_drop(s, h.old_slot);
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
    *status = bt_store_format(s, block);
    return true;
  }
  return false;
}

/*
 * Opens the store in `pages` pages of flash from first_page on, for windows of so many int16 and
 * labels 0 .. classes-1. Flash that holds anything else is an empty store, and is erased block by
 * block as it is filled. BT_OK, BT_ERR_STORE_SPACE, BT_ERR_LABEL (too many classes),
 * BT_ERR_STORE_FLASH.
 */
static inline bt_status bt_store_mount(bt_store *s, const bt_flash *flash, uint32_t first_page,
                                       uint32_t pages, uint32_t samples, uint32_t classes)
{
  const bt_store fresh = {0};
  *s = fresh;
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
  bt_status status = BT_OK;
  while (status == BT_OK && bt_store_settle(s, &status)) {
  }
  while (status == BT_OK && s->count > s->capacity) { /* damage only */
    bt_store_head h = {0};
    status = bt_store_drop(s, bt_store_surplus(s, BT_STORE_NONE, &h));
  }
  return status;
}

/* ---- what a program calls ---- */

/* Stores a window: BT_OK; BT_ERR_LABEL; BT_ERR_STORE_FLASH: not stored, the others are as they were
 * (calling again tries the next slot). */
static inline bt_status bt_store_append(bt_store *s, const int16_t *x, int32_t label)
{
  bt_store_head h = {BT_STORE_NEW, (uint32_t)label, 0, 0, BT_STORE_NONE, BT_STORE_NONE};
  bt_store_head old = {0};
  if (label < 0 || (uint32_t)label >= s->classes)
    return BT_ERR_LABEL;
  bt_status status = bt_store_room(s);
  if (status != BT_OK)
    return status;
  if (s->count >= s->capacity) {
    h.old_slot = bt_store_surplus(s, h.label, &old);
    h.old_serial = old.serial;
  }
  h.number = s->number;
  h.serial = s->serial;
  status = bt_store_write(s, &h, x, 0);
  if (status != BT_OK)
    return status;
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
  if (bt_store_live_in(s, block) > 0u || bt_store_live_in(s, bt_store_least(s, block, false)) > 0u)
    return false; /* the last empty block is opened by moving windows */
  (void)bt_store_formatted(s, block, &erasures);
  (void)bt_store_formatted(s, bt_store_least(s, block, true), &lowest);
  return lowest + BT_STORE_LAG > erasures + 1u;
}

/* Forgets all windows. A power cut leaves some of them. */
static inline bt_status bt_store_clear(bt_store *s)
{
  s->open = BT_STORE_NONE;
  for (uint32_t block = 0; block < s->blocks; block++)
    if (bt_store_live_in(s, block) > 0u) {
      const bt_status status = bt_store_format(s, block);
      if (status != BT_OK)
        return status;
    }
  return BT_OK;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The sample store's blocks: which is filled, which is erased, which windows are moved.
 * bt_store.h says what they are for. */
#ifndef BT_BLOCKS_H
#define BT_BLOCKS_H

#include "bt_record.h"

#define BT_STORE_LAG 8u /* erasures that a block may lag behind before it is moved */

/* Does the block carry a header of this store, and was no erasure of it begun? How often it was
 * erased, or the most of any block. */
static inline bool bt_store_formatted(const bt_store *s, uint32_t block, uint32_t *erasures)
{
  uint8_t raw[BT_STORE_HEADER_BYTES];
  *erasures = s->erasures;
  if (!s->flash->read(s->flash->context, bt_store_block_at(s, block), raw, sizeof raw) ||
      bt_load_u32(raw) != BT_STORE_BLOCK || bt_load_u32(raw + 4) != s->samples ||
      bt_load_u32(raw + 12) != bt_crc32(0, raw, 12))
    return false;
  *erasures = bt_load_u32(raw + 8);
  return bt_flash_blank(s->flash, bt_store_erasing_at(s, block), bt_flash_unit(s->flash));
}

/* Erases a block and writes its header; what counted in it does so no longer. */
static inline bt_status bt_store_format(bt_store *s, uint32_t block)
{
  uint32_t erasures;
  for (uint32_t i = 0; i < s->per_block; i++) {
    const uint32_t slot = block * s->per_block + i;
    s->live[slot / 32u] &= ~((uint32_t)1 << slot % 32u);
  }
  bt_store_recount(s);
  if (bt_store_formatted(s, block, &erasures)) {
    erasures++;
        /* Half erased, a block may look whole: so the mark first. */
    if (!bt_flash_mark(s->flash, bt_store_erasing_at(s, block)))
      return BT_ERR_STORE_FLASH;
  }
  const uint32_t pages = s->block_bytes / s->flash->page_bytes;
  if (!bt_flash_erase(s->flash, s->first_page + block * pages, pages))
    return BT_ERR_STORE_FLASH;
  uint8_t raw[BT_STORE_HEADER_BYTES];
  bt_store_u32(raw, BT_STORE_BLOCK);
  bt_store_u32(raw + 4, s->samples);
  bt_store_u32(raw + 8, erasures);
  bt_store_u32(raw + 12, bt_crc32(0, raw, 12));
  bt_flash_writer w = bt_flash_write_at(s->flash, bt_store_block_at(s, block));
  if (!bt_flash_write(&w, raw, sizeof raw) || !bt_flash_finish(&w))
    return BT_ERR_STORE_FLASH;
  s->erasures = erasures > s->erasures ? erasures : s->erasures;
  return BT_OK;
}

/* Is all of the block behind its header blank? */
static inline bool bt_store_empty(const bt_store *s, uint32_t block)
{
  return bt_flash_blank(s->flash, bt_store_block_at(s, block) + bt_store_header_bytes(s),
                        s->per_block * s->slot_bytes);
}

/* Of the blocks other than `except`: that with the fewest windows; among these, or among all where
 * `worn` is true, the one with the fewest erasures, and of those the first behind `except`. */
static inline uint32_t bt_store_least(const bt_store *s, uint32_t except, bool worn)
{
  const uint32_t from = except == BT_STORE_NONE ? s->blocks - 1u : except;
  uint32_t best = BT_STORE_NONE, best_live = 0, best_erasures = 0;
  for (uint32_t i = 1; i <= s->blocks; i++) {
    const uint32_t block = (from + i) % s->blocks;
    uint32_t erasures;
    if (block == except)
      continue;
    if (!bt_store_formatted(s, block, &erasures))
      erasures = 0; /* fresh, or erasing it was cut: to be used first */
    const uint32_t live = worn ? 0u : bt_store_live_in(s, block);
    if (best == BT_STORE_NONE || live < best_live ||
        (live == best_live && erasures < best_erasures)) {
      best = block;
      best_live = live;
      best_erasures = erasures;
    }
  }
  return best;
}

/* Copies the windows of a block into the open one and erases it. */
static inline bt_status bt_store_move(bt_store *s, uint32_t block)
{
  for (uint32_t i = 0; i < s->per_block; i++) {
    const uint32_t slot = block * s->per_block + i;
    bt_store_head h;
    if (!bt_store_is_live(s, slot) || !bt_store_valid(s, slot, &h))
      continue; /* a copy has a CRC of its own: it must not make damage look whole */
    h.kind = BT_STORE_COPY;
    h.old_slot = slot;
    h.old_serial = h.serial;
    h.serial = s->serial;
    if (bt_store_write(s, &h, NULL, slot) == BT_OK)
      continue;
    (void)bt_store_format(s, s->open); /* the originals are still there */
    s->open = BT_STORE_NONE;
    return BT_ERR_STORE_FLASH;
  }
  return bt_store_format(s, block);
}

/* Opens an empty block. Another is emptied into it where it is the last one, and where one lags
 * behind in wear (once: `levelled`). */
static inline bt_status bt_store_open(bt_store *s, bool *levelled)
{
  uint32_t erasures, lowest;
    /* The block with the fewest windows has none; only damage leaves no such block, and costs
     * it. */
  const uint32_t block = bt_store_least(s, BT_STORE_NONE, false);
  if (bt_store_live_in(s, block) > 0u || !bt_store_formatted(s, block, &erasures) ||
      !bt_store_empty(s, block)) {
    const bt_status status = bt_store_format(s, block);
    if (status != BT_OK)
      return status;
  }
  s->open = block;
  s->next = 0;
  (void)bt_store_formatted(s, block, &erasures);
  const uint32_t coldest = bt_store_least(s, block, true);
  (void)bt_store_formatted(s, coldest, &lowest);
  if (!*levelled && lowest + BT_STORE_LAG < erasures) {
    *levelled = true;
    return bt_store_move(s, coldest);
  }
  const uint32_t fewest = bt_store_least(s, block, false);
  const uint32_t live = bt_store_live_in(s, fewest);
  const bool last = live > 0u; /* no other block is empty */
  return last && live < s->per_block ? bt_store_move(s, fewest) : BT_OK;
}

/* Makes sure that the next slot is blank. */
static inline bt_status bt_store_room(bt_store *s)
{
  bool levelled = false;
  for (uint32_t tries = 0; tries < s->blocks + 2u; tries++) {
    while (s->open != BT_STORE_NONE && s->next < s->per_block) {
      const uint32_t slot = s->open * s->per_block + s->next;
      if (bt_flash_blank(s->flash, bt_store_slot_at(s, slot), s->slot_bytes))
        return BT_OK;
      s->next++;
    }
    const bt_status status = bt_store_open(s, &levelled);
    if (status != BT_OK)
      return status;
  }
  return BT_ERR_STORE_FLASH; /* erased slots that are not blank */
}

/* The oldest window among those of the most frequent classes, one window of `label` counted more;
 * BT_STORE_NONE: no window is there. */
static inline uint32_t bt_store_surplus(const bt_store *s, uint32_t label, bt_store_head *oldest)
{
  uint32_t most = 0, found = BT_STORE_NONE, crc;
  for (uint32_t slot = 0; slot < s->blocks * s->per_block; slot++) {
    bt_store_head h;
    if (!bt_store_is_live(s, slot) || !bt_store_read_head(s, slot, &h, &crc))
      continue;
    const uint32_t n = s->by_class[h.label] + (h.label == label ? 1u : 0u);
    if (n > most || (n == most && h.number < oldest->number)) {
      most = n;
      found = slot;
      *oldest = h;
    }
  }
  return found;
}

#endif

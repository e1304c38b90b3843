/* SPDX-License-Identifier: Apache-2.0 */
/* The sample store's blocks: which is filled, which is erased, which windows are moved.
 * bt_store.h says what they are for. */
#ifndef BT_BLOCKS_H
#define BT_BLOCKS_H

#include "bt_record.h"
#include "bt_string.h"

#define BT_STORE_LAG 8u /* erasures that a block may lag behind before it is moved */

/* ---- worn flash ---- */

static inline uint32_t bt_store_good_in(const bt_store *s, uint32_t block)
{
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->per_block; i++)
    n += bt_store_is_bad(s, block * s->per_block + i) ? 0u : 1u;
  return n;
}

/* Windows that n blocks of so many slots are sure to hold. One block stays empty. Dropped windows
 * leave gaps; slots to spare let them gather before a block is moved: with a sixteenth and half a
 * block, up to 4 windows are written for one that comes. */
static inline uint32_t bt_store_holds(uint32_t n, uint32_t slots)
{
  const uint32_t spare = slots > 1u ? n * slots / 16u + slots / 2u : 0u;
  return n < 2u ? 0u : n * slots - slots - spare;
}

/* A slot is found worn: it is not used until the store is mounted again. What is left may hold more
 * with the worst blocks (those with less than `enough` good slots) left out. */
static inline void bt_store_spoil(bt_store *s, uint32_t slot)
{
  if (bt_store_is_bad(s, slot))
    return;
  s->dead[slot / 32u] |= (uint32_t)1 << slot % 32u;
  s->worn++;
  s->capacity = 0;
  for (uint32_t slots = s->per_block; slots > 0u; slots--) {
    uint32_t n = 0;
    for (uint32_t block = 0; block < s->blocks; block++)
      n += bt_store_good_in(s, block) >= slots ? 1u : 0u;
    if (bt_store_holds(n, slots) > s->capacity) {
      s->capacity = bt_store_holds(n, slots);
      s->enough = slots;
    }
  }
}

/* ---- headers, notes ---- */

static inline bool bt_store_header(const bt_store *s, uint32_t block, uint32_t *erasures)
{
  uint8_t raw[2u * BT_STORE_HEADER_BYTES];
  if (!s->flash->read(s->flash->context, bt_store_block_at(s, block), raw, sizeof raw))
    return false;
  for (const uint8_t *p = raw; p < raw + sizeof raw; p += BT_STORE_HEADER_BYTES)
    if (bt_load_u32(p) == BT_STORE_BLOCK && bt_load_u32(p + 4) == s->samples &&
        bt_load_u32(p + 12) == bt_crc32(0, p, 12)) {
      *erasures = bt_load_u32(p + 8);
      return true;
    }
  return false;
}

/* Does the block carry a header of this store, and no mark? How often it was erased, or the most of
 * any block. One changed bit neither takes the header away nor makes the mark. */
static inline bool bt_store_formatted(const bt_store *s, uint32_t block, uint32_t *erasures)
{
  uint8_t mark[4];
  *erasures = s->erasures;
  if (!bt_store_header(s, block, erasures) ||
      !s->flash->read(s->flash->context, bt_store_dead_at(s, block), mark, sizeof mark))
    return false;
  const uint32_t cleared = ~bt_load_u32(mark);
  return (cleared & (cleared - 1u)) == 0u;
}

/* What the notes say of a block: it counts only with so many erasures or more. */
static inline uint32_t bt_store_noted(const bt_store *s, uint32_t block)
{
  uint32_t least = 0;
  for (uint32_t note = 0; note < s->blocks * BT_STORE_NOTES; note++) {
    uint8_t raw[BT_STORE_NOTE_BYTES];
    if (s->flash->read(s->flash->context, bt_store_note_at(s, note), raw, sizeof raw) &&
        bt_load_u32(raw) == block && bt_load_u32(raw + 8) == bt_crc32(0, raw, 8) &&
        bt_load_u32(raw + 4) >= least)
      least = bt_load_u32(raw + 4) + 1u;
  }
  return least;
}

/* Notes in another block that this one is going to be erased. */
static inline bool bt_store_note(const bt_store *s, uint32_t block, uint32_t erasures)
{
  uint8_t raw[BT_STORE_NOTE_BYTES];
  uint32_t ignored;
  bt_store_u32(raw, block);
  bt_store_u32(raw + 4, erasures);
  bt_store_u32(raw + 8, bt_crc32(0, raw, 8));
  for (uint32_t i = BT_STORE_NOTES; i < s->blocks * BT_STORE_NOTES; i++) {
    const uint32_t note = (block * BT_STORE_NOTES + i) % (s->blocks * BT_STORE_NOTES);
    const uint32_t at = bt_store_note_at(s, note);
    if (bt_store_formatted(s, note / BT_STORE_NOTES, &ignored) &&
        bt_flash_blank(s->flash, at, bt_flash_up(s->flash, sizeof raw)) &&
        bt_flash_put(s->flash, at, raw, sizeof raw))
      return true;
  }
  return false;
}

/* Programs the mark of a block that counts and must not. */
static inline void bt_store_kill(const bt_store *s, uint32_t block)
{
  uint32_t ignored;
  const uint32_t at = bt_store_dead_at(s, block);
  if (bt_store_formatted(s, block, &ignored) &&
      bt_flash_blank(s->flash, at, bt_flash_unit(s->flash)))
    (void)bt_flash_mark(s->flash, at);
}

/* Marks what is whole in a slot as dropped, once more. */
static inline void bt_store_disown(const bt_store *s, uint32_t slot)
{
  bt_store_head h;
  const uint32_t at = bt_store_mark_at(s, slot);
  if (bt_store_valid(s, slot, &h) && bt_flash_blank(s->flash, at, bt_flash_unit(s->flash)))
    (void)bt_flash_mark(s->flash, at);
}

/* ---- erasing ---- */

/* Erases a block and writes its header; what counted in it does so no longer. BT_ERR_STORE_FLASH:
 * flash does not hold the header, and the block is used no more. */
static inline bt_status bt_store_format(bt_store *s, uint32_t block)
{
  const uint32_t first = block * s->per_block, at = bt_store_block_at(s, block);
  uint32_t erasures = 0;
  for (uint32_t slot = first; slot < first + s->per_block; slot++)
    s->live[slot / 32u] &= ~((uint32_t)1 << slot % 32u);
  bt_store_recount(s);
  const bool there = bt_store_header(s, block, &erasures);
  const uint32_t noted = bt_store_noted(s, block);
  /* Erased in part, a block may look whole, with windows that were dropped and without their marks.
   * So it is noted elsewhere; the mark in it is next best, where no note is free. */
  if (there && noted <= erasures && !bt_store_note(s, block, erasures))
    bt_store_kill(s, block);
  erasures = there ? erasures + 1u : noted > s->erasures ? noted
                                                         : s->erasures;

  const uint32_t pages = s->block_bytes / s->flash->page_bytes;
  uint8_t raw[2u * BT_STORE_HEADER_BYTES];
  for (uint8_t *p = raw; p < raw + sizeof raw; p += BT_STORE_HEADER_BYTES) {
    bt_store_u32(p, BT_STORE_BLOCK);
    bt_store_u32(p + 4, s->samples);
    bt_store_u32(p + 8, erasures);
    bt_store_u32(p + 12, bt_crc32(0, p, 12));
  }
  bool good = bt_flash_erase(s->flash, s->first_page + block * pages, pages) &&
              bt_flash_blank(s->flash, at, bt_store_header_bytes(s));
  for (uint32_t slot = first; good && slot < first + s->per_block; slot++)
    if (!bt_flash_blank(s->flash, bt_store_slot_at(s, slot), s->slot_bytes)) {
      bt_store_disown(s, slot);
      bt_store_spoil(s, slot);
    }
  good = good && bt_flash_put(s->flash, at, raw, sizeof raw);
  if (!good) {
    bt_store_kill(s, block);
    for (uint32_t slot = first; slot < first + s->per_block; slot++)
      bt_store_spoil(s, slot);
    return BT_ERR_STORE_FLASH;
  }
  s->erasures = erasures > s->erasures ? erasures : s->erasures;
  return BT_OK;
}

/* Are all good slots of the block blank? */
static inline bool bt_store_empty(const bt_store *s, uint32_t block)
{
  for (uint32_t slot = block * s->per_block; slot < (block + 1u) * s->per_block; slot++)
    if (!bt_store_is_bad(s, slot) &&
        !bt_flash_blank(s->flash, bt_store_slot_at(s, slot), s->slot_bytes))
      return false;
  return true;
}

/* Of the blocks with enough good slots, other than `except`: that with the fewest windows; among
 * these, or among all where `wear` is true, the one with the fewest erasures, and of those the first
 * behind `except`. */
static inline uint32_t bt_store_least(const bt_store *s, uint32_t except, bool wear)
{
  const uint32_t from = except == BT_STORE_NONE ? s->blocks - 1u : except;
  uint32_t best = BT_STORE_NONE, best_live = 0, best_erasures = 0;
  for (uint32_t i = 1; i <= s->blocks; i++) {
    const uint32_t block = (from + i) % s->blocks;
    uint32_t erasures;
    if (block == except || bt_store_good_in(s, block) < s->enough)
      continue;
    if (!bt_store_formatted(s, block, &erasures))
      erasures = 0; /* fresh, or erasing it was cut: to be used first */
    const uint32_t live = wear ? 0u : bt_store_live_in(s, block);
    if (best == BT_STORE_NONE || live < best_live ||
        (live == best_live && erasures < best_erasures)) {
      best = block;
      best_live = live;
      best_erasures = erasures;
    }
  }
  return best;
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

/* ---- the open block ---- */

/* Good slots of the open block that are not filled. */
static inline uint32_t bt_store_left(const bt_store *s)
{
  uint32_t n = 0;
  for (uint32_t i = s->next; i < s->per_block; i++)
    n += bt_store_is_bad(s, s->open * s->per_block + i) ? 0u : 1u;
  return n;
}

/* Drops windows until they are no more than are sure to have a place: flash has worn, or is damaged.
 * Those of `block` first, until the rest of it fits into the open one. */
static inline void bt_store_evict(bt_store *s, uint32_t block)
{
  bt_store_head h;
  memset(&h, 0, sizeof h);
  uint32_t slot = 0;
  while (s->count > s->capacity && s->capacity > 0u && slot != BT_STORE_NONE) {
    if (block != BT_STORE_NONE && bt_store_live_in(s, block) >= bt_store_left(s)) {
      for (slot = block * s->per_block; !bt_store_is_live(s, slot);)
        slot++;
    } else {
      slot = bt_store_surplus(s, BT_STORE_NONE, &h); /* none: flash cannot be read */
    }
    (void)bt_store_drop(s, slot);
  }
}

/* Goes on to the next slot of the open block that is good and blank, if there is one. */
static inline bool bt_store_next(bt_store *s)
{
  for (; s->open != BT_STORE_NONE && s->next < s->per_block; s->next++) {
    const uint32_t slot = s->open * s->per_block + s->next;
    if (bt_store_is_bad(s, slot))
      continue;
    if (bt_flash_blank(s->flash, bt_store_slot_at(s, slot), s->slot_bytes))
      return true;
    bt_store_spoil(s, slot);
  }
  return false;
}

/* Copies the windows of a block into the open one and erases it. BT_ERR_STORE_FLASH: it could not be
 * erased and is used no more; or, where no block is open then, the copies found no place, and the
 * originals are still there. */
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
    bt_status status = BT_ERR_STORE_FLASH;
    while (status == BT_ERR_STORE_FLASH && bt_store_next(s)) {
      status = bt_store_write(s, &h, NULL, slot);
      if (status == BT_ERR_STORE_FLASH)
        bt_store_spoil(s, s->open * s->per_block + s->next - 1u);
    }
    if (status != BT_ERR_STORE_FLASH)
      continue;
    (void)bt_store_format(s, s->open);
    s->open = BT_STORE_NONE;
    return status;
  }
  return bt_store_format(s, block);
}

/* Makes a block without windows ready to be filled: erased and read back. */
static inline bool bt_store_prepare(bt_store *s, uint32_t block)
{
  uint32_t erasures;
  return (bt_store_formatted(s, block, &erasures) && bt_store_empty(s, block)) ||
         bt_store_format(s, block) == BT_OK;
}

/* A block to open: one without windows, if need be of those with few good slots. Only where flash
 * has just worn, or is damaged, there is none, and that costs the block with the fewest windows. */
static inline uint32_t bt_store_spare(bt_store *s)
{
  const uint32_t least = bt_store_least(s, BT_STORE_NONE, false);
  if (least != BT_STORE_NONE && bt_store_live_in(s, least) == 0u)
    return least;
  for (uint32_t block = 0; block < s->blocks; block++)
    if (bt_store_good_in(s, block) > 0u && bt_store_live_in(s, block) == 0u)
      return block;
  return least;
}

/* Opens an empty block, and sees to it that another one is ready: one is emptied where none is, and
 * where one lags behind in wear (once: `levelled`). What flash refuses is marked as bad: then try
 * again. */
static inline void bt_store_open(bt_store *s, bool *levelled)
{
  uint32_t erasures, lowest;
  s->open = BT_STORE_NONE;
  const uint32_t block = bt_store_spare(s);
  if (block == BT_STORE_NONE || (bt_store_live_in(s, block) > 0u ? bt_store_format(s, block) != BT_OK
                                                                 : !bt_store_prepare(s, block)))
    return;
  s->open = block;
  s->next = 0;
  (void)bt_store_formatted(s, block, &erasures);
  const uint32_t coldest = bt_store_least(s, block, true);
  if (!*levelled && coldest != BT_STORE_NONE) {
    (void)bt_store_formatted(s, coldest, &lowest);
    if (lowest + BT_STORE_LAG < erasures && bt_store_live_in(s, coldest) <= bt_store_left(s)) {
      *levelled = true;
      (void)bt_store_move(s, coldest);
    }
  }
  while (s->open != BT_STORE_NONE) {
    const uint32_t other = bt_store_least(s, block, false);
    if (other == BT_STORE_NONE)
      return;
    bt_store_evict(s, other);
    const uint32_t live = bt_store_live_in(s, other);
    if (live >= bt_store_left(s))
      return;
    /* A block that was never used is erased when it is opened: not two in one append. */
    const bool ready = live == 0u && !bt_store_header(s, other, &erasures);
    if ((ready || (live == 0u ? bt_store_prepare(s, other) : bt_store_move(s, other) == BT_OK)) &&
        bt_store_good_in(s, other) >= s->enough)
      return;
  }
}

/* Makes sure that the next slot is blank. */
static inline bt_status bt_store_room(bt_store *s)
{
  bool levelled = false;
  for (uint32_t tries = 0; s->capacity > 0u && tries < 2u * BT_STORE_SLOTS; tries++) {
    bt_store_evict(s, BT_STORE_NONE);
    if (bt_store_next(s))
      return BT_OK;
    bt_store_open(s, &levelled);
  }
  return BT_ERR_STORE_FLASH; /* fewer than two blocks are left */
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/* The sample store's records in flash: where they lie, whether they are whole, how one is written.
 * bt_store.h says what they are for. */
#ifndef BT_RECORD_H
#define BT_RECORD_H

#include "bt_checkpoint.h" /* bt_load_u32, bt_store_u32; little-endian */
#include "bt_flash.h"

#ifndef BT_STORE_SLOTS
#define BT_STORE_SLOTS 512 /* most slots: a quarter of a byte of RAM each; a multiple of 32 */
#endif
#ifndef BT_STORE_CLASSES
#define BT_STORE_CLASSES 16 /* most classes: 4 bytes of RAM each */
#endif

#define BT_STORE_NONE 0xffffffffu
#define BT_STORE_HEADER_BYTES 16u  /* of one of the two copies */
#define BT_STORE_NOTES 2u          /* a power cut may tear one */
#define BT_STORE_NOTE_BYTES 12u
#define BT_STORE_HEAD_BYTES 20u
#define BT_STORE_BLOCK 0x32425442u /* "BTB2" */
#define BT_STORE_NEW 0x5742u       /* "BW": a window as it came in */
#define BT_STORE_COPY 0x4342u      /* "BC": a copy from a block that is to be erased */

typedef struct bt_store {
  const bt_flash *flash;
  uint32_t first_page;
  uint32_t samples;   /* int16 of one window */
  uint32_t classes;
  uint32_t block_bytes;
  uint32_t blocks;
  uint32_t per_block; /* slots */
  uint32_t slot_bytes;
  uint32_t enough;    /* good slots that a block must have to be filled */
  uint32_t capacity;  /* windows */
  uint32_t count;     /* windows now */
  uint32_t number;    /* of the next window */
  uint32_t serial;    /* of the next record */
  uint32_t erasures;  /* of the most erased block */
  uint32_t open;      /* the block that is being filled, or BT_STORE_NONE */
  uint32_t next;      /* its next slot */
  uint32_t worn;      /* slots that flash no longer serves, found since the store was mounted */
  uint32_t by_class[BT_STORE_CLASSES]; /* windows */
  uint32_t live[BT_STORE_SLOTS / 32]; /* one bit per slot: holds a window that counts */
  uint32_t dead[BT_STORE_SLOTS / 32]; /* one bit per slot: counted in `worn` */
} bt_store;

typedef struct bt_store_head {
  uint32_t kind, label, number, serial, old_slot, old_serial;
} bt_store_head;

/* ---- where things are ---- */

static inline uint32_t bt_store_block_at(const bt_store *s, uint32_t block)
{
  return s->first_page * s->flash->page_bytes + block * s->block_bytes;
}

/* Behind both copies of the header: a unit that is programmed where the block counts no longer. */
static inline uint32_t bt_store_dead_at(const bt_store *s, uint32_t block)
{
  return bt_store_block_at(s, block) + bt_flash_up(s->flash, 2u * BT_STORE_HEADER_BYTES);
}

/* And the notes, `which` counts those of all blocks: another block, and its erasures at which it
 * counts no longer. */
static inline uint32_t bt_store_note_at(const bt_store *s, uint32_t which)
{
  return bt_store_dead_at(s, which / BT_STORE_NOTES) + bt_flash_unit(s->flash) +
         which % BT_STORE_NOTES * bt_flash_up(s->flash, BT_STORE_NOTE_BYTES);
}

static inline uint32_t bt_store_header_bytes(const bt_store *s)
{
  return bt_flash_up(s->flash, 2u * BT_STORE_HEADER_BYTES) + bt_flash_unit(s->flash) +
         BT_STORE_NOTES * bt_flash_up(s->flash, BT_STORE_NOTE_BYTES);
}

static inline uint32_t bt_store_slot_at(const bt_store *s, uint32_t slot)
{
  return bt_store_block_at(s, slot / s->per_block) + bt_store_header_bytes(s) +
         slot % s->per_block * s->slot_bytes;
}

static inline uint32_t bt_store_mark_at(const bt_store *s, uint32_t slot)
{
  return bt_store_slot_at(s, slot) + s->slot_bytes - bt_flash_unit(s->flash);
}

static inline bool bt_store_is_live(const bt_store *s, uint32_t slot)
{
  return slot < s->blocks * s->per_block && (s->live[slot / 32u] >> slot % 32u & 1u) != 0u;
}

static inline bool bt_store_is_bad(const bt_store *s, uint32_t slot)
{
  return (s->dead[slot / 32u] >> slot % 32u & 1u) != 0u;
}

static inline uint32_t bt_store_live_in(const bt_store *s, uint32_t block)
{
  uint32_t n = 0;
  for (uint32_t i = 0; i < s->per_block; i++)
    n += bt_store_is_live(s, block * s->per_block + i) ? 1u : 0u;
  return n;
}

/* ---- records ---- */

static inline bool bt_store_read_head(const bt_store *s, uint32_t slot, bt_store_head *h,
                                      uint32_t *crc)
{
  uint8_t raw[BT_STORE_HEAD_BYTES];
  if (!s->flash->read(s->flash->context, bt_store_slot_at(s, slot), raw, sizeof raw))
    return false;
  const uint32_t first = bt_load_u32(raw);
  h->kind = first & 0xffffu;
  h->label = first >> 16;
  h->number = bt_load_u32(raw + 4);
  h->serial = bt_load_u32(raw + 8);
  h->old_slot = bt_load_u32(raw + 12);
  h->old_serial = bt_load_u32(raw + 16);
  *crc = bt_crc32(0, raw, sizeof raw);
  return (h->kind == BT_STORE_NEW || h->kind == BT_STORE_COPY) && h->label < s->classes;
}

/* The CRC that is stored with a slot's window fits head and samples. */
static inline bool bt_store_crc_fits(const bt_store *s, uint32_t slot, uint32_t crc)
{
  uint8_t stored[4];
  const uint32_t at = bt_store_mark_at(s, slot) - 4u;
  return s->flash->read(s->flash->context, at, stored, 4) && crc == bt_load_u32(stored);
}

/* Is a whole window in the slot? */
static inline bool bt_store_valid(const bt_store *s, uint32_t slot, bt_store_head *h)
{
  uint32_t words[BT_FLASH_CHUNK / 4u], crc;
  if (!bt_store_read_head(s, slot, h, &crc))
    return false;
  uint32_t at = bt_store_slot_at(s, slot) + BT_STORE_HEAD_BYTES;
  for (uint32_t left = 2u * s->samples; left > 0u;) {
    const uint32_t n = left < BT_FLASH_CHUNK ? left : BT_FLASH_CHUNK;
    if (!s->flash->read(s->flash->context, at, words, n))
      return false;
    crc = bt_crc32(crc, words, n);
    at += n;
    left -= n;
  }
  return bt_store_crc_fits(s, slot, crc);
}

static inline void bt_store_count(bt_store *s, uint32_t slot, const bt_store_head *h)
{
  s->live[slot / 32u] |= (uint32_t)1 << slot % 32u;
  s->by_class[h->label]++;
  s->count++;
}

/* Counts anew what is live: after windows went. A head that can no longer be read goes too. */
static inline void bt_store_recount(bt_store *s)
{
  s->count = 0;
  for (uint32_t c = 0; c < s->classes; c++)
    s->by_class[c] = 0;
  for (uint32_t slot = 0; slot < s->blocks * s->per_block; slot++) {
    bt_store_head h;
    uint32_t crc;
    if (!bt_store_is_live(s, slot))
      continue;
    s->live[slot / 32u] &= ~((uint32_t)1 << slot % 32u);
    if (bt_store_read_head(s, slot, &h, &crc))
      bt_store_count(s, slot, &h);
  }
}

/* Drops a window for good. */
static inline bt_status bt_store_drop(bt_store *s, uint32_t slot)
{
  if (!bt_store_is_live(s, slot))
    return BT_ERR_STORE_FLASH;
  s->live[slot / 32u] &= ~((uint32_t)1 << slot % 32u);
  bt_store_recount(s);
  return bt_flash_mark(s->flash, bt_store_mark_at(s, slot)) ? BT_OK : BT_ERR_STORE_FLASH;
}

/* Writes a window into the next slot of the open block, from RAM (x) or, where x is NULL, from slot
 * `from`; it counts if flash then holds it. BT_ERR_STORE_FLASH: it does not;
 * BT_ERR_STORE_CORRUPT: `from` cannot be read. */
static inline bt_status bt_store_write(bt_store *s, const bt_store_head *h, const int16_t *x,
                                       uint32_t from)
{
  uint8_t raw[BT_STORE_HEAD_BYTES];
  bt_store_head written;
  const uint32_t slot = s->open * s->per_block + s->next++;
  bt_store_u32(raw, h->kind | h->label << 16);
  bt_store_u32(raw + 4, h->number);
  bt_store_u32(raw + 8, h->serial);
  bt_store_u32(raw + 12, h->old_slot);
  bt_store_u32(raw + 16, h->old_serial);

  bt_flash_writer w = bt_flash_write_at(s->flash, bt_store_slot_at(s, slot));
  uint32_t crc = bt_crc32(0, raw, sizeof raw);
  if (!bt_flash_write(&w, raw, sizeof raw))
    return BT_ERR_STORE_FLASH;
  uint32_t words[BT_FLASH_CHUNK / 4u];
  for (uint32_t done = 0; done < 2u * s->samples;) {
    const uint32_t left = 2u * s->samples - done;
    const uint32_t n = left < BT_FLASH_CHUNK ? left : BT_FLASH_CHUNK;
    const void *data = words;
    if (x != NULL)
      data = x + done / 2u;
    else if (!s->flash->read(s->flash->context,
                             bt_store_slot_at(s, from) + BT_STORE_HEAD_BYTES + done, words, n))
      return BT_ERR_STORE_CORRUPT;
    crc = bt_crc32(crc, data, n);
    if (!bt_flash_write(&w, data, n))
      return BT_ERR_STORE_FLASH;
    done += n;
  }
  const uint32_t last = bt_store_mark_at(s, slot) - 4u; /* the CRC ends the last unit */
  bt_store_u32(raw, 0xffffffffu);
  while (w.address + w.filled < last)
    if (!bt_flash_write(&w, raw, 1))
      return BT_ERR_STORE_FLASH;
  bt_store_u32(raw, crc);
  if (!bt_flash_write(&w, raw, 4) || !bt_flash_finish(&w) || !bt_store_valid(s, slot, &written) ||
      written.serial != h->serial ||
      !bt_flash_blank(s->flash, bt_store_mark_at(s, slot), bt_flash_unit(s->flash)))
    return BT_ERR_STORE_FLASH;
  s->serial = h->serial + 1u;
  bt_store_count(s, slot, &written);
  return BT_OK;
}

#endif

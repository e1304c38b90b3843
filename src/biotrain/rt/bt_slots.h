/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two checkpoint slots in flash: save to the older, load the newest, go back, return to the
 * factory.
 *
 * A slot is a run of whole pages: a checkpoint (bt_checkpoint.h) from its first byte on, and a last
 * unit for a mark. A checkpoint is withdrawn by erasing its first page, whatever part of it a power
 * cut leaves erased: erasing can end a checkpoint and never make one. So nothing that was withdrawn
 * comes back. Only where a page refuses to be erased the mark withdraws instead. A power cut at any
 * byte of a save leaves the other slot, of a withdrawal the state before or after it. Nothing is
 * kept in RAM.
 */
#ifndef BT_SLOTS_H
#define BT_SLOTS_H

#include "bt_checkpoint.h"
#include "bt_flash.h"
#include "bt_string.h"

/* The caller fills this in; all of it is constant. */
typedef struct bt_slots {
  const bt_flash *flash;
  uint32_t first_page;        /* slot A begins here, slot B behind it */
  uint32_t pages;             /* of both together; an even number */
  const bt_segment *segments; /* the state, as for bt_checkpoint_stream */
  size_t count;
  uint32_t fingerprint;       /* of the model */
} bt_slots;

static inline uint32_t bt_slots_bytes(const bt_slots *s)
{
  return s->pages / 2u * s->flash->page_bytes;
}

static inline uint32_t bt_slots_page(const bt_slots *s, bt_slot slot)
{
  return s->first_page + (slot == BT_SLOT_B ? s->pages / 2u : 0u);
}

static inline uint32_t bt_slots_address(const bt_slots *s, bt_slot slot)
{
  return bt_slots_page(s, slot) * s->flash->page_bytes;
}

static inline uint32_t bt_slots_mark(const bt_slots *s, bt_slot slot)
{
  return bt_slots_address(s, slot) + bt_slots_bytes(s) - bt_flash_unit(s->flash);
}

/* Does the state fit? BT_OK or BT_ERR_CHECKPOINT_SHORT. */
static inline bt_status bt_slots_fit(const bt_slots *s)
{
  if (!bt_flash_usable(s->flash))
    return BT_ERR_CHECKPOINT_SHORT;
  const uint32_t unit = bt_flash_unit(s->flash);
  const size_t bytes = bt_checkpoint_bytes(s->segments, s->count);
  return bytes + 2u * unit <= bt_slots_bytes(s) ? BT_OK : BT_ERR_CHECKPOINT_SHORT;
}

/* Erases the first pages of a slot, from its header on, and reads them back; stops at one that is worn
 * out, for the mark that withdraws what is in it stands behind it. */
static inline bool bt_slots_erase(const bt_slots *s, bt_slot slot, uint32_t pages)
{
  const uint32_t page = bt_slots_page(s, slot), bytes = s->flash->page_bytes;
  for (uint32_t i = 0; i < pages; i++)
    if (!bt_flash_erase(s->flash, page + i, 1) ||
        !bt_flash_blank(s->flash, (page + i) * bytes, bytes))
      return false;
  return true;
}

/* CRC of the checkpoint's first `bytes`; false: flash cannot be read. */
static inline bool bt_slots_crc(const bt_slots *s, uint32_t address, uint32_t bytes, uint32_t *crc)
{
  uint32_t words[BT_FLASH_CHUNK / 4u];
  *crc = 0;
  while (bytes > 0u) {
    const uint32_t n = bytes < BT_FLASH_CHUNK ? bytes : BT_FLASH_CHUNK;
    if (!s->flash->read(s->flash->context, address, words, n))
      return false;
    *crc = bt_crc32(*crc, words, n);
    address += n;
    bytes -= n;
  }
  return true;
}

/* Is there a whole checkpoint of this state in the slot, not withdrawn? As bt_checkpoint_check, and
 * with its sequence number. */
static inline bt_status bt_slots_check(const bt_slots *s, bt_slot slot, uint32_t *sequence)
{
  uint8_t head[BT_CHECKPOINT_HEADER_BYTES], stored[BT_CHECKPOINT_CRC_BYTES];
  const uint32_t address = bt_slots_address(s, slot);
  const size_t payload = bt_checkpoint_payload_bytes(s->segments, s->count);
  const uint32_t end = BT_CHECKPOINT_HEADER_BYTES + (uint32_t)payload;
  uint32_t crc;
  if (bt_slots_fit(s) != BT_OK)
    return BT_ERR_CHECKPOINT_SHORT;
  if (!s->flash->read(s->flash->context, address, head, sizeof head))
    return BT_ERR_CHECKPOINT_CORRUPT;
  if (bt_load_u32(head) != 0x4b435442u /* "BTCK" */ ||
      bt_load_u32(head + 4) != BT_CHECKPOINT_VERSION || bt_load_u32(head + 8) != s->fingerprint ||
      bt_load_u32(head + 16) != payload)
    return BT_ERR_CHECKPOINT_FOREIGN;
  if (!bt_slots_crc(s, address, end, &crc) ||
      !s->flash->read(s->flash->context, address + end, stored, sizeof stored) ||
      crc != bt_load_u32(stored))
    return BT_ERR_CHECKPOINT_CORRUPT;
  if (!bt_flash_blank(s->flash, bt_slots_mark(s, slot), bt_flash_unit(s->flash)))
    return BT_ERR_CHECKPOINT_FOREIGN;
  *sequence = bt_load_u32(head + 12);
  return BT_OK;
}

/* The slot of the newest valid checkpoint and its sequence number. */
static inline bt_slot bt_slots_newest(const bt_slots *s, uint32_t *sequence)
{
  uint32_t a, b;
  const bool has_a = bt_slots_check(s, BT_SLOT_A, &a) == BT_OK;
  const bool has_b = bt_slots_check(s, BT_SLOT_B, &b) == BT_OK;
  *sequence = 0;
  if (!has_a && !has_b)
    return BT_SLOT_NONE;
  const bool newer_b = has_b && (!has_a || (b != a && b - a < 0x80000000u));
  *sequence = newer_b ? b : a;
  return newer_b ? BT_SLOT_B : BT_SLOT_A;
}

static inline bool bt_slots_sink(void *context, size_t offset, const void *data, size_t count)
{
  (void)offset; /* rising without a gap */
  return bt_flash_write((bt_flash_writer *)context, data, count);
}

static inline bool bt_slots_write(const bt_slots *s, bt_slot slot, uint32_t sequence)
{
  uint32_t written;
  if (!bt_slots_erase(s, slot, s->pages / 2u))
    return false;
  bt_flash_writer w = bt_flash_write_at(s->flash, bt_slots_address(s, slot));
  return bt_checkpoint_stream(bt_slots_sink, &w, s->segments, s->count, s->fingerprint, sequence) ==
             BT_OK &&
         bt_flash_finish(&w) && bt_slots_check(s, slot, &written) == BT_OK;
}

/* Writes the state to the slot that does not hold the newest checkpoint (to B where there is none and
 * A is worn out): BT_OK, BT_ERR_CHECKPOINT_SHORT, or BT_ERR_CHECKPOINT_WRITE where flash does not
 * hold it then (the newest before is still there). The state must not change meanwhile. */
static inline bt_status bt_slots_save(const bt_slots *s)
{
  uint32_t sequence;
  if (bt_slots_fit(s) != BT_OK)
    return BT_ERR_CHECKPOINT_SHORT;
  const bt_slot newest = bt_slots_newest(s, &sequence);
  if (bt_slots_write(s, newest == BT_SLOT_A ? BT_SLOT_B : BT_SLOT_A, sequence + 1u) ||
      (newest == BT_SLOT_NONE && bt_slots_write(s, BT_SLOT_B, sequence + 1u)))
    return BT_OK;
  return BT_ERR_CHECKPOINT_WRITE;
}

/* ---- a save in slices ----
 * Each erases a page, or programs or reads up to BT_FLASH_CHUNK bytes. */

typedef struct bt_slots_save_state {
  bt_slots slots;
  int32_t slot;     /* a bt_slot */
  uint32_t sequence;
  uint32_t erased;  /* pages */
  uint32_t segment; /* the segment that is written next, */
  size_t offset;    /* and its first byte that is not written yet */
  uint32_t header;  /* 1: written */
  uint32_t checked; /* bytes read back */
  uint32_t crc;     /* of what was written */
  uint32_t read;    /* CRC of what was read */
  bt_flash_writer writer;
} bt_slots_save_state;

/* Prepares to write the state to a slot. Until it is done, the state must not change. */
static inline bt_status bt_slots_begin(bt_slots_save_state *w, const bt_slots *s, bt_slot slot,
                                       uint32_t sequence)
{
  memset(w, 0, sizeof *w);
  w->slots = *s;
  w->slot = (int32_t)slot;
  w->sequence = sequence;
  w->writer = bt_flash_write_at(s->flash, bt_slots_address(s, slot));
  return bt_slots_fit(s);
}

/* Writes the next bytes of the payload; BT_MORE where there were any. */
static inline bt_status bt_slots_payload(bt_slots_save_state *w)
{
  const bt_slots *s = &w->slots;
  while (w->segment < s->count && w->offset == s->segments[w->segment].bytes) {
    w->segment++;
    w->offset = 0;
  }
  if (w->segment == s->count)
    return BT_OK;
  const size_t left = s->segments[w->segment].bytes - w->offset;
  const size_t n = left < BT_FLASH_CHUNK ? left : BT_FLASH_CHUNK;
  const uint8_t *from = (const uint8_t *)s->segments[w->segment].data + w->offset;
  w->crc = bt_crc32(w->crc, from, n);
  w->offset += n;
  return bt_flash_write(&w->writer, from, n) ? BT_MORE : BT_ERR_CHECKPOINT_WRITE;
}

/* One slice: BT_MORE, BT_OK when the slot holds the checkpoint, or BT_ERR_CHECKPOINT_WRITE: it does
 * not, and the other slot is as it was. */
static inline bt_status bt_slots_more(bt_slots_save_state *w)
{
  const bt_slots *s = &w->slots;
  const uint32_t pages = s->pages / 2u;
  const size_t payload = bt_checkpoint_payload_bytes(s->segments, s->count);
  const uint32_t end = BT_CHECKPOINT_HEADER_BYTES + (uint32_t)payload;
  if (w->erased < pages) {
    const uint32_t page = bt_slots_page(s, (bt_slot)w->slot) + w->erased++;
    return bt_flash_erase(s->flash, page, 1) &&
                   bt_flash_blank(s->flash, page * s->flash->page_bytes, s->flash->page_bytes)
               ? BT_MORE
               : BT_ERR_CHECKPOINT_WRITE;
  }
  if (!w->header) {
    uint8_t header[BT_CHECKPOINT_HEADER_BYTES] = {'B', 'T', 'C', 'K'};
    bt_store_u32(header + 4, BT_CHECKPOINT_VERSION);
    bt_store_u32(header + 8, s->fingerprint);
    bt_store_u32(header + 12, w->sequence);
    bt_store_u32(header + 16, (uint32_t)payload);
    w->header = 1;
    w->crc = bt_crc32(0, header, sizeof header);
    return bt_flash_write(&w->writer, header, sizeof header) ? BT_MORE : BT_ERR_CHECKPOINT_WRITE;
  }
  if (w->checked == 0) {
    const bt_status status = bt_slots_payload(w);
    if (status != BT_OK)
      return status;
    uint8_t crc[BT_CHECKPOINT_CRC_BYTES];
    bt_store_u32(crc, w->crc);
    if (!bt_flash_write(&w->writer, crc, sizeof crc) || !bt_flash_finish(&w->writer))
      return BT_ERR_CHECKPOINT_WRITE;
  }
  uint32_t words[BT_FLASH_CHUNK / 4u], n = end - w->checked;
  const uint32_t at = bt_slots_address(s, (bt_slot)w->slot) + w->checked;
  n = n < BT_FLASH_CHUNK ? n : BT_FLASH_CHUNK;
  if (!s->flash->read(s->flash->context, at, words, n > 0u ? n : BT_CHECKPOINT_CRC_BYTES))
    return BT_ERR_CHECKPOINT_WRITE;
  if (n > 0u) {
    w->read = bt_crc32(w->read, words, n);
    w->checked += n;
    return BT_MORE;
  }
  return w->read == w->crc && bt_load_u32((const uint8_t *)words) == w->crc
             ? BT_OK
             : BT_ERR_CHECKPOINT_WRITE;
}

/* Reads the newest valid checkpoint into the state: BT_OK, or BT_ERR_CHECKPOINT_FOREIGN where there
 * is none (the state stays as it was). BT_ERR_CHECKPOINT_CORRUPT: flash read twice was not the
 * same; only then the state is lost, and bt_init makes a new one. */
static inline bt_status bt_slots_load(const bt_slots *s)
{
  uint32_t sequence;
  uint8_t head[BT_CHECKPOINT_HEADER_BYTES], stored[BT_CHECKPOINT_CRC_BYTES];
  const bt_slot slot = bt_slots_newest(s, &sequence);
  if (slot == BT_SLOT_NONE)
    return BT_ERR_CHECKPOINT_FOREIGN;
  const bt_flash *f = s->flash;
  uint32_t address = bt_slots_address(s, slot);
  if (!f->read(f->context, address, head, sizeof head))
    return BT_ERR_CHECKPOINT_FOREIGN;
  address += BT_CHECKPOINT_HEADER_BYTES;
  uint32_t crc = bt_crc32(0, head, sizeof head);
  for (size_t i = 0; i < s->count; i++) {
    if (s->segments[i].bytes == 0)
      continue;
    if (!f->read(f->context, address, s->segments[i].data, s->segments[i].bytes))
      return BT_ERR_CHECKPOINT_CORRUPT;
    crc = bt_crc32(crc, s->segments[i].data, s->segments[i].bytes);
    address += (uint32_t)s->segments[i].bytes;
  }
  if (!f->read(f->context, address, stored, sizeof stored) || crc != bt_load_u32(stored))
    return BT_ERR_CHECKPOINT_CORRUPT;
  return BT_OK;
}

/* Withdraws the checkpoint of a slot. */
static inline bt_status bt_slots_withdraw(const bt_slots *s, bt_slot slot)
{
  uint32_t sequence;
  if (bt_slots_erase(s, slot, 1))
    return BT_OK;
  return bt_flash_mark(s->flash, bt_slots_mark(s, slot)) &&
                 bt_slots_check(s, slot, &sequence) != BT_OK
             ? BT_OK
             : BT_ERR_CHECKPOINT_WRITE;
}

/* Withdraws the newest checkpoint, so that the one before it is the newest (load it then): BT_OK,
 * or BT_ERR_CHECKPOINT_FOREIGN where there is none before it (nothing is withdrawn). */
static inline bt_status bt_slots_back(const bt_slots *s)
{
  uint32_t a, b;
  if (bt_slots_check(s, BT_SLOT_A, &a) != BT_OK || bt_slots_check(s, BT_SLOT_B, &b) != BT_OK)
    return BT_ERR_CHECKPOINT_FOREIGN;
  return bt_slots_withdraw(s, bt_slots_newest(s, &a));
}

/* Withdraws both, the older first: a power cut in between leaves the newest. */
static inline bt_status bt_slots_withdraw_both(const bt_slots *s)
{
  uint32_t sequence;
  const bt_slot newest = bt_slots_newest(s, &sequence);
  if (newest == BT_SLOT_NONE)
    return BT_OK;
  const bt_slot older = newest == BT_SLOT_A ? BT_SLOT_B : BT_SLOT_A;
  if (bt_slots_check(s, older, &sequence) == BT_OK && bt_slots_withdraw(s, older) != BT_OK)
    return BT_ERR_CHECKPOINT_WRITE;
  return bt_slots_withdraw(s, newest);
}

/* The same, and then all of both slots is erased: flash holds no weights any more. Then bt_init. */
static inline bt_status bt_slots_factory(const bt_slots *s)
{
  bt_status status = bt_slots_withdraw_both(s);
  for (int slot = BT_SLOT_A; slot <= BT_SLOT_B; slot++)
    if (!bt_flash_blank(s->flash, bt_slots_address(s, (bt_slot)slot), bt_slots_bytes(s)) &&
        !bt_slots_erase(s, (bt_slot)slot, s->pages / 2u))
      status = BT_ERR_CHECKPOINT_WRITE;
  return status;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A checkpoint: the state of a training (weights, momentum, counters) as bytes.
 *
 *   offset  bytes
 *        0      4  magic "BTCK"
 *        4      4  format version, BT_CHECKPOINT_VERSION
 *        8      4  fingerprint of the model, its optimizer and its layout
 *       12      4  sequence number: one more than the checkpoint before it, modulo 2^32
 *       16      4  payload bytes, n
 *       20      n  payload: the segments, one after another, as they lie in memory
 *     20+n      4  CRC-32 of everything before it
 *
 * All numbers are little-endian. The CRC comes last, so a checkpoint becomes valid with its last
 * write and a power cut before that leaves it invalid. Keep two slots: load the one that
 * bt_checkpoint_choose names and save to the other, with the sequence number plus one; then a cut at
 * any byte leaves the previous checkpoint. A slot may be longer than its checkpoint.
 */
#ifndef BT_CHECKPOINT_H
#define BT_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bt_crc.h"
#include "bt_status.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "checkpoints hold the state as it lies in memory, and that is defined as little-endian"
#endif

#define BT_CHECKPOINT_VERSION 1u
#define BT_CHECKPOINT_HEADER_BYTES 20u
#define BT_CHECKPOINT_CRC_BYTES 4u

/* A segment of the state, in the order of the payload. */
typedef struct bt_segment {
  void *data;
  size_t bytes;
} bt_segment;

/* Stores count bytes at offset of the slot; offsets come in rising order without a gap: the header,
 * each segment straight from the state, the CRC. False: storage failed. */
typedef bool (*bt_checkpoint_sink)(void *context, size_t offset, const void *data, size_t count);

static inline uint32_t bt_load_u32(const uint8_t *p)
{
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void bt_store_u32(uint8_t *p, uint32_t value)
{
  p[0] = (uint8_t)(value & 0xffu);
  p[1] = (uint8_t)(value >> 8 & 0xffu);
  p[2] = (uint8_t)(value >> 16 & 0xffu);
  p[3] = (uint8_t)(value >> 24);
}

static inline size_t bt_checkpoint_payload_bytes(const bt_segment *segments, size_t count)
{
  size_t bytes = 0;
  for (size_t i = 0; i < count; i++)
    bytes += segments[i].bytes;
  return bytes;
}

/* The size of a checkpoint of these segments (payload below 4 GiB). */
static inline size_t bt_checkpoint_bytes(const bt_segment *segments, size_t count)
{
  return BT_CHECKPOINT_HEADER_BYTES + bt_checkpoint_payload_bytes(segments, count) +
         BT_CHECKPOINT_CRC_BYTES;
}

/* Writes a checkpoint segment by segment, without a copy of the state: BT_OK or BT_ERR_CHECKPOINT_WRITE.
 * The state must not change meanwhile. */
static inline bt_status bt_checkpoint_stream(bt_checkpoint_sink sink, void *context,
                                             const bt_segment *segments, size_t count,
                                             uint32_t fingerprint, uint32_t sequence)
{
  uint8_t header[BT_CHECKPOINT_HEADER_BYTES] = {'B', 'T', 'C', 'K'};
  bt_store_u32(header + 4, BT_CHECKPOINT_VERSION);
  bt_store_u32(header + 8, fingerprint);
  bt_store_u32(header + 12, sequence);
  bt_store_u32(header + 16, (uint32_t)bt_checkpoint_payload_bytes(segments, count));

  uint32_t crc = bt_crc32(0, header, sizeof header);
  if (!sink(context, 0, header, sizeof header))
    return BT_ERR_CHECKPOINT_WRITE;
  size_t offset = sizeof header;
  for (size_t i = 0; i < count; i++) {
    if (segments[i].bytes == 0)
      continue;
    crc = bt_crc32(crc, segments[i].data, segments[i].bytes);
    if (!sink(context, offset, segments[i].data, segments[i].bytes))
      return BT_ERR_CHECKPOINT_WRITE;
    offset += segments[i].bytes;
  }
  bt_store_u32(header, crc);
  return sink(context, offset, header, BT_CHECKPOINT_CRC_BYTES) ? BT_OK : BT_ERR_CHECKPOINT_WRITE;
}

/* A sink for memory; context is the slot. */
static inline bool bt_checkpoint_to_memory(void *context, size_t offset, const void *data,
                                           size_t count)
{
  uint8_t *to = (uint8_t *)context + offset;
  const uint8_t *from = (const uint8_t *)data;
  for (size_t i = 0; i < count; i++)
    to[i] = from[i];
  return true;
}

/* Writes a checkpoint into slot: BT_OK, or BT_ERR_CHECKPOINT_SHORT (slot too small, left as it was). */
static inline bt_status bt_checkpoint_write(void *slot, size_t slot_bytes,
                                            const bt_segment *segments, size_t count,
                                            uint32_t fingerprint, uint32_t sequence)
{
  if (slot_bytes < bt_checkpoint_bytes(segments, count))
    return BT_ERR_CHECKPOINT_SHORT;
  return bt_checkpoint_stream(bt_checkpoint_to_memory, slot, segments, count, fingerprint,
                              sequence);
}

/* Is there a whole checkpoint of this model in slot? BT_OK, or BT_ERR_CHECKPOINT_SHORT, _FOREIGN or
 * _CORRUPT. Reads only the slot. */
static inline bt_status bt_checkpoint_check(const void *slot, size_t slot_bytes,
                                            uint32_t fingerprint)
{
  const uint8_t *p = (const uint8_t *)slot;
  if (slot_bytes < BT_CHECKPOINT_HEADER_BYTES + BT_CHECKPOINT_CRC_BYTES)
    return BT_ERR_CHECKPOINT_SHORT;
  if (p[0] != 'B' || p[1] != 'T' || p[2] != 'C' || p[3] != 'K' ||
      bt_load_u32(p + 4) != BT_CHECKPOINT_VERSION)
    return BT_ERR_CHECKPOINT_FOREIGN;
  const uint32_t payload = bt_load_u32(p + 16);
  if (payload > slot_bytes - BT_CHECKPOINT_HEADER_BYTES - BT_CHECKPOINT_CRC_BYTES)
    return BT_ERR_CHECKPOINT_SHORT;
  const size_t end = BT_CHECKPOINT_HEADER_BYTES + (size_t)payload;
  if (bt_crc32(0, p, end) != bt_load_u32(p + end))
    return BT_ERR_CHECKPOINT_CORRUPT;
  return bt_load_u32(p + 8) == fingerprint ? BT_OK : BT_ERR_CHECKPOINT_FOREIGN;
}

/* Copies the checkpoint in slot into the segments, if all of it is valid and their sizes add up to
 * its payload; else returns why and leaves the segments as they were. */
static inline bt_status bt_checkpoint_read(const void *slot, size_t slot_bytes,
                                           const bt_segment *segments, size_t count,
                                           uint32_t fingerprint)
{
  const bt_status status = bt_checkpoint_check(slot, slot_bytes, fingerprint);
  if (status != BT_OK)
    return status;
  const uint8_t *from = (const uint8_t *)slot + BT_CHECKPOINT_HEADER_BYTES;
  if (bt_load_u32((const uint8_t *)slot + 16) != bt_checkpoint_payload_bytes(segments, count))
    return BT_ERR_CHECKPOINT_FOREIGN;
  for (size_t i = 0; i < count; i++) {
    uint8_t *to = (uint8_t *)segments[i].data;
    for (size_t j = 0; j < segments[i].bytes; j++)
      to[j] = from[j];
    from += segments[i].bytes;
  }
  return BT_OK;
}

/* The sequence number of a slot that bt_checkpoint_check found valid. */
static inline uint32_t bt_checkpoint_sequence(const void *slot)
{
  return bt_load_u32((const uint8_t *)slot + 12);
}

typedef enum bt_slot { BT_SLOT_NONE = -1,
                       BT_SLOT_A = 0,
                       BT_SLOT_B = 1 } bt_slot;

/* The slot that holds the newer valid checkpoint of this model (A where both have one number). Newer
 * is at most 2^31 - 1 ahead, so the number may wrap around. */
static inline bt_slot bt_checkpoint_choose(const void *slot_a, size_t a_bytes, const void *slot_b,
                                           size_t b_bytes, uint32_t fingerprint)
{
  const bool a = bt_checkpoint_check(slot_a, a_bytes, fingerprint) == BT_OK;
  const bool b = bt_checkpoint_check(slot_b, b_bytes, fingerprint) == BT_OK;
  if (a && b) {
    const uint32_t ahead = bt_checkpoint_sequence(slot_b) - bt_checkpoint_sequence(slot_a);
    return ahead != 0u && ahead < 0x80000000u ? BT_SLOT_B : BT_SLOT_A;
  }
  return a ? BT_SLOT_A : b ? BT_SLOT_B
                           : BT_SLOT_NONE;
}

#endif

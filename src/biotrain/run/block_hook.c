/* SPDX-License-Identifier: Apache-2.0 */
/* Counts the blocks that the emulator runs: a hash table from (address, size) to counts.
 *
 * A block is what the emulator translates at once. The same address may start blocks of several
 * sizes, so the size is part of the key. Built for the host; no part of any firmware. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct bt_slot {
  uint64_t key;   /* address | size << 32; 0: free */
  uint64_t count; /* times entered */
  uint64_t taken; /* times left to anywhere but the address behind it */
} bt_slot;

typedef struct bt_histogram {
  bt_slot *slots; /* mask + 1 slots, and one behind them for "no block yet" */
  uint64_t mask;
  uint64_t used;
  uint64_t last; /* slot of the block that runs */
  uint64_t next; /* address behind it */
  uint64_t lost; /* blocks that found no memory */
} bt_histogram;

bt_histogram *bt_histogram_new(void);
void bt_histogram_free(bt_histogram *h);
void bt_histogram_reset(bt_histogram *h);
void bt_histogram_cut(bt_histogram *h, uint64_t pc);
void bt_histogram_block(void *engine, uint64_t address, uint32_t size, void *user);

void bt_histogram_reset(bt_histogram *h)
{
  memset(h->slots, 0, (size_t)(h->mask + 2) * sizeof *h->slots);
  h->used = 0;
  h->last = h->mask + 1;
  h->next = 0;
  h->lost = 0;
}

bt_histogram *bt_histogram_new(void)
{
  bt_histogram *h = malloc(sizeof *h);
  if (!h)
    return NULL;
  h->mask = ((uint64_t)1 << 14) - 1;
  h->slots = malloc((size_t)(h->mask + 2) * sizeof *h->slots);
  if (!h->slots) {
    free(h);
    return NULL;
  }
  bt_histogram_reset(h);
  return h;
}

void bt_histogram_free(bt_histogram *h)
{
  free(h->slots);
  free(h);
}

/* Where a key is or would be: Fibonacci hashing (Knuth, vol. 3, 6.4), then linear probing. */
static uint64_t place(const bt_slot *slots, uint64_t mask, uint64_t key)
{
  uint64_t i = (key * UINT64_C(0x9e3779b97f4a7c15) >> 32) & mask;
  while (slots[i].key != key && slots[i].key != 0)
    i = (i + 1) & mask;
  return i;
}

static int grow(bt_histogram *h)
{
  const uint64_t mask = 2 * h->mask + 1;
  bt_slot *const slots = calloc((size_t)(mask + 2), sizeof *slots);
  if (!slots)
    return 0;
  const uint64_t last = h->slots[h->last].key;
  for (uint64_t i = 0; i <= h->mask; i++)
    if (h->slots[i].key)
      slots[place(slots, mask, h->slots[i].key)] = h->slots[i];
  free(h->slots);
  h->slots = slots;
  h->mask = mask;
  h->last = last ? place(slots, mask, last) : mask + 1;
  return 1;
}

/* The slot of a key, made where it is new; the spare one where there is no memory. */
static uint64_t find(bt_histogram *h, uint64_t key)
{
  uint64_t i = place(h->slots, h->mask, key);
  if (h->slots[i].key)
    return i;
  if (2 * (h->used + 1) > h->mask) {
    if (!grow(h)) {
      h->lost++;
      return h->mask + 1;
    }
    i = place(h->slots, h->mask, key);
  }
  h->slots[i].key = key;
  h->used++;
  return i;
}

/* The hook: called at the start of every block. */
void bt_histogram_block(void *engine, uint64_t address, uint32_t size, void *user)
{
  bt_histogram *const h = user;
  (void)engine;
  if (address != h->next)
    h->slots[h->last].taken++;
  const uint64_t key = (address & 0xffffffffu) | (uint64_t)size << 32;
  const uint64_t i = find(h, key);
  h->slots[i].count++;
  h->last = i;
  h->next = address + size;
}

/* The last block was left before the instruction at pc: it counts as the part before pc. */
void bt_histogram_cut(bt_histogram *h, uint64_t pc)
{
  const uint64_t key = h->slots[h->last].key;
  const uint64_t address = key & 0xffffffffu;
  if (h->last > h->mask || pc < address || pc >= address + (key >> 32))
    return;
  h->slots[h->last].count--;
  h->last = h->mask + 1;
  h->next = address;
  if (pc > address)
    bt_histogram_block(NULL, address, (uint32_t)(pc - address), h);
}

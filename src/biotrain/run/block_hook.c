/* SPDX-License-Identifier: Apache-2.0 */
/* Counts the blocks that the emulator runs: a hash table from (address, size, call) to counts.
 *
 * A block is what the emulator translates at once. The same address may start blocks of several
 * sizes, so the size is part of the key. So is, of code outside of the schedule, where the schedule
 * was left for it. Built for the host; no part of any firmware. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct bt_slot {
  uint64_t key;   /* address | size << 32; 0: free */
  uint64_t count; /* times entered */
  uint64_t taken; /* times left to anywhere but the address behind it */
  uint64_t call;  /* outside of the schedule: the address behind the call there; else 0 */
} bt_slot;

/* Code of a function of the schedule. */
typedef struct bt_code {
  uint64_t begin, end;
} bt_code;

#define BT_SCHEDULE 32

typedef struct bt_histogram {
  bt_slot *slots; /* mask + 1 slots, and one behind them for "no block yet" */
  uint64_t mask;
  uint64_t used;
  uint64_t last; /* slot of the block that runs */
  uint64_t next; /* address behind it */
  uint64_t lost; /* blocks that found no memory */
  uint64_t call; /* address behind the last block of the schedule; 0 where that does not run */
  uint64_t back; /* where the schedule returns to */
  uint64_t functions;
  bt_code schedule[BT_SCHEDULE];
} bt_histogram;

bt_histogram *bt_histogram_new(void);
void bt_histogram_free(bt_histogram *h);
void bt_histogram_reset(bt_histogram *h);
void bt_histogram_schedule(bt_histogram *h, uint64_t begin, uint64_t end);
void bt_histogram_cut(bt_histogram *h, uint64_t pc);
void bt_histogram_block(void *engine, uint64_t address, uint32_t size, void *user);

void bt_histogram_reset(bt_histogram *h)
{
  memset(h->slots, 0, (size_t)(h->mask + 2) * sizeof *h->slots);
  h->used = 0;
  h->last = h->mask + 1;
  h->next = 0;
  h->lost = 0;
  h->call = h->back = 0;
}

/* Code in [begin, end) belongs to the schedule; what is more than BT_SCHEDULE functions does not. */
void bt_histogram_schedule(bt_histogram *h, uint64_t begin, uint64_t end)
{
  if (h->functions < BT_SCHEDULE)
    h->schedule[h->functions++] = (bt_code){begin, end};
}

/* Whether an address is in the schedule; where that begins or ends, too. */
static int in_schedule(bt_histogram *h, uint64_t address)
{
  for (uint64_t i = 0; i < h->functions; i++)
    if (address - h->schedule[i].begin < h->schedule[i].end - h->schedule[i].begin) {
      if (!h->call && address == h->schedule[i].begin)
        h->back = h->next;
      return 1;
    }
  if (address == h->back)
    h->call = 0;
  return 0;
}

bt_histogram *bt_histogram_new(void)
{
  bt_histogram *h = malloc(sizeof *h);
  if (!h)
    return NULL;
  h->mask = ((uint64_t)1 << 14) - 1;
  h->functions = 0;
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
static uint64_t place(const bt_slot *slots, uint64_t mask, uint64_t key, uint64_t call)
{
  uint64_t i = ((key ^ call << 8) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & mask;
  while ((slots[i].key != key || slots[i].call != call) && slots[i].key != 0)
    i = (i + 1) & mask;
  return i;
}

static int grow(bt_histogram *h)
{
  const uint64_t mask = 2 * h->mask + 1;
  bt_slot *const slots = calloc((size_t)(mask + 2), sizeof *slots);
  if (!slots)
    return 0;
  const bt_slot last = h->slots[h->last];
  for (uint64_t i = 0; i <= h->mask; i++)
    if (h->slots[i].key)
      slots[place(slots, mask, h->slots[i].key, h->slots[i].call)] = h->slots[i];
  free(h->slots);
  h->slots = slots;
  h->mask = mask;
  h->last = last.key ? place(slots, mask, last.key, last.call) : mask + 1;
  return 1;
}

/* The slot of a key, made where it is new; the spare one where there is no memory. */
static uint64_t find(bt_histogram *h, uint64_t key, uint64_t call)
{
  uint64_t i = place(h->slots, h->mask, key, call);
  if (h->slots[i].key)
    return i;
  if (2 * (h->used + 1) > h->mask) {
    if (!grow(h)) {
      h->lost++;
      return h->mask + 1;
    }
    i = place(h->slots, h->mask, key, call);
  }
  h->slots[i].key = key;
  h->slots[i].call = call;
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
  const int scheduled = in_schedule(h, address);
  const uint64_t i = find(h, key, scheduled ? 0 : h->call);
  h->slots[i].count++;
  h->last = i;
  h->next = address + size;
  if (scheduled)
    h->call = h->next;
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

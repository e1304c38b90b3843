// SPDX-License-Identifier: Apache-2.0
// The parts of the RTL cluster, driven one by one from test_cluster_parts.py.
#include "cache.hpp"
#include "dma.hpp"

using namespace biotrain;

extern "C" {

// `count` accesses of each master to words of a memory of `size` bytes, each asked for until it is
// served, one after the other. Tells when each was served, and what was loaded.
uint64_t bt_test_banks(int banks, int masters, int count, const Access* accesses, uint8_t* memory,
                       uint32_t size, uint64_t* served, uint32_t* loaded) {
  Memory l1(0, size);
  std::memcpy(l1.at(0, size), memory, size);
  Banks all(l1, banks);
  std::vector<int> done(masters, 0);
  uint64_t now = 0;
  for (bool busy = true; busy; now++) {
    busy = false;
    for (int m = 0; m < masters; m++) {
      if (done[m] == count) continue;
      busy = true;
      all.request(m, accesses[m * count + done[m]]);
    }
    all.arbitrate();
    for (int m = 0; m < masters; m++) {
      if (done[m] == count || !all.granted(m)) continue;
      served[m * count + done[m]] = now;
      loaded[m * count + done[m]] = all.loaded(m);
      done[m]++;
    }
  }
  std::memcpy(memory, l1.at(0, size), size);
  return now - 1;
}

// When each of `rounds` barriers lets go; core c arrives at `arrivals[round * cores + c]`, counted
// from the release before.
void bt_test_barrier(int cores, int latency, int rounds, const uint64_t* arrivals,
                     uint64_t* released) {
  Barrier barrier(cores, latency);
  uint64_t now = 0;
  for (int round = 0; round < rounds; round++) {
    const uint64_t begin = now;
    for (;; now++) {
      for (int c = 0; c < cores; c++) {
        if (begin + arrivals[round * cores + c] == now) barrier.arrive(c, now);
      }
      if (barrier.release(now)) break;
    }
    released[round] = now - begin;
  }
}

// `count` fetches of each core in order, with up to two in flight; L2 is loaded with `memory` and
// its port is asked by `others` masters besides. Tells words, and when they were there.
void bt_test_cache(const CacheSettings* settings, int cores, int count, const uint32_t* addresses,
                   const uint8_t* memory, uint32_t size, int others, uint32_t* words,
                   uint64_t* answered, uint64_t* events) {
  Memory l2(0, size);
  std::memcpy(l2.at(0, size), memory, size);
  InstructionCaches caches(l2, cores, *settings);
  Port port;
  std::vector<int> asked(cores, 0), done(cores, 0);
  bool busy = true;
  for (uint64_t now = 0; busy; now++) {
    busy = false;
    for (int c = 0; c < cores; c++) {
      busy |= done[c] < count;
      if (asked[c] < count && asked[c] - done[c] < 2) {
        caches.fetch(c, addresses[c * count + asked[c]++]);
      }
    }
    for (int i = 0; i < others; i++) port.request(i);
    caches.look_up(now, port);
    port.arbitrate();
    caches.advance(now, port);
    for (int c = 0; c < cores; c++) {
      uint32_t word;
      if (!caches.answer(c, &word)) continue;
      words[c * count + done[c]] = word;
      answered[c * count + done[c]++] = now + 1;
    }
  }
  events[0] = caches.private_misses;
  events[1] = caches.shared_misses;
  events[2] = caches.prefetches;
}

struct Command {
  uint32_t get, bytes, local, local_row, local_stride, external, external_row, external_stride;
};

// Transfers that all begin at cycle 0, while `others` masters ask for banks of L1 in turn and for
// L2's port. Tells when each ended; -1 for what does not fit the memories.
void bt_test_dma(int latency, int start, int count, const Command* commands, uint8_t* first,
                 uint32_t l1_bytes, uint8_t* second, uint32_t l2_bytes, int others,
                 int64_t* ended) {
  Memory l1(0, l1_bytes), l2(0, l2_bytes);
  std::memcpy(l1.at(0, l1_bytes), first, l1_bytes);
  std::memcpy(l2.at(0, l2_bytes), second, l2_bytes);
  Banks banks(l1, 16);
  Port port;
  Dma dma(l1, l2, latency, start);
  std::vector<int> numbers(count);
  for (int i = 0; i < count; i++) {
    const Command& c = commands[i];
    numbers[i] = dma.take();
    const Transfer t = {numbers[i],
                        c.bytes,
                        {c.local, c.local_row, c.local_stride},
                        {c.external, c.external_row, c.external_stride},
                        0};
    if (!dma.begin(t, c.get, 0)) numbers[i] = -1;
    ended[i] = -1;
  }
  for (uint64_t now = 0; dma.busy(); now++) {
    for (int i = 0; i < others; i++) {
      banks.request(i, {static_cast<uint32_t>(now + 7 * i) % 16 * 4, 0, 0, false});
      port.request(i);
    }
    dma.request(now, banks, port);
    banks.arbitrate();
    port.arbitrate();
    dma.advance(now, banks, port);
    for (int i = 0; i < count; i++) {
      if (numbers[i] < 0 || ended[i] >= 0 || dma.running() >> numbers[i] & 1) continue;
      ended[i] = static_cast<int64_t>(now);
    }
  }
  std::memcpy(first, l1.at(0, l1_bytes), l1_bytes);
  std::memcpy(second, l2.at(0, l2_bytes), l2_bytes);
}

// Numbers of transfers: so many are given before one is released; then the one that is given next.
int bt_test_numbers(int* again) {
  Memory l1(0, 64), l2(0, 64);
  Dma dma(l1, l2, 8, 8);
  int given = 0;
  while (dma.take() >= 0) given++;
  dma.release(1U << 5);
  *again = dma.take();
  return given;
}
}

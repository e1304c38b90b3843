// SPDX-License-Identifier: Apache-2.0
// Instruction caches: a small private one (L0) per core before a shared one (L1), which fills from
// L2. Private caches fetch the next line ahead. Lines hold the bytes that they were filled with.
#ifndef BIOTRAIN_CLUSTER_CACHE_HPP
#define BIOTRAIN_CLUSTER_CACHE_HPP

#include "parts.hpp"

namespace biotrain {

constexpr uint32_t LINE_BYTES = 16;

// Lines in sets of `ways`; the one that was used longest ago is replaced.
class Lines {
 public:
  Lines(int bytes, int ways)
      : ways_(ways), sets_(bytes / static_cast<int>(LINE_BYTES) / ways), lines_(sets_ * ways) {}

  // The bytes of the line with this number, address / LINE_BYTES; null if it is not there.
  const uint8_t* find(uint32_t number) {
    Line* const set = &lines_[number % sets_ * ways_];
    for (int i = 0; i < ways_; i++) {
      if (set[i].valid && set[i].number == number) {
        set[i].used = ++clock_;
        return set[i].bytes;
      }
    }
    return nullptr;
  }

  void insert(uint32_t number, const uint8_t* bytes) {
    if (find(number)) return;
    Line* const set = &lines_[number % sets_ * ways_];
    Line* oldest = set;
    for (int i = 1; i < ways_; i++) {
      if (set[i].used < oldest->used) oldest = set + i;
    }
    oldest->valid = true;
    oldest->number = number;
    oldest->used = ++clock_;
    std::memcpy(oldest->bytes, bytes, LINE_BYTES);
  }

 private:
  struct Line {
    uint64_t used = 0;
    uint32_t number = 0;
    bool valid = false;
    uint8_t bytes[LINE_BYTES] = {};
  };
  int ways_, sets_;
  std::vector<Line> lines_;
  uint64_t clock_ = 0;
};

struct CacheSettings {
  int private_bytes, private_ways;
  int shared_bytes, shared_ways, shared_banks;
  int shared_latency;  // cycles from a request that the shared cache grants to the private line
  int l2_latency;
};

// The caches of all cores. Each cycle: `fetch` where a core asks, `look_up`, then the port of L2 is
// arbitrated, then `advance`; `answer` tells what a core gets in the next cycle.
class InstructionCaches {
 public:
  InstructionCaches(Memory& memory, int cores, const CacheSettings& settings)
      : memory_(memory),
        settings_(settings),
        shared_(settings.shared_bytes, settings.shared_ways),
        banks_(settings.shared_banks),
        cores_(cores, Private(settings)) {}

  void fetch(int core, uint32_t address) {
    Private& own = cores_[core];
    own.asked[own.count++] = address;
  }

  // Whether a fetch of the core waits for a line.
  bool misses(int core) const { return cores_[core].missing; }
  bool idle(int core) const { return cores_[core].count == 0; }

  bool answer(int core, uint32_t* word) const {
    *word = cores_[core].word;
    return cores_[core].answers;
  }

  // Serves each core's oldest fetch from its private cache, or asks the shared one for the line.
  void look_up(uint64_t now, Port& port) {
    for (auto& bank : banks_) bank.requests = 0;
    for (size_t c = 0; c < cores_.size(); c++) serve(static_cast<int>(c), now);
    for (auto& bank : banks_) {
      if (bank.beats > 0) port.request(PORT_CACHE);  // since the cycle behind the miss
      bank.asks = bank.beats > 0;
      grant(bank, now);
    }
  }

  // After the port of L2 was arbitrated.
  void advance(uint64_t now, const Port& port) {
    if (!port.granted(PORT_CACHE)) return;
    for (size_t i = 0; i < banks_.size(); i++) {
      Bank& bank = banks_[(turn_ + i) % banks_.size()];
      if (!bank.asks) continue;
      if (--bank.beats == 0) bank.ready = now + settings_.l2_latency;
      turn_ = (turn_ + i + 1) % banks_.size();
      return;
    }
  }

  uint64_t private_misses = 0, shared_misses = 0, prefetches = 0;

 private:
  // A line on its way into a private cache.
  struct Refill {
    bool active = false, granted = false;
    uint32_t number = 0;
    uint64_t ready = 0;
    uint8_t bytes[LINE_BYTES] = {};
  };
  struct Private {
    explicit Private(const CacheSettings& s) : lines(s.private_bytes, s.private_ways) {}
    Lines lines;
    uint32_t asked[8] = {};  // addresses, the oldest first; the core has a few at most in flight
    int count = 0;
    bool missing = false, answers = false;
    uint32_t word = 0;
    uint32_t last = ~0U;  // the line of the fetch before
    Refill refills[2];    // what a fetch waits for, and the line behind
  };
  struct Bank {
    RoundRobin order;
    uint32_t requests = 0;  // a bit per core
    bool filling = false;
    uint32_t number = 0;
    int beats = 0;  // still to be asked of L2
    bool asks = false;
    uint64_t ready = 0;
  };

  Bank& bank_of(uint32_t number) { return banks_[number % banks_.size()]; }

  static bool on_its_way(const Private& own, uint32_t number) {
    return (own.refills[0].active && own.refills[0].number == number) ||
           (own.refills[1].active && own.refills[1].number == number);
  }

  static bool start(Private& own, uint32_t number) {
    for (auto& refill : own.refills) {
      if (refill.active) continue;
      refill = Refill{};
      refill.active = true;
      refill.number = number;
      return true;
    }
    return false;
  }

  void serve(int core, uint64_t now) {
    Private& own = cores_[core];
    own.answers = false;
    for (auto& refill : own.refills) {
      if (refill.active && refill.granted && now >= refill.ready) {
        own.lines.insert(refill.number, refill.bytes);
        refill.active = false;
      }
    }
    if (own.count > 0) {
      const uint32_t address = own.asked[0], number = address / LINE_BYTES;
      const uint8_t* const line = own.lines.find(number);
      if (line) {
        own.answers = true;
        std::memcpy(&own.word, line + (address % LINE_BYTES & ~3U), 4);
        own.count--;
        for (int i = 0; i < own.count; i++) own.asked[i] = own.asked[i + 1];
      } else if (!on_its_way(own, number) && start(own, number)) {
        private_misses++;
      }
      own.missing = !line;
      const uint32_t next = number + 1;
      if (number != own.last && !own.lines.find(next) && !on_its_way(own, next)) {
        if (memory_.at(next * LINE_BYTES, LINE_BYTES) && start(own, next)) prefetches++;
      }
      own.last = number;
    } else {
      own.missing = false;
    }
    for (auto& refill : own.refills) {  // one request a cycle, the older first
      if (refill.active && !refill.granted) {
        bank_of(refill.number).requests |= uint32_t{1} << core;
        break;
      }
    }
  }

  void grant(Bank& bank, uint64_t now) {
    if (bank.filling && bank.beats == 0 && now >= bank.ready) {
      shared_.insert(bank.number, line_of(bank.number));
      bank.filling = false;
    }
    const int core = bank.order.choose(bank.requests);
    if (core < 0) return;
    bank.order.serve(core);
    for (auto& refill : cores_[core].refills) {
      if (!refill.active || refill.granted) continue;
      if (const uint8_t* const line = shared_.find(refill.number)) {
        std::memcpy(refill.bytes, line, LINE_BYTES);
        refill.granted = true;
        refill.ready = now + settings_.shared_latency;
      } else if (!bank.filling) {
        bank.filling = true;
        bank.number = refill.number;
        bank.beats = LINE_BYTES / 8;
        shared_misses++;
      }
      return;
    }
  }

  // What L2 holds; zeros outside, which trap if they are executed.
  const uint8_t* line_of(uint32_t number) {
    static const uint8_t nothing[LINE_BYTES] = {};
    const uint8_t* const found = memory_.at(number * LINE_BYTES, LINE_BYTES);
    return found ? found : nothing;
  }

  Memory& memory_;
  CacheSettings settings_;
  Lines shared_;
  std::vector<Bank> banks_;
  std::vector<Private> cores_;
  size_t turn_ = 0;
};

}  // namespace biotrain

#endif

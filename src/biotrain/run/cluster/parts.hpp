// SPDX-License-Identifier: Apache-2.0
// The small parts of the cluster: raw memory, a round-robin arbiter, the banks of L1, the barrier.
#ifndef BIOTRAIN_CLUSTER_PARTS_HPP
#define BIOTRAIN_CLUSTER_PARTS_HPP

#include <cstdint>
#include <cstring>
#include <vector>

namespace biotrain {

constexpr int MAX_CORES = 8;

// Bytes from `origin` on.
class Memory {
 public:
  Memory(uint32_t origin, uint32_t size) : origin_(origin), bytes_(size) {}

  // The place of `count` bytes at an address; null where one of them is outside.
  uint8_t* at(uint32_t address, uint32_t count) {
    const uint32_t offset = address - origin_, size = static_cast<uint32_t>(bytes_.size());
    return offset < size && count <= size - offset ? bytes_.data() + offset : nullptr;
  }

 private:
  uint32_t origin_;
  std::vector<uint8_t> bytes_;
};

// Chooses one of up to 32 requesters. Whoever was served is last in the next turn, so that nobody
// waits for more than the others' one turn each.
class RoundRobin {
 public:
  // The requester whose turn it is; -1 if there is none. The order stays until `serve`.
  int choose(uint32_t requests) const {
    if (!requests) return -1;
    const uint32_t after = requests & ~((uint32_t{1} << next_) - 1);
    return __builtin_ctz(after ? after : requests);
  }
  void serve(int who) { next_ = (who + 1) % 32; }

 private:
  int next_ = 0;
};

// One access to a word: the byte lanes that it means, and what they are to hold.
struct Access {
  uint32_t address;
  uint32_t data;
  uint8_t lanes;
  bool write;
};

// Banks of one word's width, in turn over the addresses: word i lies in bank i mod `banks`. Each
// serves one master a cycle. In each cycle masters request, then `arbitrate`, then `granted`.
class Banks {
 public:
  static constexpr int MASTERS = MAX_CORES + 4;  // the cores, two ports of the DMA each way

  Banks(Memory& memory, int banks)
      : memory_(memory), mask_(static_cast<uint32_t>(banks) - 1), order_(banks), wanted_(banks) {}

  void request(int master, const Access& access) {
    const uint32_t bank = access.address >> 2 & mask_;
    asked_[master] = access;
    wanted_[bank] |= uint32_t{1} << master;
    used_ |= uint64_t{1} << bank;
  }

  // Serves one request of each bank; the others must be made again in the next cycle.
  void arbitrate() {
    granted_ = 0;
    for (; used_; used_ &= used_ - 1) {
      const int bank = __builtin_ctzll(used_);
      const int master = order_[bank].choose(wanted_[bank]);
      order_[bank].serve(master);
      wanted_[bank] = 0;
      granted_ |= uint32_t{1} << master;
      perform(asked_[master], &loaded_[master]);
    }
  }

  bool granted(int master) const { return granted_ >> master & 1; }
  uint32_t loaded(int master) const { return loaded_[master]; }

 private:
  void perform(const Access& access, uint32_t* loaded) {
    uint8_t* word = memory_.at(access.address & ~3U, 4);
    if (access.write) {
      for (int i = 0; i < 4; i++) {
        if (access.lanes >> i & 1) word[i] = static_cast<uint8_t>(access.data >> 8 * i);
      }
    } else {
      std::memcpy(loaded, word, 4);
    }
  }

  Memory& memory_;
  uint32_t mask_;
  std::vector<RoundRobin> order_;
  std::vector<uint32_t> wanted_;  // per bank, a bit per master
  uint64_t used_ = 0;             // a bit per bank that somebody wants
  uint32_t granted_ = 0;
  Access asked_[MASTERS] = {};
  uint32_t loaded_[MASTERS] = {};
};

// Lets all cores go `latency` cycles after the last of them has arrived.
class Barrier {
 public:
  Barrier(int cores, int latency) : all_((uint32_t{1} << cores) - 1), latency_(latency) {}

  void arrive(int core, uint64_t now) {
    arrived_ |= uint32_t{1} << core;
    if (arrived_ == all_) {
      release_ = now + latency_;
      arrived_ = 0;
      releasing_ = true;
    }
  }

  // Whether all of them go in this cycle; true once.
  bool release(uint64_t now) {
    if (!releasing_ || now < release_) return false;
    releasing_ = false;
    return true;
  }

  // Whether a release is to come.
  bool pending() const { return releasing_; }

 private:
  uint32_t all_, arrived_ = 0;
  int latency_;
  bool releasing_ = false;
  uint64_t release_ = 0;
};

// What masters of L2's port are called.
enum PortUser { PORT_CACHE = MAX_CORES, PORT_GET, PORT_PUT, PORT_USERS };

// The port of L2: one access of up to eight bytes begins each cycle.
class Port {
 public:
  void request(int user) { requests_ |= uint32_t{1} << user; }
  void arbitrate() {
    granted_ = order_.choose(requests_);
    if (granted_ >= 0) {
      order_.serve(granted_);
      served[granted_]++;
    }
    requests_ = 0;
  }
  bool granted(int user) const { return granted_ == user; }

  uint64_t served[PORT_USERS] = {};

 private:
  RoundRobin order_;
  uint32_t requests_ = 0;
  int granted_ = -1;
};

}  // namespace biotrain

#endif

// SPDX-License-Identifier: Apache-2.0
// The DMA between L2 and L1: a queue of gets and one of puts, eight bytes a cycle each way at most.
// The registers are those of PULP's MCHAN (`dma_command` in cluster.hpp).
#ifndef BIOTRAIN_CLUSTER_DMA_HPP
#define BIOTRAIN_CLUSTER_DMA_HPP

#include <deque>

#include "parts.hpp"

namespace biotrain {

constexpr int TRANSFERS = 16;  // that have a number at the same time

// One side of a transfer: rows of `row` bytes, `stride` bytes from one to the next.
struct Side {
  uint32_t address, row, stride;

  uint32_t at(uint32_t byte) const { return address + byte / row * stride + byte % row; }
  uint32_t left(uint32_t byte) const { return row - byte % row; }
};

struct Transfer {
  int number;
  uint32_t bytes;
  Side local, external;
  uint64_t start;  // the first cycle in which it may move something
};

inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// One direction. Each cycle: `request`, then the banks and the port are arbitrated, then `advance`.
class Mover {
 public:
  Mover(Memory& l2, bool get, int latency) : l2_(l2), get_(get), latency_(latency) {}

  void add(const Transfer& transfer) { queue_.push_back(transfer); }
  bool busy() const { return !queue_.empty(); }

  void request(uint64_t now, Banks& l1, Port& port) {
    words_ = 0;
    beat_ = 0;
    if (queue_.empty() || now < queue_.front().start) return;
    const Transfer& t = queue_.front();
    // The side of L2: a beat lies in eight aligned bytes of one row.
    const uint32_t at = get_ ? read_ : written_;
    const uint32_t there = get_ ? t.bytes - at : static_cast<uint32_t>(held_.size());
    if (there > 0 && (!get_ || held_.size() + in_flight() < BUFFER)) {
      beat_ = least(least(8 - t.external.at(at) % 8, t.external.left(at)), there);
      if (!get_ && !whole_beat(t, at, there)) beat_ = 0;
      if (beat_) port.request(get_ ? PORT_GET : PORT_PUT);
    }
    // The side of L1: up to two words, which are served together or again in the next cycle.
    uint32_t local = get_ ? written_ : read_;
    uint32_t left = get_ ? static_cast<uint32_t>(held_.size()) : t.bytes - local;
    if (!get_ && held_.size() >= BUFFER) left = 0;
    for (; words_ < 2 && left > 0; words_++) {
      const uint32_t address = t.local.at(local);
      const uint32_t n = least(least(4 - address % 4, t.local.left(local)), left);
      Word& word = asked_[words_];
      word = {n, address % 4};
      uint32_t data = 0;
      for (uint32_t i = 0; get_ && i < n; i++) {
        data |= static_cast<uint32_t>(held_[local - written_ + i]) << 8 * (address % 4 + i);
      }
      const auto lanes = static_cast<uint8_t>(((1U << n) - 1) << address % 4);
      if (!(done_ >> words_ & 1)) l1.request(first_master() + words_, {address, data, lanes, get_});
      local += n;
      left -= n;
    }
  }

  // Numbers of finished transfers are set in `finished` when their last byte has arrived.
  void advance(uint64_t now, const Banks& l1, const Port& port, uint32_t* finished) {
    arrive(now);
    if (words_ > 0) local_side(l1);
    if (beat_ && port.granted(get_ ? PORT_GET : PORT_PUT)) external_side(now);
    if (!queue_.empty() && written_ == queue_.front().bytes) {
      ending_.push_back({queue_.front().number, get_ ? now : now + latency_});
      queue_.pop_front();
      read_ = written_ = 0;
    }
    while (!ending_.empty() && now >= ending_.front().when) {
      *finished |= uint32_t{1} << ending_.front().number;
      ending_.pop_front();
    }
  }

  uint64_t bytes = 0;  // moved

 private:
  static constexpr size_t BUFFER = 256;  // bytes: more than the latency of L2 times its width
  struct Beat {
    uint64_t ready;
    uint32_t count;
    uint8_t data[8];
  };
  struct Word {
    uint32_t count, shift;
  };
  struct End {
    int number;
    uint64_t when;
  };

  int first_master() const { return MAX_CORES + (get_ ? 0 : 2); }

  size_t in_flight() const { return flying_; }

  // A put waits until a beat is as long as it can be, so that it takes the port seldom.
  bool whole_beat(const Transfer& t, uint32_t at, uint32_t there) const {
    const uint32_t most = least(8 - t.external.at(at) % 8, t.external.left(at));
    return there >= least(most, t.bytes - at);
  }

  void arrive(uint64_t now) {
    while (!beats_.empty() && now >= beats_.front().ready) {
      const Beat& beat = beats_.front();
      held_.insert(held_.end(), beat.data, beat.data + beat.count);
      flying_ -= beat.count;
      beats_.pop_front();
    }
  }

  void local_side(const Banks& l1) {
    for (int i = 0; i < words_; i++) {
      if (done_ >> i & 1 || !l1.granted(first_master() + i)) continue;
      done_ |= 1U << i;
      data_[i] = l1.loaded(first_master() + i);
    }
    if (done_ != (1U << words_) - 1) return;
    done_ = 0;
    for (int i = 0; i < words_; i++) {
      for (uint32_t k = 0; k < asked_[i].count; k++) {
        if (get_) {
          held_.pop_front();
        } else {
          held_.push_back(static_cast<uint8_t>(data_[i] >> 8 * (asked_[i].shift + k)));
        }
      }
      (get_ ? written_ : read_) += asked_[i].count;
    }
  }

  void external_side(uint64_t now) {
    const Transfer& t = queue_.front();
    uint8_t* const place = l2_.at(t.external.at(get_ ? read_ : written_), beat_);
    bytes += beat_;
    if (get_) {
      Beat beat = {now + latency_, beat_, {}};
      std::memcpy(beat.data, place, beat_);
      beats_.push_back(beat);
      flying_ += beat_;
      read_ += beat_;
    } else {
      for (uint32_t i = 0; i < beat_; i++) {
        place[i] = held_.front();
        held_.pop_front();
      }
      written_ += beat_;
    }
  }

  Memory& l2_;
  bool get_;
  int latency_;
  std::deque<Transfer> queue_;
  std::deque<Beat> beats_;    // read from L2, on their way
  std::deque<uint8_t> held_;  // bytes between the two sides
  std::deque<End> ending_;
  size_t flying_ = 0;
  uint32_t read_ = 0, written_ = 0;  // bytes of the first transfer
  uint32_t beat_ = 0;                // bytes asked of L2 in this cycle
  int words_ = 0;                    // words asked of L1
  uint32_t done_ = 0;                // a bit per word that L1 has served already
  Word asked_[2] = {};
  uint32_t data_[2] = {};
};

// Both directions, and the numbers of transfers.
class Dma {
 public:
  Dma(Memory& l1, Memory& l2, int latency, int start)
      : l1_(l1), l2_(l2), get_(l2, true, latency), put_(l2, false, latency), start_(start) {}

  // A free number, which is in use until `release`; -1 if there is none.
  int take() {
    for (int i = 0; i < TRANSFERS; i++) {
      if (used_ >> i & 1) continue;
      used_ |= 1U << i;
      return i;
    }
    return -1;
  }
  void release(uint32_t numbers) { used_ &= ~(numbers & ~running_); }

  // Begins a transfer; false where a byte of it lies outside the memories.
  bool begin(Transfer t, bool get, uint64_t now) {
    if (t.bytes == 0 || !fits(l1_, t.local, t.bytes) || !fits(l2_, t.external, t.bytes))
      return false;
    t.start = now + start_;
    running_ |= 1U << t.number;
    (get ? get_ : put_).add(t);
    return true;
  }

  uint32_t running() const { return running_; }
  bool busy() const { return running_ != 0; }

  void request(uint64_t now, Banks& l1, Port& port) {
    get_.request(now, l1, port);
    put_.request(now, l1, port);
  }
  void advance(uint64_t now, const Banks& l1, const Port& port) {
    uint32_t finished = 0;
    get_.advance(now, l1, port, &finished);
    put_.advance(now, l1, port, &finished);
    running_ &= ~finished;
  }
  uint64_t bytes() const { return get_.bytes + put_.bytes; }

 private:
  static bool fits(Memory& memory, const Side& side, uint32_t bytes) {
    if (side.row == 0) return false;
    const uint32_t rows = (bytes + side.row - 1) / side.row;
    for (uint32_t i = 0; i < rows; i++) {
      if (!memory.at(side.address + i * side.stride, least(side.row, bytes - i * side.row))) {
        return false;
      }
    }
    return true;
  }

  Memory& l1_;
  Memory& l2_;
  Mover get_, put_;
  int start_;
  uint32_t used_ = 0, running_ = 0;
};

}  // namespace biotrain

#endif

// SPDX-License-Identifier: Apache-2.0
// The cluster: cores, FPUs, L1, L2, instruction caches, DMA and barrier, one cycle after the other.
#ifndef BIOTRAIN_CLUSTER_CLUSTER_HPP
#define BIOTRAIN_CLUSTER_CLUSTER_HPP

#include <memory>

#include "cache.hpp"
#include "core.hpp"
#include "dma.hpp"

namespace biotrain {

// Addresses, as on the open PULP cluster where it has them; settings.py tells them to C.
constexpr uint32_t L1_ORIGIN = 0x10000000, L2_ORIGIN = 0x1C000000;
constexpr uint32_t BARRIER_WAIT = 0x1020421C;
constexpr uint32_t DMA_COMMAND = 0x10204400, DMA_STATUS = 0x10204404, DMA_DONE = 0x10204440;
constexpr uint32_t MARK = 0x10205000, END = 0x1A1040A0;

// In the order of `_Settings` in machine.py.
struct Settings {
  uint32_t cores, fpus, l1_bytes, l1_banks, l2_bytes, l2_latency;
  uint32_t private_bytes, private_ways, shared_bytes, shared_ways, shared_banks, shared_latency;
  uint32_t barrier_latency, dma_start, equal_fpu_latencies;
};

// The numbers that machine.py knows the ends of a run by.
enum Stop {
  IDLE,
  TOO_MANY_CYCLES,
  BAD_LOAD,
  BAD_STORE,
  TRAP,
  SLEEP,
  BAD_FETCH,
  FINISHED,
  STUCK,
  BAD_DMA
};

// The counters of all cores when one of them wrote to MARK.
struct Mark {
  uint64_t cycle, core, value;
  uint64_t spent[MAX_CORES][REASONS];
};

class Cluster {
 public:
  Cluster(const Settings& s, uint32_t boot)
      : settings_(s),
        l1(L1_ORIGIN, s.l1_bytes),
        l2(L2_ORIGIN, s.l2_bytes),
        banks_(l1, static_cast<int>(s.l1_banks)),
        barrier_(static_cast<int>(s.cores), static_cast<int>(s.barrier_latency)),
        caches(l2, static_cast<int>(s.cores), cache_settings(s)),
        dma(l1, l2, static_cast<int>(s.l2_latency), static_cast<int>(s.dma_start)) {
    for (uint32_t i = 0; i < s.cores; i++) cores.emplace_back(new Core(static_cast<int>(i), boot));
    for (uint32_t i = 0; i < s.fpus; i++) fpus_.emplace_back(new Fpu());
  }

  uint8_t* at(uint32_t address, uint32_t count) {
    uint8_t* const found = l1.at(address, count);
    return found ? found : l2.at(address, count);
  }

  // Runs until all cores have ended (FINISHED), or core 0 executes the instruction at `idle` while
  // the word at `command` is 0 (IDLE; never where `idle` is 0), or something goes wrong.
  int run(uint32_t command, uint32_t idle, uint64_t max_cycles) {
    const uint64_t end = cycles + max_cycles;
    while (cycles < end) {
      int why = -1;
      for (size_t c = 0; c < cores.size(); c++) {
        Core& core = *cores[c];
        if (core.ended || core.asleep) continue;
        clock(core.model, 0);
        if ((why = fault(core)) >= 0) return stop(why, c);
      }
      serve_fpus();
      why = serve_data();
      if (why >= 0) return stop(why, faulty_);
      for (size_t c = 0; c < cores.size(); c++) {
        Core& core = *cores[c];
        if (!core.ended && !core.asleep && core.model.instr_req_o) {
          caches.fetch(static_cast<int>(c), core.model.instr_addr_o);
        }
      }
      dma.request(cycles, banks_, port);
      caches.look_up(cycles, port);
      banks_.arbitrate();
      port.arbitrate();
      grant_data();
      dma.advance(cycles, banks_, port);
      caches.advance(cycles, port);
      const bool alive = finish_cycle();
      cycles++;
      if (!alive) return FINISHED;
      if (idle && cores[0]->issued && cores[0]->last_pc == idle) {
        uint32_t word = 1;
        if (const uint8_t* p = at(command, 4)) std::memcpy(&word, p, 4);
        if (word == 0) return IDLE;
      }
      if (stuck()) return stop(STUCK, 0);
    }
    return stop(TOO_MANY_CYCLES, 0);
  }

  uint64_t cycles = 0;
  uint32_t stop_core = 0, stop_pc = 0, stop_address = 0, stop_cause = 0;
  std::vector<Mark> marks;

 private:
  Settings settings_;

 public:
  Memory l1, l2;
  Port port;

 private:
  Banks banks_;
  Barrier barrier_;

 public:
  InstructionCaches caches;
  Dma dma;
  std::vector<std::unique_ptr<Core>> cores;

 private:
  static CacheSettings cache_settings(const Settings& s) {
    return {static_cast<int>(s.private_bytes), static_cast<int>(s.private_ways),
            static_cast<int>(s.shared_bytes),  static_cast<int>(s.shared_ways),
            static_cast<int>(s.shared_banks),  static_cast<int>(s.shared_latency),
            static_cast<int>(s.l2_latency)};
  }

  int fault(Core& core) {
    const auto& m = core.model;
    if (m.trap_o) return l2.at(m.decoder_pc_o, 2) ? TRAP : BAD_FETCH;
    if (m.sleep_o && core.spent[ISSUE]) return SLEEP;
    return -1;
  }

  int stop(int why, size_t c) {
    const auto& m = cores[c]->model;
    const bool access = why == BAD_LOAD || why == BAD_STORE || why == BAD_DMA;
    stop_core = static_cast<uint32_t>(c);
    stop_pc = access                            ? m.data_pc_o
              : why == TRAP || why == BAD_FETCH ? m.decoder_pc_o
                                                : cores[c]->last_pc;
    stop_address = m.data_addr_o;
    stop_cause = m.trap_cause_o;
    return why;
  }

  // Whether all cores that are left wait at a barrier or a transfer that will never come.
  bool stuck() const {
    if (dma.busy() || barrier_pending_) return false;
    for (const auto& core : cores) {
      if (!core->ended && !core->asleep) return false;
    }
    return true;
  }

  // ---- FPUs: core c uses unit c mod fpus ------------------------------------------------------

  void serve_fpus() {
    for (size_t f = 0; f < fpus_.size(); f++) {
      Fpu& fpu = *fpus_[f];
      uint32_t requests = 0, admitted = 0;
      for (size_t c = f; c < cores.size(); c += fpus_.size()) {
        Core& core = *cores[c];
        core.fpu_denied = false;
        if (core.ended || core.asleep || !core.model.fpu_req_o) continue;
        requests |= 1U << c;
        const Fpu::Kind kind = Fpu::kind_of(core.model.fpu_op_o);
        if (fpu.admits(static_cast<int>(c), kind, settings_.equal_fpu_latencies))
          admitted |= 1U << c;
      }
      fpu.active = requests || fpu.shows || !fpu.in_flight.empty();
      if (!fpu.active) continue;
      const int chosen = fpu.order.choose(admitted);
      auto& m = fpu.model;
      m.req_i = chosen >= 0;
      if (chosen >= 0) {
        const auto& from = cores[chosen]->model;
        m.a_i = from.fpu_a_o, m.b_i = from.fpu_b_o, m.c_i = from.fpu_c_o;
        m.op_i = from.fpu_op_o, m.flags_i = from.fpu_flags_o;
      }
      clock(m, 0);
      const bool taken = chosen >= 0 && m.gnt_o;
      for (size_t c = f; c < cores.size(); c += fpus_.size()) {
        Core& core = *cores[c];
        const bool mine = taken && chosen == static_cast<int>(c);
        core.model.fpu_gnt_i = mine;
        core.fpu_denied = (requests >> c & 1) && !mine && chosen != static_cast<int>(c);
      }
      if (taken) {
        fpu.order.serve(chosen);
        fpu.in_flight.push_back({chosen, Fpu::kind_of(cores[chosen]->model.fpu_op_o)});
        cores[chosen]->fpu_in_flight++;
      }
    }
  }

  // What the FPUs show behind this cycle, the cores see in the next one.
  void advance_fpus() {
    for (auto& one : fpus_) {
      Fpu& fpu = *one;
      if (!fpu.active) continue;
      for (auto& core : cores) {
        if (fpus_[core->model.hart_id_i % fpus_.size()].get() == one.get())
          core->model.fpu_rvalid_i = 0;
      }
      clock(fpu.model, 1);
      fpu.shows = fpu.model.rvalid_o;
      if (!fpu.shows) continue;
      Core& core = *cores[fpu.in_flight.front().core];
      fpu.in_flight.pop_front();
      core.fpu_in_flight--;
      core.model.fpu_rvalid_i = 1;
      core.model.fpu_result_i = fpu.model.result_o;
      core.model.fpu_status_i = fpu.model.status_o;
    }
  }

  // ---- data -----------------------------------------------------------------------------------

  // Sends each core's access where it belongs. An access waits while one to another memory is on
  // its way, since answers come in order.
  int serve_data() {
    for (size_t c = 0; c < cores.size(); c++) {
      Core& core = *cores[c];
      core.conflict = false;
      core.answered = false;
      if (core.ended || core.asleep) continue;
      auto& m = core.model;
      m.data_gnt_i = 0;
      if (!m.data_req_o || core.waits != NOTHING) continue;
      const uint32_t address = m.data_addr_o & ~3U;
      if (l1.at(address, 4)) {
        if (!core.pending.empty()) continue;
        banks_.request(static_cast<int>(c),
                       {address, m.data_wdata_o, m.data_be_o, m.data_we_o != 0});
      } else if (l2.at(address, 4)) {
        port.request(static_cast<int>(c));
      } else {
        if (!core.pending.empty()) continue;
        const int why = peripheral(c, core, address);
        if (why >= 0) {
          faulty_ = c;
          return why;
        }
      }
    }
    return -1;
  }

  void grant_data() {
    for (size_t c = 0; c < cores.size(); c++) {
      Core& core = *cores[c];
      auto& m = core.model;
      if (core.ended || core.asleep || !m.data_req_o || m.data_gnt_i || core.waits != NOTHING)
        continue;
      const uint32_t address = m.data_addr_o & ~3U;
      if (l1.at(address, 4)) {
        if (!core.pending.empty()) continue;
        const bool granted = banks_.granted(static_cast<int>(c));
        m.data_gnt_i = core.answered = granted;
        core.conflict = !granted;
        if (granted) answer_[c] = banks_.loaded(static_cast<int>(c));
      } else if (port.granted(static_cast<int>(c))) {
        m.data_gnt_i = 1;
        uint8_t* const word = l2.at(address, 4);
        Pending pending = {cycles + settings_.l2_latency, 0};
        if (m.data_we_o) {
          for (int i = 0; i < 4; i++) {
            if (m.data_be_o >> i & 1) word[i] = static_cast<uint8_t>(m.data_wdata_o >> 8 * i);
          }
        } else {
          std::memcpy(&pending.data, word, 4);
        }
        core.pending.push_back(pending);
      }
    }
  }

  // Registers: granted at once, answered in the next cycle, or when what they wait for is there.
  int peripheral(size_t c, Core& core, uint32_t address) {
    auto& m = core.model;
    const bool write = m.data_we_o;
    m.data_gnt_i = 1;
    core.answered = true;
    answer_[c] = 0;
    if (address == BARRIER_WAIT && !write) {
      barrier_.arrive(static_cast<int>(c), cycles);
      wait(core, AT_BARRIER);
    } else if (address == DMA_COMMAND && !write) {
      wait(core, FOR_NUMBER);
    } else if (address == DMA_COMMAND) {
      return dma_command(core, m.data_wdata_o) ? -1 : BAD_DMA;
    } else if (address == DMA_STATUS) {
      if (write) dma.release(m.data_wdata_o);
      answer_[c] = dma.running();
    } else if (address >= DMA_DONE && address < DMA_DONE + 4 * TRANSFERS && !write) {
      core.transfer = static_cast<int>(address - DMA_DONE) / 4;
      wait(core, FOR_TRANSFER);
    } else if (address == MARK && write) {
      mark(c, m.data_wdata_o);
    } else if (address == END && write) {
      core.exit_code = m.data_wdata_o;
      core.ended = true;
      core.spent[PIPELINE]++;  // this cycle, its last
    } else {
      return write ? BAD_STORE : BAD_LOAD;
    }
    return -1;
  }

  static void wait(Core& core, Waits what) {
    core.waits = what;
    core.answered = false;
  }

  void mark(size_t c, uint32_t value) {
    Mark one = {cycles, c, value, {}};
    for (size_t i = 0; i < cores.size(); i++) {
      std::memcpy(one.spent[i], cores[i]->spent, sizeof one.spent[i]);
    }
    marks.push_back(one);
  }

  // MCHAN's words: length, type, which sides are 2-d; address in L1, in L2; bytes and stride of the
  // rows in L2, if 2-d, and in L1, if 2-d. The last one begins the transfer.
  bool dma_command(Core& core, uint32_t word) {
    constexpr uint32_t GET = 1U << 17, EXTERNAL_2D = 1U << 19, LOCAL_2D = 1U << 23;
    core.words[core.written++] = word;
    const uint32_t* const w = core.words;
    const bool external = w[0] & EXTERNAL_2D, local = w[0] & LOCAL_2D;
    if (core.written < 3 + 2 * external + 2 * local) return true;
    core.written = 0;
    Transfer t = {core.transfer, w[0] & 0x1FFFF, {w[1], 0xFFFFFFFF, 0}, {w[2], 0xFFFFFFFF, 0}, 0};
    if (external) t.external = {w[2], w[3], w[4]};
    if (local) t.local = {w[1], w[3 + 2 * external], w[4 + 2 * external]};
    return core.transfer >= 0 && dma.begin(t, w[0] & GET, cycles);
  }

  // Whether what a core waits for is there; its answer is in answer_ then.
  bool arrives(size_t c, Core& core, bool released) {
    switch (core.waits) {
      case AT_BARRIER:
        return released;
      case FOR_NUMBER:
        core.transfer = dma.take();
        answer_[c] = static_cast<uint32_t>(core.transfer);
        return core.transfer >= 0;
      case FOR_TRANSFER:
        if (dma.running() >> core.transfer & 1) return false;
        dma.release(1U << core.transfer);
        return true;
      default:
        return false;
    }
  }

  // ---- the end of a cycle ---------------------------------------------------------------------

  // Counts the cycle, clocks what is awake and sets what it sees in the next one; false where all
  // cores have ended.
  bool finish_cycle() {
    const bool released = barrier_.release(cycles);
    barrier_pending_ = barrier_.pending();
    bool alive = false;
    for (size_t c = 0; c < cores.size(); c++) {
      Core& core = *cores[c];
      auto& m = core.model;
      if (core.ended) continue;
      alive = true;
      const Spent lost = reason(c, core);
      core.issued = false;
      if (core.waits != NOTHING && arrives(c, core, released)) {
        core.waits = NOTHING;
        core.answered = true;
        core.asleep = false;
        core.quiet = 0;
      }
      if (!core.asleep) advance_core(c, core);
      core.spent[core.issued ? ISSUE : lost]++;
    }
    advance_fpus();
    return alive;
  }

  void advance_core(size_t c, Core& core) {
    auto& m = core.model;
    const uint32_t pc = m.decoder_pc_o;
    const bool moves = m.instr_req_o || m.fpu_req_o || core.fpu_in_flight || core.answered;
    m.instr_gnt_i = 1;
    clock(m, 1);
    core.issued = m.issued_o;
    if (core.issued) core.last_pc = pc;
    core.quiet = moves || core.issued || !caches.idle(static_cast<int>(c)) ? 0 : core.quiet + 1;
    m.instr_rvalid_i = caches.answer(static_cast<int>(c), &m.instr_rdata_i);
    if (!core.pending.empty() && cycles + 1 >= core.pending.front().ready) {
      core.answered = true;
      answer_[c] = core.pending.front().data;
      core.pending.pop_front();
    }
    m.data_rvalid_i = core.answered;
    m.data_rdata_i = answer_[c];
    if (core.waits != NOTHING && core.quiet > SETTLED) core.asleep = true;
  }

  // Why no instruction left the decoder in this cycle: the first of the reasons that holds.
  Spent reason(size_t c, const Core& core) const {
    if (core.waits == AT_BARRIER) return BARRIER;
    if (core.waits != NOTHING) return DMA_WAIT;
    if (core.conflict) return CONFLICT;
    if (!core.pending.empty() || (core.model.data_req_o && !core.model.data_gnt_i)) return L2_WAIT;
    if (core.fpu_denied) return FPU_WAIT;
    if (core.model.empty_o && caches.misses(static_cast<int>(c))) return CACHE;
    return PIPELINE;
  }

  // Cycles after which a core that waits has come to rest: more than its pipeline is long.
  static constexpr int SETTLED = 6;

  uint32_t answer_[MAX_CORES] = {};
  size_t faulty_ = 0;
  bool barrier_pending_ = false;
  std::vector<std::unique_ptr<Fpu>> fpus_;
};

}  // namespace biotrain

#endif

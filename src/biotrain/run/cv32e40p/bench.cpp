// SPDX-License-Identifier: Apache-2.0
// Clocks the core, is its memory, and counts. rtl.py calls the functions at the end by ctypes.
#include <cstdint>
#include <cstring>
#include <vector>

#include "Vbiotrain_core.h"
#include "verilated.h"

namespace {

// The numbers that rtl.py knows the ends of a run by.
enum Stop { IDLE, TOO_MANY_CYCLES, BAD_LOAD, BAD_STORE, TRAP, SLEEP, BAD_FETCH };

struct Region {
  uint32_t origin;
  uint32_t size;
  std::vector<uint8_t> bytes;

  uint8_t* at(uint32_t address, uint32_t count) {
    const uint32_t offset = address - origin;
    return offset < size && count <= size - offset ? bytes.data() + offset : nullptr;
  }
};

class Machine {
 public:
  Machine(uint32_t boot) : core_(&context_) {
    core_.clk_i = 0;
    core_.boot_addr_i = boot;
    core_.rst_ni = 1;
    core_.eval();  // the flip-flops reset on the falling edge of rst_ni
    core_.rst_ni = 0;
    for (int i = 0; i < 4; i++) {
      core_.clk_i = 0;
      core_.eval();
      core_.clk_i = 1;
      core_.eval();
    }
    core_.rst_ni = 1;
  }
  ~Machine() { core_.final(); }

  void add(uint32_t origin, uint32_t size) {
    regions_.push_back({origin, size, std::vector<uint8_t>(size)});
  }

  uint8_t* at(uint32_t address, uint32_t count) {
    for (Region& region : regions_) {
      if (uint8_t* found = region.at(address, count)) return found;
    }
    return nullptr;
  }

  int run(uint32_t command, uint32_t idle, uint64_t max_cycles) {
    const uint64_t end = cycles + max_cycles;
    while (cycles < end) {
      core_.clk_i = 0;
      core_.eval();
      // What the core asks for in this cycle, it gets in the next one.
      const bool fetch = core_.instr_req_o, access = core_.data_req_o;
      uint32_t opcode = 0, loaded = 0;
      if (fetch) {
        // A fetch ahead may run past the end of a memory: zeros, which trap if executed.
        if (const uint8_t* p = at(core_.instr_addr_o & ~3U, 4)) std::memcpy(&opcode, p, 4);
      }
      if (access) {
        uint8_t* p = at(core_.data_addr_o & ~3U, 4);
        if (!p) return stop(core_.data_we_o ? BAD_STORE : BAD_LOAD, core_.data_pc_o);
        if (core_.data_we_o) {
          store(p, core_.data_wdata_o, core_.data_be_o);
        } else {
          std::memcpy(&loaded, p, 4);
        }
      }
      if (core_.trap_o) {
        const uint32_t pc = core_.issue_pc_o;
        return stop(at(pc, 2) ? TRAP : BAD_FETCH, pc);
      }
      if (core_.sleep_o && instructions) return stop(SLEEP, last_pc_);

      bool waits = false;
      if (core_.issue_o) {
        instructions++;
        if (core_.issue_pc_o != next_pc_) count(taken_);
        last_pc_ = core_.issue_pc_o;
        next_pc_ = last_pc_ + (core_.issue_short_o ? 2 : 4);
        count(executed_);
        if (last_pc_ == idle) {
          uint32_t word = 1;
          if (const uint8_t* p = at(command, 4)) std::memcpy(&word, p, 4);
          waits = word == 0;
        }
      }
      // A cycle belongs to the instruction that was issued last: a taken branch pays for the
      // pipeline that it empties, a load for the wait of the instruction after it.
      count(spent_);
      cycles++;

      core_.clk_i = 1;
      core_.eval();
      core_.instr_rvalid_i = fetch;
      core_.instr_rdata_i = opcode;
      core_.data_rvalid_i = access;
      core_.data_rdata_i = loaded;
      if (waits) return IDLE;
    }
    return stop(TOO_MANY_CYCLES, last_pc_);
  }

  void profile(uint32_t origin, uint32_t size, uint64_t* executed, uint64_t* taken,
               uint64_t* spent) {
    profile_origin_ = origin;
    profile_slots_ = size / 2;
    executed_ = executed;
    taken_ = taken;
    spent_ = spent;
  }

  uint64_t cycles = 0;
  uint64_t instructions = 0;
  uint32_t stop_pc = 0;       // of the instruction at fault
  uint32_t stop_address = 0;  // of its access
  uint32_t stop_cause = 0;    // of its trap

 private:
  static void store(uint8_t* p, uint32_t word, uint32_t lanes) {
    if (lanes == 0xF) {
      std::memcpy(p, &word, 4);
      return;
    }
    for (int i = 0; i < 4; i++) {
      if (lanes >> i & 1) p[i] = static_cast<uint8_t>(word >> 8 * i);
    }
  }

  void count(uint64_t* counts) const {
    const uint32_t index = (last_pc_ - profile_origin_) / 2;
    if (index < profile_slots_) counts[index]++;
  }

  int stop(Stop why, uint32_t pc) {
    stop_pc = pc;
    stop_address = core_.data_addr_o;
    stop_cause = core_.trap_cause_o;
    return why;
  }

  VerilatedContext context_;
  Vbiotrain_core core_;
  std::vector<Region> regions_;
  uint32_t last_pc_ = 0;
  uint32_t next_pc_ = 0;  // behind the last instruction
  uint32_t profile_origin_ = 0;
  uint32_t profile_slots_ = 0;
  uint64_t* executed_ = nullptr;
  uint64_t* taken_ = nullptr;
  uint64_t* spent_ = nullptr;
};

}  // namespace

extern "C" {

Machine* bt_rtl_new(uint32_t boot) { return new Machine(boot); }

void bt_rtl_delete(Machine* m) { delete m; }

void bt_rtl_add(Machine* m, uint32_t origin, uint32_t size) { m->add(origin, size); }

int bt_rtl_read(Machine* m, uint32_t address, uint32_t count, void* to) {
  const uint8_t* p = m->at(address, count);
  if (p) std::memcpy(to, p, count);
  return p != nullptr;
}

int bt_rtl_write(Machine* m, uint32_t address, uint32_t count, const void* from) {
  uint8_t* p = m->at(address, count);
  if (p) std::memcpy(p, from, count);
  return p != nullptr;
}

// Counts per half-word from `origin` on: instructions executed, left by a jump, and cycles.
void bt_rtl_profile(Machine* m, uint32_t origin, uint32_t size, uint64_t* executed,
                    uint64_t* taken, uint64_t* spent) {
  m->profile(origin, size, executed, taken, spent);
}

int bt_rtl_run(Machine* m, uint32_t command, uint32_t idle, uint64_t max_cycles) {
  return m->run(command, idle, max_cycles);
}

uint64_t bt_rtl_cycles(Machine* m) { return m->cycles; }
uint64_t bt_rtl_instructions(Machine* m) { return m->instructions; }
uint32_t bt_rtl_stop_pc(Machine* m) { return m->stop_pc; }
uint32_t bt_rtl_stop_address(Machine* m) { return m->stop_address; }
uint32_t bt_rtl_stop_cause(Machine* m) { return m->stop_cause; }
}

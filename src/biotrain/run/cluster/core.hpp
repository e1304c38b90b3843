// SPDX-License-Identifier: Apache-2.0
// A verilated core and a verilated FPU of the cluster, with what the cluster knows about them.
#ifndef BIOTRAIN_CLUSTER_CORE_HPP
#define BIOTRAIN_CLUSTER_CORE_HPP

#include <deque>

#include "Vbiotrain_cluster_core.h"
#include "Vbiotrain_cluster_fpu.h"
#include "parts.hpp"
#include "verilated.h"

namespace biotrain {

// What a cycle of a core went into. settings.py has the same names in the same order.
enum Spent { ISSUE, CONFLICT, L2_WAIT, CACHE, FPU_WAIT, BARRIER, DMA_WAIT, PIPELINE, REASONS };

// What the answer to an access depends on.
enum Waits { NOTHING, AT_BARRIER, FOR_TRANSFER, FOR_NUMBER };

template <class Model>
void clock(Model& model, int level) {
  model.clk_i = level;
  model.eval();
}

template <class Model>
void reset(Model& model) {
  model.clk_i = 0;
  model.rst_ni = 1;
  model.eval();  // the flip-flops reset on the falling edge of rst_ni
  model.rst_ni = 0;
  for (int i = 0; i < 4; i++) {
    clock(model, 0);
    clock(model, 1);
  }
  model.rst_ni = 1;
}

// A load or store of L2 on its way; a store is answered too.
struct Pending {
  uint64_t ready;
  uint32_t data;
};

struct Core {
  Core(int number, uint32_t boot) {
    model.boot_addr_i = boot;
    model.hart_id_i = static_cast<uint32_t>(number);
    reset(model);
  }
  ~Core() { model.final(); }

  VerilatedContext context;
  Vbiotrain_cluster_core model{&context};
  std::deque<Pending> pending;
  Waits waits = NOTHING;
  int transfer = 0;        // that it waits for
  uint32_t words[7] = {};  // of the DMA command that it is writing
  int written = 0;         // so many of them
  int quiet = 0;           // cycles since something moved in it
  int fpu_in_flight = 0;
  bool asleep = false, ended = false;
  bool issued = false;    // an instruction left the decoder in this cycle
  bool answered = false;  // its data port gets an answer in the next cycle
  bool conflict = false;  // L1 did not serve it in this cycle
  bool fpu_denied = false;
  uint32_t exit_code = 0, last_pc = 0;
  uint64_t spent[REASONS] = {};
};

// An FPU, private or shared. Results come in the order of the requests: what is in flight for
// several cores takes equally long.
struct Fpu {
  Fpu() { reset(model); }
  ~Fpu() { model.final(); }

  enum Kind { ADDMUL, DIVSQRT, OTHERS };
  static Kind kind_of(uint32_t operation) {  // operations of fpnew_pkg::operation_e
    operation &= 15;
    return operation < 4 ? ADDMUL : operation < 6 ? DIVSQRT : OTHERS;
  }

  // Whether a core's operation may enter behind those of others that are in flight.
  bool admits(int core, Kind next, bool equal_latencies) const {
    for (const auto& one : in_flight) {
      const bool alike =
          one.kind == next || (equal_latencies && one.kind != DIVSQRT && next != DIVSQRT);
      if (one.core != core && (!alike || next == DIVSQRT)) return false;
    }
    return true;
  }

  struct Flight {
    int core;
    Kind kind;
  };
  VerilatedContext context;
  Vbiotrain_cluster_fpu model{&context};
  RoundRobin order;
  std::deque<Flight> in_flight;
  bool active = false, shows = false;
};

}  // namespace biotrain

#endif

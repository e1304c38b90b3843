// SPDX-License-Identifier: Apache-2.0
// The cluster for machine.py, which calls these functions by ctypes.
#include "cluster.hpp"

using biotrain::Cluster;
using biotrain::Mark;
using biotrain::Settings;

extern "C" {

Cluster* bt_cluster_new(const Settings* settings, uint32_t boot) {
  return new Cluster(*settings, boot);
}

void bt_cluster_delete(Cluster* c) { delete c; }

int bt_cluster_read(Cluster* c, uint32_t address, uint32_t count, void* to) {
  const uint8_t* p = c->at(address, count);
  if (p) std::memcpy(to, p, count);
  return p != nullptr;
}

int bt_cluster_write(Cluster* c, uint32_t address, uint32_t count, const void* from) {
  uint8_t* p = c->at(address, count);
  if (p) std::memcpy(p, from, count);
  return p != nullptr;
}

int bt_cluster_run(Cluster* c, uint32_t command, uint32_t idle, uint64_t max_cycles) {
  return c->run(command, idle, max_cycles);
}

uint64_t bt_cluster_cycles(Cluster* c) { return c->cycles; }

// core, program counter, address and cause of what ended the run.
void bt_cluster_stop(Cluster* c, uint32_t* four) {
  four[0] = c->stop_core;
  four[1] = c->stop_pc;
  four[2] = c->stop_address;
  four[3] = c->stop_cause;
}

uint32_t bt_cluster_exit_code(Cluster* c, uint32_t core) { return c->cores[core]->exit_code; }

// Cycles of a core by what they went into.
void bt_cluster_spent(Cluster* c, uint32_t core, uint64_t* spent) {
  std::memcpy(spent, c->cores[core]->spent, sizeof c->cores[core]->spent);
}

// Misses of the private caches, of the shared one, lines fetched ahead, bytes of the DMA, accesses
// of L2's port by the cores, for instructions, by the DMA.
void bt_cluster_events(Cluster* c, uint64_t* seven) {
  uint64_t by_cores = 0;
  for (int i = 0; i < biotrain::MAX_CORES; i++) by_cores += c->port.served[i];
  const uint64_t* const served = c->port.served;
  const uint64_t found[] = {c->caches.private_misses,
                            c->caches.shared_misses,
                            c->caches.prefetches,
                            c->dma.bytes(),
                            by_cores,
                            served[biotrain::PORT_CACHE],
                            served[biotrain::PORT_GET] + served[biotrain::PORT_PUT]};
  std::memcpy(seven, found, sizeof found);
}

uint64_t bt_cluster_marks(Cluster* c) { return c->marks.size(); }

void bt_cluster_mark(Cluster* c, uint64_t index, Mark* to) { *to = c->marks[index]; }
}

# SPDX-License-Identifier: Apache-2.0
"""A cluster of up to eight cores with L1, L2, caches, DMA and barrier, clock by clock."""

from biotrain.run.cluster.machine import ClusterMachine, Events, Mark, Spent
from biotrain.run.cluster.settings import PRIVATE_FPUS, SHARED_FPUS, ClusterSettings

__all__ = [
    "PRIVATE_FPUS",
    "SHARED_FPUS",
    "ClusterMachine",
    "ClusterSettings",
    "Events",
    "Mark",
    "Spent",
]

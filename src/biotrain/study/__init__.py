# SPDX-License-Identifier: Apache-2.0
"""Recordings of many people, and what adapting a network to one of them buys.

Figures are in biotrain.study.plots, which alone needs matplotlib; the compiler loads when `adapt`
is called.
"""

from biotrain.study.adapt import REFERENCE, STRATEGIES, AdaptResult, adapt, summarize
from biotrain.study.pretrain import finetune_torch, predict, pretrain, statistics
from biotrain.study.recordings import RecordingError, Recordings, decimate, from_signal, load
from biotrain.study.splits import (
    SPLITS,
    SplitError,
    day1,
    default_split,
    leave_one_subject_out,
    longitudinal,
)
from biotrain.study.synthetic import generate

__all__ = [
    "REFERENCE",
    "SPLITS",
    "STRATEGIES",
    "AdaptResult",
    "RecordingError",
    "Recordings",
    "SplitError",
    "adapt",
    "day1",
    "decimate",
    "default_split",
    "finetune_torch",
    "from_signal",
    "generate",
    "leave_one_subject_out",
    "load",
    "longitudinal",
    "predict",
    "pretrain",
    "statistics",
    "summarize",
]

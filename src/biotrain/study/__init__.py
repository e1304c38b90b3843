# SPDX-License-Identifier: Apache-2.0
"""Recordings of many people, and what adapting a network to one of them buys.

A study over many subjects is biotrain.study.run.run; biotrain.study.results has its statistics,
figures and page. The compiler loads when `adapt` is called.
"""

from biotrain.study.adapt import STRATEGIES, AdaptResult, AdaptSettings, adapt
from biotrain.study.data.recordings import RecordingError, Recordings, decimate, from_signal
from biotrain.study.data.sources import load
from biotrain.study.data.splits import (
    SPLITS,
    SplitError,
    calibration_sizes,
    day1,
    default_split,
    leave_one_subject_out,
    longitudinal,
)
from biotrain.study.data.synthetic import generate
from biotrain.study.labelfree import align, standardise, transformed
from biotrain.study.pretrain import pretrain, statistics
from biotrain.study.rules import REFERENCE
from biotrain.study.settings import CalibrationSettings, FinetuneSettings, PretrainSettings
from biotrain.study.spec import make_spec, read_spec
from biotrain.study.summary import summarize
from biotrain.study.torch_training import finetune_torch, predict

__all__ = [
    "REFERENCE",
    "SPLITS",
    "STRATEGIES",
    "AdaptResult",
    "AdaptSettings",
    "CalibrationSettings",
    "FinetuneSettings",
    "PretrainSettings",
    "RecordingError",
    "Recordings",
    "SplitError",
    "adapt",
    "align",
    "calibration_sizes",
    "day1",
    "decimate",
    "default_split",
    "finetune_torch",
    "from_signal",
    "generate",
    "leave_one_subject_out",
    "load",
    "longitudinal",
    "make_spec",
    "predict",
    "pretrain",
    "read_spec",
    "standardise",
    "statistics",
    "summarize",
    "transformed",
]

# SPDX-License-Identifier: Apache-2.0
"""Gradients err at most twice as much as those of PyTorch in float32, in the median over networks.

`benchmarks/exactness.py` measures it for the built-in networks; here a network that `verify` once
refused, and a few of those of the benchmark.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import biotrain as bt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from exactness import Setting, gradient_errors, package


def test_what_the_rows_of_a_norm_share_loses_no_digits() -> None:
    """Norms over 256 rows: all gradients before one are multiples of its 1 / standard deviation.

    Joined row after row in float32, it was off by 20 eps, and gradients by up to 7 times what
    PyTorch's float32 errs: where one row is much like the next, roundings do not cancel.
    """
    pkg = package(Setting("epidenet", "group", "norm", "random", fused=True), seed=7)
    report = bt.verify(pkg, steps=1, seeds=5, seed=700)
    gradients = [t for t in report.tensors if t.name.endswith(".grad")]
    assert len(gradients) == 10
    assert not [t for t in gradients if not t.max_rel_error <= 4 * t.torch_fp32_error]


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("network", ["epidenet", "mibminet", "eegnet"])
def test_gradients_of_a_built_in_network(network: str) -> None:
    setting = Setting(network, "group", "full", "random", fused=True)
    rows = gradient_errors([package(setting, seed) for seed in range(5)])
    assert not [r for r in rows if not r.ratio <= 2.5]  # of five draws; of twelve it is 2

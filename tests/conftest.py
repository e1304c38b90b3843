# SPDX-License-Identifier: Apache-2.0
"""What every test gets: one thread, fixed seeds, and the recordings where there are any."""

import os
import random
from pathlib import Path

# Read when the libraries load, so set before they do; pytest-xdist already uses every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# The same examples in every run, and no deadline: the first example may compile C.
hypothesis.settings.register_profile("biotrain", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("biotrain")


def pytest_runtest_setup() -> None:
    """Seed the global generators before every test, whatever order or worker it runs in.

    torch initialises layers from its global generator; BioTrain itself uses generators of its own.
    """
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives the same numbers in every run of a test."""
    return np.random.default_rng(0)


@pytest.fixture
def quick_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds of the host at -O1, in half the time, where a file is about what the C computes.

    The bits do not depend on it; -O3 stays where whole networks meet torch (test_verify.py), where
    builds are compared (test_device.py, test_matrix.py), and for every kernel (test_ops.py).
    """
    from biotrain.run.host import OPTIMISED, HostDevice

    monkeypatch.setitem(HostDevice.__init__.__kwdefaults__, "flags", ("-O1", *OPTIMISED[1:]))


@pytest.fixture(scope="session")
def recordings_dir() -> Path:
    """The folder of real recordings (`.npz`), named by BIOTRAIN_DATA; skips where there is none."""
    named = os.environ.get("BIOTRAIN_DATA")
    if not named:
        pytest.skip("no real recordings: BIOTRAIN_DATA does not name their folder")
    folder = Path(named)
    if not any(folder.glob("*.npz")):
        pytest.skip("no real recordings: the folder that BIOTRAIN_DATA names holds no .npz file")
    return folder

# SPDX-License-Identifier: Apache-2.0
"""What every test gets: one thread, fixed seeds, and the recordings where there are any."""

import atexit
import json
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

# Read when the libraries load, so set before they do; pytest-xdist already uses every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# What runs on this machine is built in a fourth of the time of -O3. The bits do not depend on it;
# `optimised_build` is for files that run much C or stand for what a user builds.
os.environ.setdefault("BIOTRAIN_CFLAGS", "-O0 -Dalways_inline=unused")

# Where _cc.py keeps what it builds: one folder for all workers, which inherit the name from the
# process that starts them and removes it.
if "BIOTRAIN_TEST_BUILDS" not in os.environ:
    os.environ["BIOTRAIN_TEST_BUILDS"] = tempfile.mkdtemp(prefix="biotrain-tests-")
    atexit.register(shutil.rmtree, os.environ["BIOTRAIN_TEST_BUILDS"], ignore_errors=True)

import hypothesis
import numpy as np
import pytest
import torch
from _sample import spread

torch.set_num_threads(1)

# The same examples in every run, and no deadline: the first example may compile C.
hypothesis.settings.register_profile("biotrain", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("biotrain")


APART = ("ci", "full", "exhaustive", "extras")
"""Marks that name the target of a test."""


def pytest_runtest_setup() -> None:
    """Seed the global generators before every test, whatever order or worker it runs in.

    torch initialises layers from its global generator; BioTrain itself uses generators of its own.
    """
    random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Give the cases of a `sample(test, ci)` their targets: see docs/testing.md."""
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        apart = any(item.get_closest_marker(name) for name in APART)
        if item.get_closest_marker("sample") and not apart:
            groups.setdefault(item.nodeid.split("[")[0], []).append(item)
    for group in groups.values():
        marker = group[0].get_closest_marker("sample")
        assert marker is not None
        test, ci = marker.kwargs["test"], marker.kwargs.get("ci", len(group))
        order = spread(len(group), len(group))
        for place in order[test:]:
            group[place].add_marker(pytest.mark.ci if place in order[:ci] else pytest.mark.full)


def _missing(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether a test skips for want of a package where all are said to be there (`make extras`)."""
    said = str(report.longrepr)
    wanted = report.skipped and "not installed" in said
    return bool(os.environ.get("BIOTRAIN_ALL_INSTALLED")) and wanted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """A missing package fails the test where all are said to be there."""
    report: pytest.TestReport = yield
    if _missing(report):
        report.outcome, report.longrepr = "failed", str(report.longrepr)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same where a whole file skips."""
    report: pytest.CollectReport = yield
    if _missing(report):
        report.outcome, report.longrepr = "failed", str(report.longrepr)
    return report


def cpu_seconds() -> float:
    """CPU time of this process and of those that it waited for, compilers for one."""
    used = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Write what each test costs to the file that BIOTRAIN_TEST_COSTS names, a JSON line each."""
    file, before = os.environ.get("BIOTRAIN_TEST_COSTS"), cpu_seconds()
    result = yield
    if file:
        with Path(file).open("a", encoding="utf-8") as costs:
            costs.write(json.dumps([item.nodeid, round(cpu_seconds() - before, 2)]) + "\n")
    return result


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives the same numbers in every run of a test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def optimised_build() -> Iterator[None]:
    """Builds of the host at -O3, as a user's, for the tests of a file and the processes they start.

    For whole networks against torch (test_verify.py), and wherever the C runs for longer than it
    takes to build. Tests that compare builds name the flags of each.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BIOTRAIN_CFLAGS", raising=False)
        yield


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

# SPDX-License-Identifier: Apache-2.0
"""Alignment on the device (`rt/bt_align.h`) against numpy's eigenvectors, to the same bits in every
build."""

from __future__ import annotations

import ctypes
import zlib
from itertools import product

import numpy as np
import pytest
from _cc import compilers, fused_flags, has_fma, shared_library
from hypothesis import given, settings
from hypothesis import strategies as st

from biotrain.study.labelfree import align

OK, NONFINITE, STATISTICS = 0, 2, 22
MOST = 64

DRIVER = f"""#include "bt_align.h"
int run(int channels, int windows, int times, const float *x, float *y, float *matrix, int *added);
int run(int channels, int windows, int times, const float *x, float *y, float *matrix, int *added)
{{
    static double workspace[BT_ALIGN_WORKSPACE({MOST})];
    static float own[BT_ALIGN_MATRIX({MOST})];
    bt_align a;
    bt_align_begin(&a, channels, workspace, own);
    const int size = channels * times;
    for (int n = 0; n < windows; n++)
        added[n] = (int)bt_align_add(&a, x + n * size, times);
    const bt_status status = bt_align_solve(&a);
    for (int i = 0; i < channels * channels; i++)
        matrix[i] = a.matrix[i];
    for (int i = 0; i < windows * size; i++)
        y[i] = x[i];
    for (int n = 0; n < windows; n++)
        bt_align_apply(&a, y + n * size, times);
    return (int)status;
}}
"""


def run(x: np.ndarray, flags: tuple[str, ...] = ("-O2",), compiler: str = "gcc") -> tuple:
    """(status, statuses of the windows, the matrix, the aligned windows)."""
    windows, channels, times = x.shape
    x = np.ascontiguousarray(x, np.float32)
    y, matrix = np.zeros_like(x), np.zeros((channels, channels), np.float32)
    added = (ctypes.c_int * max(windows, 1))()
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, y, matrix)]
    c = shared_library(DRIVER, flags, compiler)
    status = c.run(channels, windows, times, *pointers, added)
    return status, list(added)[:windows], matrix, y


def mixed(rng: np.random.Generator, windows: int, channels: int, times: int) -> np.ndarray:
    """Correlated channels of unlike strength, with offsets."""
    sources = rng.standard_normal((windows, channels, times))
    mixing = rng.standard_normal((channels, channels)) * 10.0 ** rng.uniform(-2, 2, channels)
    return (np.einsum("cd,ndt->nct", mixing, sources) + 3.0).astype(np.float32)


@pytest.mark.parametrize(("channels", "times"), [(1, 50), (2, 31), (8, 200), (22, 64), (64, 70)])
def test_matrix_and_windows_are_those_of_numpy(
    rng: np.random.Generator, channels: int, times: int
) -> None:
    x = mixed(rng, 6, channels, times)
    status, added, matrix, y = run(x)
    assert (status, added) == (OK, [OK] * 6)
    expected = align(x)(np.eye(channels, dtype=np.float32)[None])[0]
    assert np.abs(matrix - expected).max() <= 2e-5 * np.abs(expected).max()
    assert np.array_equal(matrix, matrix.T)
    reference = align(x)(x)
    assert np.abs(y - reference).max() <= 1e-4 * np.abs(reference).max()
    centred = y - y.mean(-1, keepdims=True)
    r = np.einsum("nct,ndt->cd", centred, centred, dtype=np.float64) / (len(x) * times)
    small = np.linalg.eigvalsh(np.atleast_2d(np.cov(np.hstack(list(x)))))
    if small[0] > 1e-3 * small.mean():  # below that, the shrinkage shows
        assert np.abs(r - np.eye(channels)).max() < 5e-3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5), st.floats(-12, 12))
def test_any_scale_and_any_rank(seed: int, channels: int, windows: int, decades: float) -> None:
    """Units do not matter, nor channels that are sums of others, as with an average reference."""
    rng = np.random.default_rng(seed)
    x = mixed(rng, windows, channels, 40)
    x = x - x.mean(1, keepdims=True) if channels > 1 else x
    x = (x * 10.0**decades).astype(np.float32)
    status, _, matrix, _ = run(x)
    assert status == OK
    expected = align(x)(np.eye(channels, dtype=np.float32)[None])[0]
    assert np.isfinite(matrix).all()
    assert np.abs(matrix - expected).max() <= 1e-3 * np.abs(expected).max()


def test_windows_that_say_nothing_are_refused(rng: np.random.Generator) -> None:
    x = mixed(rng, 3, 4, 60)
    _, _, good, _ = run(x[[0, 2]])
    x[1, 2, 7] = np.nan
    status, added, matrix, _ = run(x)
    assert (status, added) == (OK, [OK, NONFINITE, OK])
    assert np.array_equal(matrix, good)
    flat = np.ones((2, 4, 60), np.float32)
    status, _, matrix, y = run(flat)
    assert status == STATISTICS
    assert np.array_equal(matrix, np.eye(4))
    assert np.array_equal(y, flat)
    assert run(np.zeros((0, 4, 60), np.float32))[0] == STATISTICS


def test_same_bits_in_every_build(rng: np.random.Generator) -> None:
    x = mixed(rng, 4, 8, 100)
    modes = [("-DBT_FUSED=0",), *([fused_flags()] if has_fma() else [])]
    for mode in modes:
        found = {
            zlib.crc32(b"".join(a.tobytes() for a in run(x, (level, *mode), compiler)[2:]))
            for compiler, level in product(compilers(), ("-O0", "-O2", "-O3"))
        }
        assert len(found) == 1


def test_packages_with_adabn_bring_it() -> None:
    bt = pytest.importorskip("biotrain")
    torch = pytest.importorskip("torch")
    norm = torch.nn.BatchNorm1d(2)
    net = bt.prepare(
        torch.nn.Sequential(norm, torch.nn.Flatten(), torch.nn.Linear(8, 2)), norm="frozen"
    )
    with_it, without = (
        bt.compile(net, torch.zeros(1, 2, 4), adabn=way, accumulate=1) for way in (True, False)
    )
    assert "bt_align.h" in with_it.files
    assert "bt_align.h" not in without.files


def test_no_undefined_behaviour(rng: np.random.Generator) -> None:
    x = mixed(rng, 2, 3, 20)
    checked = run(x, ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover=all"))
    assert np.array_equal(checked[2], run(x)[2])

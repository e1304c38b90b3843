# SPDX-License-Identifier: Apache-2.0
"""Every sample of every op: C against torch in float64, forward and gradient, and equal bits
whole, in 2 and 5 tiles with windows of exact size, in place, shared by 1, 2, 3 and 8 workers in
several orders, as -O3 makes them, and in clang.

All of it under sanitizers, without optimisation: that build takes a fifth of the time of -O3."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from _cc import fused_flags
from _ops import ALL, Case, cases, draw, run

from biotrain.ir.op import OPS
from biotrain.run.compiler import NUMERICS, find_compiler

CASES = cases()
STEMS = sorted({OPS[c.op].source for c in CASES})
ARRAYS = {c.name: draw(c, np.random.default_rng(i)) for i, c in enumerate(CASES)}
WARNINGS = (
    "-Dalways_inline=unused",  # one body per kernel: its copies would take minutes to compile
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wshadow",
    "-Werror",
    "-Wno-unused-function",
)
BAR = 16 * np.finfo(np.float32).eps
"""Design 3: not below 16 eps of the largest reference value."""

Results = dict[str, list[list[np.ndarray]]]


def of(stem: str) -> list[Case]:
    return [c for c in CASES if OPS[c.op].source == stem]


EACH_CASE = [pytest.param(c, id=f"{OPS[c.op].source}-{c.name}") for c in CASES]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples")


def sanitizers() -> list[str]:
    """Flags of a build that stops at what C does not define; none in zig, which ships no run time
    for them."""
    if "ziglang" in find_compiler():
        return []
    return ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="session")
def plain(folder: Path) -> Callable[[str], Results]:
    """Results of a build for this machine, with its vectors, by stem."""
    command = [*find_compiler(), "-O0", "-march=native", *sanitizers(), *WARNINGS, *NUMERICS]
    return lru_cache(
        lambda stem: run(of(stem), ARRAYS, command, folder / f"plain-{stem}", workers=True)
    )


def reference(case: Case, floats: torch.dtype = torch.float64) -> list[np.ndarray]:
    """The torch function and its gradients in float64."""
    arrays = ARRAYS[case.name]
    tensors = [
        torch.tensor(a, dtype=floats if a.dtype == np.float32 else torch.int64) for a in arrays
    ]
    inputs = tensors[: len(case.inputs)]
    for value, tensor in zip(case.gradients, inputs, strict=True):
        if value is not None:
            tensor.requires_grad_()
    y = OPS[case.op].reference(case.sample.attrs, *inputs)
    upstream = tensors[-1] if case.upstream else torch.ones_like(y)
    if y.requires_grad:
        y.backward(upstream)
    grads = [t.grad for g, t in zip(case.gradients, inputs, strict=True) if g is not None]
    return [t.detach().numpy() for t in (y, *[g for g in grads if g is not None])]


def check_against_torch(case: Case, results: list[np.ndarray]) -> None:
    expected = reference(case)
    assert len(expected) == len(results)
    for value, want, have in zip(case.results, expected, results, strict=True):
        assert have.shape == want.shape, value
        scale = max(float(np.abs(want).max()), 1e-30)
        error = float(np.abs(have - want).max()) / scale
        assert error <= BAR or one_sum(case, value, want, error), (
            f"{case.name} {value}: relative error {error:.2e}"
        )


def one_sum(case: Case, value: str, want: np.ndarray, error: float) -> bool:
    """Whether it is one number whose terms cancel, and PyTorch's float32 errs half as much."""
    if want.size > 1:
        return False
    have = reference(case, torch.float32)[list(case.results).index(value)]
    return error <= 2 * abs(float(have.item()) - float(want.item())) / abs(float(want.item()))


def check_variants(case: Case, results: list[list[np.ndarray]]) -> None:
    whole, *others = results
    for variant, other in zip(ALL[1:], others, strict=False):
        for value, a, b in zip(case.results, whole, other, strict=True):
            assert a.tobytes() == b.tobytes(), f"{case.name} {value} differs: {variant}"


@pytest.mark.parametrize("case", EACH_CASE)
def test_equals_torch(case: Case, plain: Callable[[str], Results]) -> None:
    check_against_torch(case, plain(OPS[case.op].source)[case.name][0])


@pytest.mark.parametrize("case", EACH_CASE)
def test_tiles_and_in_place_keep_every_bit(case: Case, plain: Callable[[str], Results]) -> None:
    check_variants(case, plain(OPS[case.op].source)[case.name])


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("stem", STEMS)
def test_sanitizers_find_nothing_and_bits_stay(
    stem: str, folder: Path, plain: Callable[[str], Results]
) -> None:
    """In the bodies for a machine without wide vectors; `plain` has those with them."""
    if not sanitizers():
        pytest.skip("zig ships no AddressSanitizer run time")
    command = [*find_compiler(), "-O0", *sanitizers(), *WARNINGS, *NUMERICS, *fused_flags()]
    same(stem, plain(stem), run(of(stem), ARRAYS, command, folder / f"sanitized-{stem}"))


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("stem", STEMS)
def test_an_optimised_build_gives_the_same_bits(
    stem: str, folder: Path, plain: Callable[[str], Results]
) -> None:
    command = [*find_compiler(), "-O3", "-march=native", *WARNINGS, *NUMERICS]
    same(stem, plain(stem), run(of(stem), ARRAYS, command, folder / f"optimised-{stem}"))


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("stem", STEMS)
def test_second_compiler_gives_the_same_bits(
    stem: str, folder: Path, plain: Callable[[str], Results]
) -> None:
    """And the bodies for cores without vectors, which it builds."""
    if not find_spec("ziglang"):
        pytest.skip("the ziglang package (clang) is not installed")
    # Inlined into every call of every sample, kernels would take ten times as long to compile.
    clang = [sys.executable, "-m", "ziglang", "cc", "-O1", "-fno-inline", "-fno-sanitize=all"]
    scalar = ["-DBT_SCALAR_TILES=1", "-DBT_WIDE_OUTPUTS=12", "-DBT_FIR_LANES=1"]
    command = [*clang, *WARNINGS, *NUMERICS, *fused_flags(), *scalar]
    same(stem, plain(stem), run(of(stem), ARRAYS, command, folder / f"clang-{stem}"))


def same(stem: str, a: Results, b: Results) -> None:
    for case in of(stem):
        for first, second in zip(a[case.name], b[case.name], strict=False):
            for value, x, y in zip(case.results, first, second, strict=True):
                assert x.tobytes() == y.tobytes(), f"{case.name}: {value}"


@pytest.mark.sample(test=3)
@pytest.mark.parametrize("stem", STEMS)
def test_separate_mode_is_exact_too(stem: str, folder: Path) -> None:
    command = [*find_compiler(), "-O0", *WARNINGS, *NUMERICS]
    results = run(of(stem), ARRAYS, command, folder / f"separate-{stem}", fused=False)
    for case in of(stem):
        check_against_torch(case, results[case.name][0])
        check_variants(case, results[case.name])

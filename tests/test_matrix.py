# SPDX-License-Identifier: Apache-2.0
"""One CRC-32 of all weights after training: host, emulator and QEMU, every core, both compilers.

Short windows and one step; `make matrix` runs the published shapes and more (benchmarks/matrix.py).
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.package import Package, fused_on
from biotrain.run.host import OPTIMISED
from biotrain.targets.target import load_target

PROGRAM = Path(__file__).resolve().parents[1] / "benchmarks" / "matrix.py"
spec = importlib.util.spec_from_file_location("matrix", PROGRAM)
assert spec is not None
assert spec.loader is not None
matrix = sys.modules["matrix"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(matrix)

CASES = {
    "mibminet": matrix.Case("mibminet", True, short=True),
    "epidenet": matrix.Case("epidenet", False, short=True),
    "eegnet": matrix.Case("eegnet", True, short=True),
}
"""Each network in one numeric mode; each place sees both."""


def quick() -> list[tuple[str, matrix.Place]]:
    """Each core once by each compiler, and once by each emulator; the host's second compiler."""
    places = [matrix.Place("cortex-m55", "qemu", "gcc")]
    for core in matrix.CORES:
        places += [matrix.Place(core, "emulator", "zig"), matrix.Place(core, "qemu", "gcc")]
    every = [(model, place) for model in CASES for place in places]
    return [*every, ("epidenet", matrix.replace(matrix.HOST, compiler="clang"))]


@cache
def package(model: str) -> Package:
    return matrix.compiled(CASES[model])


@cache
def expected(model: str) -> int:
    return matrix.crc32(package(model), matrix.HOST, 1, flags=host_flags())


def host_flags() -> tuple[str, ...]:
    return ("-O1", *OPTIMISED[1:])


def needs(place: matrix.Place, case: matrix.Case) -> None:
    for wanted in (matrix.HOST, place):
        if wanted.missing:
            pytest.skip(wanted.missing)
    if case.fused and not fused_on(load_target("host")):
        pytest.skip("the host has no fused multiply-add to compare with")


@pytest.mark.sample(test=3, ci=12)
@pytest.mark.parametrize(
    ("model", "place"),
    [pytest.param(m, p, id=f"{m}-{p}") for m, p in quick()],
)
def test_one_crc_wherever_it_trains(model: str, place: matrix.Place) -> None:
    needs(place, CASES[model])
    flags = host_flags() if place.on == "host" else matrix.short_flags(place.compiler)
    assert matrix.crc32(package(model), place, 1, flags=flags) == expected(model)


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("compiler", ["zig", "gcc"])
@pytest.mark.parametrize("core", ["cortex-m4f", "rv32imfc"])
def test_a_fused_package_has_fused_instructions_and_no_call_of_fmaf(
    core: str, compiler: str
) -> None:
    """`fmaf` of a library would round once too, in hundreds of cycles."""
    on = "emulator" if compiler == "zig" else "qemu"
    place = matrix.Place(core, on, compiler)
    needs(place, CASES["mibminet"])
    flags = matrix.short_flags(compiler)
    device = matrix.trained(package("mibminet"), place, 1, flags=flags)
    with device:
        names = {symbol.name for symbol in device.elf.symbols}
        code = b"".join(s.data for s in device.elf.segments)
    assert not {"fmaf", "fma", "__fmaf_ieee754"} & names
    assert fused_instructions(code, core) > 50


def fused_instructions(code: bytes, core: str) -> int:
    """VFMA, VFMS, VFNMA, VFNMS; FMADD, FMSUB, FNMSUB, FNMADD; counted at every half word."""
    words = [int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code) - 3, 2)]
    if core == "rv32imfc":
        return sum(w & 0x73 == 0x43 and w >> 25 & 3 == 0 for w in words)
    swapped = [w << 16 & 0xFFFFFFFF | w >> 16 for w in words]  # the first half word leads
    return sum(w & 0xFFB00F10 in (0xEEA00A00, 0xEE900A00) for w in swapped)


class Small(torch.nn.Module):
    """Enough for a vector unit to work on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 4, 5, padding=2)
        self.linear = torch.nn.Linear(4 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.relu(self.conv(x)).flatten(1))


@pytest.mark.ci
def test_the_vector_unit_has_the_same_bits_until_a_denormal_occurs(
    rng: np.random.Generator,
) -> None:
    """The Cortex-M55's flushes them to zero; its scalar instructions do not."""
    scalar = matrix.Place("cortex-m55", "qemu", "zig")
    vector = matrix.Place(matrix.VECTOR, "qemu", "zig")
    case = matrix.Case("eegnet", True)
    for place in (scalar, vector):
        needs(place, case)
    pkg = bt.compile(Small(), torch.zeros(1, 2, 64), loss="mse", fused=True, accumulate=1)
    x, y = rng.standard_normal((1, 2, 64)), np.zeros((1, 3))
    gradients = {}
    for place in (matrix.HOST, scalar, vector):
        flags = host_flags() if place == matrix.HOST else matrix.short_flags("zig")
        built = {} if place == matrix.HOST else {"compiler": "zig"}
        device = matrix.replace(pkg, target=load_target(place.core)).run(
            place.on, flags=flags, **built
        )
        for scale in (1.0, 1e-39):
            device.reset()
            device.accumulate(x * scale, y)
            gradients[place, scale] = device.read("g_conv_weight").tobytes()
        if place != matrix.HOST:
            device.close()
    assert gradients[vector, 1.0] == gradients[scalar, 1.0] == gradients[matrix.HOST, 1.0]
    assert gradients[scalar, 1e-39] == gradients[matrix.HOST, 1e-39]
    assert gradients[vector, 1e-39] != gradients[matrix.HOST, 1e-39]

# SPDX-License-Identifier: Apache-2.0
"""The input kept as the converter's int16: the bits of a float package in half the bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from _cc import fused_flags, write_kernels
from _ops import Case, run
from _plans import smallest_plan
from test_networks import FLAGS
from test_ops import WARNINGS
from torch import nn

import biotrain as bt
from biotrain.cli import main
from biotrain.errors import BioTrainError, CheckpointError, DeviceError, DoesNotFitError
from biotrain.ir.graph import Node, Span, Value, flat_nodes
from biotrain.ir.op import OPS, Builder, Sample
from biotrain.ops.int16 import reads_int16
from biotrain.package import Package
from biotrain.run.compiler import NUMERICS, STRICT, find_compiler
from biotrain.run.host import OPTIMISED, HostDevice

SCALE = 1e-3
CHANS, TIMES, CLASSES = 4, 261, 3
"""An odd number of samples: rows of integers do not all begin at a word."""


def package(name: str = "mibminet", scale: float | None = SCALE, **options: object) -> Package:
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build(name, CHANS, TIMES, CLASSES, 64.0))
    net.train()
    if scale is not None:
        options |= {"input_type": "int16", "input_scale": scale}
    return bt.compile(net, torch.zeros(1, CHANS, TIMES), accumulate=2, **options)


def integers(n: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q = np.clip(np.rint(1000 * rng.standard_normal((n, CHANS, TIMES))), -32768, 32767)
    q[0, 0, :2] = -32768, 32767
    return q.astype(np.int16), rng.integers(0, CLASSES, n)


def values(q: np.ndarray, scale: float = SCALE) -> np.ndarray:
    """What integers stand for: one float32 multiply."""
    return q.astype(np.float32) * np.float32(scale)


def learned(
    pkg: Package, x: np.ndarray, y: np.ndarray, flags: Sequence[str] = FLAGS
) -> tuple[int, bytes]:
    """CRC-32 of the weights after some steps, and what they predict."""
    device = pkg.run("host", flags=flags)
    for _ in range(2):
        device.train(x, y)
    return device.crc32(), device.predict(x).tobytes()


@cache
def smallest(**options: object) -> int:
    """Bytes of the smallest plan."""
    with pytest.raises(DoesNotFitError) as error:
        package(memory=1, **options)
    return int(str(error.value).partition("smallest plan needs ")[2].split()[0].replace(",", ""))


# ---- the same bits


@pytest.mark.sample(test=1, ci=3)
@pytest.mark.parametrize(
    ("name", "fused"), [("mibminet", False), ("epidenet", True)], ids=["mibminet", "epidenet"]
)
def test_a_small_plan_gives_the_bits_of_a_float_package(name: str, fused: bool) -> None:
    if fused and not fused_flags():
        pytest.skip("this machine has no fused multiply-add")
    q, y = integers()
    want = learned(package(name, None, fused=fused), values(q), y)
    free = package(name, fused=fused)
    small = smallest_plan(partial(package, name, fused=fused))
    assert small.plan.peak_bytes < free.plan.peak_bytes
    for pkg in (free, small):
        assert learned(pkg, q, y) == want


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "fused"), [("mibminet", False), ("epidenet", True)], ids=["mibminet", "epidenet"]
)
def test_every_budget_gives_the_bits_of_a_float_package(name: str, fused: bool) -> None:
    if fused and not fused_flags():
        pytest.skip("this machine has no fused multiply-add")
    q, y = integers()
    want = learned(package(name, None, fused=fused), values(q), y, OPTIMISED)
    free = package(name, fused=fused)
    low, high = smallest(name=name, fused=fused), free.plan.ram_bytes
    assert low < high
    plans = [free, *(package(name, fused=fused, memory=m) for m in (low, (3 * low + high) // 4))]
    for pkg in plans:
        assert learned(pkg, q, y) == want
    assert len({p.plan.peak_bytes for p in plans}) > 1


OPTIONS: dict[str, dict[str, object]] = {
    "no rewrites": {"rewrites": ()},
    "momentum": {"gradients": "momentum"},
    "mse": {"loss": "mse"},
}


@pytest.mark.sample(test=1, ci=3)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_gives_the_bits_of_a_float_package(options: dict[str, object]) -> None:
    q, y = integers()
    targets = np.eye(CLASSES, dtype=np.float32)[y] if options.get("loss") == "mse" else y
    plain = package(scale=None, **options)
    want = learned(plain, values(q), targets)
    tight = package(memory=int(0.6 * plain.plan.ram_bytes), **options)
    assert tight.plan.ram_bytes < plain.plan.ram_bytes
    assert learned(tight, q, targets) == want


class Standardized(nn.Module):
    """A network whose input goes into other ops than a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANS, 6, 9, stride=3, padding=4)
        self.out = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) * 0.5
        return self.out(torch.relu(self.conv(x)).mean(-1))  # type: ignore[no-any-return]


def test_an_input_that_no_convolution_reads() -> None:
    torch.manual_seed(1)
    net = Standardized()
    q, y = integers()
    example = torch.zeros(1, CHANS, TIMES)
    plain = bt.compile(net, example, accumulate=1)
    pkg = bt.compile(net, example, input_type="int16", input_scale=SCALE, accumulate=1)
    assert learned(pkg, q, y) == learned(plain, values(q), y)


def conv_case(index: int, sample: Sample, gradient: bool) -> Case | None:
    """A convolution of floats and the one of integers, on the same data."""
    x_shape, w_shape, *bias = sample.shapes
    b = Builder("v")
    q, x = Value("q", x_shape, "i16", "input"), Value("x", x_shape)
    attrs = dict(sample.attrs)
    (y_shape,) = OPS["conv"].infer([x_shape, w_shape], attrs)
    if gradient:
        rest = [Value("dy", y_shape, kind="input")]
        attrs["w_shape"] = w_shape
    else:
        rest = [Value(n, s, kind="input") for n, s in zip("wb", [w_shape, *bias], strict=False)]
    (want,) = b.emit("conv_dw" if gradient else "conv", [x, *rest], hint="want", **attrs)
    fused = reads_int16(b.nodes[-1])
    if fused is None:
        return None
    (have,) = b.emit(fused, [q, *rest], hint="have", scale=SCALE, **attrs)
    nodes = (Node("from_int16", (q,), (x,), (("scale", SCALE),)), *b.nodes)
    name = f"{fused}_{index}"
    return Case(name, fused, sample, nodes, (q, *rest), want, None, (have,))


def conv(
    x: tuple[int, ...],
    w: tuple[int, ...],
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    bias: bool = False,
) -> Sample:
    attrs = {"padding": padding, "stride": stride, "dilation": dilation, "groups": groups}
    return Sample((x, w, (w[0],)) if bias else (x, w), attrs)


SAMPLES = (
    conv((1, 1, 3, 300), (2, 1, 3, 1), bias=True),
    conv((1, 2, 1, 270), (2, 1, 1, 128), (0, 0, 63, 64), groups=2),
    conv((1, 2, 4, 40), (2, 1, 2, 5), (1, 1, 2, 2), (2, 3), (2, 2), groups=2),
    conv((1, 2, 3, 140), (2, 2, 2, 7), (1, 0, 3, 3), dilation=(1, 20)),
)
CASES = [
    case
    for gradient in (False, True)
    for i, sample in enumerate(SAMPLES)
    if (case := conv_case(i, sample, gradient)) is not None
]


def drawn(case: Case, rng: np.random.Generator) -> list[np.ndarray]:
    def draw(v: Value) -> np.ndarray:
        if v.dtype == "i16":
            return rng.integers(-32768, 32768, v.shape).astype(np.int16)
        return rng.standard_normal(v.shape).astype(np.float32)

    return [draw(v) for v in case.inputs]


def test_convolutions_of_integers_have_the_bits_of_those_of_floats(tmp_path: Path) -> None:
    """Whole and cut along rows and time, with sanitizers and in clang."""
    ops = {case.op for case in CASES}
    assert ops == {"conv_int16", "conv_dw_int16"}
    rng = np.random.default_rng(0)
    arrays = {case.name: drawn(case, rng) for case in CASES}
    commands = {"native": [*find_compiler(), "-O1", *fused_flags()]}
    if "ziglang" not in find_compiler():
        sanitize = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        commands["sanitized"] = [*find_compiler(), *sanitize, *fused_flags()]
    if find_spec("ziglang"):
        clang = [sys.executable, "-m", "ziglang", "cc", "-O1", "-fno-inline", "-fno-sanitize=all"]
        commands["clang"] = [*clang, *fused_flags()]
    first = None
    for name, command in commands.items():
        command = [*command, *WARNINGS, *NUMERICS]
        results = run(CASES, arrays, command, tmp_path / name, fused=bool(fused_flags()))
        for case in CASES:
            for want, have in results[case.name]:
                assert np.isfinite(want).all()
                assert want.tobytes() == have.tobytes(), (name, case.name)
        found = [r.tobytes() for case in CASES for pair in results[case.name] for r in pair]
        first = first or found
        assert found == first


# ---- what is emitted and planned


@pytest.mark.sample(test=1)
@pytest.mark.parametrize("clang", [False, True], ids=["gcc", "clang"])
def test_the_c_is_clean(tmp_path: Path, clang: bool) -> None:
    if clang and not find_spec("ziglang"):
        pytest.skip("the ziglang package (clang) is not installed")
    pkg = smallest_plan(partial(package, fused=False))
    pkg.save(tmp_path)
    command = [sys.executable, "-m", "ziglang", "cc"] if clang else [*find_compiler()]
    flags = [*STRICT, *NUMERICS, "-O2", "-c", "model.c", "model_weights.c"]
    subprocess.run([*command, *flags], cwd=tmp_path, check=True)
    header = pkg.files["model.h"]
    assert "bt_predict(bt_model *m, const int16_t *x," in header
    assert "bt_train_sample(bt_model *m, const int16_t *x," in header
    assert f"#define BT_INPUT_SCALE {float(np.float32(SCALE)).hex()}f" in header


def test_kernels_stand_alone(tmp_path: Path) -> None:
    """Each file of kernels compiles by itself, without a warning."""
    stems = ["bt_int16.h", "bt_conv_int16.h", "bt_one_pass_int16.h"]
    write_kernels(tmp_path, *stems)
    for stem in stems:
        (tmp_path / "one.c").write_text(f'#include "{stem}"\ntypedef int bt_none;\n')
        flags = [*STRICT, *NUMERICS, "-Wno-unused-function", "-c", "one.c"]
        subprocess.run([*find_compiler(), *flags], cwd=tmp_path, check=True)


def test_the_window_takes_half_the_bytes() -> None:
    pkg, plain = package(), package(scale=None)
    assert (pkg.plan.input_bytes, plain.plan.input_bytes) == (2 * CHANS * TIMES, 4 * CHANS * TIMES)
    x = next(b for b in pkg.plan.buffers if b.value == "x")
    assert x.size < 4 * CHANS * TIMES
    assert pkg.plan.base_ops == plain.plan.base_ops
    assert pkg.plan.macs == plain.plan.macs


def test_conversions_are_counted() -> None:
    """Whole: at least one multiply per sample and call; row by row: as often as rows are read."""
    pkg = package()
    count = [n for n in flat_nodes(pkg.graph.nodes) if n.op in ("conv_int16", "centred_dw_int16")]
    assert count
    node = next(n for n in count if n.op == "conv_int16")
    rule = OPS[node.op]
    rows, times = rule.call(node).box
    size = CHANS * TIMES
    assert rule.shared_ops(node, Span(0, rows, 0, times)) == size
    assert rule.shared_ops(node, Span(0, 1, 0, times)) == size
    assert rule.ops(node) == 2 * rule.macs(node) + size


# ---- what goes in


@pytest.fixture(scope="module")
def pkg() -> Package:
    return package()


@pytest.fixture
def device(pkg: Package) -> HostDevice:
    running = pkg.run("host")
    assert isinstance(running, HostDevice)
    return running


def test_floats_become_the_nearest_integers(device: HostDevice, pkg: Package) -> None:
    q, y = integers()
    want = learned(pkg, q, y)
    assert learned(pkg, values(q), y) == want
    assert learned(pkg, q.astype(np.int64), y) == want
    off = values(q).astype(np.float64) + 0.4 * SCALE * np.where(q > 0, -1, 1)
    assert learned(pkg, off, y) == want
    halves = np.full((1, CHANS, TIMES), 2.5 * np.float64(np.float32(SCALE)))
    assert device.predict(halves).tobytes() == device.predict(np.full_like(q[:1], 2)).tobytes()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.nan, "NaN or infinity"),
        (-np.inf, "NaN or infinity"),
        (32.768, "int16 holds -32768 to 32767"),
        (-33.0, "int16 holds -32768 to 32767"),
        (1e300, "int16 holds"),
    ],
)
def test_what_no_integer_stands_for(device: HostDevice, bad: float, says: str) -> None:
    q, y = integers(1)
    x = values(q).astype(np.float64)
    x[0, 1, 3] = bad
    before = device.crc32()
    for call in (lambda: device.train(x, y), lambda: device.predict(x)):
        with pytest.raises(BioTrainError, match=says) as error:
            call()
        assert "\n" not in str(error.value)
    assert device.crc32() == before


def test_integers_that_do_not_fit(device: HostDevice) -> None:
    x = np.zeros((1, CHANS, TIMES), np.int32)
    x[0, 0, 0] = 32768
    with pytest.raises(BioTrainError, match="32768 units of the converter"):
        device.predict(x)


def test_a_flat_channel_is_refused_when_asked(device: HostDevice) -> None:
    q, y = integers(1)
    q[0, 1] = 7
    device.predict(q)
    device.check_flat()
    with pytest.raises(DeviceError, match="flat channel"):
        device.train(q, y)
    with pytest.raises(DeviceError, match="flat channel"):
        device.predict(q)


def test_a_checkpoint_belongs_to_its_input(device: HostDevice) -> None:
    for other in (package(scale=None), package(scale=2e-3)):
        with pytest.raises(CheckpointError):
            other.run("host").load_state(device.save_state())
    package().run("host").load_state(device.save_state())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_type": "int16"}, "needs a scale"),
        ({"input_scale": 1.0}, "belongs to the input type int16"),
        ({"input_type": "int8", "input_scale": 1.0}, "float or int16"),
        ({"input_type": "int16", "input_scale": 0.0}, "positive"),
        ({"input_type": "int16", "input_scale": -1.0}, "positive"),
        ({"input_type": "int16", "input_scale": float("nan")}, "positive"),
        ({"input_type": "int16", "input_scale": 1e36}, "normal float32"),
        ({"input_type": "int16", "input_scale": 1e-39}, "normal float32"),
        ({"input_type": "int16", "input_scale": "1"}, "positive"),
    ],
)
def test_wrong_options_end_in_one_line(options: dict[str, object], says: str) -> None:
    with pytest.raises(BioTrainError, match=says) as error:
        package(scale=None, **options)
    assert "\n" not in str(error.value)


# ---- verify and the command line


@pytest.mark.parametrize("scale", [SCALE, 0.5])
def test_verify(scale: float) -> None:
    report = bt.verify(package("eegnet", scale), steps=3, seeds=2)
    assert report.ok, report.worst


@pytest.mark.ci
def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shape = ["--chans", "4", "--times", "261", "--classes", "3", "--sfreq", "64"]
    options = ["--input-type", "int16", "--input-scale", "0.001"]
    assert main(["plan", "mibminet", *shape, *options, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["input_bytes"] == 2 * CHANS * TIMES
    assert main(["compile", "mibminet", *shape, *options, "-o", str(tmp_path / "c")]) == 0
    capsys.readouterr()
    assert main(["run", str(tmp_path / "c"), "--samples", "8", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 8
    assert main(["plan", "mibminet", *shape, "--input-type", "int16"]) == 2
    assert "scale" in capsys.readouterr().err

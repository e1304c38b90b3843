# SPDX-License-Identifier: Apache-2.0
"""Activations kept in 16 bits: every conversion, one CRC over the plans, the bar, and off unless
asked for."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from _cc import write_kernels
from _networks import draw
from _ops import Case, run
from _plans import smallest_plan
from test_int16 import CHANS, CLASSES, SCALE, TIMES, integers, learned, package, smallest, values
from test_networks import FLAGS, a_seed, prepared, said, train_graph
from test_ops import WARNINGS
from torch import nn

import biotrain as bt
import biotrain.package
from biotrain.cli import main
from biotrain.errors import BioTrainError, CheckpointError, DeviceError, DoesNotFitError
from biotrain.graph.rewrite.precision import SMALLEST_BYTES, Store, keep_half, parse_store
from biotrain.ir.graph import Graph, Node, Value, flat_nodes
from biotrain.ir.op import OPS, Builder, Sample
from biotrain.ops.half import EPS, torch_dtype
from biotrain.run.compiler import NUMERICS, STRICT, find_compiler
from biotrain.run.host import OPTIMISED

FORMATS = ("fp16", "bf16")


# ---- the conversions


def patterns() -> np.ndarray:
    """All 65536 numbers of 16 bits, not in order."""
    return np.random.default_rng(0).permutation(2**16).astype(np.uint16)


def floats(half: str) -> np.ndarray:
    """Every number of a format, the ties between them and their neighbours, and random patterns."""
    bits = np.arange(2**16, dtype=np.uint16).view(np.int16)
    exact = torch.from_numpy(bits).view(torch_dtype(half)).to(torch.float32).numpy()
    finite = np.unique(exact[np.isfinite(exact)])
    largest = {"fp16": 65536.0, "bf16": np.inf}[half]  # what would come next
    with np.errstate(over="ignore"):
        ends = np.append(finite.astype(np.float64), largest)
        middle = (ends[:-1] / 2 + ends[1:] / 2).astype(np.float32)
    near = [np.nextafter(middle, np.float32(to), dtype=np.float32) for to in (-np.inf, np.inf)]
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    small = rng.integers(0, 2**23, 10_000).astype(np.uint32).view(np.float32)
    ends_of_range = (0.0, 65504, 65519.996, 65520, 65536, 3.4e38, 2**-14, 2**-15 * 1.999, np.inf)
    tiny = (2**-24, 2**-25, np.nextafter(np.float32(2**-25), np.float32(1)), 1e-45)
    special = np.array([*ends_of_range, *tiny], np.float32)
    nans = np.array([0x7F800001, 0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFF800001], np.uint32)
    found = np.concatenate(
        [exact, middle, *near, drawn, small, -small, special, -special, nans.view(np.float32)]
    )
    return np.resize(found, (7, -(-found.size // 7)))


def conversion(op: str, array: np.ndarray) -> Case:
    """One of the four ops, on an array of rows."""
    b = Builder("v")
    x = Value("x", (1, *array.shape), "f32" if op.startswith("to_") else "i16", "input")
    (y,) = b.emit(op, [x], hint="y")
    return Case(op, op, Sample((x.shape,), {}), tuple(b.nodes), (x,), y, None, ())


def compilers() -> dict[str, list[str]]:
    """Ways to build: as it is, with sanitizers, in clang."""
    found = {"native": [*find_compiler(), "-O3", "-march=native"]}
    if "ziglang" not in find_compiler():
        sanitize = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        found["sanitized"] = [*find_compiler(), *sanitize]
    if find_spec("ziglang"):
        clang = [sys.executable, "-m", "ziglang", "cc"]
        found["clang"] = [*clang, "-O1", "-fno-inline", "-fno-sanitize=all"]
    return found


@pytest.mark.parametrize("build", ["native", "sanitized", "clang"])
def test_conversions(build: str, tmp_path: Path) -> None:
    """Against numpy's float16 and torch's bfloat16, whole and cut along rows and time."""
    if build not in compilers():
        pytest.skip(f"no compiler for the {build} build")
    arrays: dict[str, list[np.ndarray]] = {}
    for half in FORMATS:
        arrays[f"to_{half}"] = [floats(half)[None]]
        arrays[f"from_{half}"] = [patterns().view(np.int16).reshape(1, 4, -1)]
    cases = [conversion(op, a[0][0]) for op, a in arrays.items()]
    command = [*compilers()[build], *WARNINGS, *NUMERICS]
    results = run(cases, arrays, command, tmp_path, fused=False)
    for case in cases:
        (x,) = arrays[case.name]
        half = case.op.rpartition("_")[2]
        if case.op.startswith("to_"):
            want = halves_of(x, half)
        else:
            want = torch.from_numpy(x.copy()).view(torch_dtype(half)).to(torch.float32).numpy()
        for (have,) in results[case.name]:
            assert have.dtype == want.dtype
            if case.op.startswith("to_"):
                nan = np.isnan(x)
                pattern = {"fp16": 0x7E00, "bf16": 0x7FC0}[half]
                assert (have[nan].view(np.uint16) & 0x7FFF == pattern).all()
            else:
                nan = np.isnan(want)
                assert np.isnan(have[nan]).all()
            assert have[~nan].tobytes() == want[~nan].tobytes(), case.name


def halves_of(x: np.ndarray, half: str) -> np.ndarray:
    """What numpy and torch make of floats."""
    if half == "fp16":
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return x.astype(np.float16).view(np.int16)
    return torch.from_numpy(x.copy()).to(torch.bfloat16).view(torch.int16).numpy()


@pytest.mark.parametrize("half", FORMATS)
def test_the_error_of_one_rounding(half: str) -> None:
    x = np.random.default_rng(0).uniform(1e-4, 6e4, 100_000)
    back = torch.from_numpy(x).to(torch_dtype(half)).to(torch.float64).numpy()
    worst = float(np.abs(back / x - 1).max())
    assert 0.9 * EPS[half] < worst <= EPS[half]


# ---- the rewrite


class Plain(nn.Module):
    """Two convolutions without a norm: the scale of what they make is that of the recording."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv1d(CHANS, 8, 5, padding=2)
        self.act = nn.ReLU()
        self.two = nn.Conv1d(8, 8, 5, padding=2)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.two(self.act(self.one(x))))
        return self.out(x.mean(-1))  # type: ignore[no-any-return]


def without_halves(graph: Graph) -> list[str]:
    """The nodes of a rewritten graph as they were: each reader reads the float itself."""
    floats = {n.outputs[0].name: n.inputs[0] for n in graph.nodes if n.op.startswith("to_")}
    was: dict[str, Value] = {}
    lines = []
    for node in graph.nodes:
        if node.op.startswith("to_"):
            continue
        if node.op.startswith("from_"):
            was[node.outputs[0].name] = floats[node.inputs[0].name]
            continue
        again = OPS[node.op].alias and node.inputs[0].name in was
        node = replace(node, inputs=tuple(was.get(v.name, v) for v in node.inputs))
        if again:  # a view of what was read back
            view = next(n for n in graph.nodes if n.op == node.op and n.inputs == node.inputs)
            was[node.outputs[0].name] = view.outputs[0]
            continue
        lines.append(str(node))
    return lines


@pytest.mark.parametrize("index", range(3))
def test_nothing_but_the_rounding_changes(index: int) -> None:
    """Conversions left out, the graph is the one of before; what it chooses keeps the rules."""
    seed = a_seed(index)
    network = draw(seed)
    graph = train_graph(prepared(network), network.example)
    loss = graph.outputs[1]
    done = keep_half(graph, loss, Store("fp16"))
    assert without_halves(done) == [str(n) for n in graph.nodes], said(seed, network)
    end = next(i for i, n in enumerate(done.nodes) if loss in n.outputs)
    stored = [n.inputs[0] for n in done.nodes if n.op == "to_fp16"]
    backward = {v.name for n in done.nodes[end:] for v in n.inputs}
    for v in stored:
        assert v.nbytes >= SMALLEST_BYTES, said(seed, network)
        assert v.name not in backward, said(seed, network)


def test_what_is_chosen() -> None:
    graph = package("mibminet", None).graph
    again = {n.outputs[0].name for n in flat_nodes(graph.nodes) if n.op.startswith("from_")}
    assert not again
    halves = package("mibminet", None, store="fp16").graph
    stored = {n.inputs[0].name for n in flat_nodes(halves.nodes) if n.op == "to_fp16"}
    assert {"norm1", "temporal"} <= stored
    assert not stored & {"spatial", "x", "reshape"}
    for node in flat_nodes(
        halves.nodes
    ):  # a norm of what is kept reads that, its statistics do not
        if node.op == "row_moments":
            assert not node.inputs[0].name.partition("_")[2].startswith("again")
        if node.op == "norm_relu_pool" and node.inputs[0].name.startswith("temporal"):
            assert node.inputs[0].name.startswith("temporal_again")


def test_nothing_before_a_norm() -> None:
    torch.manual_seed(0)
    net, x = Plain(), torch.zeros(1, CHANS, TIMES)
    pkg = bt.compile(net, x, store="fp16", accumulate=1)
    assert "nothing" in pkg.plan.choices[-1]
    assert "bt_half.h" not in pkg.files
    named = bt.compile(net, x, store="fp16:ac*", accumulate=1)
    origins = {n.origin for n in flat_nodes(named.graph.nodes) if n.op == "to_fp16"}
    assert origins == {"act"}


def test_frozen_layers_need_nothing() -> None:
    pkg = package("mibminet", None, strategy="last", store="fp16")
    assert not [
        n for n in flat_nodes(pkg.graph.nodes) if n.op == "to_fp16" and n.origin == "temporal"
    ]


# ---- off unless asked for


def test_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object) -> Graph:
        raise AssertionError("nobody asked for 16 bits")

    monkeypatch.setattr(biotrain.package, "keep_half", never)
    plain, named = package("mibminet", None), package("mibminet", None, store="float32")
    assert plain.files == named.files
    assert plain.plan == named.plan
    assert "bt_half.h" not in plain.files
    assert not [text for text in plain.files.values() if "fp16" in text]
    with pytest.raises(AssertionError, match="16 bits"):
        package("mibminet", None, store="fp16")


# ---- one CRC


NETWORKS = ("mibminet", "epidenet", "eegnet")


@pytest.mark.sample(test=1, ci=3)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("half", FORMATS)
def test_a_small_plan_has_the_same_bits(name: str, half: str) -> None:
    q, y = integers()
    options = {"scale": None, "store": half, "fused": False}
    free = package(name, **options)
    small = smallest_plan(partial(package, name, **options))
    assert small.plan.peak_bytes < free.plan.peak_bytes
    want = learned(free, values(q), y)
    assert learned(small, values(q), y, OPTIMISED if name == "mibminet" else FLAGS) == want
    assert want != learned(package(name, None, fused=False), values(q), y)


@pytest.mark.full
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("half", FORMATS)
def test_every_budget_has_the_same_bits(name: str, half: str) -> None:
    q, y = integers()
    options = {"scale": None, "store": half, "fused": False}
    free = package(name, **options)
    low, high = smallest(name=name, **options), free.plan.ram_bytes
    assert low < high
    plans = [package(name, memory=m, **options) for m in (low, (low + high) // 2)]
    want = learned(free, values(q), y)
    for pkg in plans:
        assert learned(pkg, values(q), y) == want
    assert learned(plans[0], values(q), y, OPTIMISED) == want
    assert len({p.plan.peak_bytes for p in (free, *plans)}) > 1


OPTIONS: dict[str, dict[str, object]] = {
    "no rewrites": {"rewrites": ()},
    "momentum": {"gradients": "momentum"},
    "mse": {"loss": "mse"},
    "integers": {"scale": SCALE},
    "norm": {"strategy": "norm"},
}


@pytest.mark.sample(test=0, ci=3)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_has_one_crc(options: dict[str, object]) -> None:
    q, y = integers()
    targets = np.eye(CLASSES, dtype=np.float32)[y] if options.get("loss") == "mse" else y
    options = {"scale": None, "store": "fp16", **options}
    free = package(**options)
    assert "bt_half.h" in free.files
    tight = package(memory=int(0.7 * free.plan.ram_bytes), **options)
    assert tight.plan.ram_bytes < free.plan.ram_bytes
    assert learned(tight, values(q), targets) == learned(free, values(q), targets)


@pytest.mark.ci
def test_a_batch_has_one_crc() -> None:
    """Each window of the batch keeps its own."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, CHANS, TIMES)).astype(np.float32)
    y = rng.integers(0, CLASSES, 4)
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("mibminet", CHANS, TIMES, CLASSES, 64.0), norm="batch")
    net.train()
    found = {}
    for store in ("float32", "fp16"):
        example = torch.zeros(1, CHANS, TIMES)
        free = bt.compile(net, example, batch=4, store=store)
        memory = int(0.8 * free.plan.ram_bytes)
        tight = bt.compile(net, example, batch=4, store=store, memory=memory)
        assert tight.plan.ram_bytes < free.plan.ram_bytes
        found[store] = learned(free, x, y)
        assert learned(tight, x, y) == found[store]
    assert found["float32"] != found["fp16"]


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("index", range(2))
def test_drawn_networks_have_one_crc(index: int) -> None:
    seed = a_seed(index)
    network = draw(seed, blocks=2)
    net, rng = prepared(network), random.Random(seed)
    half = rng.choice(FORMATS)
    free = bt.compile(net, network.example, store=half, accumulate=1)
    x = np.random.default_rng(seed).standard_normal((4, *network.example.shape[1:]))
    y = np.arange(4) % free.graph.outputs[0].shape[-1]
    want = learned(free, x.astype(np.float32), y)
    memory = int(free.plan.ram_bytes * rng.uniform(0.3, 0.95))
    try:
        tight = bt.compile(net, network.example, store=half, memory=memory, accumulate=1)
    except DoesNotFitError:
        return
    assert learned(tight, x.astype(np.float32), y) == want, said(seed, network)


# ---- the gradients


@pytest.mark.parametrize("half", FORMATS)
def test_verify_has_a_bar_of_its_own(half: str) -> None:
    pkg = package("mibminet", None, store=half)
    report = bt.verify(pkg, steps=2, seeds=2, flags=FLAGS)
    assert report.ok, report.worst
    data = report.to_json()
    assert data["store"] == half
    by_name = {t["name"]: t for t in data["tensors"]}
    first = by_name["temporal.weight.grad"]
    assert first["max_rel_error"] > 4 * first["torch_fp32_error"]  # float32's bar it would not pass
    assert first["torch_stored_error"] > EPS[half] / 8
    assert first["bar"] == max(4 * first["torch_stored_error"], 4 * EPS[half])


def test_verify_of_float32_says_nothing_of_16_bits() -> None:
    data = bt.verify(package("eegnet", None), steps=1, seeds=1, flags=FLAGS).to_json()
    assert "store" not in data
    assert set(data["tensors"][0]) == {"name", "max_rel_error", "torch_fp32_error", "bar", "ok"}


def test_what_fp16_does_not_hold_is_refused() -> None:
    """It becomes infinity: the sample or the group is refused, and the weights stay."""
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("mibminet", CHANS, TIMES, CLASSES, 64.0)).train()
    with torch.no_grad():
        dict(net.named_parameters())["norm1.weight"].fill_(1e6)
    q, y = integers()
    for half in FORMATS:
        pkg = bt.compile(
            net, torch.zeros(1, CHANS, TIMES), store=half, optimizer=bt.SGD(lr=1e-6), accumulate=1
        )
        device = pkg.run("host")
        before = device.crc32()
        if half == "fp16":
            with pytest.raises(DeviceError, match="finite"):
                device.train(values(q), y)
            assert device.crc32() == before
        else:
            device.train(values(q), y)
            assert device.crc32() != before


# ---- what is emitted and said


@pytest.mark.sample(test=1, ci=2)
@pytest.mark.parametrize("clang", [False, True], ids=["gcc", "clang"])
@pytest.mark.parametrize("half", FORMATS)
def test_the_c_is_clean(tmp_path: Path, clang: bool, half: str) -> None:
    if clang and not find_spec("ziglang"):
        pytest.skip("the ziglang package (clang) is not installed")
    smallest_plan(partial(package, "mibminet", None, store=half, fused=False)).save(tmp_path)
    command = [sys.executable, "-m", "ziglang", "cc"] if clang else [*find_compiler()]
    flags = [*STRICT, *NUMERICS, "-O2", "-c", "model.c", "model_weights.c"]
    subprocess.run([*command, *flags], cwd=tmp_path, check=True)


def test_the_kernels_stand_alone(tmp_path: Path) -> None:
    write_kernels(tmp_path, "bt_half.h")
    (tmp_path / "one.c").write_text('#include "bt_half.h"\ntypedef int bt_none;\n')
    flags = [*STRICT, *NUMERICS, "-Wno-unused-function", "-c", "one.c"]
    subprocess.run([*find_compiler(), *flags], cwd=tmp_path, check=True)


@pytest.mark.ci
def test_a_checkpoint_belongs_to_its_storage() -> None:
    device = package("mibminet", None, store="fp16").run("host")
    state = device.save_state()
    for other in ("float32", "bf16"):
        with pytest.raises(CheckpointError):
            package("mibminet", None, store=other).run("host").load_state(state)
    device.load_state(state)


def test_the_plan_says_what_it_saves() -> None:
    pkg = package("mibminet", None, store="fp16")
    stored = [
        n.outputs[0].nbytes
        for n in pkg.graph.nodes
        if any(v.dtype == "i16" for v in n.outputs) and isinstance(n, Node)
    ]
    words = pkg.plan.choices[-1]
    assert words.startswith("stored as fp16: ")
    assert "biotrain verify" in words
    assert stored
    plain = package("mibminet", None)
    assert pkg.plan.peak_bytes < plain.plan.peak_bytes
    assert pkg.plan.base_ops == plain.plan.base_ops
    assert pkg.plan.macs == plain.plan.macs


@pytest.mark.parametrize("bad", ["fp8", "", "fp16:", "float32:a", "half", 16])
def test_wrong_formats_end_in_one_line(bad: object) -> None:
    with pytest.raises(BioTrainError, match="float32, fp16 or bf16") as error:
        package("mibminet", None, store=bad)
    assert "\n" not in str(error.value)


def test_formats() -> None:
    assert parse_store("float32") is None
    assert parse_store("bf16") == Store("bf16")
    assert parse_store("fp16:block2.*") == Store("fp16", "block2.*")


def test_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shape = ["--chans", "4", "--times", "261", "--classes", "3", "--sfreq", "64"]
    options = [*shape, "--store", "fp16"]
    assert main(["plan", "mibminet", *options, "--no-frontier"]) == 0
    assert "stored as fp16" in capsys.readouterr().out
    assert main(["verify", "mibminet", *options, "--steps", "1", "--seeds", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not held to the bar of float32" in said
    assert "largest gradient error" in said
    assert main(["compile", "mibminet", *options, "-o", str(tmp_path / "c")]) == 0
    assert json.loads((tmp_path / "c" / "package.json").read_text())["train"]["store"] == "fp16"
    capsys.readouterr()
    assert main(["run", str(tmp_path / "c"), "--samples", "8", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 8
    assert main(["plan", "mibminet", *shape, "--store", "fp8"]) == 2
    assert "fp16" in capsys.readouterr().err

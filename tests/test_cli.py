# SPDX-License-Identifier: Apache-2.0
"""The command line: every verb with JSON and without, and one clear line for what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import biotrain
from biotrain.cli import main

SMALL = ["mibminet", "--chans", "2", "--times", "64", "--classes", "3", "--sfreq", "125"]
SHAPE = ["--chans", "2", "--times", "64", "--classes", "3"]
SOURCE = Path(biotrain.__file__).parents[1]
RUN = "import sys; from biotrain.cli import main; sys.exit(main())"

PLAN_KEYS = {
    "peak_bytes", "ram_bytes", "lower_bound_bytes", "flash_bytes", "ops", "base_ops", "macs",
    "cycles", "params", "buffers", "choices", "frontier",
}  # fmt: skip
RUN_KEYS = {
    "on", "samples", "instructions", "cycles", "cycles_source", "ms_per_sample", "mj_per_sample",
    "ram_bytes", "stack_bytes", "flash_bytes", "crc32",
}  # fmt: skip
ROW_KEYS = {
    "dataset", "scenario", "model", "norm", "strategy", "subject", "session", "seed", "accuracy",
    "balanced_accuracy", "chance", "ram_bytes", "ops", "steps",
}  # fmt: skip


class Said:
    """What a verb left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command line in this process; the output is not a terminal."""

    def call(*arguments: object) -> Said:
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert "\x1b" not in out + err, "control codes for a reader that is no terminal"
        assert "\r" not in out + err
        return Said(code, out, err)

    return call


@pytest.fixture
def refused(run: Any) -> Any:
    """Run what must be refused: exit code 2 and one line."""

    def call(*arguments: object) -> str:
        said = run(*arguments)
        assert said.code == 2, said.err
        assert said.out == ""
        assert said.err.startswith("biotrain: ")
        assert said.err.count("\n") == 1
        return str(said.err)

    return call


def python(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, **more
    )


# ---------------------------------------------------------------- what each verb says


def test_help_and_targets_come_without_torch() -> None:
    """Nobody waits for torch to be told how a verb is spelled."""
    text = (
        "import sys; from biotrain.cli import main; main(['plan', '--help']); "
        "main(['list', 'targets']); sys.exit('torch' in sys.modules)"
    )
    done = python("-c", text, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--target", "--strategy", "--memory", "--accumulate", "--norm", "--json"):
        assert option in done.stdout


def test_no_verb_prints_help(run: Any) -> None:
    said = run()
    assert said.code == 0
    for verb in ("demo", "list", "prepare", "plan", "compile", "run", "verify", "adapt"):
        assert verb in said.out
    assert run("--version").out == f"biotrain {biotrain.__version__}\n"


def test_list(run: Any) -> None:
    found = run("list", "--json", "-").json
    assert set(found) == {"models", "targets", "strategies", "ops", "data"}
    assert {m["name"]: m["params"] for m in found["models"]}["mibminet"] == 7938
    assert "nrf52840" in [t["name"] for t in found["targets"]]
    assert "conv2d" in [name for op in found["ops"] for name in op["torch"]]
    assert "synthetic-emg" in run("list", "data").out


def test_prepare(run: Any, tmp_path: Path) -> None:
    said = run("prepare", *SMALL)
    assert "GroupNorm(1, 32)" in said.out
    file = tmp_path / "net.pt2"
    found = run("prepare", *SMALL, "-o", file, "--json", "-").json
    assert {"before", "after", "effect", "bytes_saved"} <= set(found["rewrites"][0])
    assert file.exists()
    plans = [run("plan", *name, "--no-frontier", "--json", "-").json for name in ([file], SMALL)]
    assert plans[0]["ram_bytes"] == plans[1]["ram_bytes"]


def test_plan(run: Any, tmp_path: Path) -> None:
    said = run("plan", *SMALL, "--target", "nrf52840")
    for word in ("arena", "gradients", "optimizer", "lower bound", "largest buffers", "choices"):
        assert word in said.out
    assert all(line == line.rstrip() for line in said.out.splitlines())
    file = tmp_path / "plan.json"
    quiet = run("plan", *SMALL, "--no-frontier", "--json", file)
    assert (quiet.out, quiet.err) == ("", "")
    plan = json.loads(file.read_text())
    assert set(plan) >= PLAN_KEYS
    assert set(plan["frontier"][0]) >= {"ram_bytes", "ops", "cycles"}
    adam = ["--strategy", "last", "--optimizer", "adam", "--no-frontier"]
    last = run("plan", *SMALL, *adam, "--json", "-").json
    assert last["ram_bytes"] < plan["ram_bytes"]


def test_frontier(run: Any, own: str) -> None:
    """From the fastest plan to the smallest, this one marked; a budget picks one of them."""
    board = [f"{own}:deep", *SHAPE, "--target", "nrf52840"]
    said = run("plan", *board)
    assert said.out.count("<- this plan") == 1
    for word in ("to direct", "above bound", "cycles", "mJ"):
        assert word in said.out
    assert "published" not in said.out  # another shape than the paper's
    plan = run("plan", *board, "--json", "-").json
    points = plan["frontier"]
    assert len(points) >= 3
    rams, ops = [p["ram_bytes"] for p in points], [p["ops"] for p in points]
    assert rams == sorted(rams, reverse=True)
    assert ops == sorted(ops)
    assert rams[0] > rams[-1]
    for point in points:
        assert point["lower_bound_bytes"] <= point["arena_bytes"] < point["ram_bytes"]
    small = run("plan", *board, "--memory", rams[-1], "--no-frontier", "--json", "-")
    assert small.err == ""
    assert small.json["ram_bytes"] <= rams[-1]
    assert len(small.json["frontier"]) == 1
    assert "done" in said.err
    slowest = max(p["ms_per_sample"] for p in points)
    fastest = min(p["ms_per_sample"] for p in points)
    early = run("plan", *board, "--deadline", fastest, "--no-frontier", "--json", "-").json
    late = run("plan", *board, "--deadline", slowest, "--no-frontier", "--json", "-").json
    assert early["ms_per_sample"] <= fastest
    assert late["ram_bytes"] == rams[-1]  # the smallest that keeps it


def test_published_figures_stand_beside(run: Any) -> None:
    said = run("plan", "epidenet", "--no-frontier")
    assert "published: GroupNorm" in said.out
    assert "280,000" in said.out
    assert "peak of L2 on GAP9" in " ".join(said.out.split())
    assert "110,000" in run("plan", "epidenet", "--strategy", "last", "--no-frontier").out


def test_choices_in_words(run: Any, own: str) -> None:
    stored = run("plan", f"{own}:deep", *SHAPE, "--no-frontier", "--json", "-").json
    smallest = run("plan", f"{own}:deep", *SHAPE, "--json", "-").json["frontier"][-1]["ram_bytes"]
    small = run(
        "plan", f"{own}:deep", *SHAPE, "--memory", smallest, "--no-frontier", "--json", "-"
    ).json
    head = small["choices"][0]
    assert f"arena {small['peak_bytes']:,} B instead of" in head
    assert "operations +" in head
    assert any("fused loop" in line and "windows" in line for line in small["choices"])
    assert any(line.startswith("recomputed, ") for line in small["choices"])
    assert any(line.startswith("in place: ") for line in stored["choices"])
    for line in (*stored["choices"], *small["choices"]):
        assert len(line) < 300
    assert len(small["choices"]) <= 12


def test_show_loops(run: Any, own: str) -> None:
    smallest = run("plan", f"{own}:deep", *SHAPE, "--json", "-").json["frontier"][-1]["ram_bytes"]
    shown = run("plan", f"{own}:deep", *SHAPE, "--memory", smallest, "--show", "graph")
    assert shown.err == ""  # the frontier is not shown, and not sought
    loop = next(n for n in shown.out.splitlines() if n.startswith("loop over"))
    assert "iterations" in loop
    assert "<- this plan" in run("plan", f"{own}:deep", *SHAPE, "--show", "plan").out


def test_show(run: Any) -> None:
    small = [*SMALL, "--no-frontier"]
    graph, plan, c = (run("plan", *small, "--show", what) for what in ("graph", "plan", "c"))
    assert graph.out.startswith("inputs  %x: [1, 2, 64]")
    assert "whole RAM" in plan.out
    assert "bt_status bt_train_sample(" in c.out
    assert run("compile", *SMALL, "--show", "c").out == c.out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plan_figure(run: Any, tmp_path: Path, suffix: str) -> None:
    files = [tmp_path / f"{k}.{suffix}" for k in range(2)]
    for file in files:
        assert run("plan", *SMALL, "--no-frontier", "--figure", file).code == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size > 5000


def test_compile_then_run_the_folder(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "out"
    said = run("compile", *SMALL, "-o", folder, "--target", "nrf52840", "--json", "-")
    found = said.json
    assert found["plan"]["target"] == "nrf52840"
    assert {"model.h", "model.c", "plan.json"} <= {f["name"] for f in found["files"]}
    assert all((folder / f["name"]).stat().st_size == f["bytes"] for f in found["files"])
    result = run("run", folder, "--samples", "16", "--epochs", "2", "--json", "-").json
    assert set(result) >= RUN_KEYS
    assert result["samples"] == 32
    assert result["instructions"] is None
    # The folder is what runs: the model trains to the same bits from its name.
    again = run("run", *SMALL, "--target", "nrf52840", "--samples", "16", "--epochs", "2",
                "--json", "-").json  # fmt: skip
    assert again["crc32"] == result["crc32"]
    # ... and C that was changed by hand runs as it is.
    c = folder / "model_weights.c"
    head, brace, weights = c.read_text().partition("] = {")
    c.write_text(head + brace + weights.replace("0x1.", "0x0.", 1))
    said = run("run", folder, "--samples", "16", "--epochs", "2", "--json", "-")
    assert "model_weights.c: not as this version emits" in said.err
    assert said.json["crc32"] != result["crc32"]


def test_statistics_anew(run: Any, tmp_path: Path) -> None:
    options = (*SMALL, "--norm", "frozen", "--strategy", "last")
    plan = run("compile", *options, "--adabn", "-o", tmp_path, "--json", "-").json["plan"]
    assert plan["adabn_ops"] > 0
    assert plan["state_bytes"] > 0
    assert any(words.startswith("adabn: ") for words in plan["choices"])
    said = run("run", tmp_path, "--samples", "4", "--json", "-")
    assert "those of 4 windows, without their labels" in said.err
    again = run("run", *options, "--adabn", "--samples", "4", "--json", "-").json
    assert again["crc32"] == said.json["crc32"]


def test_run_on_data_learns(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    result = run(
        "run", "mibminet", "--data", _recordings(tmp_path), "--subject", "1", "--epochs", "20",
        "--save", file, "--json", "-",
    ).json  # fmt: skip
    assert result["losses"][-1] < result["losses"][0]
    assert result["data"] == "small"
    assert file.exists()


def test_verify(run: Any) -> None:
    said = run("verify", *SMALL, "--steps", "2", "--seeds", "2", "--accumulate", "2", "--json", "-")
    assert said.code == 0
    report = said.json
    assert report["ok"] is True
    assert report["steps"] == 2
    assert {"name", "max_rel_error", "torch_fp32_error"} <= set(report["tensors"][0])
    assert isinstance(report["crc32"], int)
    plain = run("verify", *SMALL, "--steps", "1", "--seeds", "1", "--strategy", "last")
    assert "ok: mibminet, strategy last" in plain.out
    assert "classifier.weight.grad" in plain.out


def test_verify_that_fails_exits_with_1(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import biotrain.verification  # noqa: F401

    monkeypatch.setattr(sys.modules["biotrain.verification"], "FACTOR", 0.0)
    monkeypatch.setattr(sys.modules["biotrain.verification"], "FLOOR", 0.0)
    said = run("verify", *SMALL, "--steps", "1", "--seeds", "1", "--json", "-")
    assert said.code == 1
    assert said.json["ok"] is False


# ---------------------------------------------------------------- a person's own model


NETWORK = """
import torch
from torch import nn

def make(n_chans, n_outputs, width=4):
    return nn.Sequential(
        nn.Conv1d(n_chans, width, 5), nn.BatchNorm1d(width), nn.ReLU(), nn.AvgPool1d(4),
        nn.Flatten(), nn.Linear(width * 15, n_outputs))

def deep(n_chans, n_outputs):
    return nn.Sequential(
        nn.Conv1d(n_chans, 8, 5), nn.BatchNorm1d(8), nn.Conv1d(8, 8, 9, groups=8),
        nn.BatchNorm1d(8), nn.ReLU(), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(104, n_outputs))

def needy(n_chans, secret): ...
def wrong(n_chans): return 3
net = nn.Sequential(nn.Flatten(), nn.Linear(128, 2))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the working directory."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    return name


def test_own_factory(run: Any, refused: Any, own: str) -> None:
    said = run("prepare", f"{own}:make", "--chans", "2", "--times", "64", "--classes", "3")
    assert "BatchNorm1d(4)" in said.out
    shape = ["--chans", "2", "--times", "64", "--classes", "3"]
    assert (
        run("plan", f"{own}:make", *shape, "--no-frontier", "--json", "-").json["params"]
        == 44 + 8 + 183
    )
    two = [*shape[:-1], "2"]
    assert run("plan", f"{own}:net", *two, "--no-frontier", "--json", "-").json["params"] == 258
    assert "returns [1, 2] for one window, and there are 3" in refused("plan", f"{own}:net", *shape)
    assert "--times" in refused("plan", f"{own}:make", "--chans", "2", "--classes", "3")
    assert "--classes" in refused("plan", f"{own}:make", "--chans", "2", "--times", "64")
    assert "secret" in refused("plan", f"{own}:needy", *shape)
    assert "not a torch module" in refused("plan", f"{own}:wrong", *shape)
    assert "no factory 'nope'" in refused("plan", f"{own}:nope", *shape)
    assert "cannot import 'no_such_module'" in refused("plan", "no_such_module:make", *shape)


def test_an_error_of_ours_keeps_its_traceback(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import biotrain.package

    monkeypatch.setattr(biotrain.package, "lower", lambda *_: {}["key"])
    said = run("plan", *SMALL)
    assert said.code == 70
    assert "Traceback" in said.err
    assert "KeyError" in said.err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def make(n_chans): return {}['key']", "raised KeyError: 'key'"),
        ("import sys\ndef make(): sys.exit(1)", "raised SystemExit: 1"),
        ("def make(): raise RuntimeError('first\\nsecond')", "raised RuntimeError: first ("),
        ("1 / 0", "raised ZeroDivisionError: division by zero"),
        ("def make(:", "raised SyntaxError"),
        ("import no_such_package", "raised ModuleNotFoundError"),
    ],
)
def test_a_factory_that_raises(refused: Any, own: str, text: str, complaint: str) -> None:
    Path(f"{own}.py").write_text(text)
    said = refused("plan", f"{own}:make", "--chans", "2", "--times", "64")
    assert complaint in said
    assert f"{own}.py" in said or "No module named" in said


def test_functions_that_build_no_network(refused: Any) -> None:
    shape = ("--chans", "2", "--times", "64", "--classes", "3")
    assert "'json:loads' needs s" in refused("plan", "json:loads", *shape)
    assert "SystemExit" in refused("plan", "sys:exit", *shape)
    assert "has no factory 'pi.x'" in refused("plan", "math:pi.x", *shape)


# ---------------------------------------------------------------- what is refused


def test_wrong_names(refused: Any) -> None:
    assert "did you mean mibminet" in refused("plan", "mibminett")
    assert "nrf52840" in refused("plan", *SMALL, "--target", "zx81")
    assert "classifier.weight" in refused("plan", *SMALL, "--strategy", "everything")
    assert "host" in refused("run", *SMALL, "--on", "moon")
    assert "--nosuch" in refused("plan", *SMALL, "--nosuch")
    assert "fly" in refused("fly")
    assert "256KiB" in refused("plan", *SMALL, "--memory", "a lot")
    assert "sgd" in refused("plan", *SMALL, "--optimizer", "adam", "--momentum", "0.9")
    assert "take n_times" in refused("plan", "mibminet", "--times", "8")
    assert "divisor" in refused("plan", *SMALL, "--groups", "5")
    assert "give one" in refused("plan", *SMALL, "--show", "c", "--json", "-")


def test_too_little_memory(refused: Any, run: Any, own: str) -> None:
    """The smallest RAM that would do, and what is largest in it."""
    smallest = run("plan", f"{own}:deep", *SHAPE, "--json", "-").json["frontier"][-1]["ram_bytes"]
    line = refused("plan", f"{own}:deep", *SHAPE, "--memory", "1KiB", "--json", "-")
    assert f"the smallest plan needs {smallest:,} B" in line
    needed = run(
        "plan", f"{own}:deep", *SHAPE, "--memory", smallest, "--no-frontier", "--json", "-"
    ).json
    assert needed["ram_bytes"] <= smallest
    assert line.count(" B,") + line.count(" B\n") >= 3
    assert "largest buffers: " in line


def test_too_little_time_or_energy(refused: Any, run: Any, own: str) -> None:
    """The figures of the fastest plan; or that the target states no clock."""
    board = [f"{own}:deep", *SHAPE, "--target", "nrf52840"]
    fastest = run("plan", *board, "--json", "-").json["frontier"][0]
    line = refused("plan", *board, "--deadline", "0.001")
    assert f"the fastest plan takes {fastest['ms_per_sample']:,.1f} ms" in line
    assert "0.001 ms are allowed" in line
    assert "1e-06 mJ are allowed" in refused("plan", *board, "--max-mj", "1e-6")
    assert "has no clock" in refused("plan", f"{own}:deep", *SHAPE, "--deadline", "5")
    assert "has no clock" in refused(
        "plan", f"{own}:deep", *SHAPE, "--max-mj", "5", "--target", "cortex-m7"
    )


def test_files_that_cannot_be_written(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in refused("compile", *SMALL, "-o", tmp_path / "file")
    assert "cannot write" in refused("compile", *SMALL, "-o", tmp_path / "file" / "deeper")
    assert "no folder" in refused("plan", *SMALL, "--json", tmp_path / "nowhere" / "p.json")
    assert "no folder" in refused("plan", *SMALL, "--figure", tmp_path / "nowhere" / "p.png")
    assert "cannot write" in refused("demo", "--out", tmp_path / "file")
    assert ".png or .svg" in refused("plan", *SMALL, "--figure", tmp_path / "plan.gif")
    assert "-o DIR" in refused("compile", *SMALL)


def test_files_that_cannot_be_read(refused: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 cut short")
    assert str(broken) in refused("plan", "mibminet", "--data", broken)
    assert "no such file" in refused("plan", "mibminet", "--data", tmp_path / "none.npz")
    assert "no such file" in refused("plan", tmp_path / "none.pt2")
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(b"PK\x03\x04 cut short")
    assert "cut.pt2" in refused("plan", cut)
    assert "no package.json" in refused("run", tmp_path)
    assert "no such folder" in refused("run", tmp_path / "none")
    (tmp_path / "package.json").write_text("{")
    assert "package.json" in refused("run", tmp_path)
    assert "fixed" in refused("run", tmp_path, "--strategy", "last")


def test_data_and_shape_contradict(refused: Any, tmp_path: Path) -> None:
    data = _recordings(tmp_path)
    assert "--chans contradicts --data" in refused("plan", "mibminet", "--data", data, "--chans", 9)
    assert "subject" in refused("run", "mibminet", "--data", data, "--subject", "99")
    assert "needs --data" in refused("run", *SMALL, "--subject", "1")
    assert "there are 1, 2, 3" in refused("adapt", "--data", data, "--subject", "x")
    assert "99" in refused("adapt", "--data", data, "--subject", "99")
    assert "last=0.02" in refused("adapt", "--data", data, "--lr-for", "last")
    assert "needs the module" in refused("prepare", tmp_path / "net.pt2")
    assert "needs the module" in refused("adapt", "--data", data, "--model", "net.pt2")


# ---------------------------------------------------------------- processes


def test_a_reader_that_leaves_is_no_error() -> None:
    """`biotrain list | head` where head has already gone."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", RUN, "list", "targets"]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(writer)
    assert (done.stderr, done.returncode) == (b"", 141)


def test_interrupt_exits_with_130(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    import biotrain.verification  # noqa: F401

    monkeypatch.setattr(sys.modules["biotrain.verification"], "verify", interrupted)
    said = run("verify", *SMALL, "--json", "-")
    assert said.code == 130
    assert said.out == ""
    assert said.err == "biotrain: interrupted\n"


# ---------------------------------------------------------------- learning


def _recordings(folder: Path) -> Path:
    """Three people whose two classes are two frequencies."""
    rng = np.random.default_rng(0)
    t = np.arange(64) / 125
    people, trials = 3, 20
    y = np.tile(np.arange(2), people * trials // 2)
    waves = np.sin(2 * np.pi * np.where(y == 0, 8, 25)[:, None, None] * t)
    x = 300 * waves + 100 * rng.standard_normal((len(y), 2, 64))
    path = folder / "small.npz"
    np.savez(
        path, x=x.astype(np.int16), scale=0.5, y=y, fs=125.0, unit="uV",
        subject=np.repeat(np.arange(1, people + 1), trials), session=np.ones(len(y), int),
        channels=["a", "b"], classes=["slow", "fast"],
    )  # fmt: skip
    return path


def test_adapt(run: Any, tmp_path: Path) -> None:
    arguments = [
        "adapt", "--data", _recordings(tmp_path), "--model", "mibminet", "--subject", "2",
        "--strategies", "none,last,full,full-bn8", "--epochs", "2", "--pretrain-epochs", "2",
    ]  # fmt: skip
    out = tmp_path / "out"
    found = run(*arguments, "--out", out, "--json", "-").json
    strategies = [row["strategy"] for row in found["rows"]]
    assert strategies == ["none", "last", "full", "full-bn8 (torch)"]
    assert all(set(row) >= ROW_KEYS for row in found["rows"])
    assert len(found["summary"]) == 4
    for name in ("accuracy.png", "results.json", "c/full/model.c", "c/last/plan.json"):
        assert (out / name).exists(), name
    said = run(*arguments)
    assert "over none" in said.out
    assert "[6/6] subject 2, seed 0: full-bn8 (torch): 2/2" in said.err
    assert len(said.err.splitlines()) == 6


def test_adapt_own_factory(run: Any, own: str, tmp_path: Path) -> None:
    found = run(
        "adapt", "--data", _recordings(tmp_path), "--model", f"{own}:make", "--subject", "1",
        "--strategies", "full", "--epochs", "1", "--pretrain-epochs", "1", "--json", "-",
    )  # fmt: skip
    assert "then gets GroupNorm" in found.err
    assert found.json["rows"][0]["norm"] == "convert"


@pytest.mark.ci
def test_demo(run: Any, tmp_path: Path) -> None:
    said = run(
        "demo", "--out", tmp_path, "--subjects", "1", "--epochs", "1", "--pretrain-epochs", "1"
    )
    assert said.code == 0
    assert "synthetic" in said.out
    for name in ("accuracy.png", "plan.png", "results.json", "c/full/model.c", "c/last/model.h"):
        assert (tmp_path / name).exists(), name
    assert str(tmp_path / "c" / "full") in said.out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {row["dataset"] for row in rows} == {"synthetic-emg"}

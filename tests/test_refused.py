# SPDX-License-Identifier: Apache-2.0
"""What would be wrong without a word is refused, before anything is built or trained: settings that
make no sense, networks that do not fit the classes, people of one class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import biotrain as bt
from biotrain import study
from biotrain.cli import main
from biotrain.errors import BioTrainError
from biotrain.sklearn import DeviceClassifier
from biotrain.study.data.recordings import Recordings
from biotrain.study.data.splits import SplitError

SMALL = ["mibminet", "--chans", "2", "--times", "64", "--classes", "3", "--sfreq", "125"]

OPTIONS: list[tuple[list[str], str]] = [
    (["--memory", "256"], "256KiB"),
    (["--memory", "nan"], "no amount of memory"),
    (["--memory", "-5kB"], "no amount of memory"),
    (["--memory", "9" * 400], "no amount of memory"),
    (["--deadline", "nan"], "--deadline is a number, not nan"),
    (["--deadline", "-1"], "deadline (ms) is a number above 0"),
    (["--deadline", "1e400"], "--deadline is a number, not inf"),
    (["--max-mj", "nan"], "--max-mj is a number"),
    (["--max-mj", "0"], "energy (mJ) is a number above 0"),
    (["--accumulate", "999999999999"], "--accumulate is at most"),
    (["--accumulate", "99999999"], "at most 1,048,576 windows"),
    (["--batch", "99999999", "--norm", "batch"], "at most 1,048,576 windows"),
    (["--lr", "inf"], "--lr is a number"),
    (["--seed", "-1"], "--seed"),
    (["--seed", "9" * 30], "--seed"),
    (["--store", "fp8"], "what is stored is"),
    (["--target", "z80"], "no target is called 'z80'"),
    (["--title", "x"], "No such option"),
    (["--json", "a\0b"], "NUL"),
]


@pytest.mark.parametrize(("options", "complaint"), OPTIONS, ids=lambda value: str(value)[:20])
def test_options_are_checked_before_a_network_is_built(
    options: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    from biotrain.cli.model import Model

    def built(self: object) -> None:
        raise AssertionError("a network was built first")

    monkeypatch.setattr(Model, "built", built)
    assert main(["plan", *SMALL, *options]) == 2
    assert complaint in capfd.readouterr().err


@pytest.mark.parametrize("samples", ["2147483647", "20000000"])
def test_more_windows_than_there_is_memory(samples: str, capfd: Any) -> None:
    assert main(["run", *SMALL, "--samples", samples]) == 2
    assert "random windows do not fit" in capfd.readouterr().err


def test_more_processes_than_a_machine_has(capfd: Any) -> None:
    assert main(["study", "--data", "synthetic-emg", "--jobs", "4097"]) == 2
    assert "--jobs" in capfd.readouterr().err


def test_a_glob_of_modules_that_there_are_not(capfd: Any) -> None:
    assert main(["plan", *SMALL, "--no-frontier", "--store", "fp16:["]) == 2
    assert "no module's path matches '['; there are " in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--chans", "999999999"],
        ["--times", "999999999"],
        ["--classes", "999999999"],
        ["--sfreq", "1e300"],
        ["--chans", "16384", "--times", "4194304"],
        ["--classes", "65536", "--times", "4194304"],
    ],
    ids=str,
)
def test_shapes_beyond_all_recordings(options: list[str], capfd: Any) -> None:
    assert main(["plan", "epidenet", *options]) == 2
    assert capfd.readouterr().err.count("\n") == 1


class Fixed(nn.Module):
    """Ten outputs, whatever is asked for."""

    def __init__(self, n_chans: int = 2, n_times: int = 16, outputs: int = 10) -> None:
        super().__init__()
        self.line = nn.Linear(n_chans * n_times, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x.flatten(1))


def few(one_class: bool = False) -> Recordings:
    """Two people and three classes; with `one_class`, the second person shows one of them only."""
    rng = np.random.default_rng(0)
    y = np.tile(np.arange(3), 20)
    if one_class:
        y[30:] = 1
    x = rng.integers(-300, 300, (60, 2, 16)).astype(np.int16)
    return Recordings(
        x, 0.5, y, np.repeat([1, 2], 30), np.ones(60, int), 100.0, ("a", "b"), ("u", "v", "w"),
        "uV", "few", time_s=np.tile(np.arange(30.0), 2),
    )  # fmt: skip


def ten(n_chans: int, n_times: int, n_outputs: int, sfreq: float, norm: str) -> nn.Module:
    return Fixed(n_chans, n_times)


def test_outputs_that_do_not_fit_the_classes() -> None:
    with pytest.raises(BioTrainError, match=r"'ten' returns \[1, 10\] .* there are 3 classes"):
        study.adapt(few(), ten, 2, ["last"], pretrain_epochs=0, epochs=1)
    x, y = few().signal(), few().y
    with pytest.raises(BioTrainError, match=r"'Fixed' returns \[1, 10\]"):
        DeviceClassifier(Fixed()).fit(x, y)
    with pytest.raises(BioTrainError, match=r"'Fixed' returns \[1, 10\]"):
        DeviceClassifier(Fixed, sfreq=100.0).fit(x, y)


def test_one_output_has_nothing_to_learn_from_cross_entropy() -> None:
    with pytest.raises(BioTrainError, match="an output for each class, or use loss='mse'"):
        bt.compile(Fixed(outputs=1), torch.zeros(1, 2, 16), accumulate=1)
    bt.compile(Fixed(outputs=1), torch.zeros(1, 2, 16), loss="mse", accumulate=1)
    bt.compile(Fixed(outputs=1), torch.zeros(1, 2, 16), strategy="none", accumulate=1)


def test_a_person_of_one_class_has_no_accuracy() -> None:
    rec = few(one_class=True)
    with pytest.raises(SplitError, match="test windows are of class v"):
        study.day1(rec, 2)
    with pytest.raises(SplitError, match="nothing to tell apart"):
        study.adapt(rec, ten, "all", ["none"], pretrain_epochs=0)
    calibration, test = study.day1(rec, 1)
    assert len(calibration), len(test)


def test_settings_are_checked_before_anything_is_pretrained() -> None:
    def never(**_: object) -> nn.Module:
        raise AssertionError("a network was built first")

    for wrong in (
        {"memory": "256"}, {"memory": "nan"}, {"target": "z80"}, {"on": "moon"}, {"on": "rtl"},
        {"lr": float("nan")}, {"momentum": 1.0}, {"weight_decay": -1.0}, {"schedule": "step"},
        {"accumulate": 2**40}, {"epochs": 2**40}, {"seeds": (-1,)}, {"seeds": (2**70,)},
    ):  # fmt: skip
        with pytest.raises(BioTrainError):
            study.adapt(few(), never, 2, ["last"], **wrong)


class Strange(nn.Module):
    """Returns whatever `make` makes of its scores."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.line, self.make = nn.Linear(32, 3), make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(self.line(x.flatten(1)))


def broken(value: float) -> nn.Module:
    net = Fixed(outputs=3)
    with torch.no_grad():
        net.line.weight[0, 0] = value
    return net


NETWORKS: dict[str, tuple[Any, str]] = {
    "two tensors": (Strange(lambda y: (y, y)), "returns 2 tensors"),
    "a dictionary": (Strange(lambda y: {"a": y, "b": y}), "the model returns a, b"),
    "nothing": (Strange(lambda y: None), "must return a tensor"),
    "a number": (Strange(lambda y: 3), "must return one tensor"),
    "a text": (Strange(lambda y: "x"), "must return one tensor"),
    "raises": (Strange(lambda y: 1 / 0), "refuses the model"),
    "branches on values": (Strange(lambda y: y if y.sum() > 0 else -y), "refuses the model"),
    "complex": (Strange(lambda y: torch.complex(y, y)), "torch function 'complex'"),
    "integers": (Strange(lambda y: y.argmax(1)), "torch function 'argmax'"),
    "NaN": (broken(float("nan")), "'line.weight' holds values that are NaN or infinite"),
    "infinite": (broken(float("inf")), "'line.weight' holds values that are NaN or infinite"),
    "beyond float32": (broken(1.0).double(), "."),
    "TorchScript": (torch.jit.ScriptModule(), "TorchScript"),
    "no module": (lambda x: x, "a torch module or a .pt2 file, not a function"),
    "a number as a model": (3, "a torch module or a .pt2 file, not a int"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_nothing_can_be_made_of(name: str) -> None:
    model, complaint = NETWORKS[name]
    if name == "beyond float32":
        with torch.no_grad():
            model.line.weight[0, 0] = 1e300
        complaint = "'line.weight' holds values that are NaN or infinite in float32"
    with pytest.raises(BioTrainError, match=complaint) as caught:
        bt.compile(
            model, torch.zeros(1, 2, 16, dtype=getattr(model, "dtype", torch.float32)), accumulate=1
        )
    assert "\n" not in str(caught.value)


EXAMPLES: dict[str, Any] = {
    "text": "window",
    "None": None,
    "objects": np.array([object()]),
    "complex": np.zeros((1, 2, 16), complex),
    "scalar": 1.0,
    "empty": np.zeros((0, 2, 16), np.float32),
    "another shape": np.zeros((1, 3, 5), np.float32),
    "ragged": [[1.0], [1.0, 2.0]],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_that_are_no_window(name: str) -> None:
    with pytest.raises(BioTrainError):
        bt.compile(Fixed(outputs=3), EXAMPLES[name], accumulate=1)


def test_examples_that_are_a_window() -> None:
    """A tensor of a graph of gradients, and integers of a converter."""
    for example in (
        torch.zeros(1, 2, 16, requires_grad=True),
        np.zeros((1, 2, 16), np.int16),
        torch.zeros(1, 2, 16, requires_grad=True) * 2,
    ):
        bt.compile(Fixed(outputs=3), example, accumulate=1)


SETTINGS: list[dict[str, Any]] = [
    {"memory": True}, {"memory": -1}, {"memory": 1.5}, {"memory": "256"}, {"memory": float("nan")},
    {"deadline_ms": float("nan")}, {"deadline_ms": "x"}, {"max_mj": -1.0}, {"max_mj": float("inf")},
    {"accumulate": 10**12}, {"accumulate": 1.5}, {"batch": 10**12}, {"strategy": 3},
    {"strategy": "nothing*"}, {"store": "fp16:nothing"}, {"store": 16}, {"store": "fp16:["},
    {"target": "z80"}, {"loss": "hinge"}, {"prefix": "a b"}, {"title": 3}, {"optimizer": "sgd"},
    {"gradients": "none"}, {"input_type": "int8"}, {"input_type": "int16"}, {"optimize": "fun"},
    {"input_type": "int16", "input_scale": float("nan")}, {"rewrites": ["nothing"]},
]  # fmt: skip


@pytest.mark.parametrize("wrong", SETTINGS, ids=str)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(BioTrainError):
        bt.compile(Fixed(outputs=3), torch.zeros(1, 2, 16), **{"accumulate": 1, **wrong})


def test_names_that_stand_twice() -> None:
    rec = few()
    with pytest.raises(BioTrainError, match="two channels are called 'a'"):
        Recordings(**{**vars(rec), "channels": ("a", "a")})
    with pytest.raises(BioTrainError, match="two classes are called 'u'"):
        Recordings(**{**vars(rec), "classes": ("u", "v", "u")})

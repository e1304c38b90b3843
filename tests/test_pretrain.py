# SPDX-License-Identifier: Apache-2.0
"""Pretraining and the torch reference, and how `adapt` drives a device and reports."""

import copy
import json
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import biotrain.study as study
from biotrain.errors import BioTrainError
from biotrain.study.metrics import balanced_accuracy
from biotrain.study.order import shuffled
from biotrain.study.results import plots
from biotrain.study.torch_training import trainable
from biotrain.writing.drawing import save

ROW = [
    "dataset", "scenario", "model", "norm", "strategy", "subject", "session", "seed", "accuracy",
    "balanced_accuracy", "chance", "ram_bytes", "ops", "steps", "crc32",
]  # fmt: skip


@pytest.fixture(scope="module")
def rec() -> study.Recordings:
    return study.generate("emg", subjects=4, sessions=1, trials=16)


@pytest.fixture(scope="module")
def others(rec: study.Recordings) -> np.ndarray:
    return np.flatnonzero(rec.subject != 1)


@pytest.fixture(scope="module")
def start(rec: study.Recordings, others: np.ndarray) -> nn.Module:
    return study.pretrain(rec, "epidenet", others, epochs=15)


def score(module: nn.Module, rec: study.Recordings, idx: np.ndarray) -> float:
    return float(np.mean(study.predict(module, rec.signal(idx)).argmax(1) == rec.y[idx]))


def equal(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


def test_statistics_are_those_of_the_given_windows_only(rec: study.Recordings) -> None:
    idx = np.flatnonzero(rec.subject > 2)
    mean, std = study.statistics(rec, idx)
    signal = rec.signal(idx).astype(np.float64)
    np.testing.assert_allclose(mean, signal.mean((0, 2)), atol=1e-9)
    np.testing.assert_allclose(std, np.sqrt(signal.var(-1).mean(0)), rtol=1e-6)
    x = rec.x.copy()
    x[rec.subject <= 2] = 30000
    x[rec.subject == 2, :, ::2] = -30000
    other = study.Recordings(**{**vars(rec), "x": x})
    np.testing.assert_array_equal(study.statistics(other, idx)[1], std)
    x[:, 3] = 7
    with pytest.raises(study.RecordingError, match="channel EMG4 is flat"):
        study.statistics(study.Recordings(**{**vars(rec), "x": x}), idx)


def test_an_offset_does_not_change_what_the_network_sees(rec: study.Recordings) -> None:
    idx = np.arange(40)
    _, std = study.statistics(rec, idx)
    moved = study.Recordings(**{**vars(rec), "x": rec.x.astype(np.int32) + 400_000})
    np.testing.assert_allclose(study.statistics(moved, idx)[1], std, rtol=1e-12)


def test_pretraining_learns_and_repeats(
    rec: study.Recordings, others: np.ndarray, start: nn.Module
) -> None:
    assert score(start, rec, others) > 0.5  # chance is 0.14
    state = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    first = study.pretrain(
        rec, "epidenet", others, epochs=2, seed=3, on_epoch=lambda *e: seen.append(e)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert seen == [(1, 2), (2, 2)]
    torch.rand(5)  # the global generator plays no part
    assert equal(first, study.pretrain(rec, "epidenet", others, epochs=2, seed=3))
    assert not equal(first, study.pretrain(rec, "epidenet", others, epochs=2, seed=4))
    assert list(dict(first.named_children())) == ["standardize", "network"]
    assert not first.training


def test_the_target_subject_is_not_looked_at(rec: study.Recordings, others: np.ndarray) -> None:
    x = rec.x.copy()
    x[rec.subject == 1] = 0
    blind = study.Recordings(**{**vars(rec), "x": x})
    first = study.pretrain(rec, "epidenet", others, epochs=1)
    assert equal(first, study.pretrain(blind, "epidenet", others, epochs=1))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_norm_and_pool_of_the_device(norm: str, rec: study.Recordings, others: np.ndarray) -> None:
    net = study.pretrain(rec, "epidenet", others, epochs=0, norm=norm)
    kinds = {type(m) for m in net.modules()}
    assert (nn.GroupNorm in kinds) == (nn.AvgPool2d in kinds) == (norm == "group")
    assert (nn.BatchNorm2d in kinds) == (nn.MaxPool2d in kinds) == (norm == "batch")


def test_fine_tuning_full_beats_none(rec: study.Recordings, start: nn.Module) -> None:
    calibration, test = study.day1(rec, 1, "repetition")
    before = score(start, rec, test)
    full = copy.deepcopy(start)
    study.finetune_torch(full, rec.signal(calibration), rec.y[calibration], epochs=15)
    assert score(full, rec, test) > before + 0.05
    last = copy.deepcopy(start)
    study.finetune_torch(
        last, rec.signal(calibration), rec.y[calibration], strategy="last", epochs=2
    )
    changed = [
        name
        for (name, a), b in zip(last.state_dict().items(), start.state_dict().values(), strict=True)
        if not torch.equal(a, b)
    ]
    assert changed == ["network.classifier.weight", "network.classifier.bias"]


def test_a_batch_of_eight_is_eight_accumulated_samples(
    rec: study.Recordings, start: nn.Module
) -> None:
    """With GroupNorm: what a device does, one sample after the other, against finetune_torch."""
    idx = np.arange(0, 44, 2)  # two groups of 8 and a rest of 6
    x, y = rec.signal(idx), rec.y[idx]
    batched = copy.deepcopy(start)
    study.finetune_torch(batched, x, y, epochs=2, schedule="constant", seed=5)
    single = copy.deepcopy(start)
    single.train()
    for module in single.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    optimizer = torch.optim.SGD(single.parameters(), lr=5e-3, momentum=0.9, weight_decay=1e-3)
    for epoch in range(2):
        order = shuffled(len(x), 5, epoch)
        for group in (order[:8], order[8:16], order[16:]):
            optimizer.zero_grad()
            for k in group:
                logits = single(torch.from_numpy(x[[k]]))
                loss = nn.functional.cross_entropy(logits, torch.from_numpy(y[[k]]))
                (loss / len(group)).backward()
            optimizer.step()
    for a, b in zip(batched.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_only_full_lets_batch_norm_learn(rec: study.Recordings, others: np.ndarray) -> None:
    net = study.pretrain(rec, "epidenet", others, epochs=0, norm="batch")
    x, y = rec.signal(np.arange(16)), rec.y[:16]
    last, full = copy.deepcopy(net), copy.deepcopy(net)
    study.finetune_torch(last, x, y, strategy="last", epochs=1)
    study.finetune_torch(full, x, y, strategy="full", epochs=1)
    name = "network.norm1.running_mean"
    assert torch.equal(last.state_dict()[name], net.state_dict()[name])
    assert not torch.equal(full.state_dict()[name], net.state_dict()[name])


def test_shuffles_differ_by_epoch_and_seed() -> None:
    orders = [shuffled(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_errors(rec: study.Recordings, others: np.ndarray, start: nn.Module) -> None:
    with pytest.raises(BioTrainError, match="no network for it: no built-in model"):
        study.pretrain(rec, "resnet50", others)
    short = study.Recordings(**{**vars(rec), "x": rec.x[:, :, :4]})
    with pytest.raises(BioTrainError, match="too short"):
        study.pretrain(short, "epidenet", others)
    with pytest.raises(study.RecordingError, match="no windows"):
        study.pretrain(rec, "epidenet", [])
    with pytest.raises(BioTrainError, match="a schedule is"):
        study.finetune_torch(copy.deepcopy(start), rec.signal([0]), rec.y[[0]], schedule="step")
    with pytest.raises(BioTrainError, match='"last" or "full"'):
        trainable(start, "norm")
    x = rec.signal([0, 1])
    x[1, 0, 0] = np.nan
    with pytest.raises(BioTrainError, match="the loss became nan"):
        study.finetune_torch(copy.deepcopy(start), x, rec.y[:2])


# ---------------------------------------------------------------- adapt, with a device of paper


class PaperDevice:
    """Notes how it is called; predicts class 0 until trained, and the truth afterwards."""

    def __init__(self, calls: list[Any], truth: dict[bytes, int]) -> None:
        self.calls, self.truth, self.trained = calls, truth, False

    def begin(self, total_steps: int, lr: float) -> None:
        assert lr > 0
        self.calls.append(("begin", total_steps))

    def save_state(self) -> bool:
        return self.trained

    def load_state(self, state: bool) -> None:
        self.trained = state

    def train(self, x: np.ndarray, y: np.ndarray) -> float:
        assert x.dtype == np.float32
        assert x.ndim == 3
        self.calls.append(("train", len(x), y.tolist()))
        self.trained = True
        return 1.0

    def crc32(self) -> int:
        return 0

    def close(self) -> None:
        self.trained = False

    def predict(self, x: np.ndarray) -> np.ndarray:
        labels = [self.truth[w.tobytes()] if self.trained else 0 for w in x]
        return np.eye(7, dtype=np.float32)[labels]


@pytest.fixture
def calls(rec: study.Recordings, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `adapt` asks of the compiler and the device."""
    import biotrain as bt

    made: list[Any] = []
    truth = {w.tobytes(): int(label) for w, label in zip(rec.signal(), rec.y, strict=True)}

    def compile_(net: nn.Module, example: torch.Tensor, **options: Any) -> SimpleNamespace:
        assert tuple(example.shape) == (1, 8, 200)
        assert not any(isinstance(m, nn.Dropout) for m in net.modules())
        made.append(("compile", options["strategy"], options["optimizer"], options["accumulate"]))
        return SimpleNamespace(
            plan=SimpleNamespace(ram_bytes=1000, ops=2000, feature_bytes=0),
            run=lambda on: PaperDevice(made, truth),
            save=lambda folder, **_: made.append(("save", folder.name)),
        )

    def in_torch(*args: Any, **options: Any) -> None:
        raise BioTrainError("pretraining in torch here")

    monkeypatch.setattr(bt, "compile", compile_)
    monkeypatch.setattr(import_module("biotrain.study.pretrain"), "train_in_c", in_torch)
    return made


def test_adapt_drives_the_device_and_reports(
    rec: study.Recordings, calls: list[Any], tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []
    strategies = ("none", "last", "full", study.REFERENCE)
    result = study.adapt(
        rec,
        "epidenet",
        [2, 1],
        strategies,
        epochs=3,
        lr_per_strategy={"last": 0.02},
        seeds=(0, 1),
        pretrain_epochs=1,
        pretrain_every=4,
        progress=lambda *step: seen.append(step),
        save_to=tmp_path,
    )
    rows = result.rows
    assert all(list(row.to_json()) == ROW for row in rows)
    assert [(r.subject, r.seed, r.strategy) for r in rows] == [
        (s, seed, strategy) for s in (2, 1) for seed in (0, 1) for strategy in strategies
    ]
    none, last, full, reference = rows[:4]
    calibration, test = study.day1(rec, 2, "repetition")
    steps = 3 * -(-len(calibration) // 8)
    assert (none.accuracy, none.steps) == (float(np.mean(rec.y[test] == 0)), 0)
    assert (full.accuracy, full.balanced_accuracy, full.steps) == (1.0, 1.0, steps)
    assert (full.ram_bytes, full.ops, full.chance) == (1000, 2000, 1 / 7)
    assert (full.norm, reference.norm, reference.ram_bytes) == ("group", "batch", None)
    assert (last.dataset, last.scenario, last.session) == ("synthetic-emg", "day1", 1)
    kinds = [call[0] for call in calls][:14]
    assert kinds == ["compile", "save", *["compile", "save", "begin", *["train"] * 3] * 2]
    assert [c[1] for c in calls if c[0] == "save"] == ["none", "last", "full"]
    rates = {c[1]: c[2].lr for c in calls if c[0] == "compile"}
    assert rates == {"none": 5e-3, "last": 0.02, "full": 1e-2}
    assert ("begin", steps) in calls
    epochs = [c for c in calls if c[0] == "train"][:3]
    assert all(c[1] == len(calibration) for c in epochs)
    assert epochs[0][2] != epochs[1][2]  # another order
    assert [len(c.accuracy) for c in result.curves[:4]] == [1, 4, 4, 4]
    assert seen[0][0] == "subject 2, seed 0: pretraining (group norm)"
    assert ("subject 1, seed 1: full", 3, 3) in seen
    told = json.loads(result.to_json())
    assert list(told) == ["rows", "summary", "curves", "settings"]
    assert told["settings"]["split"] == "repetition"
    assert told["settings"]["synthetic"] is True
    summary = {entry["strategy"]: entry for entry in told["summary"]}
    assert summary["full"]["accuracy"] == 1.0
    assert summary["full"]["subjects"] == summary["full"]["seeds"] == 2
    assert summary["none"]["gain_over_none"] is None
    assert summary["full"]["gain_over_none"] == pytest.approx(1 - summary["none"]["accuracy"])

    for name in ("a.png", "a.svg"):
        first = save(plots.figure(result), tmp_path / name).read_bytes()
        assert save(plots.figure(result), tmp_path / f"b{name[1:]}").read_bytes() == first
        assert len(first) > 5000
    assert b"synthetic-emg" in (tmp_path / "a.svg").read_bytes()
    with pytest.raises(BioTrainError, match=r"a figure is .png or .svg"):
        save(plots.figure(result), tmp_path / "a.pdf")
    with pytest.raises(BioTrainError, match="cannot write"):
        save(plots.figure(result), tmp_path / "none" / "a.png")


def test_the_generated_c_adapts_as_torch_does(
    rec: study.Recordings, start: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = import_module("biotrain.study.adapt")  # the name in the package is the function
    monkeypatch.setattr(module, "pretrain", lambda *a, **k: copy.deepcopy(start))
    strategies = ("none", "last", "full")
    result = study.adapt(rec, "epidenet", 1, strategies, epochs=5, lr=5e-3, save_to=tmp_path)
    calibration, test = study.day1(rec, 1, "repetition")
    x, y = rec.signal(calibration), rec.y[calibration]
    assert result.rows[0].accuracy == score(start, rec, test)
    for row in result.rows[1:]:
        net = copy.deepcopy(start)
        study.finetune_torch(net, x, y, strategy=row.strategy, epochs=5)
        assert abs(row.accuracy - score(net, rec, test)) <= 1 / len(test)
    _, last, full = result.rows
    assert last.ram_bytes < full.ram_bytes
    assert last.ops < full.ops
    assert full.accuracy > result.rows[0].accuracy
    assert (tmp_path / "full" / "model.c").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"subject": 9}, "no subject 9; there are 1, 2, 3, 4"),
        ({"subject": "one"}, "no subject one; there are 1, 2, 3, 4"),
        ({"subject": []}, "at least one subject"),
        ({"norm": "layer"}, "norm is one of group, convert, frozen, batch"),
        ({"split": "chronological"}, "use split repetition"),
        ({"lr_per_strategy": {"lats": 1.0}}, "a learning rate for lats"),
        ({"accumulate": 0}, "accumulate"),
        ({"seeds": ()}, "at least one strategy and one seed"),
    ],
)
def test_adapt_refuses_before_it_works(
    rec: study.Recordings, calls: list[Any], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(BioTrainError, match=complaint) as caught:
        study.adapt(rec, "epidenet", **({"subject": 1} | options))
    assert "\n" not in str(caught.value)
    assert calls == []


def test_adapt_needs_others(rec: study.Recordings, calls: list[Any]) -> None:
    alone = rec.take(np.flatnonzero(rec.subject == 1))
    with pytest.raises(BioTrainError, match="no others to pretrain on"):
        study.adapt(alone, "epidenet", 1)


def test_adapt_takes_a_factory_and_names_synthetic_data(
    rec: study.Recordings, calls: list[Any]
) -> None:
    def tiny(n_chans: int, n_times: int, n_outputs: int, sfreq: float, norm: str) -> nn.Module:
        assert norm == "group"
        return nn.Sequential(nn.Flatten(), nn.Linear(n_chans * n_times, n_outputs))

    renamed = study.Recordings(**{**vars(rec), "name": "mine"})
    result = study.adapt(renamed, tiny, 1, ("none",), pretrain_epochs=1)
    assert result.rows[0].model == "tiny"
    assert result.rows[0].dataset == "mine (synthetic)"


def test_balanced_accuracy_counts_the_classes_that_are_there() -> None:
    y = np.array([0, 0, 0, 2])
    assert balanced_accuracy(np.array([0, 0, 0, 0]), y) == 0.5
    assert balanced_accuracy(np.array([0, 1, 1, 2]), y) == pytest.approx((1 / 3 + 1) / 2)

# SPDX-License-Identifier: Apache-2.0
"""One recipe means the same in every verb, what is named beside it counts, and it travels."""

from __future__ import annotations

import json
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import biotrain as bt
from biotrain.cli import app
from biotrain.cli.live_options import DeviceOptions
from biotrain.recipe import DEFAULT, RECIPES, recipe_of
from biotrain.study import AdaptSettings
from biotrain.study.recipes import BEST
from biotrain.study.rules import Rule
from biotrain.study.settings import CalibrationSettings
from biotrain.study.spec import make_spec

X = torch.zeros(1, 4, 64)


class Net(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            torch.nn.Conv1d(4, 4, 8),
            torch.nn.BatchNorm1d(4),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * 57, 3),
        )


def frozen() -> torch.nn.Module:
    torch.manual_seed(0)
    return bt.prepare(Net(), norm="frozen")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json_and_its_rule_parses(name: str) -> None:
    recipe = RECIPES[name]
    assert (
        bt.Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe == recipe_of(name)
    )
    rule = Rule.parse(recipe.rule)
    assert (rule.transform == "align", rule.adabn) == (recipe.align, recipe.adabn)
    assert rule.learns_labels == (recipe.strategy != "none")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("defalt", "no recipe is called 'defalt' (did you mean default?)"),
        ({"epoch": 3}, "recipe: no setting is called epoch (did you mean epochs?)"),
        ({"epochs": -1}, "recipe 'default': epochs lies in 0 to"),
        ({"epochs": True}, "recipe 'default': epochs is a whole number, not True"),
        ({"lr": float("nan")}, "recipe 'default': lr is a number, not nan"),
        ({"norm": "instance"}, "norm is one of group, convert, frozen, batch"),
        ({"batch": 4}, "batch is one group: it goes with accumulate 1"),
        ({"norm": "group"}, "norm is frozen or batch where adabn"),
        (7, "a recipe is a bt.Recipe, or the name of one, not 7"),
        ("there/is/none.json", "no recipe in 'there/is/none.json'"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_one_line(given: Any, text: str) -> None:
    with pytest.raises(bt.BioTrainError) as error:
        bt.compile(frozen(), X, recipe=given)
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_defaults_agree() -> None:
    """Where nobody says anything, every verb calibrates alike."""
    calibration, adapted, device = CalibrationSettings(), AdaptSettings(), DeviceOptions()
    for name in ("epochs", "momentum", "weight_decay", "schedule", "accumulate", "clip_norm"):
        assert getattr(calibration, name) == getattr(adapted, name) == getattr(DEFAULT, name)
    assert adapted.repeats == calibration.repeats == DEFAULT.repeats
    assert device.epochs is device.lr is device.accumulate is device.strategy is None
    assert bt.compile(frozen(), X).source.accumulate == DEFAULT.accumulate == 8
    assert bt.compile(frozen(), X, gradients="update").source.accumulate == 1
    live: dict[str, Any] = {"live": bt.Live(), "input_type": "int16", "input_scale": 1e-3}
    for recipe, epochs in ((None, DEFAULT.epochs), (bt.Recipe(epochs=4, repeats=1), 4)):
        pkg = bt.compile(bt.prepare(Net()), X, recipe=recipe, **live)
        assert f"#define BT_LIVE_EPOCHS {epochs}u" in pkg.files["live.h"]
    pkg = bt.compile(bt.prepare(Net()), X, recipe=bt.Recipe(artefacts=8, replay=5), **live)
    assert f"#define BT_LIVE_ARTEFACTS {round(8 * 1.4826 * 256)} " in pkg.files["live.h"]
    assert pkg.notes == ("recipe 'default': the live firmware leaves out align, adabn, replay",)
    assert pkg.recipe is not None
    assert pkg.recipe.rule == "full"
    assert pkg.source.optimizer.lr == BEST["full"].lr
    assert AdaptSettings().strategy(DEFAULT.rule).recipe.lr == DEFAULT.rate == 2e-2


def test_compile_follows_a_recipe_and_what_is_named_beside_it() -> None:
    pkg = bt.compile(frozen(), X, recipe="default")
    assert pkg.source.optimizer == bt.SGD(lr=2e-2, schedule="cosine", clip_norm=1.0)
    assert pkg.source.adabn is not None
    assert pkg.notes == (
        "recipe 'default': left to the program that trains: align, epochs, repeats",
    )
    named = bt.compile(frozen(), X, recipe="default", strategy="last", accumulate=3, adabn=False)
    assert named.strategy == "last"
    assert named.source.adabn is None
    assert named.source.accumulate == 3
    assert named.recipe is not None
    assert named.recipe.rule == "align+last"
    own = bt.SGD(lr=0.1, momentum=0.0)
    changed = bt.compile(frozen(), X, recipe="default", optimizer=own).recipe
    assert changed is not None
    assert (changed.rate, changed.momentum, changed.clip_norm) == (0.1, 0.0, 0.0)
    without = bt.compile(bt.prepare(Net()), X, recipe="default")
    assert without.source.optimizer.lr == BEST["align+full"].lr
    assert "no adabn, for the network has no BatchNorm" in without.notes[0]
    adam = bt.compile(frozen(), X, recipe=bt.Recipe(optimizer="adam"))
    assert adam.source.optimizer == bt.Adam(1e-3, weight_decay=1e-3, schedule="cosine", clip_norm=1)
    batch = bt.compile(bt.prepare(Net(), norm="batch").train(), X, recipe="conventional")
    assert batch.source.batch is not None
    assert batch.source.batch.size == 8


def test_a_package_carries_its_recipe(tmp_path: Path) -> None:
    recipe = bt.Recipe(name="mine", epochs=3, lr=0.004)
    pkg = bt.compile(frozen(), X, recipe=recipe)
    pkg.save(tmp_path / "c")
    assert recipe_of(pkg) == recipe_of(tmp_path / "c") == recipe_of(str(tmp_path / "c")) == recipe
    again = bt.compile(frozen(), X, recipe=pkg)
    assert again.source.optimizer == pkg.source.optimizer
    old = tmp_path / "old"
    old.mkdir()
    (old / "package.json").write_text('{"model": "epidenet", "train": {"lr": null}}')
    assert recipe_of(old) == DEFAULT  # of a package from before there were recipes
    (old / "own.json").write_text(json.dumps({"name": "file", "epochs": 5}))
    assert recipe_of(old / "own.json") == bt.Recipe(name="file", epochs=5)


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert not done.exception, done.output
    return done.output


def test_the_command_line_compiles_by_a_recipe(tmp_path: Path) -> None:
    shape = ["--chans", "4", "--times", "200", "--classes", "3", "--sfreq", "200"]
    folder = str(tmp_path / "c")
    said = run("compile", "epidenet", *shape, "--recipe", "default", "--lr", "0.004", "-o", folder)
    assert "recipe 'default': left to the program that trains: align, epochs, repeats" in said
    settings = json.loads((tmp_path / "c" / "package.json").read_text())
    assert settings["recipe"] == bt.Recipe(lr=0.004).to_json() | {"norm": None}
    assert settings["train"]["schedule"] == "cosine"
    assert settings["train"]["adabn"]
    text = run("run", folder, "--samples", "8")
    assert "not as this version emits" not in text
    other = run("plan", "epidenet", *shape, "--recipe", folder, "--no-frontier")
    assert "align" in other
    plain = str(tmp_path / "plain")
    run("compile", "epidenet", *shape, "-o", plain)
    settings = json.loads((tmp_path / "plain" / "package.json").read_text())
    assert settings["recipe"] is None
    assert (settings["train"]["accumulate"], settings["train"]["strategy"]) == (8, "full")
    del settings["recipe"]  # as an earlier version wrote it
    (tmp_path / "plain" / "package.json").write_text(json.dumps(settings))
    assert "not as this version emits" not in run("run", plain, "--samples", "8")


def test_a_study_follows_a_recipe() -> None:
    data = [{"source": "synthetic-emg", "models": ["epidenet"]}]
    spec = make_spec({"recipe": "published", "calibrate": {"epochs": 5}, "data": data})
    none, full = spec.strategies
    assert (none.rule, full.rule) == ("none", "full")
    assert full.recipe.lr == 5e-3
    assert (full.recipe.clip_norm, full.recipe.repeats, full.recipe.epochs) == (0.0, 0, 5)
    with pytest.raises(bt.BioTrainError, match="a study trains by SGD, recipe 'default' by adam"):
        make_spec({"recipe": {"optimizer": "adam"}, "data": data})
    left_open = make_spec({"recipe": "default", "strategies": ["last"], "data": data}).strategies
    assert left_open[0].recipe.lr == BEST["last"].lr


def test_adapt_follows_a_recipe() -> None:
    from biotrain.study.data.sources import load

    rec = load("synthetic-emg")
    quick: dict[str, Any] = {"pretrain_epochs": 1, "pretrain_every": 20}
    asked = bt.Recipe(name="mine", align=False, adabn=False, epochs=2, clip_norm=0.5)
    result = bt.adapt(rec, "epidenet", rec.subjects[0], recipe=asked, **quick)
    settings = result.settings
    assert settings.strategies == ["none", "full"]
    assert (settings.epochs, settings.clip_norm, settings.recipe) == (2, 0.5, "mine")
    with pytest.raises(bt.BioTrainError, match="settings and recipe both say how to calibrate"):
        bt.adapt(rec, "epidenet", 1, settings=AdaptSettings(), recipe=asked)


def two_classes(n: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = rng.standard_normal((n, 4, 64)).astype(np.float32)
    x[:, 0] += np.sin(np.arange(64) * np.where(y, 0.3, 1.0)[:, None])
    return x, y


def test_a_classifier_follows_the_recipe_of_its_package() -> None:
    """It aligns and re-estimates from the windows of `fit`, as PyTorch and the study do."""
    pytest.importorskip("sklearn")
    from sklearn.base import clone

    from biotrain.sklearn import DeviceClassifier
    from biotrain.study.labelfree import adabn, align
    from biotrain.topology.copies import copied

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(4, 4, 8), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(4 * 57, 2),
    )  # fmt: skip
    x, y = two_classes(24, 0)
    x = x @ np.float32(np.eye(64)) * np.float32([1, 3, 9, 2])[:, None]
    label_free = bt.compile(bt.prepare(net, norm="frozen"), X, recipe="unlabelled")
    clf = clone(DeviceClassifier(label_free)).fit(x, y)
    assert clf.recipe_.rule == "align+adabn"
    moved = align(x)(x)
    want = adabn(copied(net), moved).eval()(torch.from_numpy(moved)).softmax(1).detach().numpy()
    np.testing.assert_allclose(clf.predict_proba(x), want, atol=2e-5)
    spoilt = x.copy()
    spoilt[5] *= 1000
    screened = DeviceClassifier(label_free, recipe=bt.Recipe(strategy="none", artefacts=8))
    rest = np.delete(np.arange(24), 5)
    never = DeviceClassifier(label_free).fit(x[rest], y[rest])
    np.testing.assert_array_equal(screened.fit(spoilt, y).predict_proba(x), never.predict_proba(x))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = DeviceClassifier(lambda: copied(net), recipe="default", epochs=1).fit(x, y)
    assert [str(w.message) for w in told] == [
        "DeviceClassifier does not follow align, adabn of recipe 'default' here"
    ]
    assert made.package_.source.optimizer.clip_norm == DEFAULT.clip_norm


def test_every_field_has_a_home() -> None:
    """A field that nothing reads would be ignored without a word."""
    from biotrain.study.recipes import CALIBRATES

    ruled = {"name", "align", "adabn", "strategy", "optimizer"}
    assert {f.name for f in fields(bt.Recipe)} == ruled | set(CALIBRATES)

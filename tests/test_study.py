# SPDX-License-Identifier: Apache-2.0
"""A study: what is asked becomes cells, an interruption loses nothing, workers change nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import biotrain
from biotrain.cli import main
from biotrain.errors import BioTrainError
from biotrain.study import RecordingError, Recordings, SplitError, adapt, generate
from biotrain.study.calibrate import calibrate, compiled
from biotrain.study.cells import Cell, content_of, expand
from biotrain.study.data.splits import apart, calibration_sizes, day1, held_back
from biotrain.study.labelfree import adabn, align, minimise_entropy, standardise, transformed
from biotrain.study.order import shuffled
from biotrain.study.pretrain import pretrain
from biotrain.study.run import Event, Outcome, run
from biotrain.study.settings import CalibrationSettings, Strategy
from biotrain.study.spec import Spec, make_spec, read_spec
from biotrain.study.store import Store, canonical, read_rows
from biotrain.study.task import Task

ROOT = Path(__file__).resolve().parents[1]
CONTRACT = [
    "dataset", "scenario", "model", "norm", "strategy", "subject", "session", "seed",
    "accuracy", "balanced_accuracy", "chance", "ram_bytes", "ops", "steps",
]  # fmt: skip


def small(
    n_chans: int, n_times: int, n_outputs: int, sfreq: float, norm: str = "batch"
) -> nn.Module:
    """Filters, their power, and a line through it."""
    layer = nn.BatchNorm1d(6) if norm == "batch" else nn.GroupNorm(1, 6)
    return nn.Sequential(
        nn.Conv1d(n_chans, 6, 8, bias=False),
        layer,
        nn.ReLU(),
        nn.AvgPool1d(16),
        nn.Flatten(),
        nn.Linear(6 * ((n_times - 7) // 16), n_outputs),
    )


def resolve(name: str) -> tuple[Any, bool]:
    """Workers import this module for it."""
    return small, True


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two people, two sessions each."""
    path = tmp_path_factory.mktemp("data") / "two.npz"
    return str(generate("emg", subjects=2, sessions=2, trials=8).save(path))


def asked(data: str, **more: Any) -> dict[str, Any]:
    return {
        "data": [{"source": data, "models": ["small"]}],
        "strategies": ["none", "last", "full", "full-bn8"],
        "scenarios": ["longitudinal"],
        "others": 20,
        "calibrate": {"epochs": 2, "lr": 0.05},
        "pretrain": {"epochs": 2},
        **more,
    }


@pytest.fixture(scope="module")
def spec(data: str) -> Spec:
    return make_spec(asked(data))


@pytest.fixture(scope="module")
def undisturbed(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(spec, tmp_path_factory.mktemp("undisturbed"), resolve=resolve)


def test_rows_say_what_the_contract_asks_and_what_was_forgotten(undisturbed: Outcome) -> None:
    rows = undisturbed.rows
    assert undisturbed.failures == undisturbed.left_out == []
    assert len(rows) == undisturbed.computed == 2 * 2 * 4
    for row in rows:
        assert [key for key in row.to_json() if key in CONTRACT] == CONTRACT
        assert np.sum(row.confusion) == row.windows[1]
        assert np.trace(row.confusion) / row.windows[1] == pytest.approx(row.accuracy)
        assert row.before == row.curve[0]
        assert 0 <= row.others <= 1
        assert [one.session for one in row.earlier] == list(range(1, row.session))
        assert row.scenario == ("day1" if row.session == 1 else "longitudinal")
    by = {(r.subject, r.session, r.strategy): r for r in rows}
    for subject in (1, 2):
        assert by[subject, 1, "none"].before == by[subject, 1, "full"].before
        # Nothing adapted: session 1 is as it was. Adapted: session 2 starts from there.
        first, second = (by[subject, session, "none"] for session in (1, 2))
        assert second.earlier[0].accuracy == first.accuracy
        assert first.others == second.others
        assert by[subject, 2, "full"].crc32 != by[subject, 1, "full"].crc32
        assert by[subject, 1, "full-bn8"].norm == "batch"
        assert by[subject, 1, "full-bn8"].ram_bytes is None
    assert any(by[s, 2, "full"].before != by[s, 2, "none"].before for s in (1, 2)), (
        "session 2 does not start from the weights of session 1"
    )


def test_a_study_gives_what_adapt_gives(undisturbed: Outcome, data: str) -> None:
    from biotrain.study import load

    strategies = ("none", "last", "full")
    found = adapt(load(data), small, "all", strategies, epochs=2, pretrain_epochs=2, lr=0.05)
    for row in found.rows:
        same = next(
            r
            for r in undisturbed.rows
            if all(getattr(r, k) == getattr(row, k) for k in ("subject", "session", "strategy"))
        )
        told = same.to_json()
        assert {k: told[k] for k in row.to_json()} == {**row.to_json(), "model": "small"}


def test_nothing_is_computed_twice(spec: Spec, undisturbed: Outcome, tmp_path: Path) -> None:
    day1_only = make_spec({**asked(spec.data[0].source), "scenarios": ["day1"]})
    first = run(day1_only, tmp_path, resolve=resolve)
    assert (first.computed, first.found) == (8, 0)
    for file in (tmp_path / "adapted").iterdir():  # as if they had been thrown away
        file.unlink()
    events: list[Event] = []
    extended = run(spec, tmp_path, resolve=resolve, watch=events.append)
    assert (extended.computed, extended.found) == (8, 8)
    assert canonical(extended.rows) == canonical(undisturbed.rows)
    assert not any("pretrain" in event.text for event in events)
    assert events[0].text == "16 cells to compute"  # 8 of them again, for their weights
    assert events[-1].done == events[-1].total
    assert events[-1].seconds_left == 0
    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 16
    (tmp_path / "results.jsonl").write_text("".join(lines)[:-20])  # torn while it was written
    events.clear()
    mended = run(spec, tmp_path, resolve=resolve, watch=events.append)
    assert (mended.computed, [e.done for e in events]) == (1, [0, 1])
    assert canonical(read_rows(tmp_path)) == canonical(undisturbed.rows)
    again = run(spec, tmp_path, resolve=resolve)
    assert (again.computed, again.found) == (0, 16)


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = [{src!r}, {tests!r}]
from test_study import asked, resolve
from biotrain.study.run import run
from biotrain.study.spec import make_spec
if __name__ == "__main__":
    run(make_spec(asked({data!r})), {folder!r}, resolve=resolve, jobs=int(sys.argv[1]))
"""


def start(folder: Path, data: str, jobs: int) -> subprocess.Popen[bytes]:
    """The same study in a process of its own."""
    program = folder.with_suffix(".py")
    source = Path(biotrain.__file__).parents[1]
    program.write_text(
        PROGRAM.format(src=str(source), tests=str(ROOT / "tests"), data=data, folder=str(folder))
    )
    return subprocess.Popen([sys.executable, str(program), str(jobs)], stderr=subprocess.PIPE)


@pytest.mark.ci
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_random_moments_it_goes_on(
    undisturbed: Outcome, data: str, tmp_path: Path, jobs: int
) -> None:
    folder = tmp_path / "killed"
    chance = random.Random(jobs)
    pieces = 4 + 16  # folds and cells, by the lines of timings.jsonl
    kill_at = chance.randrange(1, pieces)
    process = start(folder, data, jobs)
    timings, end = folder / "timings.jsonl", time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if timings.exists() and timings.read_bytes().count(b"\n") >= kill_at:
            break
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    results = folder / "results.jsonl"
    if results.exists():  # as if the kill had cut a line
        results.write_bytes(results.read_bytes() + b'{"key":"abc","acc')
    process = start(folder, data, jobs)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()
    assert canonical(read_rows(folder)) == canonical(undisturbed.rows)


@pytest.mark.ci
def test_a_dask_cluster_gives_the_same(undisturbed: Outcome, spec: Spec, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra cluster)")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        found = run(spec, tmp_path, resolve=resolve, cluster=address)
    assert canonical(found.rows) == canonical(undisturbed.rows)


def test_a_cluster_needs_an_address(spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(BioTrainError, match="dask://HOST:PORT"):
        run(spec, tmp_path, resolve=resolve, cluster="ray://here")


def test_a_cell_that_fails_does_not_end_the_study(data: str, tmp_path: Path) -> None:
    more = {"strategies": ["none", "full"], "scenarios": ["day1"]}
    tight = {"strategy": {"full": {"memory": "1KiB"}}}
    found = run(make_spec(asked(data, **more, **tight)), tmp_path, resolve=resolve)
    assert [row.strategy for row in found.rows] == ["none", "none"]
    assert len(found.failures) == 2
    assert "subject 1, session 1, seed 0: full: " in found.failures[0]


def test_batch_norm_over_a_batch_in_the_c_is_the_conventional_way(
    data: str, tmp_path: Path
) -> None:
    more = {"strategies": ["full-bn8", "in-c"], "scenarios": ["day1"], "calibrate": {"epochs": 4}}
    more["calibrate"] |= {"clip_norm": 0.0, "repeats": 0}  # type: ignore[operator]
    in_c = {"strategy": {"in-c": {"rule": "full", "norm": "batch", "batch": 8}}}
    found = run(make_spec(asked(data, **(more | in_c))), tmp_path, resolve=resolve)
    assert found.failures == []
    by = {(r.subject, r.strategy): r for r in found.rows}
    for subject in (1, 2):
        torch_row, c_row = by[subject, "full-bn8"], by[subject, "in-c"]
        assert c_row.norm == "batch"
        assert c_row.ram_bytes > 0
        assert c_row.steps == torch_row.steps
        assert c_row.before == torch_row.before
        assert c_row.accuracy == pytest.approx(torch_row.accuracy, abs=1.01 / 14)


def test_two_leaders_in_one_folder_are_refused(tmp_path: Path) -> None:
    with (
        Store(tmp_path),
        pytest.raises(BioTrainError, match="another study is running"),
        Store(tmp_path),
    ):
        pass
    (tmp_path / "results.jsonl").write_text("nonsense\n")
    with pytest.raises(BioTrainError, match=r"results.jsonl, line 1: no result"), Store(tmp_path):
        pass


# ---------------------------------------------------------------- what is asked


def cells(data: str, **more: Any) -> dict[tuple[Any, ...], Cell]:
    made = expand(make_spec(asked(data, **more)), resolve).cells
    return {
        (c.fold.subject, c.session, c.experiment.scenario, c.size, c.strategy.name): c for c in made
    }


def test_keys_change_with_what_decides_a_cell_and_with_nothing_else(
    data: str, tmp_path: Path
) -> None:
    before = cells(data)
    other_rate = cells(data, strategy={"last": {"lr": 0.5}})
    for key, cell in before.items():
        assert (cell.key == other_rate[key].key) == (key[-1] != "last")
        assert cell.fold.key == other_rate[key].fold.key
    # `none` does not depend on how others calibrate, everything on pretraining.
    longer = cells(data, calibrate={"epochs": 3})
    assert {k[-1] for k, c in before.items() if c.key == longer[k].key} == {"none"}
    assert not {c.key for c in before.values()} & {
        c.key for c in cells(data, pretrain={"epochs": 3}).values()
    }
    # Another file with the same content is the same; one changed sample is not.
    from biotrain.study import load

    rec = load(data)
    copied = str(rec.save(tmp_path / "two.npz"))
    assert [c.key for c in before.values()] == [c.key for c in cells(copied).values()]
    x = rec.x.copy()
    x[0, 0, 0] += 1
    changed = Recordings(**{**vars(rec), "x": x})
    assert content_of(changed) != content_of(rec)
    # Folds are shared by strategies of the same norm.
    assert len({c.fold.key for c in before.values() if c.fold.subject == 1}) == 2


def test_a_set_may_have_subjects_and_settings_of_its_own(tmp_path: Path) -> None:
    """Recipes are chosen on some people, without a look at the others."""
    path = str(generate("emg", subjects=4, sessions=1, trials=8).save(tmp_path / "four.npz"))
    study = {
        "data": [
            {"source": path, "models": ["small"], "among": [1, 3]},
            {"source": path, "models": ["small"], "subjects": [2], "strategies": ["last"]},
            {
                "source": path,
                "models": ["small"],
                "subjects": [4],
                "strategy": {"last": {"epochs": 5}},
            },
        ],
        "strategies": ["none", "last"],
        "strategy": {"last": {"lr": 0.5}},
    }
    found = expand(make_spec(study), resolve).cells
    assert [(c.fold.subject, c.strategy.name) for c in found] == [
        (1, "none"), (1, "last"), (3, "none"), (3, "last"), (2, "last"), (4, "none"), (4, "last"),
    ]  # fmt: skip
    assert found[0].fold.source.load().subjects == [1, 3]
    assert [c.strategy.recipe.lr for c in found if c.strategy.name == "last"] == [0.5] * 4
    assert found[-1].strategy.recipe.epochs == 5
    study["data"] = [{"source": path, "models": ["small"], "among": [1, 9]}]
    with pytest.raises(RecordingError, match="no subject 9"):
        expand(make_spec(study), resolve)


def test_statistics_again_and_then_training(data: str, tmp_path: Path) -> None:
    """adabn is adabn+none, with torch's answers where the compiler does not take the network;
    adabn+full starts there and keeps the statistics."""
    names = ["adabn", "adabn+none", "adabn+full", "refused", "again"]
    frozen = {"norm": "frozen"}
    own = {names[1]: frozen, names[2]: frozen, "refused": {"rule": "adabn", "memory": "1KiB"}}
    own["again"] = {"rule": "adabn+full", "adabn_every": 1}
    study = asked(data, strategies=names, strategy=own)
    done = run(make_spec(study), tmp_path, resolve=resolve).rows
    rows = {(r.strategy, r.subject, r.session): r for r in done}
    for subject in (1, 2):
        for session in (1, 2):
            alone, plain, full, torch_s, again = (rows[n, subject, session] for n in names)
            assert alone.crc32 == plain.crc32
            assert alone.confusion == plain.confusion == torch_s.confusion
            assert alone.before == torch_s.before
            assert min(alone.ram_bytes, alone.ops) > 0
            assert alone.norm == "batch"
            assert torch_s.ram_bytes is None
            assert "in torch, for the compiler refuses" in torch_s.notes[0]
            if session == 1:
                assert full.before == plain.accuracy
            assert len({row.crc32 for row in (plain, full, again)}) == 3
    with pytest.raises(BioTrainError, match="needs BatchNorm"):
        make_spec(asked(data, strategies=["adabn+full"], calibrate={"norm": "group"}))


def test_what_nobody_names_is_what_did_best(data: str) -> None:
    """Rates and norms by rule; a study's own, and its strategies' own, stand before them."""
    one = {"source": data, "models": ["small"]}

    def of(**more: Any) -> dict[str, tuple[float, str]]:
        made = make_spec({"data": [one], **more}).strategies
        return {s.name: (s.recipe.lr, s.recipe.norm) for s in made}

    found = of()
    assert list(found) == ["none", "align+adabn", "last", "full", "align+adabn+full", "full-bn8"]
    assert found["last"] == (0.05, "group")
    assert found["align+adabn+full"] == (2e-2, "frozen")
    assert of(strategies=["adabn+full"])["adabn+full"] == (5e-3, "frozen")
    assert found["full-bn8"] == (5e-3, "group")
    names = ["last", "adabn+full", "adabn+last", "full"]
    said = of(strategies=names, calibrate={"lr": 0.1}, strategy={"last": {"lr": 0.2}})
    assert [said[name][0] for name in names] == [0.2, 0.1, 0.1, 0.1]
    assert [said[name][1] for name in names] == ["group", "frozen", "frozen", "group"]
    batch = of(strategies=["full"], calibrate={"norm": "batch", "batch": 8})
    assert batch["full"] == (5e-3, "batch")  # the rate of GroupNorm is no advice for it
    kept = of(strategies=["none", "adabn", "full"], calibrate={"norm": "convert"})
    assert kept["full"] == (1e-2, "convert")


def test_networks_without_batch_norm_leave_out_its_statistics(data: str) -> None:
    def plain(name: str) -> tuple[Any, bool]:
        def make(n_chans: int, n_times: int, n_outputs: int, sfreq: float, norm: str) -> nn.Module:
            return nn.Sequential(nn.Flatten(), nn.Linear(n_chans * n_times, n_outputs))

        return make, True

    study = asked(data, strategies=["none", "adabn", "adabn+full", "last"])
    found = expand(make_spec(study), plain)
    assert {cell.strategy.name for cell in found.cells} == {"none", "last"}
    assert found.left_out[0] == (
        "small has no BatchNorm: no statistics to re-estimate, so nothing with adabn"
    )


def test_seeds_may_share_the_pretraining(data: str) -> None:
    one = {"source": data, "models": ["small"], "subjects": [1]}
    study = asked(data, strategies=["last"], scenarios=["day1"], seeds=[0, 1, 2])
    study["data"] = [one]
    own = expand(make_spec(study), resolve).cells
    assert [(c.seed, c.fold.seed) for c in own] == [(0, 0), (1, 1), (2, 2)]
    study["data"] = [one | {"pretrain_seed": 1}]
    shared = expand(make_spec(study), resolve).cells
    assert [(c.seed, c.fold.seed) for c in shared] == [(0, 1), (1, 1), (2, 1)]
    assert shared[1].key == own[1].key
    assert len({c.key for c in shared} - {c.key for c in own}) == 2
    study["pretrain"]["seed"] = 2
    study["data"] = [one]
    assert {c.fold.key for c in expand(make_spec(study), resolve).cells} == {own[2].fold.key}


def test_scenarios(data: str) -> None:
    made = cells(data, scenarios=["day1", "sizes"], sizes=[2, 4, 100], strategies=["none"])
    assert [(k[2], k[3]) for k in made if k[0] == 1] == [
        ("day1", None),
        ("sizes", 2),
        ("sizes", 4),
    ]
    chain = cells(data, strategies=["last"])
    first, second = (
        chain[1, s, name, None, "last"] for s, name in ((1, "day1"), (2, "longitudinal"))
    )
    assert (first.before, second.before) == (None, first.key)
    assert len(second.earlier) == 1


def test_one_session_leaves_longitudinal_out(tmp_path: Path) -> None:
    path = generate("emg", subjects=2, sessions=1, trials=8).save(tmp_path / "one.npz")
    made = expand(make_spec(asked(str(path))), resolve)
    assert {c.experiment.scenario for c in made.cells} == {"day1"}
    assert made.left_out == [
        "synthetic-emg: one session only, so nothing longitudinal, of subject 1, 2"
    ]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"seed": [1]}, "no setting is called seed (did you mean seeds?)"),
        ({"data": []}, "at least one [[data]]"),
        ({"data": [{"source": "a"}]}, "[[data]]: models is missing"),
        ({"data": [{"source": "a", "models": ["b"], "split": 3}]}, "split must be str or NoneType"),
        ({"strategies": ["ful"]}, "no rule is called ful (did you mean full?)"),
        ({"strategy": {"lats": {"lr": 1.0}}}, "[strategy.lats]: no strategy of that name"),
        ({"strategy": {"last": {"lr": "high"}}}, "[strategy.last]: lr must be float"),
        ({"calibrate": {"norm": "layer"}}, "no norm layer; there are group, convert"),
        ({"scenarios": ["day2"]}, "no scenario day2"),
        ({"seeds": []}, "at least one seed"),
        ({"sizes": [0]}, "above 0"),
    ],
)
def test_what_cannot_be_asked(data: str, more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BioTrainError) as caught:
        make_spec({**asked(data), **more})
    assert complaint in str(caught.value)


def test_the_examples_are_studies() -> None:
    made = make_spec(read_spec(ROOT / "examples" / "study.toml"))
    by_name = {s.name: s for s in made.strategies}
    assert by_name["gentle"].rule == "full"
    assert by_name["gentle"].recipe.lr == 1e-3
    assert by_name["full"].recipe.lr == 5e-3
    assert by_name["full-bn8"].rule == "full-bn8 (torch)"
    forgetting = make_spec(read_spec(ROOT / "examples" / "forgetting.toml"))
    assert [(s.rule, s.recipe.replay) for s in forgetting.strategies] == [
        ("full", 0),
        ("full", 100),
    ]


def test_the_verb(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    what = ["--data", data, "--model", "test_study:small", "--strategies", "none,full-bn8"]
    options = ["--epochs", "1", "--pretrain-epochs", "1", "--subject", "2", "--seeds", "0,1"]
    arguments = ["study", *what, *options, "--out", str(tmp_path), "--json", "-"]
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(r["subject"], r["seed"], r["strategy"]) for r in told["rows"]] == [
        (2, seed, s) for seed in (0, 1) for s in ("none", "full-bn8")
    ]
    assert told["summary"][0]["balanced_accuracy"]["n"] == 1
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["computed"] == 0
    assert main(["study", "--out", str(tmp_path)]) == 2
    assert main(["study", *what, "--strategies", "none,fool*", "--out", str(tmp_path)]) == 1
    assert "trains no parameter" in capsys.readouterr().err


# ---------------------------------------------------------------- held back, and seen again


def overlapping(labels: Sequence[int], hop: int) -> Recordings:
    """Windows of 40 samples, one every `hop`, all of one session."""
    rng = np.random.default_rng(0)
    count = len(labels)
    line = rng.integers(-30000, 30000, (2, hop * count + 40)).astype(np.int16)
    return Recordings(
        x=np.stack([line[:, k * hop : k * hop + 40] for k in range(count)]),
        scale=1.0,
        y=np.array(labels),
        subject=np.ones(count, int),
        session=np.ones(count, int),
        fs=100.0,
        channels=("a", "b"),
        classes=("r", "s", "t"),
        unit="uV",
        name="made",
    )


def test_held_back_windows_share_nothing_with_what_trains() -> None:
    rec = overlapping([0] * 20 + [1] * 20 + [2] * 20, hop=20)
    calibration = np.arange(60)
    trains, held = held_back(rec, calibration, 0.25, seed=3)
    assert not set(trains) & set(held)
    assert set(trains) | set(held) <= set(calibration)
    reach = rec.duration_s - 0.5 / rec.fs
    gaps = np.abs(trains[:, None] - held) * 0.2
    assert gaps.min() > reach
    assert len(trains) + len(held) < 60, "nothing overlapped: this tests nothing"
    everything = apart(rec, calibration, held)
    assert everything.tolist() == [k for k in calibration if np.abs(k - held).min() * 0.2 > reach]
    for label in np.unique(rec.y):
        share = np.mean(rec.y[held] == label)
        assert 0 < share == pytest.approx(1 / rec.n_classes, abs=0.05)
        assert (rec.y[trains] == label).any()
    assert held.tolist() == held_back(rec, calibration, 0.25, seed=3)[1].tolist()
    assert held.tolist() != held_back(rec, calibration, 0.25, seed=4)[1].tolist()
    with pytest.raises(SplitError, match="between 0 and 1"):
        held_back(rec, calibration, 1.0, 0)
    with pytest.raises(SplitError, match="nothing of 1 calibration windows"):
        held_back(rec, calibration[:1], 0.2, 0)


@pytest.mark.parametrize("best", ["loss", "accuracy"])
def test_the_kept_weights_are_those_of_the_best_epoch(data: str, best: str) -> None:
    """The same calibration by hand, judged by torch's cross-entropy."""
    from biotrain.study import load

    rec = load(data)
    calibration, test = day1(rec, 1, "repetition")
    start = pretrain(rec, small, np.flatnonzero(rec.subject == 2), epochs=2)
    settings = CalibrationSettings(epochs=12, lr=0.1, schedule="constant", holdout=0.3, best=best)
    task = Task(rec, 1, 0, (calibration, test))
    found = calibrate(task, start, Strategy("full", "full", settings))
    assert found.kept is not None
    trains, held = held_back(rec, calibration, 0.3, 0)
    device = compiled(start, rec.signal([0]), "full", settings).run("host")
    device.begin(total_steps=0)
    scores, states, crcs = [], [], []
    for epoch in range(13):
        if epoch:
            order = trains[shuffled(len(trains), 0, epoch - 1)]
            device.train(rec.signal(order), rec.y[order])
        logits = torch.from_numpy(device.predict(rec.signal(held)).astype(np.float64))
        y = torch.from_numpy(rec.y[held])
        loss = float(nn.functional.cross_entropy(logits, y))
        right = float((logits.argmax(1) == y).double().mean())
        scores.append((loss,) if best == "loss" else (-right, loss))
        states.append(device.predict(rec.signal(test)))
        crcs.append(device.crc32())
    assert found.kept == min(range(13), key=scores.__getitem__)
    assert 0 < found.kept < 12, "the first or the last epoch: this tests too little"
    assert found.cost.crc32 == crcs[found.kept]
    assert found.cost.steps == 12 * -(-len(trains) // 8)
    assert found.logits.tobytes() == states[found.kept].tobytes()


def test_what_only_harms_is_taken_back_and_patience_ends_it(data: str, tmp_path: Path) -> None:
    recipe = {"epochs": 6, "lr": 1.0, "schedule": "constant", "holdout": 0.3, "patience": 2}
    more = {"scenarios": ["day1"], "strategies": ["none", "full", "full-bn8"]}
    found = run(make_spec(asked(data, **more, calibrate=recipe)), tmp_path, resolve=resolve)
    assert found.failures == []
    for row in found.rows:
        assert len(row.curve) == (1 if row.strategy == "none" else 7)
        assert row.curve[-1] == row.accuracy
        if row.strategy == "none":
            assert row.kept is None
            continue
        per_epoch = row.steps // min(6, row.kept + 2)
        assert row.steps == per_epoch * min(6, row.kept + 2)
    harmed = [r for r in found.rows if r.kept == 0]
    assert harmed, "no rate of 1 harms: choose a higher one"
    for row in harmed:
        assert row.accuracy == row.before
    with pytest.raises(BioTrainError, match="patience needs a holdout"):
        make_spec(asked(data, calibrate={"patience": 3}))


def test_replay_is_remembered(tmp_path: Path) -> None:
    """Subject 1 makes two gestures only: learning them forgets the others, unless they are seen
    again."""
    rec = generate("emg", subjects=3, sessions=2, trials=16)
    rec = rec.take(np.flatnonzero((rec.subject != 1) | (rec.y < 2)))
    path = rec.save(tmp_path / "two-gestures.npz")
    more = {
        "data": [{"source": str(path), "models": ["small"], "subjects": [1]}],
        "strategies": ["full", "again"],
        "strategy": {"again": {"rule": "full", "replay": 40}},
        "calibrate": {"epochs": 8, "lr": 0.01},
        "pretrain": {"epochs": 15, "lr": 5e-3},
        "others": 300,
    }
    spec = make_spec(asked("") | more)
    made = expand(spec, resolve).cells
    for cell in made:
        replay = cell.replay
        assert len(replay) == (40 if cell.strategy.name == "again" else 0)
        assert not set(replay) & set(cell.others)
        own = replay[rec.subject[replay] == 1]
        assert len(own) == (20 if cell.session == 2 and len(replay) else 0)
        assert set(own) <= set(cell.earlier[0][0] if cell.earlier else ())
        counts = np.bincount(rec.y[np.setdiff1d(replay, own)])
        assert not len(replay) or np.ptp(counts) <= 1
    found = run(spec, tmp_path / "study", resolve=resolve)
    by = {(r.session, r.strategy): r for r in found.rows}
    for session in (1, 2):
        plain, again = by[session, "full"], by[session, "again"]
        assert again.replayed == 40
        assert again.steps > plain.steps
        assert again.others > plain.others + 0.1
    off = {**more["calibrate"], "replay": 0, "best": "accuracy"}  # type: ignore[dict-item]
    same = expand(make_spec(asked("") | more | {"calibrate": off}), resolve)
    assert [c.key for c in same.cells] == [c.key for c in made], "off, they decide nothing"


# ---------------------------------------------------------------- splits


@given(
    labels=st.lists(st.integers(0, 2), min_size=12, max_size=50),
    hop=st.sampled_from([10, 20, 40]),
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
)
def test_calibration_sizes_are_nested_and_balanced(
    labels: list[int], hop: int, sizes: list[int]
) -> None:
    rec = overlapping(labels, hop)
    try:
        whole, test = day1(rec, 1, "chronological-per-class")
    except SplitError:
        return
    found = list(calibration_sizes(rec, 1, sizes, "chronological-per-class"))
    largest = int(np.bincount(rec.y[whole]).max())
    assert len(found) == len({s for s in sizes if s <= largest})
    before: set[int] = set()
    for per_class, (calibration, tested) in zip(sorted(set(sizes)), found, strict=False):
        assert tested.tolist() == test.tolist()
        assert set(calibration) <= set(whole)
        assert before <= set(calibration)
        for label in np.unique(rec.y[whole]):
            own = whole[rec.y[whole] == label]
            assert calibration[rec.y[calibration] == label].tolist() == own[:per_class].tolist()
        before = set(calibration)


def test_a_size_of_nothing_is_refused(data: str) -> None:
    from biotrain.study import load

    with pytest.raises(SplitError, match="at least one window"):
        list(calibration_sizes(load(data), 1, [0, 5]))


# ---------------------------------------------------------------- without labels


def shifted(mixing: np.ndarray, trials: int = 120) -> Recordings:
    """Three people; the class says which channel is the strong one, and the third person's channels
    pass through `mixing`."""
    rng = np.random.default_rng(1)
    x, y, who = [], [], []
    for subject in (1, 2, 3):
        for k in range(trials):
            label = k % 3
            signal = rng.standard_normal((3, 128))
            signal[label] *= 2.5
            x.append(mixing @ signal if subject == 3 else signal)
            y.append(label)
            who.append(subject)
    from biotrain.study import from_signal

    return from_signal(
        np.stack(x),
        y=np.array(y),
        subject=np.array(who),
        session=np.ones(len(y), int),
        fs=100.0,
        channels=("a", "b", "c"),
        classes=("r", "s", "t"),
        unit="uV",
        name="shifted",
        time_s=np.arange(len(y)) * 2.0,
        synthetic=True,
    )


def test_each_way_without_labels_repairs_a_known_shift() -> None:
    gains = np.diag([0.4, 1.0, 2.5])
    turn = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 1.0]])
    ways = ("none", "align", "standardise", "entropy")
    rec = shifted(gains)
    found = adapt(
        rec, small, 3, ways, epochs=10, pretrain_epochs=12, lr_per_strategy={"entropy": 0.02}
    )
    accuracy = {row.strategy: row.accuracy for row in found.rows}
    assert accuracy["align"] > accuracy["none"] + 0.15
    assert accuracy["standardise"] > accuracy["none"] + 0.15
    mixed = adapt(shifted(turn @ gains), small, 3, ("none", "align"), pretrain_epochs=12)
    none, aligned = (row.accuracy for row in mixed.rows)
    assert aligned > none + 0.1


def test_align_makes_the_mean_covariance_the_identity(rng: np.random.Generator) -> None:
    x = (rng.standard_normal((4, 4)) @ rng.standard_normal((30, 4, 200))).astype(np.float32)
    x -= x.mean(-1, keepdims=True)
    aligned = align(x)(x)
    covariance = np.einsum("nct,ndt->cd", aligned, aligned) / (30 * 200)
    assert np.abs(covariance - np.eye(4)).max() < 1e-3
    whole = standardise(x)(x + 100)
    assert np.abs((whole**2).mean((0, 2)) - 1).max() < 1e-3


def test_align_is_pyriemanns(rng: np.random.Generator) -> None:
    """R as pyRiemann's Euclidean mean of its covariances, R^-1/2 as its own."""
    pytest.importorskip("pyriemann.geometry", reason="pyRiemann is not installed")
    from pyriemann.geometry.base import invsqrtm
    from pyriemann.geometry.covariance import covariances
    from pyriemann.geometry.mean import mean_euclid

    mixing = rng.standard_normal((5, 5))
    x = np.einsum("cd,ndt->nct", mixing, rng.standard_normal((30, 5, 200)))
    x = (x + 3 * rng.standard_normal((30, 5, 1))).astype(np.float32)
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    mean = mean_euclid(covariances(centred, estimator="scm"))
    whitened = invsqrtm(mean) @ x.astype(np.float64)
    np.testing.assert_allclose(align(x)(x), whitened, rtol=1e-4, atol=1e-4)
    other = x[:7] * 2
    np.testing.assert_allclose(align(x)(other), 2 * whitened[:7], rtol=1e-4, atol=2e-4)


def test_transformed_recordings_stay_integers_and_sessions_apart(data: str) -> None:
    from biotrain.study import load

    rec = load(data)
    aligned = transformed(rec, "align")
    assert aligned.x.dtype.kind == "i"
    at = np.flatnonzero((rec.subject == 1) & (rec.session == 2))
    alone = align(rec.signal(at))(rec.signal(at))
    assert np.abs(aligned.signal(at) - alone).max() <= aligned.scale
    assert transformed(rec, "") is rec


def test_adabn_takes_the_statistics_of_the_windows(rng: np.random.Generator) -> None:
    x = (5 + 3 * rng.standard_normal((64, 2, 50))).astype(np.float32)
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Flatten(), nn.Linear(100, 2))
    adabn(net, x, batch=24)
    norm = net[0]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert np.allclose(norm.running_mean.numpy(), x.mean((0, 2)), atol=1e-3)
    assert norm.momentum == 0.1
    assert not net.training
    with pytest.raises(BioTrainError, match="this network has none"):
        adabn(nn.Linear(2, 2), x)


def test_entropy_moves_norm_parameters_only_and_lowers_entropy(rng: np.random.Generator) -> None:
    x = rng.standard_normal((40, 3, 64)).astype(np.float32)
    net = small(3, 64, 3, 100.0, "group")
    before = {k: v.clone() for k, v in net.state_dict().items()}

    def entropy() -> float:
        with torch.no_grad():
            p = net(torch.from_numpy(x)).softmax(1)
        return float(-(p * p.log()).sum(1).mean())

    first = entropy()
    minimise_entropy(net, x, epochs=5, lr=0.05)
    assert entropy() < first
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"1.weight", "1.bias"}
    with pytest.raises(BioTrainError, match="norm layers"):
        minimise_entropy(nn.Linear(2, 2), x)


def test_no_such_recordings_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="there is no such file"):
        run(make_spec(asked("none.npz")), tmp_path / "made", resolve=resolve)
    assert not (tmp_path / "made").exists()

# SPDX-License-Identifier: Apache-2.0
"""The report: one page that needs nothing else, the same bytes for the same results, honest about
what is missing; and the CSV behind it."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from biotrain.cli import main
from biotrain.errors import BioTrainError

pytest.importorskip("jinja2", reason="Jinja is not installed (extra study)")
from biotrain.study.results.report import write_report

STRATEGIES = ("none", "last", "full", "full-bn8", "align")
VOID = {"meta", "br", "link", "img", "hr", "input"}


def row(strategy: str, subject: int, session: int, dataset: str, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng([STRATEGIES.index(strategy), subject, session])
    steps = 0 if strategy in ("none", "align") else 12
    rise = 0.02 * STRATEGIES.index(strategy)
    curve = [0.4 + rise * k + 0.01 * rng.random() for k in range(1 + (4 if steps else 0))]
    return {
        "dataset": dataset,
        "scenario": "day1" if session == 1 else "longitudinal",
        "model": "net",
        "norm": "group",
        "strategy": strategy,
        "subject": subject,
        "session": session,
        "seed": 0,
        "accuracy": curve[-1],
        "balanced_accuracy": curve[-1],
        "chance": 1 / 3,
        "ram_bytes": None if strategy == "full-bn8" else 10_000 + 9000 * steps,
        "ops": None if strategy == "full-bn8" else 100_000 * (1 + steps),
        "steps": steps,
        "crc32": 1,
        "ms_per_sample": None,
        "mj_per_sample": None,
        "windows_per_class": None,
        "windows": [30, 9],
        "before": curve[0],
        "curve": curve,
        "confusion": [[3, 0, 0], [1, 2, 0], [0, 1, 2]],
        "others": 0.5,
        "earlier": [{"session": 1, "accuracy": 0.6}] if session > 1 else [],
        "notes": ["subject 1, seed 0: full diverged in epoch 2: <nan>"] if subject == 1 else [],
        **more,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished study of two sets, three people and two sessions, with a size curve."""
    sets = ("first", "synthetic-second")
    rows = [row(s, p, n, d) for d in sets for p in (1, 2, 3) for n in (1, 2) for s in STRATEGIES]
    rows += [
        row(s, p, 1, "first", scenario="sizes", windows_per_class=n)
        for n in (5, 10)
        for p in (1, 2, 3)
        for s in STRATEGIES
    ]
    for number, one in enumerate(rows):
        one["key"] = f"{number:064x}"
    facts = {
        "windows": 99,
        "subjects": 3,
        "channels": 8,
        "samples": 200,
        "fs": 200.0,
        "classes": ["rest", "fist", "a<b"],
        "split": "chronological",
        "content": "0" * 64,
    }
    study = {
        "title": "A & B",
        "biotrain": "0",
        "python": "3",
        "torch": "2",
        "numpy": "2",
        "machine": "Linux",
        "command": "biotrain study spec.toml",
        "spec": {
            "bootstrap_seed": 0,
            "seeds": [0],
            "strategies": [{"name": "full", "rule": "full", "recipe": {"lr": 0.005}}],
        },
        "sets": dict.fromkeys(sets, facts),
        "left_out": ["subject 9 has one session"],
        "failures": ["subject 2: full: does not fit"],
        "keys": [one["key"] for one in rows],
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


class Page(HTMLParser):
    """Tags that open and close, what they refer to, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.refers: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action"):
                self.refers.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            self.refers += re.findall(r"url\((#[^)]*)\)", value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_page_is_whole_and_stands_alone(folder: Path) -> None:
    paths = write_report(folder)
    html = paths["report.html"].read_text(encoding="utf-8")
    page = parsed(paths["report.html"])
    assert all(ref.startswith("#") for ref in page.refers), "a reference to something outside"
    assert "@import" not in html
    assert "url(http" not in html
    assert "<script" not in html
    drawings = [part.partition("</svg>")[0] for part in html.split("<svg")[1:]]
    # All at a glance; two sets: day1 (subjects, curves, cost, confusion) and later (subjects,
    # drift, confusion); and one size curve.
    assert len(drawings) == 1 + 2 * (4 + 3) + 1
    for drawing in drawings:
        ElementTree.fromstring(f"<svg{drawing}</svg>")
    # One page has no two elements of the same name that a figure refers to.
    used = [ref.removeprefix("#") for ref in page.refers]
    assert all(page.ids.count(name) == 1 for name in set(used))
    text = " ".join(" ".join(page.text).split())
    for said in (
        "A & B",
        "biotrain study spec.toml",
        "full full 0.005",
        "full diverged in epoch 2: <nan>",
        "subject 9 has one session",
        "subject 2: full: does not fit",
        "synthetic-second: made by a program",
        "full-bn8 ran in PyTorch",
        "Across the sets",
        "rest, fist, a<b",
    ):
        assert said in text, said


def test_equal_results_give_equal_bytes_in_any_order(folder: Path, tmp_path: Path) -> None:
    first = {n: p.read_bytes() for n, p in write_report(folder, tmp_path / "1").items()}
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(reversed(lines)))
    second = {n: p.read_bytes() for n, p in write_report(folder, tmp_path / "2").items()}
    assert first == second


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_a_name_of_others_is_no_formula(folder: Path) -> None:
    """Spreadsheets compute what begins with one of = + - @."""
    for path in folder.iterdir():
        path.write_text(path.read_text().replace("synthetic-second", "=HYPERLINK(1)"))
    paths = write_report(folder)
    for name in ("rows.csv", "summary.csv", "comparisons.csv"):
        cells = [cell for line in table(paths[name]) for cell in line.values()]
        assert not [cell for cell in cells if cell[:1] in "=+@" and cell], name
    assert "'=HYPERLINK(1)" in {line["dataset"] for line in table(paths["rows.csv"])}


def test_the_csv_holds_what_the_page_shows(folder: Path) -> None:
    paths = write_report(folder, metric="accuracy")
    rows = table(paths["rows.csv"])
    results = [json.loads(t) for t in (folder / "results.jsonl").read_text().splitlines()]
    assert [float(r["accuracy"]) for r in rows] == [r["accuracy"] for r in results]
    entries = table(paths["summary.csv"])
    own = [
        r
        for r in results
        if (r["dataset"], r["scenario"], r["strategy"]) == ("first", "day1", "full")
    ]
    (entry,) = [
        e for e in entries
        if (e["dataset"], e["scenario"], e["strategy"]) == ("first", "day1", "full")
    ]  # fmt: skip
    assert float(entry["accuracy"]) == pytest.approx(np.mean([r["accuracy"] for r in own]))
    assert float(entry["accuracy_low"]) <= float(entry["accuracy"]) <= float(entry["accuracy_high"])
    compared = table(paths["comparisons.csv"])
    assert {"none", "last", "full-bn8"} == {c["baseline"] for c in compared}
    html = paths["report.html"].read_text(encoding="utf-8")
    assert f"{100 * float(entry['accuracy']):.1f}" in html


def test_an_unfinished_study_says_so(folder: Path) -> None:
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:40]) + lines[40][:50])
    text = " ".join(" ".join(parsed(write_report(folder)["report.html"]).text).split())
    assert f"{len(lines) - 40} of {len(lines)} cells have no result" in text


def test_one_set_and_one_strategy_are_enough(folder: Path) -> None:
    study = json.loads((folder / "study.json").read_text())
    study["keys"] = study["keys"][:1]
    (folder / "study.json").write_text(json.dumps(study))
    page = parsed(write_report(folder)["report.html"])
    assert "Across the sets" not in " ".join(page.text)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BioTrainError, match="no folder of a study"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(BioTrainError, match="balanced_accuracy or accuracy, not f1"):
        write_report(folder, metric="f1")
    (folder / "results.jsonl").write_text("")
    with pytest.raises(BioTrainError, match="no result of its study yet"):
        write_report(folder)


def test_the_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--out", str(tmp_path / "page"), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["files"]["report.html"]).exists()
    assert {"rows", "summary", "comparisons"} <= set(told)
    assert told["comparisons"][0]["gain"]["n"] == 3
    assert main(["report", str(tmp_path / "nowhere")]) == 2


def test_markdown_says_what_the_csv_says(folder: Path) -> None:
    paths = write_report(folder, against=["align"])
    lines = paths["tables.md"].read_text().splitlines()
    cells = [[c.strip() for c in one.strip("|").split(" | ")] for one in lines if one[:2] == "| "]
    heads = [one for one in cells if one[0] == "strategy"]
    assert heads[0] == ["strategy", "first, net (3)", "synthetic-second, net (3)"]
    assert heads[2] == ["strategy", "over none", "over last", "over full-bn8", "over align"]
    day1 = {one[0]: one for one in cells[2 : 2 + len(STRATEGIES)]}
    for entry in table(paths["summary.csv"]):
        if (entry["dataset"], entry["scenario"]) == ("first", "day1"):
            low, high = (100 * float(entry[f"balanced_accuracy_{end}"]) for end in ("low", "high"))
            mean = 100 * float(entry["balanced_accuracy"])
            text = day1[entry["strategy"]][1].replace("**", "")
            assert text == f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    means = {name: float(one[1].split()[0].strip("*")) for name, one in day1.items()}
    (bold,) = [name for name, one in day1.items() if one[1].startswith("**")]
    assert means[bold] == max(means.values())
    assert main(["report", str(folder), "--against", "nobody"]) == 2


def test_names_stand_as_they_are_in_markdown(folder: Path) -> None:
    text = (folder / "results.jsonl").read_text().replace('"strategy": "full"', '"strategy": "a*|"')
    (folder / "results.jsonl").write_text(text)
    assert "| a\\*\\| | " in write_report(folder)["tables.md"].read_text()

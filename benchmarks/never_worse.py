# SPDX-License-Identifier: Apache-2.0
"""What clipping and undoing keep from going wrong: one recipe at its rate and at ten times it.

    python benchmarks/never_worse.py --out build/never_worse --jobs 2
    python benchmarks/never_worse.py --rule full --norm group --rates 0.002 0.005 0.01

Every person of the four recordings (BIOTRAIN_DATA), one network for each set, one seed, within one
session: `align+adabn+full` at 2e-3 and at 2e-2, with neither (as in 0.1.0) and with both (the
default: `clip_norm` 1, `repeats` 2). The table has the mean of the balanced accuracy and the worst
person, of those whose calibration gave a network that predicts; how many are more than five points
below `none`; how many calibrations left weights that give no numbers; and how many were undone at
least once. A run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from biotrain.cli.model import network
from biotrain.study.rows import StudyRow
from biotrain.study.run import run
from biotrain.study.spec import make_spec

SETS = (
    {"source": "emg_myo", "models": ["epidenet"], "pretrain_every": 2},
    {"source": "eog_office", "models": ["epidenet"]},
    {"source": "mi_graz2b", "models": ["mibminet"], "decimate": 125.0},
    {"source": "eeg_arithmetic", "models": ["mibminet"], "pretrain_seed": 0},
)
WITHOUT = {"clip_norm": 0.0, "repeats": 0}
BELOW = 0.05
"""Balanced accuracy below that of `none` that counts as harm."""


def strategies(rule: str, norm: str, rates: list[float]) -> dict[str, dict[str, Any]]:
    """A rule at each rate, without and with what keeps it."""
    return {
        f"{rule} {rate:g} {how}": {"rule": rule, "norm": norm, "lr": rate, **more}
        for rate in rates
        for how, more in (("neither", WITHOUT), ("both", {}))
    }


def table(rows: list[StudyRow]) -> list[str]:
    """A line for each set and strategy."""
    found: defaultdict[str, defaultdict[str, dict[int, StudyRow]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for row in rows:
        found[row.dataset][row.strategy][row.subject] = row
    lines = [
        "| set (people) | strategy | mean, % | worst, % | harmed | no numbers | undone |",
        "|---" * 7 + "|",
    ]
    for name, by in found.items():
        before = {p: row.balanced_accuracy for p, row in by["none"].items()}
        for strategy, own in by.items():
            values = {p: row.balanced_accuracy for p, row in own.items()}
            harmed = sum(v < before[p] - BELOW for p, v in values.items())
            undone = sum(any("made things worse" in n for n in row.notes) for row in own.values())
            lines.append(
                f"| {name} ({len(before)}) | {strategy} "
                f"| {100 * sum(values.values()) / len(values):.1f} "
                f"| {100 * min(values.values()):.1f} | {harmed} | {len(before) - len(values)} "
                f"| {undone} |"
            )
    return lines


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/never_worse"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rule", default="align+adabn+full")
    parser.add_argument("--norm", default="frozen")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 2e-2])
    given = parser.parse_args()
    named = strategies(given.rule, given.norm, given.rates)
    asked = {
        "data": list(SETS),
        "seeds": [0],
        "scenarios": ["day1"],
        "strategies": ["none", *named],
        "strategy": named,
        "calibrate": {"norm": given.norm},
        "pretrain": {"epochs": 20},
    }
    outcome = run(make_spec(asked), given.out, resolve=network, jobs=given.jobs)
    print("\n".join(table(outcome.rows)))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What covariance features are worth on the device: `covariance` beside published networks.

    python benchmarks/covariance.py --out build/covariance --jobs 2

Every person of the four recordings (BIOTRAIN_DATA) is new in turn, within one session: a network is
pretrained on the others (20 epochs), calibrated in the generated C by the default recipe
(`align+adabn+full`), or conventionally (`full-bn8`: BatchNorm at batch 8, in torch, as published),
and tested on the last fifth. The table has the mean of the balanced accuracy over people, and the
mean over people of the difference to the published network's `full-bn8`, with a 95 % t interval.
One seed by default. A run that was ended goes on where it was.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from biotrain.cli.model import network
from biotrain.study.rows import StudyRow
from biotrain.study.run import run
from biotrain.study.spec import make_spec

SETS: tuple[dict[str, Any], ...] = (
    {"source": "eog_office", "models": ["epidenet", "covariance", "epidenet+covariance"]},
    {"source": "mi_graz2b", "models": ["eegnet", "covariance"], "decimate": 125.0},
    {"source": "eeg_arithmetic", "models": ["mibminet", "covariance"], "pretrain_seed": 0},
    {"source": "emg_myo", "models": ["epidenet", "covariance"], "pretrain_every": 2},
)
CONVENTIONAL, DEVICE = "full-bn8", "align+adabn+full"
STRATEGIES = ("none", "align+adabn", DEVICE, CONVENTIONAL)


def by_person(rows: list[StudyRow]) -> dict[int, float]:
    """Balanced accuracy in percent of each person, the mean over seeds."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for row in rows:
        found[row.subject].append(100 * row.balanced_accuracy)
    return {person: float(np.mean(values)) for person, values in found.items()}


def told(values: dict[int, float], before: dict[int, float]) -> str:
    """Mean difference over the people of both, with its t interval."""
    both = [values[p] - before[p] for p in values if p in before]
    mean = float(np.mean(both))
    half = float(stats.sem(both) * stats.t.ppf(0.975, len(both) - 1))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def table(rows: list[StudyRow]) -> list[str]:
    """A line for each set and network."""
    found: defaultdict[str, defaultdict[str, defaultdict[str, list[StudyRow]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for row in rows:
        found[row.dataset][row.model][row.strategy].append(row)
    lines = [
        "| set (people) | network | "
        + " | ".join(f"`{s}`" for s in STRATEGIES)
        + f" | `{DEVICE}` over the published network's `{CONVENTIONAL}` |",
        "|---" * (len(STRATEGIES) + 3) + "|",
    ]
    for name, networks in found.items():
        published = next(s["models"][0] for s in SETS if s["source"] == name)
        before = by_person(networks[published][CONVENTIONAL])
        for model, strategies in networks.items():
            people = {s: by_person(strategies[s]) for s in STRATEGIES if strategies[s]}
            means = [
                f"{np.mean([*people[s].values()]):.1f}" if s in people else "-" for s in STRATEGIES
            ]
            lines.append(
                f"| {name} ({len(before)}) | {model} | {' | '.join(means)} "
                f"| {told(people[DEVICE], before)} |"
            )
    return lines


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/covariance"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    asked = {
        "data": list(SETS),
        "seeds": given.seeds,
        "scenarios": ["day1"],
        "strategies": list(STRATEGIES),
        "pretrain": {"epochs": 20},
    }
    outcome = run(make_spec(asked), given.out, resolve=network, jobs=given.jobs)
    print("\n".join(table(outcome.rows)))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Recipes for the study of the README, each chosen without a look at the people that it is used on.

The people of every set fall into two halves, those with odd and those with even numbers. In each
half some play the new person: networks are pretrained on the rest of that half, every strategy of
the grid calibrates them, and the best setting of each family, over all sets, goes to the *other*
half. `biotrain study` then runs on the file that this writes.

    python benchmarks/recipes.py --out build/recipes --jobs 2
    biotrain study build/recipes/study.toml --out build/study --jobs 2
    biotrain report build/study

Needs the recordings (BIOTRAIN_DATA).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from biotrain.study.rows import StudyRow
from biotrain.study.run import run
from biotrain.study.spec import make_spec

Table = dict[str, Any]

SETS: Mapping[str, Table] = {
    "emg_myo": {"models": ["epidenet"], "people": 18, "play": 4, "pretrain_every": 2},
    "eog_office": {"models": ["epidenet"], "people": 8, "play": 4},
    "mi_graz2b": {"models": ["mibminet", "eegnet"], "people": 9, "play": 5, "decimate": 125.0},
    "eeg_arithmetic": {
        "models": ["mibminet", "eegnet"],
        "people": 36,
        "play": 6,
        "pretrain_seed": 0,
    },
}
"""Networks, people, and how many of a half play the new person. Where there are few people, every
seed of the study pretrains a network of its own."""

FAMILIES: Mapping[str, tuple[Table, tuple[float, ...]]] = {
    "last": ({"rule": "last"}, (5e-3, 2e-2, 5e-2)),
    "norm": ({"rule": "norm"}, (5e-3, 2e-2)),
    "full": ({"rule": "full"}, (1e-3, 2e-3, 5e-3)),
    "bn8": ({"rule": "full", "norm": "batch", "batch": 8}, (1e-3, 2e-3, 5e-3)),
    "align+full": ({"rule": "align+full"}, (1e-3, 2e-3, 5e-3)),
    "adabn+full": ({"rule": "adabn+full", "norm": "frozen"}, (5e-4, 1e-3, 2e-3, 5e-3)),
    "align+adabn+full": ({"rule": "align+adabn+full", "norm": "frozen"}, (5e-4, 1e-3, 2e-3, 5e-3)),
}
"""Settings and learning rates; the first of equals is taken."""

STOPS: Mapping[str, Table] = {
    "30 epochs": {},
    "10 epochs": {"epochs": 10},
    "best": {"holdout": 0.2},
}
"""When a calibration ends: as published, early, or at the best epoch on a fifth held back."""

PUBLISHED: Mapping[str, Table] = {
    "none": {},
    "align": {},
    "adabn": {},
    "align+adabn": {},
    "last": {},
    "full": {},
    "full-bn8": {},
}
"""arXiv 2604.13359, and what needs no label."""


HEAD = """# SPDX-License-Identifier: Apache-2.0
# Written by benchmarks/recipes.py.

"""


def people(count: int, half: int) -> list[int]:
    """Subjects of a half: 1, 3, 5, ... or 2, 4, 6, ..."""
    return list(range(1 if half else 2, count + 1, 2))


def searched(epochs: int, names: Iterable[str]) -> Table:
    """The study that the recipes are chosen by."""
    strategies = {
        f"{family}, {lr:g}, {stop}": {**settings, "lr": lr, **ends}
        for family, (settings, rates) in FAMILIES.items()
        for lr in rates
        for stop, ends in STOPS.items()
    }
    return {
        "title": "Recipes",
        "strategies": list(strategies),
        "strategy": strategies,
        "others": 0,
        "pretrain": {"epochs": epochs},
        "data": [
            {
                "source": name,
                "models": SETS[name]["models"][:1],
                "among": people(SETS[name]["people"], half),
                "subjects": people(SETS[name]["people"], half)[: SETS[name]["play"]],
                **_more(name),
            }
            for name in names
            for half in (0, 1)
        ],
    }


def _more(name: str) -> Table:
    return {
        k: v for k, v in SETS[name].items() if k in ("decimate", "pretrain_every", "pretrain_seed")
    }


Choice = Mapping[int, Mapping[str, tuple[float, str]]]
"""Half that it is for -> family -> learning rate and stop."""


def chosen(rows: Iterable[StudyRow]) -> Choice:
    """The mean over sets of balanced accuracy decides, over the people of the other half."""
    scores: dict[tuple[int, str], dict[str, list[float]]] = {}
    for row in rows:
        other = 1 - row.subject % 2
        found = scores.setdefault((other, row.strategy), {})
        found.setdefault(row.dataset, []).append(row.balanced_accuracy)
    means = {key: fmean(map(fmean, found.values())) for key, found in scores.items()}

    def best(half: int, family: str, rates: Iterable[float]) -> tuple[float, str]:
        grid = ((lr, stop) for lr in rates for stop in STOPS)
        return max(grid, key=lambda one: means[half, f"{family}, {one[0]:g}, {one[1]}"])

    return {
        half: {family: best(half, family, rates) for family, (_, rates) in FAMILIES.items()}
        for half in (0, 1)
    }


def told(rows: Iterable[StudyRow], choice: Choice) -> list[str]:
    """A line per family: balanced accuracy in % of each set, over people of both halves at what
    the other half chose."""
    found: dict[str, dict[str, list[float]]] = {family: {} for family in FAMILIES}
    for row in rows:
        family, rate, stop = row.strategy.split(", ")
        if (float(rate), stop) == choice[row.subject % 2][family]:
            found[family].setdefault(row.dataset, []).append(row.balanced_accuracy)
    return [
        f"{family:18}"
        + "".join(
            f"  {name} {100 * fmean(values):.1f} ({len(values)})" for name, values in of.items()
        )
        for family, of in found.items()
    ]


def study(choice: Choice, epochs: int, seeds: int) -> Table:
    """The study with the published settings and the chosen ones (a star in the name)."""
    tuned = {f"{family}*": dict(settings) for family, (settings, _) in FAMILIES.items()}
    return {
        "title": "What adapting buys on four public recordings",
        "seeds": list(range(seeds)),
        "scenarios": ["day1", "longitudinal"],
        "strategies": [*PUBLISHED, *tuned],
        "strategy": {k: v for k, v in PUBLISHED.items() if v} | tuned,
        "calibrate": {
            "target": "nrf52840",
            "epochs": 30,
            "lr": 5e-3,
            "norm": "group",
            "clip_norm": 0.0,  # docs/results was computed without
            "repeats": 0,
        },
        "pretrain": {"epochs": epochs},
        "data": [
            {
                "source": name,
                "models": settings["models"],
                "subjects": people(settings["people"], half),
                "scenarios": ["day1"] if name in ("emg_myo", "eeg_arithmetic") else None,
                "strategy": {
                    f"{family}*": {"lr": lr, **STOPS[stop]}
                    for family, (lr, stop) in choice[half].items()
                },
                **_more(name),
            }
            for name, settings in SETS.items()
            for half in (0, 1)
        ],
    }


def as_toml(table: Table) -> str:
    """The TOML of a study: numbers, texts, lists and tables."""
    lines: list[str] = []

    def put(value: Table, path: str) -> None:
        plain = {k: v for k, v in value.items() if not _nested(v) and v is not None}
        lines.extend(f"{_key(k)} = {json.dumps(v)}" for k, v in plain.items())
        for key, inner in value.items():
            where = f"{path}.{_key(key)}".removeprefix(".")
            for one in inner if isinstance(inner, list) else [inner]:
                if _nested(inner):
                    if not all(_nested(v) for v in one.values()):
                        title = f"[[{where}]]" if isinstance(inner, list) else f"[{where}]"
                        lines.extend(["", title])
                    put(one, where)

    put(table, "")
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name)


def _nested(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/recipes"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--search-epochs", type=int, default=20, help="of pretraining")
    parser.add_argument("--epochs", type=int, default=20, help="of pretraining, in the study")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    spec = make_spec(searched(given.search_epochs, given.sets.split(",")))
    rows = run(spec, given.out / "search", jobs=given.jobs).rows
    choice = chosen(rows)
    for half, found in choice.items():
        text = "; ".join(f"{family} {lr:g}, {stop}" for family, (lr, stop) in found.items())
        print(f"subjects with {'odd' if half else 'even'} numbers: {text}")
    print("Balanced accuracy in % (people), at what the other half chose:")
    print("\n".join(told(rows, choice)))
    path = given.out / "study.toml"
    text = HEAD + as_toml(study(choice, given.epochs, given.seeds))
    path.write_text(text, encoding="utf-8")
    print(f"biotrain study {path} --out build/study --jobs 2")


if __name__ == "__main__":
    main()

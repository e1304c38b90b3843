# SPDX-License-Identifier: Apache-2.0
"""Why full fine-tuning with GroupNorm falls behind: what changes if one thing changes.

On the people who play the new one in the search of recipes.py, with networks pretrained on the
rest of their half; nobody of the study's test parts is looked at. Each variant at the learning
rate that suits its kind, one seed.

    python benchmarks/norms.py --out build/norms --jobs 2

Needs the recordings (BIOTRAIN_DATA).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import recipes
from torch import nn

from biotrain import models
from biotrain.cli.model import network
from biotrain.study.run import run
from biotrain.study.spec import make_spec

Table = dict[str, Any]

VARIANTS: Mapping[str, Table] = {
    "full, GroupNorm": {"rule": "full", "lr": 2e-3},
    "... pretrained with BatchNorm": {"rule": "full", "norm": "convert", "lr": 2e-3},
    "BatchNorm, statistics of pretraining kept": {"rule": "full", "norm": "frozen", "lr": 1e-3},
    "BatchNorm, batches of 8": {"rule": "full", "norm": "batch", "batch": 8, "lr": 5e-3},
    "adabn": {"rule": "adabn"},
    "adabn, then the last layer": {"rule": "adabn+last", "norm": "frozen", "lr": 5e-2},
    "adabn, then the norms": {"rule": "adabn+norm", "norm": "frozen", "lr": 2e-2},
    "adabn, then everything": {"rule": "adabn+full", "norm": "frozen", "lr": 1e-3},
    "... adabn again after every epoch": {
        "rule": "adabn+full",
        "norm": "frozen",
        "lr": 5e-3,
        "adabn_every": 1,
    },
    "align, adabn, then everything": {"rule": "align+adabn+full", "norm": "frozen", "lr": 2e-3},
}
"""Of the networks as they are."""

OWN: Mapping[str, Table] = {
    "full, GroupNorm of 4 groups": {"groups": 4, "pool": "avg"},
    "full, GroupNorm, max pooling": {"pool": "max"},
}
"""Of the networks with other options."""


def _variant(name: str, options: Table) -> Callable[..., nn.Module]:
    def make(n_chans: int, n_times: int, n_outputs: int, sfreq: float, norm: str) -> nn.Module:
        shape = (n_chans, n_times, n_outputs, sfreq, norm)
        return models.build(name, *shape, **(options if norm == "group" else {}))

    return make


epidenet_groups = _variant("epidenet", OWN["full, GroupNorm of 4 groups"])
epidenet_pool = _variant("epidenet", OWN["full, GroupNorm, max pooling"])
mibminet_groups = _variant("mibminet", OWN["full, GroupNorm of 4 groups"])
mibminet_pool = _variant("mibminet", OWN["full, GroupNorm, max pooling"])


def asked(epochs: int, build: str | None) -> Table:
    """The study of the variants: of networks as they are, or of `build` of them ("groups")."""
    study = recipes.searched(epochs, recipes.SETS)
    chosen = dict(VARIANTS) if build is None else {"full": VARIANTS["full, GroupNorm"]}
    study |= {"title": "Norms", "strategies": list(chosen), "strategy": chosen}
    if build is not None:
        for data in study["data"]:
            data["models"] = [f"norms:{name}_{build}" for name in data["models"]]
    return study


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/norms"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=20, help="of pretraining")
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for build, label in zip((None, "groups", "pool"), ("", *OWN), strict=True):
        spec = make_spec(asked(given.epochs, build))
        for row in run(spec, given.out / (build or "plain"), resolve=network, jobs=given.jobs).rows:
            values = found.setdefault(label or row.strategy, {})
            values.setdefault(row.dataset, []).append(row.balanced_accuracy)
    print("Balanced accuracy in %, mean over people:")
    for label, values in found.items():
        each = "".join(f"  {name} {100 * fmean(v):.1f} ({len(v)})" for name, v in values.items())
        print(f"{label:42}{each}  mean {100 * fmean(map(fmean, values.values())):.1f}")


if __name__ == "__main__":
    main()

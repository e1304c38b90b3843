# SPDX-License-Identifier: Apache-2.0
"""Recipes: what a calibration does, under one name, for every verb.

`bt.adapt`, `bt.compile`, `DeviceClassifier`, a study and `live` take one as `recipe=`, and the
command line as `--recipe`. What is named beside it takes the place of the recipe's own field. A
package carries the recipe that it was compiled by, so that whoever calibrates with it later need
not be told again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any

from biotrain.errors import BioTrainError, shown

PUBLISHED_LR, ADAM_LR = 5e-3, 1e-3
"""Learning rate of every strategy in arXiv 2604.13359, and that of `torch.optim.Adam`."""

MOST = 2**20
"""Largest count of a recipe: epochs, windows of a group, windows that are replayed."""

PACKAGE_FILE = "package.json"
"""The file of a package that holds its recipe, under "recipe"."""

_CHOICES: Mapping[str, tuple[str | None, ...]] = MappingProxyType(
    {
        "norm": (None, "group", "convert", "frozen", "batch"),
        "optimizer": ("sgd", "adam"),
        "schedule": ("constant", "cosine"),
    }
)


@dataclass(frozen=True)
class Chosen:
    """The norm and the learning rate that a rule calibrates with; None: nothing is known."""

    norm: str | None = None
    lr: float | None = None


BEST: Mapping[str, Chosen] = MappingProxyType(
    {
        "last": Chosen("group", 5e-2),
        "norm": Chosen("group", 2e-2),
        "full": Chosen("group", 1e-2),
        "align+full": Chosen("group", 1e-2),
        "adabn+full": Chosen("frozen", 5e-3),
        "align+adabn+full": Chosen("frozen", 2e-2),
    }
)
"""The settings that did best on people who played the new one, by rule (docs/study.md)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a calibration does with a person's windows.

    Raises
    ------
    BioTrainError
        where a field is not valid, in one line.
    """

    name: str = "default"
    align: bool = True
    """Channels are decorrelated by the mean covariance of the wearer's windows; no labels."""
    adabn: bool = True
    """BatchNorm's statistics are re-estimated from the wearer's windows; no labels."""
    strategy: str = "full"
    """What trains then: `none`, `last`, `bias`, `norm`, `full`, or a glob of parameter names."""
    norm: str | None = None
    """`group`, `convert`, `frozen` or `batch` (docs/study.md); None: what did best for the rule."""
    optimizer: str = "sgd"
    """`sgd` or `adam`."""
    lr: float | None = None
    """Learning rate; None: the one that did best for the rule, else the published 5e-3."""
    momentum: float = 0.9
    """Momentum, of `sgd` only."""
    weight_decay: float = 1e-3
    schedule: str = "cosine"
    """How the rate falls over the steps of the calibration: `constant` or `cosine`."""
    accumulate: int = 8
    """Windows whose mean gradient makes one step."""
    batch: int = 1
    """Windows that share BatchNorm's statistics, and make one step; `accumulate` is then 1."""
    epochs: int = 30
    """Times that a calibration passes over its windows, at most."""
    replay: int = 0
    """Windows of other people and earlier sessions that every epoch sees too."""
    clip_norm: float = 1.0
    """Most of the norm of a step's mean gradient; 0: no bound."""
    repeats: int = 2
    """Times that a calibration which made things worse is repeated, each at a quarter of the rate,
    before the weights stay as they were."""
    artefacts: float = 0.0
    """Robust z-score of the logarithm of a channel's power above which a window is left out; 0:
    none is."""

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            _check_kind(self, name, kind)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                there = ", ".join(str(one) for one in allowed if one)
                raise _wrong(self, name, f"is one of {there}")
        if not self.strategy:
            raise _wrong(self, "strategy", "is a name or a glob")
        for name, least in _LEAST.items():
            if not least <= getattr(self, name) <= MOST:
                raise _wrong(self, name, f"lies in {least} to {MOST:,}")
        for name in ("weight_decay", "clip_norm", "artefacts"):
            if getattr(self, name) < 0:
                raise _wrong(self, name, "must not be negative")
        if self.lr is not None and self.lr < 0:
            raise _wrong(self, "lr", "must not be negative")
        if not 0 <= self.momentum < 1:
            raise _wrong(self, "momentum", "lies in [0, 1)")
        if self.batch > 1 and self.accumulate > 1:
            raise _wrong(self, "batch", "is one group: it goes with accumulate 1")
        if self.adabn and self.norm in ("group", "convert"):
            raise _wrong(self, "norm", "is frozen or batch where adabn re-estimates BatchNorm")

    @property
    def rule(self) -> str:
        """The rule of a study that does the same, such as `align+adabn+full`."""
        before = [name for name in ("align", "adabn") if getattr(self, name)]
        nothing = self.strategy == "none" and bool(before)
        return "+".join(before if nothing else [*before, self.strategy])

    @property
    def chosen(self) -> Chosen:
        """The norm and the rate, those that are left open filled in."""
        best = BEST.get(self.rule, Chosen("frozen" if self.adabn else None))
        norm = self.norm or best.norm or "group"
        if self.lr is not None:
            return Chosen(norm, self.lr)
        alike = {"convert": "group"}
        known = alike.get(norm, norm) == (best.norm or "group") and self.optimizer == "sgd"
        usual = PUBLISHED_LR if self.optimizer == "sgd" else ADAM_LR
        return Chosen(norm, best.lr if known and best.lr is not None else usual)

    @property
    def rate(self) -> float:
        """The learning rate, filled in where it is left open."""
        lr = self.chosen.lr
        assert lr is not None
        return lr

    def changed(self, **given: Any) -> Recipe:
        """The recipe with every field of `given` that is not None in place of its own.

        A norm or a rate of the recipe stays; one that it leaves open follows the new rule.
        """
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """The fields by name, as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Any) -> Recipe:
        """The recipe of a dict such as `to_json` makes; a field that is missing has its default.

        BioTrainError for a field that there is not.
        """
        if not isinstance(given, Mapping):
            raise BioTrainError(f"a recipe is a table of settings, not {shown(given)}")
        known = [f.name for f in fields(cls)]
        for key in given:
            if key not in known:
                near = get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise BioTrainError(f"recipe: no setting is called {key} ({hint})")
        return cls(**given)


_KINDS: Mapping[str, str] = MappingProxyType({f.name: str(f.type) for f in fields(Recipe)})
_LEAST = {"accumulate": 1, "batch": 1, "epochs": 0, "replay": 0, "repeats": 0}


def _wrong(recipe: Recipe, name: str, text: str) -> BioTrainError:
    """What is wrong with a field."""
    return BioTrainError(
        f"recipe '{recipe.name}': {name} {text}, not {shown(getattr(recipe, name))}"
    )


def _check_kind(recipe: Recipe, name: str, kind: str) -> None:
    """Raise for a value of another type than the field's; whole numbers are floats too."""
    value = getattr(recipe, name)
    what, _, other = kind.partition(" | ")
    if value is None and other == "None":
        return
    if what == "float" and isinstance(value, int) and not isinstance(value, bool):
        object.__setattr__(recipe, name, value := float(value))
    types = {"str": str, "bool": bool, "int": int, "float": float}
    right = isinstance(value, types[what]) and (what == "bool" or not isinstance(value, bool))
    if not right or (what == "float" and not isfinite(value)):
        words = {"str": "text", "bool": "true or false", "int": "a whole number"}
        text = f"is {words.get(what, 'a number')}"
        shown_as = repr(value) if what == "float" and right else shown(value)
        raise BioTrainError(f"recipe '{recipe.name}': {name} {text}, not {shown_as}")


DEFAULT = Recipe()
"""What a device should calibrate by: where a verb is told nothing else, its defaults are these."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        one.name: one
        for one in (
            DEFAULT,
            Recipe(name="unlabelled", strategy="none"),
            Recipe(name="last", align=False, adabn=False, strategy="last"),
            Recipe(
                name="published",
                align=False,
                adabn=False,
                norm="group",
                lr=PUBLISHED_LR,
                clip_norm=0.0,
                repeats=0,
            ),
            Recipe(
                name="conventional",
                align=False,
                adabn=False,
                norm="batch",
                lr=PUBLISHED_LR,
                accumulate=1,
                batch=8,
                clip_norm=0.0,
                repeats=0,
            ),
        )
    }
)
"""Recipes by name: the default; the same without labels; the last layer only; the paper's (arXiv
2604.13359: GroupNorm, windows accumulated); BatchNorm over batches of 8, unbounded."""


def recipe_of(given: Any) -> Recipe:
    """The recipe that is meant: one of RECIPES by name, an object, what a package carries (the
    object, or the folder of one), or a JSON file. None, and a package without one, mean DEFAULT.

    BioTrainError where there is none of that name, or a file that holds none.
    """
    if given is None:
        return DEFAULT
    if isinstance(given, Recipe):
        return given
    if isinstance(given, Mapping):
        return Recipe.from_json(given)
    if hasattr(given, "recipe"):
        return recipe_of(given.recipe)
    if isinstance(given, str) and given in RECIPES:
        return RECIPES[given]
    if isinstance(given, Path) or (isinstance(given, str) and ("/" in given or "." in given)):
        return _read(Path(given))
    if not isinstance(given, str):
        raise BioTrainError(f"a recipe is a bt.Recipe, or the name of one, not {shown(given)}")
    near = get_close_matches(given, RECIPES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(RECIPES)}"
    raise BioTrainError(f"no recipe is called '{given}' ({hint}); a JSON file will do too")


def recipe_text(recipe: Recipe) -> str:
    """The file of a package that holds its recipe and nothing else."""
    return json.dumps({"recipe": recipe.to_json()}, indent=1) + "\n"


def _read(path: Path) -> Recipe:
    """The recipe in a JSON file, or in the folder of a package."""
    file = path / PACKAGE_FILE if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BioTrainError(f"no recipe in '{path}': {file.name} cannot be read") from error
    if not isinstance(found, Mapping):
        raise BioTrainError(f"no recipe in '{path}': {file.name} is no table")
    if file.name == PACKAGE_FILE:
        held = found.get("recipe")
        return DEFAULT if held is None else Recipe.from_json(held)
    return Recipe.from_json(found)

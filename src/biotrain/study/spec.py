# SPDX-License-Identifier: Apache-2.0
"""What a study asks for: a TOML file, or the same as a dict.

seeds = [0, 1, 2]
scenarios = ["day1", "longitudinal", "sizes"]
strategies = ["none", "last", "full", "full-bn8", "adabn", "align", "gentle"]

recipe = "published"         # or a table of its fields; what [calibrate] says takes their place

[calibrate]                  # for every strategy
epochs = 30

[strategy.last]              # ... but for this one
lr = 0.02

[strategy.gentle]            # a name of one's own says which rule it follows
rule = "full"
lr = 1e-3

[pretrain]
epochs = 40

[[data]]
source = "synthetic-emg"     # whatever biotrain.study.load takes
front = "front.toml"         # continuous recordings through the device's C
models = ["epidenet"]
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, get_args, get_type_hints

from biotrain.errors import BioTrainError, shown
from biotrain.frontend.toml import load_toml
from biotrain.graph.strategy import STRATEGIES
from biotrain.recipe import recipe_of
from biotrain.study.data.splits import SIZES
from biotrain.study.labelfree import TRANSFORMS
from biotrain.study.recipes import COMPARED, calibration, settled
from biotrain.study.rules import IN_TORCH, NORMS, REFERENCE, Rule
from biotrain.study.settings import (
    CRITERIA,
    ENGINES,
    SCHEDULES,
    CalibrationSettings,
    PretrainSettings,
    Strategy,
    check_seeds,
)

SCENARIOS = ("day1", "longitudinal", "sizes")
"""day1: a new subject's first session. longitudinal: day1, then every later session from where the
one before it ended. sizes: day1 with 5, 10, ... windows per class."""

SPELLINGS: Mapping[str, str] = MappingProxyType({"full-bn8": REFERENCE})
"""Names of strategies that stand for another rule."""


@dataclass(frozen=True)
class Data:
    """One set of recordings, the networks for it, and how its sessions are cut."""

    source: str
    models: tuple[str, ...]
    decimate: float | None = None  # Hz
    front: str | None = None  # a front end's TOML, for continuous recordings
    subjects: tuple[int | str, ...] | None = None  # who is new in turn, by number or name; all
    split: str | None = None  # one of SPLITS; what fits
    calibration: float = 0.8
    test_repetition: int | None = None
    pretrain_every: int | None = None  # in place of [pretrain] every
    pretrain_seed: int | None = None  # in place of [pretrain] seed
    scenarios: tuple[str, ...] | None = None  # in place of the study's
    among: tuple[int | str, ...] | None = None  # the only ones used, in pretraining too
    strategies: tuple[Strategy, ...] | None = None  # in place of the study's


@dataclass(frozen=True)
class Spec:
    """A whole study.

    others: how many windows of the other subjects are tested after each calibration (forgetting);
        0: none.
    bootstrap_seed: seed of the bootstrap over sets in the report.
    """

    data: tuple[Data, ...]
    strategies: tuple[Strategy, ...]
    scenarios: tuple[str, ...] = ("day1",)
    sizes: tuple[int, ...] = SIZES
    seeds: tuple[int, ...] = (0,)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    others: int = 200
    title: str = "Study"
    bootstrap_seed: int = 0

    @property
    def every_strategy(self) -> tuple[Strategy, ...]:
        """The strategies of the study and of its sets."""
        return (*self.strategies, *(s for one in self.data for s in one.strategies or ()))

    def to_dict(self) -> dict[str, Any]:
        """The study as plain lists and dicts, as study.json holds it."""
        return asdict(self)


DEFAULT_STRATEGIES = (*COMPARED[:-1], "full-bn8")


def read_spec(path: str | Path) -> dict[str, Any]:
    """The dict in a TOML file; BioTrainError where it is no TOML."""
    return load_toml(path)


def make_spec(given: Mapping[str, Any]) -> Spec:
    """The study that a dict of the layout above describes.

    Raises BioTrainError for an unknown key (with the nearest one), a wrong type, an unknown
    scenario, norm or strategy option, nothing to do.
    """
    given, recipe = dict(given), given.get("recipe")
    known = {f.name for f in fields(Spec)} | {"calibrate", "strategy", "recipe"}
    _known("the study", given, known)
    calibrate = _table(given.get("calibrate", {}), "[calibrate]")
    if recipe is not None:
        found = recipe_of(recipe)
        calibrate = {**calibration(found, "a study"), **calibrate}
        given.setdefault("strategies", ["none", found.rule])
    _made(CalibrationSettings, calibrate, "[calibrate]")
    strategies = _strategies(given, {}, calibrate)
    data = given.get("data", ())
    if not isinstance(data, Sequence) or isinstance(data, str) or not data:
        raise BioTrainError("a study needs at least one [[data]] with source and models")
    simple = {
        k: v
        for k, v in given.items()
        if k in {"scenarios", "sizes", "seeds", "others", "title", "bootstrap_seed"}
    }
    pretrain = _made(PretrainSettings, given.get("pretrain", {}), "[pretrain]")
    made = _made(
        Spec,
        {
            **simple,
            "data": tuple(_data(one, given, calibrate) for one in data),
            "strategies": strategies,
            "pretrain": pretrain,
        },
        "the study",
    )
    return _checked(made)


def _data(one: Any, given: Mapping[str, Any], calibrate: Mapping[str, Any]) -> Data:
    """One set of recordings; what it says of strategies adds to what the study says."""
    table = dict(_table(one, "[[data]]"))
    own = {key: table.pop(key) for key in ("strategies", "strategy") if key in table}
    if not own:
        return _made(Data, table, "[[data]]")
    found = _strategies(
        {"strategies": given.get("strategies", DEFAULT_STRATEGIES)} | own, given, calibrate
    )
    return replace(_made(Data, table, "[[data]]"), strategies=found)


def _strategies(
    given: Mapping[str, Any], beneath: Mapping[str, Any], calibrate: Mapping[str, Any]
) -> tuple[Strategy, ...]:
    """The strategies that `given` names; settings of its [strategy] replace those of `beneath`."""
    names = _texts(given.get("strategies", DEFAULT_STRATEGIES), "strategies")
    tables = _table(given.get("strategy", {}), "[strategy]")
    lower = _table(beneath.get("strategy", {}), "[strategy]")
    unused = sorted(set(tables) - set(names))
    if unused:
        raise BioTrainError(f"[strategy.{unused[0]}]: no strategy of that name is asked for")
    return tuple(
        _strategy(
            name,
            {
                **_table(lower.get(name, {}), f"[strategy.{name}]"),
                **_table(tables.get(name, {}), f"[strategy.{name}]"),
            },
            calibrate,
        )
        for name in names
    )


def _strategy(name: str, table: Any, calibrate: Mapping[str, Any]) -> Strategy:
    where = f"[strategy.{name}]"
    own = dict(_table(table, where))
    rule = own.pop("rule", SPELLINGS.get(name, name))
    if not isinstance(rule, str):
        raise BioTrainError(f"{where}: rule is text, not {shown(rule)}")
    rule = SPELLINGS.get(rule, rule)
    parsed = Rule.parse(rule)
    trains = parsed.trains
    rules = (*STRATEGIES, *IN_TORCH, *SPELLINGS, *TRANSFORMS)
    if trains not in rules and not set("*?[.") & set(trains):
        near = get_close_matches(trains, rules, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(rules)}"
        raise BioTrainError(
            f"{where}: no rule is called {trains} ({hint}); a glob of parameter names has a * or . "
            "in it"
        )
    named = _made(
        CalibrationSettings, {**calibrate, **own}, where
    )  # names and types are checked first
    asked = {**calibrate, **own}
    best = settled(
        rule, named.norm if "norm" in asked else None, named.lr if "lr" in asked else None
    )
    chosen = {key: value for key, value in vars(best).items() if value is not None}
    recipe = replace(named, **chosen)
    path = NORMS.get(recipe.norm)
    if parsed.freezes_statistics and (path is None or path.pretrained != "batch"):
        raise BioTrainError(f'{where}: adabn+... needs BatchNorm: norm = "frozen" or "batch"')
    return Strategy(name, rule, recipe)


def _checked(spec: Spec) -> Spec:
    """`spec` without repetitions; BioTrainError for what no study can do."""
    chosen: tuple[tuple[str, Sequence[str], tuple[str, ...]], ...] = (
        ("scenario", _scenarios(spec), SCENARIOS),
        ("norm", [s.recipe.norm for s in spec.every_strategy], tuple(NORMS)),
        ("schedule", [s.recipe.schedule for s in spec.every_strategy], SCHEDULES),
        ("engine", [spec.pretrain.engine], ENGINES),
        ("best", [s.recipe.best for s in spec.every_strategy], CRITERIA),
    )
    for kind, values, allowed in chosen:
        wrong = [value for value in values if value not in allowed]
        if wrong:
            raise BioTrainError(f"no {kind} {wrong[0]}; there are {', '.join(allowed)}")
    named: tuple[tuple[str, Sequence[object]], ...] = (
        ("seed", spec.seeds),
        ("scenario", spec.scenarios),
        ("strategy", spec.strategies),
        *(("model", one.models) for one in spec.data),
    )
    for kind, found in named:
        if not found:
            raise BioTrainError(f"nothing to do: name at least one {kind}")
    _check_numbers(spec)
    return replace(
        spec,
        scenarios=tuple(dict.fromkeys(spec.scenarios)),
        sizes=tuple(sorted(set(spec.sizes))),
        seeds=tuple(dict.fromkeys(spec.seeds)),
    )


def _check_numbers(spec: Spec) -> None:
    """Raise BioTrainError for a count, a share or a combination that makes no sense."""
    recipes = [s.recipe for s in spec.every_strategy]
    ones = [*spec.sizes, *(d.pretrain_every for d in spec.data if d.pretrain_every is not None)]
    if spec.others < 0 or min(ones, default=1) < 1:
        raise BioTrainError("others must not be negative; every and sizes be above 0")
    spec.pretrain.check()
    for recipe in recipes:
        recipe.check()
    own = [one.pretrain_seed for one in spec.data if one.pretrain_seed is not None]
    check_seeds([*spec.seeds, spec.bootstrap_seed, *own])
    if not all(0 <= r.holdout < 1 for r in recipes):
        raise BioTrainError("holdout is a share from 0 (nothing is held back) to below 1")
    if any(r.patience and not r.holdout for r in recipes):
        raise BioTrainError(
            "patience needs a holdout: the epochs are compared on what is held back"
        )


def _scenarios(spec: Spec) -> list[str]:
    return [*spec.scenarios, *(name for one in spec.data for name in one.scenarios or ())]


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BioTrainError(f"{where} is a table, not {shown(value)}")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise BioTrainError(f"{where} is a list, not {shown(value)}")
    names = tuple(str(name).strip() for name in value)
    return tuple(dict.fromkeys(name for name in names if name))


def _known(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(key, sorted(known), 1)
            hint = (
                f" (did you mean {near[0]}?)" if near else f"; there are {', '.join(sorted(known))}"
            )
            raise BioTrainError(f"{where}: no setting is called {key}{hint}")


def _made(kind: type[Any], given: Any, where: str) -> Any:
    """A dataclass from a table, its keys and types checked; lists become tuples."""
    table = _table(given, where)
    _known(where, table, {f.name for f in fields(kind)})
    hints = get_type_hints(kind)
    values = {key: _value(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
        missing = ", ".join(name for name in needed if name not in values)
        raise BioTrainError(f"{where}: {missing} is missing") from error


def _value(value: Any, hint: Any, where: str) -> Any:
    choices = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for choice in choices:
        parts = get_args(choice)
        if parts and isinstance(value, list | tuple):  # tuple[something, ...]
            return tuple(_value(one, parts[0], where) for one in value)
        if parts or isinstance(value, bool):
            continue
        if choice is float and isinstance(value, int | float) and abs(value) <= sys.float_info.max:
            return float(value)
        if choice is not float and isinstance(value, choice):
            return value
    names = " or ".join(
        getattr(c, "__name__", str(c)) if not get_args(c) else "a list" for c in choices
    )
    raise BioTrainError(f"{where} must be {names}, not {shown(value)}")

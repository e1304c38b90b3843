# SPDX-License-Identifier: Apache-2.0
"""What a recipe means for one package: the settings that are left open, filled in from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm

from biotrain.ir.optimizer import SGD, Gradients, Optimizer, optimizer_of
from biotrain.recipe import DEFAULT, Recipe, recipe_of


@dataclass(frozen=True)
class Open:
    """The settings of `bt.compile` that a recipe has too; None: left open."""

    strategy: str | None = None
    optimizer: Optimizer | None = None
    accumulate: int | None = None
    batch: int | None = None
    adabn: bool | None = None


@dataclass(frozen=True)
class Followed:
    """The same settings, none of them open; the recipe that they make, None where none was named;
    and lines on what of it a package leaves to others."""

    strategy: str
    optimizer: Optimizer
    accumulate: int
    batch: int
    adabn: bool
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What a request of the compiler takes of it, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def follow(given: Any, named: Open, model: Any, gradients: Gradients, live: bool) -> Followed:
    """Fill in what is left open from the recipe `given` (see `recipe_of`), or, where none is, from
    the default one: of it only the windows of a group, for the rest depends on how the network was
    pretrained."""
    if given is None:
        batch = 1 if named.batch is None else named.batch
        whole = batch != 1 or gradients == "update"
        return Followed(
            strategy="full" if named.strategy is None else named.strategy,
            optimizer=SGD() if named.optimizer is None else named.optimizer,
            accumulate=_group(named.accumulate, DEFAULT.accumulate, whole),
            batch=batch,
            adabn=bool(named.adabn),
        )
    recipe = recipe_of(given)
    notes = _left_to_others(recipe, live)
    adabn = recipe.adabn if named.adabn is None else named.adabn
    align = recipe.align and not live
    if named.adabn is None and adabn and (live or not has_statistics(model)):
        adabn = False
        if not live:
            notes.insert(0, f"recipe '{recipe.name}': no adabn, for the network has no BatchNorm")
    batch = recipe.batch if named.batch is None else named.batch
    whole = batch != 1 or gradients == "update"
    accumulate = _group(named.accumulate, recipe.accumulate, whole)
    strategy = recipe.strategy if named.strategy is None else named.strategy
    recipe = recipe.changed(
        strategy=strategy, align=align, adabn=adabn, batch=batch, accumulate=accumulate
    )
    optimizer = named.optimizer or optimizer_of(recipe)
    recipe = recipe.changed(**_optimizer_fields(optimizer))
    return Followed(strategy, optimizer, accumulate, batch, adabn, recipe, tuple(notes))


def _group(named: int | None, usual: int, whole: bool) -> int:
    """Windows whose mean makes a step: as named, else one where a batch is a group by itself or
    every window steps."""
    return named if named is not None else 1 if whole else usual


def has_statistics(model: Any) -> bool:
    """Whether BatchNorm's running statistics can be re-estimated in a module."""
    layers = model.modules() if isinstance(model, Module) else ()
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in layers)


def _optimizer_fields(optimizer: Optimizer) -> dict[str, Any]:
    """What a recipe says of an optimizer."""
    found: dict[str, Any] = {
        "optimizer": "sgd" if isinstance(optimizer, SGD) else "adam",
        "lr": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "schedule": optimizer.schedule,
        "clip_norm": optimizer.clip_norm or 0.0,
    }
    if isinstance(optimizer, SGD):
        found["momentum"] = optimizer.momentum
    return found


def _left_to_others(recipe: Recipe, live: bool) -> list[str]:
    """A line on the fields that the C of a package does not carry out by itself."""
    names: tuple[str, ...]
    if live:
        names, where = ("align", "adabn", "replay"), "the live firmware leaves out"
    else:
        names = ("align", "epochs", "replay", "repeats", "artefacts")
        where = "left to the program that trains:"
    trains = recipe.strategy != "none"
    others = [n for n in names if getattr(recipe, n) and (trains or n in ("align", "artefacts"))]
    return [f"recipe '{recipe.name}': {where} {', '.join(others)}"] if others else []

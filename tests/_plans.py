# SPDX-License-Identifier: Apache-2.0
"""A small plan, without the search for the fastest one that fits."""

from __future__ import annotations

from typing import Protocol

import pytest

from biotrain.package import Package
from biotrain.planner.plan import Schedule
from biotrain.planner.schedules import Planner
from biotrain.planner.search import Search

ENOUGH = (1 << 30) + 1
"""A budget that no other test asks for: plans are remembered by what was asked."""


class Compiles(Protocol):
    """Makes a package for a budget in bytes."""

    def __call__(self, *, memory: int) -> Package: ...


def smallest_plan(compiles: Compiles) -> Package:
    """What `compiles` returns, with the smallest plan that a descent finds, in a tenth of the time.

    The plan is realised, placed, validated and emitted as any other; only the choice is not that of
    `Planner.within`.
    """

    def least(self: Planner, search: Search, *_: object) -> Schedule:
        return self.schedule(search, search.smallest())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planner, "within", least)
        return compiles(memory=ENOUGH)

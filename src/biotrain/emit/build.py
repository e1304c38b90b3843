# SPDX-License-Identifier: Apache-2.0
"""What is built: the C of one model for one target, and what whoever runs it must know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from biotrain.emit import Source, emit
from biotrain.emit.context import context
from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd
from biotrain.frontend import emit as emit_front
from biotrain.graph.cost import Cost
from biotrain.ir.graph import Graph
from biotrain.planner.plan import Plan
from biotrain.planner.team_cost import shared_cost
from biotrain.targets.layout import Struct
from biotrain.targets.target import Target


@dataclass(frozen=True)
class Build:
    """C sources that train one model on one target, and everything known about them."""

    source: Source
    target: Target
    strategy: str
    front: FrontEnd | None
    """What makes the windows, in C beside the model."""

    @property
    def plan(self) -> Plan:
        """Where every byte lies."""
        return self.source.plan

    @property
    def graph(self) -> Graph:
        """The training graph with its updates."""
        return self.source.train

    @cached_property
    def files(self) -> Mapping[str, str]:
        """The emitted files by name."""
        files = emit(self.source)
        return files | emit_front(self.front) if self.front else files

    @cached_property
    def context(self) -> Struct:
        """`bt_model`: names, types and offsets of its members."""
        return context(self.source)

    @cached_property
    def live_context(self) -> Struct:
        """`bt_live` around it. Raises BioTrainError where the package was compiled without it."""
        if self.source.live is None:
            raise BioTrainError("the package was compiled without live: give live=Live(...)")
        return self.source.live.struct(self.plan.context_bytes)

    @property
    def schedule(self) -> str:
        """The text of `model.c`, whatever its prefix."""
        return self.files[self.source.prefix + "model.c"]

    @property
    def cost(self) -> Cost:
        """Work of one training sample."""
        return shared_cost(self.graph, self.plan.buffers, self.target, self.source.accumulate)

    @property
    def fused(self) -> bool:
        """Whether a multiply-add rounds once."""
        return self.source.fused

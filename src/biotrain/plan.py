# SPDX-License-Identifier: Apache-2.0
"""The memory of a training package, down to the byte, and whether it fits a budget."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from biotrain.cost import training_cost
from biotrain.errors import DoesNotFitError
from biotrain.ir import Graph, Value
from biotrain.memory import Buffer, check, lifetimes, lower_bound, peak, place
from biotrain.target import Target

RUNTIME_BYTES = 36
"""Fields of the context that are neither tensors nor arena (`bt_model` in model.h)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where everything lies, and what one sample costs. Sizes in bytes."""

    buffers: tuple[Buffer, ...]
    """Arena of the training step."""
    predict_buffers: tuple[Buffer, ...]
    """Arena of a prediction; the same bytes, at another time."""
    peak_bytes: int
    """The arena."""
    lower_bound_bytes: int
    """No placement of these buffers needs less."""
    param_bytes: int
    """Trained parameters, in RAM."""
    gradient_bytes: int
    optimizer_bytes: int
    state_bytes: int
    """Running statistics."""
    stack_bytes: int
    """Reserve of the target."""
    ram_bytes: int
    """All of the above and the fields of the context: the whole static RAM."""
    flash_bytes: int
    """Weights and constants; the code comes on top when it is linked."""
    params: int
    """Number of parameters of the model."""
    trained_params: int
    macs: int
    ops: int
    base_ops: int
    cycles: float
    ms_per_sample: float
    mj_per_sample: float
    choices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The contract's keys."""
        data = asdict(self)
        data["buffers"] = [asdict(b) for b in self.buffers]
        data["frontier"] = [{"ram_bytes": self.ram_bytes, "ops": self.ops, "cycles": self.cycles}]
        return data

    @property
    def context_bytes(self) -> int:
        """Size of `bt_model`: the static RAM without the stack."""
        return self.ram_bytes - self.stack_bytes


def _bytes(values: tuple[Value, ...]) -> int:
    return sum(v.nbytes for v in values)


def fit(
    train: Graph,
    predict: Graph,
    target: Target,
    *,
    memory: int | None = None,
    accumulate: int = 1,
) -> Plan:
    """Plan the memory of a training graph and of its predictions.

    Raises
    ------
    DoesNotFitError
        naming the smallest RAM that would do and the three largest buffers.
    """
    buffers = place(lifetimes(train))
    check(train, buffers)
    predict_buffers = place(lifetimes(predict))
    check(predict, predict_buffers)
    trained = tuple(v for n in train.updates for v in n.outputs if v.kind == "param")
    gradients = tuple(v for v in train.states if v.name.startswith("g_"))
    slots = tuple(v for n in train.updates for v in n.outputs if v.kind == "state")
    moving = tuple(v for v in train.states if v not in gradients and v not in slots)
    arena = max(peak(buffers), peak(predict_buffers))
    parts = (_bytes(trained), _bytes(gradients), _bytes(slots), _bytes(moving))
    ram = arena + sum(parts) + RUNTIME_BYTES + target.stack_bytes
    budget = memory if memory is not None else target.memory("ram").bytes or None
    if budget is not None and ram > budget:
        largest = sorted(buffers, key=lambda b: -b.size)[:3]
        names = ", ".join(f"{b.value} {b.size:,} B" for b in largest)
        raise DoesNotFitError(
            f"does not fit: {ram:,} B of RAM are needed, {budget:,} B are there "
            f"(target {target.name}); the smallest plan needs {ram:,} B; largest buffers: {names}"
        )
    cost = training_cost(train, target, accumulate)
    shared = [b for b in buffers if len(b.members) > 1]
    saved = sum(
        v.nbytes
        for b in shared
        for v in train.values()
        if v.name in b.members[1:] and v.kind == "temp"
    )
    choices = (
        f"everything stored: {len(buffers)} buffers, arena {arena:,} B",
        (
            f"in place: {len(shared)} buffers hold {sum(len(b.members) for b in shared)} tensors, "
            f"-{saved:,} B of buffers"
        ),
    )
    return Plan(
        buffers=buffers,
        predict_buffers=predict_buffers,
        peak_bytes=arena,
        lower_bound_bytes=max(lower_bound(buffers), lower_bound(predict_buffers)),
        param_bytes=parts[0],
        gradient_bytes=parts[1],
        optimizer_bytes=parts[2],
        state_bytes=parts[3],
        stack_bytes=target.stack_bytes,
        ram_bytes=ram,
        flash_bytes=_bytes(train.params) + _bytes(train.consts) + parts[3],
        params=sum(v.size for v in train.params),
        trained_params=sum(v.size for v in trained),
        macs=cost.macs,
        ops=cost.ops,
        base_ops=cost.ops,
        cycles=cost.cycles,
        ms_per_sample=cost.ms,
        mj_per_sample=cost.mj,
        choices=choices,
    )

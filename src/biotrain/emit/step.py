# SPDX-License-Identifier: Apache-2.0
"""Lines of C that several functions of a package need: the rate of a step, the start of a group."""

from __future__ import annotations

from biotrain.emit.schedule import Places, items_text
from biotrain.emit.source import Source, trained_values
from biotrain.ir.graph import Node
from biotrain.ir.op import OPS, Call, float_literal
from biotrain.ir.optimizer import SGD
from biotrain.ops.optim import Update


def corrections(source: Source) -> list[str]:
    """Adam's 1 - beta^steps, one step on."""
    optimizer = source.optimizer
    lines: list[str] = []
    if not isinstance(optimizer, SGD):
        for i, beta in enumerate(optimizer.betas, 1):
            name = f"m->progress.correction{i}"
            lines += [
                f"  {name} = bt_fma({float_literal(beta)}, {name}, {float_literal(1.0 - beta)});"
            ]
    return lines


def rate(source: Source) -> list[str]:
    """`lr`: the rate of this step."""
    start = "m->progress.lr"
    if source.optimizer.schedule == "cosine":
        return [
            f"  float lr = {start};",
            "  if (m->progress.horizon > 0) { /* lr (1 + cos(pi step / horizon)) / 2 */",
            "    const uint32_t end = m->progress.horizon, done = m->progress.steps;",
            "    lr *= 0.5f * (1.0f + bt_cospif((float)(done < end ? done : end) / (float)end));",
            "  }",
        ]
    return [f"  const float lr = {start};"]


def new_group(source: Source) -> list[str]:
    """No window is in the gradients, and none of them in what is kept."""
    lines = ["  m->samples = 0;"]
    if source.trained and source.gradients == "separate":
        lines = ["  memset(&m->g, 0, sizeof m->g);", *lines]
    if source.gradients == "momentum":
        lines += ["  m->group = BT_GROUP;"]
    return lines


def finite_logits(name: str, size: int) -> list[str]:
    """The end of a prediction: it gives numbers, or says that there are none."""
    return [
        f"  for (int i = 0; i < {size}; i++)",
        f"    if (!bt_isfinite({name}[i]))",
        "      return BT_ERR_OUTPUT_NONFINITE;",
        f"  memcpy(logits, {name}, {size} * sizeof *logits);",
    ]


REFUSED = (
    "bt_drop(m);",
    "m->rejected++;",
    "return BT_ERR_WEIGHT_NONFINITE;",
)
"""Where a step would leave NaN or infinity: the group is dropped before a weight is touched."""


def fits(
    node: Node,
    places: Places,
    count: str | int,
    *,
    of_all: bool = False,
    at: str = "",
    indent: str = "  ",
) -> list[str]:
    """A statement that clears `fits` where an update would leave NaN or infinity.

    count: of elements. of_all: for the tensor `t` of a loop over all parameters instead of the
    node's own. at: from which element on.
    """
    rule = OPS[node.op]
    assert isinstance(rule, Update)
    call = rule.fits(node)
    pointers = [
        places.pointer((node.inputs if o.source == "in" else node.outputs)[o.index]) + at
        for o in call.operands
    ]
    if of_all:
        pointers = [f"bt_floats(&{p.rpartition('.')[0]}, t)" for p in pointers]
    return items_text(f"fits &= {call.function}", [str(count), *pointers, *call.extra], indent)


EACH_PARAMETER = (
    "  for (const bt_tensor *t = bt_parameters; t < bt_parameters + BT_PARAMETERS; t++) {",
)


def updates_of(source: Source) -> list[Node]:
    """The updates of a step; what bounds parameters behind them is left out."""
    return [n for n in source.train.updates if isinstance(OPS[n.op], Update)]


def alike(source: Source, places: Places) -> bool:
    """Whether the updates of all parameters are one call but for the tensors."""
    updates = updates_of(source)
    trained = trained_values(source)
    calls = [OPS[n.op].call(n) for n in updates]
    first = calls[0]
    return len(updates) == len(trained) and all(
        (c.function, c.struct, c.operands, c.extra) == (*_kind(first), first.operands, first.extra)
        and c.geometry == (("count", v.size),)
        and c.box == (1, v.size)
        and not any(o.view for o in c.operands)
        and all(places.pointer(x).rpartition(".")[2] == v.name for x in (*n.inputs, *n.outputs))
        for c, n, v in zip(calls, updates, trained, strict=True)
    )


def _kind(call: Call) -> tuple[str, str]:
    return call.function, call.struct

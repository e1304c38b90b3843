# SPDX-License-Identifier: Apache-2.0
"""Lines of C that several functions of a package need: the rate of a step, the start of a group."""

from __future__ import annotations

from biotrain.emit.source import Source
from biotrain.ir.op import float_literal
from biotrain.ir.optimizer import SGD


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

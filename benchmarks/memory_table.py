# SPDX-License-Identifier: Apache-2.0
"""The memory table of docs/memory.md: plans beside published figures, as Markdown.

    python benchmarks/memory_table.py

Some minutes. The figures are those of `biotrain plan ... --no-frontier --json -`, one line each.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from biotrain.cli import main

INT16 = "--input-type int16 --input-scale 0.1"

ROWS: tuple[tuple[str, str], ...] = (
    ("mibminet", "670"),
    ("mibminet --memory 466kB", "670"),
    ("mibminet --memory 256KiB", "670"),
    ("mibminet --memory 231.5kB", "670"),
    (f"mibminet {INT16} --memory 436kB", "670"),
    (f"mibminet {INT16} --memory 256KiB", "670"),
    (f"mibminet {INT16} --memory 201kB", "670"),
    (f"mibminet {INT16} --target nrf52840", "670"),
    (f"mibminet {INT16} --target nrf52840 --gradients momentum --fast-conv", "670"),
    (f"mibminet {INT16} --target nrf52840 --gradients momentum --memory 192KiB", "670"),
    ("mibminet --norm batch --batch 8 --memory 512KiB", "5 360"),
    ("mibminet --strategy last", "190"),
    ("mibminet --strategy last --memory 150kB", "190"),
    ("epidenet", "280"),
    ("epidenet --memory 93kB", "280"),
    (f"epidenet {INT16} --target nrf52840 --gradients momentum --memory 80KiB", "280"),
    ("epidenet --norm batch --batch 8 --memory 160KiB", "2 240"),
    ("epidenet --strategy last", "110"),
    ("epidenet --strategy last --memory 25kB", "110"),
)
"""What follows `biotrain plan`, and the published peak in kB (arXiv 2604.13359)."""

HEAD = (
    "| `biotrain plan ...` | arena | + parameters, gradients | whole RAM | operations to direct "
    "| published peak |\n|---|---|---|---|---|---|"
)


def line(command: str, published: str, plan: dict[str, Any]) -> str:
    """One row, in kB of 1000 bytes."""
    arena = plan["peak_bytes"]
    sums = arena + plan["param_bytes"] + plan["gradient_bytes"]
    sizes = " | ".join(f"{size / 1e3:.1f}" for size in (arena, sums, plan["ram_bytes"]))
    more = plan["ops"] / plan["base_ops"] - 1
    return f"| `{command}` | {sizes} | {more:+.1%} | {published} |"


def table() -> int:
    """Print the table; 1 where a plan does not fit."""
    code = 0
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        for command, published in ROWS:
            if main(["plan", *command.split(), "--no-frontier", "--json", str(file)]):
                code = 1
                continue
            print(line(command, published, json.loads(file.read_text(encoding="utf-8"))))
    return code


if __name__ == "__main__":
    sys.exit(table())

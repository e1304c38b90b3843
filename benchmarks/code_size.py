# SPDX-License-Identifier: Apache-2.0
"""Code, constants, stack and context of the built-in networks, per core and compiler.

    python benchmarks/code_size.py            print the table, and what changed
    python benchmarks/code_size.py --write    write docs/code-size.md

The firmware of each package is linked and its ELF is read; nothing runs. One to three minutes,
seconds where the ELFs are in the cache. `tests/test_code_size.py` builds a sample of the rows and
compares, so that a change in code size shows in review.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

import torch

import biotrain as bt
from biotrain import models
from biotrain.errors import CompilerError
from biotrain.run.firmware import Compiler, find_cross_compiler
from biotrain.run.project import compiler_name, measured, project_files
from biotrain.targets.target import load_target

PAGE = Path(__file__).resolve().parents[1] / "docs" / "code-size.md"
NETWORKS = ("epidenet", "mibminet", "eegnet")
CORES = ("cortex-m4f", "cortex-m7", "cortex-m33", "cv32e40p")
COMPILERS: tuple[Compiler, ...] = get_args(Compiler)
HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
# Code size

Bytes of the linked firmware that trains a whole network on a microcontroller: GroupNorm, SGD with
momentum, groups of 8 windows, everything stored, at the papers' shapes. Written by

```
python benchmarks/code_size.py --write
```

*Code*: instructions and vectors. *Constants*: initial weights and tables. *Stack*: the deepest path
of the call graph. *Context*: `bt_model`, which holds parameters, gradients, momentum and the arena.

A change of the kernels or the emitter that moves a figure by more than 2 % fails
`tests/test_code_size.py` until the table is written anew, so that it shows in review. Rows of a
compiler that is missing on the machine that writes are left as they were.

| network | core | compiler | code | constants | stack | context |
|---|---|---|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Size:
    """One row; sizes in bytes."""

    network: str
    core: str
    compiler: str
    """Its name and version: another version gives other sizes."""
    code: int
    constants: int
    stack: int
    context: int

    @property
    def key(self) -> tuple[str, str, str]:
        """Which row it is, whatever version the compiler has."""
        return self.network, self.core, self.compiler.rpartition(" ")[0]


@lru_cache
def package(network: str, core: str) -> bt.Package:
    """Full training of a built-in network on a core, everything stored."""
    shape = models.PAPER[network]
    torch.manual_seed(0)
    net = bt.prepare(models.build(network, **shape, norm="group", pool="avg"))
    x = torch.zeros(1, shape["n_chans"], shape["n_times"])
    optimizer = bt.SGD(lr=5e-3, momentum=0.9, weight_decay=1e-3, schedule="cosine")
    return bt.compile(net, x, target=core, optimizer=optimizer, accumulate=8, title=network)


def available(core: str) -> list[Compiler]:
    """The cross compilers of a core that are installed here."""
    build = load_target(core).build
    assert build is not None
    found: list[Compiler] = []
    for compiler in COMPILERS:
        try:
            found.append(find_cross_compiler(build, compiler))
        except CompilerError:
            continue
    return found


def size(network: str, core: str, compiler: Compiler) -> Size:
    """Link the firmware of a network and read what it takes."""
    pkg = package(network, core)
    found = measured(pkg, project_files(pkg), compiler)
    assert found is not None, "the package pyelftools is not installed"
    return Size(
        network,
        core,
        compiler_name(pkg, compiler),
        found.code_bytes,
        found.constant_bytes,
        found.stack_bytes,
        pkg.plan.context_bytes,
    )


def kept(page: str) -> list[Size]:
    """The rows of the written table."""
    rows = []
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 7 and cells[3] != "code":
            rows.append(Size(*cells[:3], *(int(cell.replace(",", "")) for cell in cells[3:])))  # type: ignore[arg-type, call-arg]
    return rows


def text(rows: Iterable[Size]) -> str:
    """The page."""
    order = {name: i for i, name in enumerate((*NETWORKS, *CORES))}
    lines = [
        f"| {' | '.join(f'{c:,}' if isinstance(c, int) else c for c in astuple(row))} |"
        for row in sorted(rows, key=lambda r: (order[r.network], order[r.core], r.compiler))
    ]
    return HEAD + "\n".join(lines) + "\n"


def changes(before: Sequence[Size], now: Sequence[Size]) -> list[str]:
    """Lines that say which code grew or shrank by how much."""
    known = {row.key: row for row in before}
    out = []
    for row in now:
        old = known.get(row.key)
        if old is not None and (old.code, old.stack) != (row.code, row.stack):
            out.append(
                f"{' '.join(row.key)}: code {row.code - old.code:+,} "
                f"({row.code / old.code - 1:+.1%}), stack {row.stack - old.stack:+,}"
            )
    return out


def main() -> int:
    """Build all rows, and print or write them."""
    parser = argparse.ArgumentParser(description="code size per network, core and compiler")
    parser.add_argument("--write", action="store_true", help="write docs/code-size.md")
    given = parser.parse_args()
    before = kept(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else []
    wanted = [(n, core, c) for core in CORES for c in available(core) for n in NETWORKS]
    for network, core, _ in wanted:
        package(network, core)  # planned one after the other; only compilers run side by side
    with ThreadPoolExecutor() as pool:
        now = list(pool.map(lambda which: size(*which), wanted))
    rows = {row.key: row for row in (*before, *now)}
    page = text(rows.values())
    if given.write:
        PAGE.write_text(page, encoding="utf-8")
        print(f"wrote {PAGE.relative_to(PAGE.parents[1])}")
    else:
        print(page[page.index("| network") :], end="")
    print("\n".join(changes(before, now)) or "no code or stack changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

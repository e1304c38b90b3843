# SPDX-License-Identifier: Apache-2.0
"""docs/code-size.md: what the table says is what the firmware takes."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("elftools", reason="the extra `emulator` is not installed")

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.02
"""A change of more than this part is written into the table, where a review sees it."""

sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import code_size
finally:
    sys.path.pop(0)

ROWS = {row.key: row for row in code_size.kept(code_size.PAGE.read_text(encoding="utf-8"))}
SAMPLE = (
    ("epidenet", "cortex-m4f", "zig"),
    ("epidenet", "cortex-m4f", "gcc"),
    ("eegnet", "cv32e40p", "gcc"),
)


def test_the_table_has_every_network_on_every_core() -> None:
    there = {(network, core) for network, core, _ in ROWS}
    assert there == {(n, core) for n in code_size.NETWORKS for core in code_size.CORES}
    assert code_size.text(ROWS.values()) == code_size.PAGE.read_text(encoding="utf-8")


@pytest.mark.sample(test=0, ci=2)
@pytest.mark.parametrize(("network", "core", "compiler"), SAMPLE)
def test_code_has_the_size_of_the_table(network: str, core: str, compiler: str) -> None:
    build = code_size.load_target(core).build
    assert build is not None
    there = shutil.which(build.gcc[0]) if compiler == "gcc" else importlib.util.find_spec("ziglang")
    if not there:
        pytest.skip(f"{compiler} for {core} is not installed")
    now = code_size.size(network, core, compiler)
    row = ROWS[now.key]
    if row.compiler != now.compiler:
        pytest.skip(f"the table was written with {row.compiler}, here is {now.compiler}")
    advice = "if it is meant: python benchmarks/code_size.py --write"
    for what in ("code", "constants", "stack", "context"):
        old, new = getattr(row, what), getattr(now, what)
        assert abs(new - old) <= TOLERANCE * old, f"{what}: {old:,} -> {new:,} bytes; {advice}"


def test_a_change_is_told_in_bytes_and_per_cent() -> None:
    old = code_size.Size("epidenet", "cortex-m4f", "gcc 12.2.1", 1000, 10, 64, 500)
    new = code_size.Size("epidenet", "cortex-m4f", "gcc 13.1.0", 1100, 10, 72, 500)
    assert code_size.changes([old], [new]) == [
        "epidenet cortex-m4f gcc: code +100 (+10.0%), stack +8"
    ]
    assert code_size.kept(code_size.text([old, new])) == [old, new]

# SPDX-License-Identifier: Apache-2.0
"""The tool of `make mutants`: its changes are changes, and the tests that it names exist."""

from __future__ import annotations

import ast
from pathlib import Path

import mutants
import pytest


@pytest.mark.parametrize("area", mutants.AREAS)
def test_each_change_is_one_of_one_line(area: str, tmp_path: Path) -> None:
    every = mutants.mutants(area)
    assert len(every) > 50
    for mutant in every[:: len(every) // 40 + 1]:
        (tmp_path / mutant.path).parent.mkdir(parents=True, exist_ok=True)
        mutant.apply(mutants.ROOT, tmp_path)
        before = (mutants.ROOT / mutant.path).read_text(encoding="utf-8").split("\n")
        after = (tmp_path / mutant.path).read_text(encoding="utf-8").split("\n")
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True), 1) if a != b]
        assert changed == [mutant.line], mutant
        if mutant.path.endswith(".py"):
            ast.parse("\n".join(after))
        mutant.undo(mutants.ROOT, tmp_path)
        assert (tmp_path / mutant.path).read_text(encoding="utf-8").split("\n") == before


def test_the_draw_is_the_same_twice_and_fair() -> None:
    first, second = mutants.drawn(60, 15), mutants.drawn(60, 15)
    assert first == second != mutants.drawn(60, 16)
    assert [sum(m.area == area for m in first) for area in mutants.AREAS] == [15] * 4
    assert len({(m.path, m.line) for m in first}) == 60


def test_comments_and_preprocessor_lines_of_c_are_left_alone() -> None:
    text = (
        "/* a + b */\n#define A(x) \\\n  (x + 1)\nint f(int a)\n{\n  return a + 1; /* a - 1 */\n}\n"
    )
    found = sorted((line, rule) for line, _, _, _, rule in mutants.c_changes(text))
    assert found == [(6, "+ -> -"), (6, "1 -> 2")]


def test_python_is_changed_where_it_computes() -> None:
    text = (
        'def f(a, b):\n    "a + b"\n    if not a < b and b:\n        g(a)\n    return max(a, 3)\n'
    )
    found = sorted((line, rule) for line, _, _, _, rule in mutants.python_changes(text))
    assert found == [
        (3, "< -> <="),
        (3, "and -> or"),
        (3, "drop not"),
        (4, "drop the call"),
        (5, "3 -> 4"),
        (5, "max -> min"),
    ]


def test_every_judge_exists() -> None:
    for area in mutants.AREAS:
        for mutant in mutants.mutants(area):
            for test in mutants.judges(mutant):
                name = test.partition(" -k ")[0].split("::")[0]
                assert (mutants.ROOT / "tests" / name).exists(), (mutant, test)
    words = [word for tests in mutants.JUDGES.values() for word, _ in tests]
    assert words.count("") == len(mutants.JUDGES)


def test_what_is_called_equivalent_stands_in_the_code() -> None:
    """A line that has changed since needs its reason anew."""
    there = {m.key for area in mutants.AREAS for m in mutants.mutants(area)}
    assert [key for key in mutants.EQUIVALENT if key not in there] == []

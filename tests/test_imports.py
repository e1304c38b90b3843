# SPDX-License-Identifier: Apache-2.0
"""Imports go one way, file by file.

A *room* is a package or a loose module of `src/biotrain`. `ROOMS` lists them from the bottom to the
top; a file imports its own room and those below it, and no circle of files is closed inside a room.
An import inside a function, under TYPE_CHECKING or by `import_module` counts like any other, and
there is no list of exceptions. `biotrain` itself, the lazy facade, may be imported from anywhere
above the compiler.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "biotrain"

ROOMS = (
    "errors",
    "recipe",
    "writing",
    "models",
    "topology",
    "targets",
    "frontend",
    "ir",
    "ops",
    "graph",
    "planner",
    "emit",
    "run",
    "package",
    "verification",
    "reports",
    "study",
    "live",
    "sklearn",
    "cli",
    "__main__",
)
COMPILER = ROOMS[: ROOMS.index("verification") + 1]
"""Rooms that must work without a study, and which the facade stands above."""

ONLY: dict[str, tuple[str, ...]] = {
    "models": (),  # plain torch modules, which a user can copy out
    "topology": ("errors",),  # torch to torch, for any module and not only ours
}
"""Rooms that import less than their place allows."""

MOST_FLOORS, MOST_LINES = 16, 450

Files = Mapping[str, Path]


def files(source: Path) -> dict[str, Path]:
    """Every file by its dotted name inside of biotrain; the facade is ""."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(name: str) -> str:
    return name.split(".")[0]


def named(node: ast.AST, package: str) -> list[str]:
    """The dotted names that one statement or call may import; `package` resolves relative ones."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parts = f"biotrain.{package}".rstrip(".").split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        module = ".".join(part for part in (base, node.module or "") if part)
        return [module, *(f"{module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return [first.value]
    return []


def imports(name: str, known: Files) -> Iterator[tuple[str, int]]:
    """The files that a file imports, and in which line; a submodule stands for its package."""
    path = known[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        inside = [
            n.removeprefix("biotrain").lstrip(".")
            for n in named(node, package)
            if n == "biotrain" or n.startswith("biotrain.")
        ]
        found = [n for n in inside if n in known and n != name]
        for one in found:
            if not any(
                other != one and (not one or other.startswith(f"{one}.")) for other in found
            ):
                yield one, getattr(node, "lineno", 0)


def complaints(source: Path) -> list[str]:
    """What is wrong with the imports of the package that lies in `source`, a line each."""
    known = files(source)
    wrong = []
    for name in known:
        if not name:
            continue  # the facade: its names are loaded on first use
        room = room_of(name)
        if room not in ROOMS:
            wrong.append(f"{name}: {room} has no place in ROOMS")
            continue
        for imported, line in imports(name, known):
            other = room_of(imported)
            where = f"{name}:{line}"
            if not imported:
                if room in COMPILER:
                    wrong.append(f"{where}: {room} must not import the facade")
            elif other == room:
                continue
            elif other not in ROOMS:
                wrong.append(f"{where}: {other} has no place in ROOMS")
            elif other not in ONLY.get(room, ROOMS[: ROOMS.index(room)]):
                wrong.append(f"{where}: {room} must not import {other}")
    return wrong


def circles(source: Path) -> list[list[str]]:
    """Files that import each other in a circle."""
    known = files(source)
    below = {name: {n for n, _ in imports(name, known)} for name in known if name}
    while below:
        free = [name for name, imported in below.items() if not imported & below.keys()]
        if not free:
            return [sorted(below)]
        for name in free:
            del below[name]
    return []


def test_imports_go_down() -> None:
    assert not complaints(SOURCE), "\n".join(complaints(SOURCE))


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circles(SOURCE) == []


def test_every_room_is_there_and_has_one_place() -> None:
    there = {room_of(name) for name in files(SOURCE) if name}
    assert there == set(ROOMS)
    assert len(ROOMS) == len(set(ROOMS))


def test_the_house_is_low() -> None:
    """The longest chain of imports between rooms."""
    known = files(SOURCE)
    below: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name in known:
        if name:
            rooms = {room_of(n) for n, _ in imports(name, known)} - {room_of(name), ""}
            below[room_of(name)] |= rooms
    floor: dict[str, int] = {}
    for room in ROOMS:
        floor[room] = 1 + max((floor[other] for other in below[room]), default=0)
    assert max(floor.values()) <= MOST_FLOORS


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("ops/conv.py", "from biotrain.ir.op import Op", None),
        ("ops/conv.py", "from biotrain.ops.norm import Norm", None),
        ("ops/conv.py", "from biotrain.planner.fit import fit", "ops must not import planner"),
        ("ops/conv.py", "from ..planner.fit import fit", "ops must not import planner"),
        ("ops/conv.py", "from ..planner import fit", "ops must not import planner"),
        ("ops/conv.py", "from biotrain import planner", "ops must not import planner"),
        ("ops/conv.py", "import biotrain", "ops must not import the facade"),
        ("ops/conv.py", "def f():\n    import biotrain.planner.fit", "ops must not import planner"),
        ("ops/conv.py", "if TYPE_CHECKING:\n    from biotrain.planner.fit import fit", "planner"),
        ("models/eegnet.py", "import biotrain.errors", "models must not import errors"),
        ("topology/walk.py", "import biotrain.errors", None),
        ("topology/walk.py", "import biotrain.models", "topology must not import models"),
        ("planner/fit.py", "import biotrain.study", "planner must not import study"),
        ("planner/fit.py", "import_module('biotrain.study')", "planner must not import study"),
        ("study/run.py", "from biotrain import SGD\nimport biotrain.planner.fit", None),
        ("nowhere.py", "import biotrain.errors", "nowhere has no place"),
    ],
)
def test_the_check_itself(tmp_path: Path, file: str, text: str, wrong: str | None) -> None:
    source = tmp_path / "biotrain"
    names = ("__init__", "errors", "ir/op", "ops/norm", "planner/__init__", "planner/fit")
    for name in (*names, "models/__init__", "study/__init__"):
        (source / f"{name}.py").parent.mkdir(exist_ok=True, parents=True)
        (source / f"{name}.py").touch()
    (source / file).parent.mkdir(exist_ok=True)
    (source / file).write_text(text)
    found = complaints(source)
    if wrong is None:
        assert found == []
    else:
        assert len(found) == 1
        assert wrong in found[0]


def test_the_check_finds_a_circle(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.py").write_text(f"def f():\n    import biotrain.{other}")
    (tmp_path / "d.py").write_text("import biotrain.a")
    assert circles(tmp_path) == [["a", "b", "c", "d"]]


def test_no_file_is_too_long() -> None:
    """A file over 450 lines is two files."""
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(SOURCE.rglob("*"))
        if path.suffix in (".py", ".c", ".h", ".cpp", ".sv")
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert not too_long, f"more than {MOST_LINES} lines, split them: {too_long}"

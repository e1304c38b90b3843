# SPDX-License-Identifier: Apache-2.0
"""Imports go one way.

Every module of biotrain, the files of a package counting as one module, stands on a layer and may
import what stands on a lower one. An import inside a function or under TYPE_CHECKING counts too.
"""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "biotrain"

# Lowest first. Modules of one line do not import each other, but for the leaves.
LEAVES = ("frontend", "models", "ondevice", "optim", "published", "rt", "target", "topology")
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    LEAVES,
    ("ir",),
    ("op",),
    ("ops",),
    ("regions",),
    ("memory", "autodiff", "capture", "cost", "strategy"),
    ("choices", "judge", "limits", "rewrite"),
    ("search",),
    ("batch", "pieces", "liveplan"),
    ("renewal",),
    ("plan",),
    ("emit",),
    ("package",),
    ("compile",),
    ("timeline", "calibration"),
    ("run", "plots"),
    ("verify",),
    ("__init__",),  # the facade, `import biotrain as bt`; modules below it name each other directly
    ("study",),
    ("sklearn", "live"),
    ("cli",),
    ("__main__",),
)

# Modules that may import less than their layer allows.
ONLY: dict[str, set[str]] = {
    "models": set(),  # plain torch modules, which a user can copy out
    "topology": {"errors"},  # torch to torch, for any module and not only ours
    "ir": {"errors"},
    "op": {"errors", "ir"},
    "regions": {"ir", "op"},
    "memory": {"errors", "ir", "op", "regions", "target"},  # op says what may lie in place
    "judge": {"errors", "ir", "op", "regions", "memory"},
    "cost": {"errors", "ir", "op", "ops", "target"},
}

# Upward imports that the contract asks for; each stands inside the function that needs it (or under
# TYPE_CHECKING).
UPWARD: dict[tuple[str, str], str] = {
    ("package", "run"): "pkg.run(...) starts the package that it belongs to",
    ("frontend", "run"): "front.run(...) plays the device's C on this machine",
}

LONG, TOO_LONG = 500, 600  # lines
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


@dataclass(frozen=True)
class Import:
    """`importer` imports `imported`, both as top-level names inside biotrain."""

    importer: str
    imported: str
    where: str  # file:line
    deferred: bool  # inside a function, or for the type checker only


def stem(parts: tuple[str, ...]) -> str:
    """The name in LAYERS of a module path: ("ops", "conv") is "ops", () is the facade."""
    return parts[0] if parts else "__init__"


def is_module(source: Path, name: str) -> bool:
    return (source / f"{name}.py").exists() or (source / name).is_dir()


def imported_by(node: ast.AST, package: tuple[str, ...], source: Path) -> Iterator[str]:
    """The stems that one statement or call imports; `package` is where relative imports start."""
    if isinstance(node, ast.Import):
        dotted = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        module = ".".join(part for part in (base, node.module or "") if part)
        dotted = [module]
        if module == "biotrain":  # `from biotrain import ops` names a module, `... SGD` the facade
            dotted = [
                f"biotrain.{alias.name}" if is_module(source, alias.name) else "biotrain"
                for alias in node.names
            ]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        first = node.args[0] if node.args else None
        literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
        dotted = [first.value] if literal else []
    else:
        return
    for name in dotted:
        top, *rest = name.split(".")
        if top == "biotrain":
            yield stem(tuple(rest))


def imports(source: Path) -> Iterator[Import]:
    """Every import between the modules of the package that lies in `source`."""
    for path in sorted(source.rglob("*.py")):
        inside = path.relative_to(source).with_suffix("").parts
        package = ("biotrain", *inside[:-1])
        importer = inside[0]

        def walk(
            node: ast.AST, deferred: bool, path=path, package=package, importer=importer
        ) -> Iterator[Import]:
            for imported in imported_by(node, package, source):
                if imported != importer:
                    where = f"{path.relative_to(source.parent)}:{node.lineno}"
                    yield Import(importer, imported, where, deferred)
            inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            )
            for child in ast.iter_child_nodes(node):
                yield from walk(child, deferred or inner)

        yield from walk(ast.parse(path.read_text(encoding="utf-8"), str(path)), False)


def complaint(found: Import) -> str | None:
    """What is wrong with one import, or None."""
    importer, imported = found.importer, found.imported
    for name in (importer, imported):
        if name not in RANK:
            return f"{found.where}: {name} stands on no layer; add it to LAYERS in {__file__}"
    if importer in ONLY:
        allowed = imported in ONLY[importer]
    else:
        both_leaves = importer in LEAVES and imported in LEAVES
        allowed = RANK[imported] < RANK[importer] or both_leaves
    if allowed or (found.deferred and (importer, imported) in UPWARD):
        return None
    return f"{found.where}: {importer} must not import {imported}"


def modules(source: Path) -> list[str]:
    """The top-level modules and packages that lie in `source`."""
    paths = (path.relative_to(source) for path in source.rglob("*.py"))
    return sorted({path.with_suffix("").parts[0] for path in paths})


def test_every_module_stands_on_a_layer() -> None:
    missing = [name for name in modules(SOURCE) if name not in RANK]
    assert not missing, f"{missing} stand on no layer; add them to LAYERS in {__file__}"


def test_imports_go_one_way() -> None:
    complaints = [text for found in imports(SOURCE) if (text := complaint(found))]
    assert not complaints, "\n".join(complaints)


def test_leaves_do_not_import_in_a_circle() -> None:
    below = {name: {f.imported for f in imports(SOURCE) if f.importer == name} for name in LEAVES}
    while below:
        bottom = [name for name, imported in below.items() if not imported & below.keys()]
        assert bottom, f"these leaves import each other in a circle: {sorted(below)}"
        for name in bottom:
            del below[name]


def test_compiler_never_reaches_study() -> None:
    """Neither directly nor by a chain of imports, deferred ones included."""
    direct: dict[str, set[str]] = {}
    for found in imports(SOURCE):
        direct.setdefault(found.importer, set()).add(found.imported)
    compiler = {name for name, rank in RANK.items() if rank <= RANK["verify"]}
    reached, todo = set(compiler), sorted(compiler)
    while todo:
        new = sorted(direct.get(todo.pop(), set()) - reached)
        reached.update(new)
        todo.extend(new)
    assert "study" not in reached


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("ops/conv.py", "from biotrain.op import Op", None),
        ("ops/conv.py", "from biotrain.ops.norm import Norm", None),
        ("ops/conv.py", "from biotrain.plan import fit", "ops must not import plan"),
        ("ops/conv.py", "from ..plan import fit", "ops must not import plan"),
        ("ops/conv.py", "from .. import plan", "ops must not import plan"),
        ("ops/conv.py", "from biotrain import plan", "ops must not import plan"),
        ("ops/conv.py", "import biotrain", "ops must not import __init__"),
        ("ops/conv.py", "def f():\n    import biotrain.plan", "ops must not import plan"),
        ("memory.py", "from biotrain import autodiff", "memory must not import autodiff"),
        ("models/eegnet.py", "import biotrain.errors", "models must not import errors"),
        ("frontend.py", "from biotrain.target import Target", None),
        ("plan.py", "import biotrain.study.splits", "plan must not import study"),
        ("plan.py", "import_module('biotrain.study')", "plan must not import study"),
        ("package.py", "def run():\n    from biotrain.run import host", None),
        ("package.py", "from biotrain.run import host", "package must not import run"),
        ("cli.py", "from biotrain import SGD\nimport biotrain.study", None),
        ("nowhere.py", "import biotrain.ir", "nowhere stands on no layer"),
    ],
)
def test_the_check_itself(tmp_path: Path, file: str, text: str, wrong: str | None) -> None:
    source = tmp_path / "biotrain"
    for name in ("plan", "autodiff"):
        source.mkdir(exist_ok=True)
        (source / f"{name}.py").touch()
    (source / file).parent.mkdir(exist_ok=True)
    (source / file).write_text(text)
    complaints = [said for found in imports(source) if (said := complaint(found))]
    if wrong is None:
        assert complaints == []
    else:
        assert len(complaints) == 1
        assert wrong in complaints[0]


def test_no_file_is_too_long() -> None:
    """A file over about 500 lines is two files."""
    suffixes = (".py", ".c", ".h")
    lengths = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted(SOURCE.rglob("*"))
        if path.suffix in suffixes
    }
    too_long = {name: lines for name, lines in lengths.items() if lines > TOO_LONG}
    assert not too_long, f"more than {TOO_LONG} lines, split them: {too_long}"
    for name, lines in lengths.items():
        if lines > LONG:
            warnings.warn(f"long file: {name} has {lines} lines, {LONG} are enough", stacklevel=1)

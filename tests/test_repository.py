# SPDX-License-Identifier: Apache-2.0
"""Habits of the repository that nobody should have to remember."""

import ast
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _behaviour import cases, package

from biotrain.run.project import project_files

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".ci", ".github", "benchmarks", "docs", "examples", "src", "tests")
SKIPPED = {"__pycache__", "build", "dist"}

SPDX = "SPDX-License-Identifier: Apache-2.0"
SOURCE_SUFFIXES = {".py", ".c", ".h", ".s", ".ld", ".toml", ".cmake", ".sh", ".mk", ".yml", ".yaml"}
SOURCE_NAMES = {"Makefile", "CMakeLists.txt", ".gitignore", ".gitattributes", "run"}

# A folder of somebody's machine: nobody else has it.
HOME = re.compile(r"(?<![\w.~])/(?:home|root|Users|work)/\w|\b[A-Z]:\\+Users\\")

# Words of an earlier version for what the field has a name for: docs/ir.md has the glossary.
PRIVATE = re.compile(r"made again|taken anew|\brenew|\bpieces?\b|\bc[oa]me by\b", re.IGNORECASE)

MOST_FUNCTION_LINES, MOST_PARAMETERS = 80, 8
KEYWORDS = {"models": "__init__", "sklearn": "__init__", "package": "compile_model"}
"""Where keywords are the interface itself: hyperparameters of a torch module and of an estimator
(scikit-learn reads them from the signature), and `bt.compile`. Verbs of the command line too."""


def files() -> list[Path]:
    """Every file of the repository, whether git knows it yet or not; no build output."""
    found = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    return sorted(path for path in found if not SKIPPED & set(path.relative_to(ROOT).parts))


def read(path: Path) -> str | None:
    """The text of a file, or None where it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def is_source(path: Path) -> bool:
    return path.suffix.lower() in SOURCE_SUFFIXES or path.name in SOURCE_NAMES


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_source_file_names_its_licence() -> None:
    without = [
        str(path.relative_to(ROOT))
        for path in files()
        if is_source(path) and SPDX not in "\n".join(path.read_text().splitlines()[:5])
    ]
    assert not without, f"add '{SPDX}' to the first lines of {without}"


def test_no_file_names_a_folder_of_one_machine() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files()
        for number, line in enumerate((read(path) or "").splitlines(), 1)
        if HOME.search(line)
    ]
    assert not named, "\n".join(named)


def test_version_is_the_same_everywhere() -> None:
    init = ROOT / "src" / "biotrain" / "__init__.py"
    if not init.exists():
        pytest.skip("there is no src/biotrain/__init__.py yet")
    versions = [
        ast.literal_eval(node.value)
        for node in ast.parse(init.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert versions == [project()["version"]]


def test_licence_and_changelog_are_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_wheel_and_sdist_hold_every_source_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel, header, linker script or target file that does not ship breaks `bt.compile`."""
    from hatchling.build import build_sdist, build_wheel

    if not (ROOT / "README.md").exists():
        pytest.skip("there is no README.md yet, which the package metadata reads")
    monkeypatch.chdir(ROOT)
    wheel = zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path)))
    with wheel, tarfile.open(tmp_path / build_sdist(str(tmp_path))) as sdist:
        in_wheel = set(wheel.namelist())
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
    ours = {str(p.relative_to(ROOT)) for p in files() if ROOT / "src" in p.parents}
    assert {name.removeprefix("src/") for name in ours} <= in_wheel
    assert ours <= in_sdist


# ---------------------------------------------------------------- how it is written


def sources(*suffixes: str) -> list[Path]:
    """Files of the package that end in one of some suffixes."""
    return [p for p in files() if ROOT / "src" in p.parents and p.suffix in suffixes]


def private_words(name: str, text: str) -> list[str]:
    """Lines that say a private word, each behind the name of its file."""
    return [
        f"{name}:{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if PRIVATE.search(line)
    ]


def test_the_package_says_what_the_field_says() -> None:
    found = [
        line
        for path in sources(".py", ".c", ".h", ".toml", ".ld", ".s", ".cmake", ".md")
        for line in private_words(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]
    assert not found, f"{len(found)} lines\n" + "\n".join(found)


@pytest.mark.parametrize("name", ["eegnet-small", "epidenet-live", "mibminet-adabn"])
def test_emitted_files_say_what_the_field_says(name: str) -> None:
    """A small plan with loops, a live one, and one that re-estimates statistics."""
    pkg = package(cases()[name])
    emitted = {**project_files(pkg), **pkg.files}
    found = [line for file in sorted(emitted) for line in private_words(file, emitted[file])]
    assert not found, f"{len(found)} lines\n" + "\n".join(found)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a file, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many arguments a caller may give."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def is_interface(path: Path, function: str) -> bool:
    """Whether the parameters of a function are what a user types."""
    room = path.relative_to(ROOT / "src" / "biotrain").with_suffix("").parts[0]
    return KEYWORDS.get(room) == function or (room == "cli" and function.endswith("_verb"))


def test_no_function_is_too_long() -> None:
    """Two functions are easier to read than one of more than eighty lines."""
    long = [
        f"{path.relative_to(ROOT)}:{f.lineno}: {f.name} has {f.end_lineno - f.lineno + 1} lines"
        for path in sources(".py")
        for f in functions(path)
        if f.end_lineno is not None
        and f.end_lineno - f.lineno >= MOST_FUNCTION_LINES
        and not (is_interface(path, f.name) and f.name.endswith("_verb"))
    ]
    assert not long, "\n".join(long)


def test_no_function_has_too_many_parameters() -> None:
    """Arguments that travel together are one frozen dataclass."""
    many = [
        f"{path.relative_to(ROOT)}:{f.lineno}: {f.name} has {parameters(f)} parameters"
        for path in sources(".py")
        for f in functions(path)
        if parameters(f) > MOST_PARAMETERS and not is_interface(path, f.name)
    ]
    assert not many, "\n".join(many)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Every string that documents something, and where: also those below a field or a constant."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        value = node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, value.value


def test_docstrings_are_sentences() -> None:
    """None begins with "Of": what it is of, a reader has to guess."""
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in sources(".py")
        for line, text in docstrings(path)
        if text.startswith("Of ")
    ]
    assert not found, f"{len(found)} docstrings\n" + "\n".join(found)

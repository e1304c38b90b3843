# SPDX-License-Identifier: Apache-2.0
"""Habits of the repository that nobody should have to remember."""

import ast
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".ci", ".github", "benchmarks", "docs", "examples", "src", "tests")
SKIPPED = {"__pycache__", "build", "dist"}

SPDX = "SPDX-License-Identifier: Apache-2.0"
SOURCE_SUFFIXES = {".py", ".c", ".h", ".s", ".ld", ".toml", ".cmake", ".sh", ".mk", ".yml", ".yaml"}
SOURCE_NAMES = {"Makefile", "CMakeLists.txt", ".gitignore", ".gitattributes", "run"}

# A folder of somebody's machine: nobody else has it.
HOME = re.compile(r"(?<![\w.~])/(?:home|root|Users|work)/\w|\b[A-Z]:\\+Users\\")


def files() -> list[Path]:
    """Every file of the repository, whether git knows it yet or not; no build output."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
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

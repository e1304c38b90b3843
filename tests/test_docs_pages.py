# SPDX-License-Identifier: Apache-2.0
"""The pages that say how something is added, followed word for word in a copy of the tree.

A file is written under the name that stands before its block, a function is put in the place of the
one that the page names, lines of a `diff` block go where it says, and every line after "$ " is run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="the extra `emulator` is not installed")
pytest.importorskip("ziglang", reason="the extra `zig` is not installed")

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w./+-]+\.(?:py|h|toml))`(?!\])")
PLACE = re.compile(r"in the place of `(\w+)`")


@dataclass
class Followed:
    """What a page made of a copy of the tree."""

    tree: Path
    written: dict[str, int] = field(default_factory=dict)
    """Lines that are not blank, by file; of a file that was there, the lines that are new."""
    said: list[tuple[str, str]] = field(default_factory=list)
    """Each command, and what it printed."""

    def of(self, command: str) -> str:
        """What the only command that begins so printed."""
        (text,) = (text for line, text in self.said if line.startswith(command))
        return text

    def json(self, name: str) -> dict:
        """A file that a command wrote."""
        return json.loads((self.tree / name).read_text(encoding="utf-8"))


def copy(folder: Path) -> Path:
    """The tree as a contributor has it, without what no page touches."""
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(line: str, tree: Path, code: int = 0) -> str:
    """Run one line of a page in the tree; what it printed."""
    words = shlex.split(line)
    if words[0] == "biotrain":
        words = [sys.executable, "-m", *words]
    elif words[0] == "python":
        words[0] = sys.executable
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**os.environ, "PATH": path, "PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}"}
    done = subprocess.run(
        words, cwd=tree, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    text = done.stdout + done.stderr
    assert done.returncode == code, f"{line}\n{text[-4000:]}"
    return text


def replaced(old: str, function: str, new: str) -> str:
    """C text with a function, from its first word to its closing brace, replaced."""
    found = re.compile(rf"^BT_KERNEL \w+ {function}\(.*?^}}\n", re.MULTILINE | re.DOTALL)
    text, count = found.subn(lambda _: new, old)
    assert count == 1, f"{function} stands there {count} times"
    return text


def patched(old: str, diff: str) -> str:
    """Text with the lines of a diff that has no positions; what it removes or keeps is there."""
    lines = diff.splitlines()
    before = "\n".join(line[1:] for line in lines if line[0] in " -")
    after = "\n".join(line[1:] for line in lines if line[0] in " +")
    assert old.count(f"{before}\n") == 1, f"not there once: {before}"
    return old.replace(f"{before}\n", f"{after}\n")


def follow(page: str, tree: Path) -> Followed:
    """Do what a page of docs/ says."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    done, before, name = Followed(tree), 0, ""
    for match in BLOCK.finditer(text):
        words = text[before : match.start()]
        before = match.end()
        names, place = NAMED.findall(words), PLACE.findall(words)
        fresh = bool(names)
        name = names[-1] if names else name
        file, body = tree / name, match[2]
        lines = sum(bool(line.strip()) for line in body.splitlines())
        if match[1] == "diff":
            file.write_text(patched(file.read_text(encoding="utf-8"), body), encoding="utf-8")
            added = sum(line.startswith("+") for line in body.splitlines())
            done.written[name] = done.written.get(name, 0) + added
        elif match[1] == "c" and place:
            old = file.read_text(encoding="utf-8")
            file.write_text(replaced(old, place[-1], body), encoding="utf-8")
            done.written[name] = lines
        elif fresh and body.startswith(("# SPDX", "/* SPDX", "from torch")):
            file.parent.mkdir(parents=True, exist_ok=True)
            assert not file.exists(), f"{name} is there already"
            file.write_text(body, encoding="utf-8")
            done.written[name] = lines
        for line in re.findall(r"^\$ (.*)$", body, re.MULTILINE) if not match[1] else ():
            done.said.append((line, run(line, tree)))
    formatted(tree, done.written)
    return done


def formatted(tree: Path, written: Iterable[str]) -> None:
    """`make static` stays green after the page: what it wrote is linted and formatted."""
    for name in ("pyproject.toml", ".clang-format", ".clang-format-ignore"):
        shutil.copy(ROOT / name, tree)
    python = [name for name in written if name.endswith(".py")]
    if python:
        run(f"python -m ruff check {' '.join(python)}", tree)
        run(f"python -m ruff format --check {' '.join(python)}", tree)
    headers = [name for name in written if name.endswith(".h")]
    if headers:
        run(f"clang-format --dry-run --Werror {' '.join(headers)}", tree)


def passed(text: str) -> int:
    """How many tests a run of pytest passed."""
    found = re.search(r"(\d+) passed", text)
    assert found, text[-2000:]
    assert "failed" not in text
    return int(found[1])


@pytest.mark.ci
def test_an_op_is_added(tmp_path: Path) -> None:
    done = follow("add-an-op.md", copy(tmp_path))
    files = [name for name in done.written if name.startswith("src/")]
    assert len(files) == 2
    assert sum(done.written[name] for name in files) < 40  # C included
    assert "sinh" in done.of("biotrain list ops")
    assert passed(done.of("python -m pytest")) >= 5
    plan, peer = done.json("plan.json"), done.json("sigmoid.json")
    assert len(plan["frontier"]) == len(peer["frontier"]) >= 5
    rams = [[point["ram_bytes"] for point in one["frontier"]] for one in (plan, peer)]
    assert rams[0] == rams[1]


@pytest.mark.ci
def test_a_board_and_a_core_are_added(tmp_path: Path) -> None:
    done = follow("add-a-target.md", copy(tmp_path))
    assert "nrf52833" in done.of("biotrain list targets")
    plans = [text for line, text in done.said if line.startswith("biotrain plan")]
    assert "% of 131,072 on nrf52833" in plans[0]
    build = tmp_path / "build"
    assert (build / "nrf52833/firmware/build-zig/main.elf").exists()
    assert "CRC-32 of the weights" in done.of("biotrain run build/nrf52833")
    assert "CRC-32 of the weights" in done.of("biotrain run epidenet")
    note = "the firmware alone does not start on teensy41"
    for verb in ("plan", "compile"):
        both = [text for line, text in done.said if line.startswith(f"biotrain {verb} ")]
        assert [note in " ".join(text.split()) for text in both] == [False, True], verb
    assert note[1:] in (build / "teensy41/README.md").read_text(encoding="utf-8")
    assert note in run("make -C build/teensy41/firmware hex", tmp_path, code=2)
    assert "boot" not in (build / "nrf52833/README.md").read_text(encoding="utf-8")


def test_a_reader_is_added(tmp_path: Path) -> None:
    done = follow("add-a-recording.md", copy(tmp_path))
    assert passed(done.of("python -m pytest")) == 2
    assert done.written["src/biotrain/study/data/readers/table.py"] == 2


@pytest.mark.ci
def test_a_kernel_is_made_faster(tmp_path: Path) -> None:
    done = follow("add-a-kernel.md", copy(tmp_path))
    assert passed(done.of("python -m pytest")) >= 3
    before, after = done.json("before.json"), done.json("after.json")
    assert before["crc32"] == after["crc32"]
    rows = [
        {row["name"]: row["cycles"] for row in one["profile"]["kernels"]} for one in (before, after)
    ]
    assert rows[1]["linear_dx"] < 0.75 * rows[0]["linear_dx"]


@pytest.mark.ci
def test_the_readme_is_one_page_and_its_program_runs(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 100
    (program,) = (body for language, body in BLOCK.findall(text) if language == "python")
    (tmp_path / "readme.py").write_text(program, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "readme.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) > 0.9
    assert (tmp_path / "out/model.c").exists()


LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: str) -> set[str]:
    """What links to the headings of a page end in, as forges make them."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    wrong = []
    for page in pages:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            if link.startswith(("http://", "https://")):
                continue
            file, _, anchor = link.partition("#")
            target = page.parent / file if file else page
            there = target.read_text(encoding="utf-8") if target.suffix == ".md" else ""
            if not target.exists() or (anchor and anchor not in anchors(there)):
                wrong.append(f"{page.name}: {link}")
    assert not wrong, "\n".join(wrong)


MODULE = re.compile(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|h|c))`")


def test_files_that_the_pages_name_are_there() -> None:
    """A page that names a file by a name that it no longer has sends the reader nowhere."""
    there = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.[chp]*") if path.is_file()]
    made = {
        "mynet.py",
        "mlp.py",
        "make_recording.py",
        "make_files.py",
        "calibrate.py",
        "firmware.py",
    }
    made |= {
        "main.c",
        "program.c",
        "model.h",
        "model.c",
        "model_weights.c",
        "board.c",
        "live.h",
        "front.h",
    }
    made |= {
        "front.c",
        "sinh.py",
        "bt_sinh.h",
        "amp.py",
        "test_amp.py",
        "x.py",
        "bt_x.h",
    }
    missing = [
        f"{page.name}: {name}"
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
        for name in MODULE.findall(page.read_text(encoding="utf-8"))
        if name.rpartition("/")[2] not in made
        and not any(f"/{t}".endswith(f"/{name}") for t in there)
    ]
    assert not missing, "\n".join(missing)

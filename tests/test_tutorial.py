# SPDX-License-Identifier: Apache-2.0
"""docs/tutorial.md, from its first file to its last line: programs are saved under the names that
it gives them, and its commands run in its order, on fewer people and for fewer epochs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biotrain.cli import main

pytest.importorskip("edfio", reason="the extra `data` is not installed")
pytest.importorskip("scipy", reason="the extra `study` is not installed")
pytest.importorskip("unicorn", reason="the extra `emulator` is not installed")

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"

SMALLER = {
    'study.generate("emg")': 'study.generate("emg", subjects=3, sessions=1, trials=8)',
    "--subject 5,6 --pretrain-epochs 10 --epochs 10 --out": (
        "--subject 2 --pretrain-epochs 1 --epochs 1 --out"
    ),
    "--subject 5,6 --strategies none,align,adabn,last,full,adabn+full": (
        "--subject 2,3 --strategies none,align,adabn+full"
    ),
    "--holdout 0.2 --seeds 0,1 --pretrain-epochs 10 --epochs 10 --jobs 2": (
        "--holdout 0.2 --pretrain-epochs 1 --epochs 2"
    ),
    "--subject 6 --epochs 5": "--subject 3 --epochs 1",
    "subject=6": "subject=3",
    "s != 6": "s != 3",
    "epochs=10": "epochs=1",
    "range(10)": "range(1)",
    "steps=3, seeds=2": "steps=1, seeds=1",
    "--steps 3 --seeds 2": "--steps 1 --seeds 1",
}
"""What the page says -> what runs here."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"`([\w.]+\.(?:py|toml|c))`")


def blocks() -> list[tuple[str, str, str]]:
    """(language, text, the last file name that the page gave before it)."""
    page = TUTORIAL.read_text(encoding="utf-8")
    for said, runs in SMALLER.items():
        assert said in page, f"the tutorial no longer says: {said}"
        page = page.replace(said, runs)
    out, before = [], 0
    for match in BLOCK.finditer(page):
        names = NAMED.findall(page[before : match.start()])
        out.append((match[1], match[2], names[-1] if names else ""))
        before = match.end()
    return out


def commands(text: str) -> list[tuple[str, str]]:
    """The lines after "$ ", each with what stands below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(line, rest) for line, _, rest in (part.partition("\n") for part in parts)]


@pytest.mark.ci
def test_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    ran: list[str] = []
    written: list[str] = []
    for language, text, name in blocks():
        if language in ("python", "toml") and name:
            (tmp_path / name).write_text(text, encoding="utf-8")
            written.append(name)
        elif language == "python":  # goes on with the program before; the page runs both in words
            program = tmp_path / written[-1]
            program.write_text(f"{program.read_text(encoding='utf-8')}\n{text}", encoding="utf-8")
            run(["python", program.name])
        elif language == "c" and text.startswith("/* SPDX"):
            (tmp_path / "out" / "mynet" / name).write_text(text, encoding="utf-8")
            written.append(name)
        elif not language:
            for line, below in commands(text):
                ran.append(line.split()[0])
                follow(line, below, capfd)
    assert {"make_recording.py", "mynet.py", "calibrate.py", "firmware.py", "main.c"} < {*written}
    verbs = {"prepare", "plan", "compile", "run", "verify", "adapt", "study", "report", "data"}
    assert ran.count("biotrain") >= len(verbs)
    assert (tmp_path / "out/firmware/firmware/link.ld").exists()
    assert (tmp_path / "build/study/report.html").stat().st_size > 10_000


def follow(line: str, below: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Run one line of the page, and compare the exit code and what every run must print."""
    words = shlex.split(line)
    if words[0] == "cd":
        os.chdir(words[1])
    elif words[0] == "biotrain":
        refused = below.startswith("biotrain: ")
        assert main(words[1:]) == (2 if refused else 0), line
        if refused:
            assert "does not fit" in capfd.readouterr().err
    elif words[0] == "gcc" and shutil.which("gcc") is None:
        pytest.skip("no gcc for the last section")
    else:
        said = run(words)
        if words[0] == "./calibrate":  # made-up windows, fixed weights: the page, CRC for CRC
            lines = [text.split(", CRC-32")[0] for text in below.strip().splitlines()]
            told = [text.split(", CRC-32")[0] for text in said.strip().splitlines()]
            assert [t.split(":")[0] for t in told] == [t.split(":")[0] for t in lines]
            assert told[-3:] == lines[-3:]
        if "firmware.py" in words:
            assert said.strip().endswith("on both")


def run(words: list[str]) -> str:
    """Run a program of the page; its standard output."""
    program = [sys.executable, *words[1:]] if words[0] == "python" else words
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-2000:]}"
    return done.stdout

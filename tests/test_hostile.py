# SPDX-License-Identifier: Apache-2.0
"""Whatever a person types, and whatever is in a file: a result, or one line and exit code 2.

Exit code 70 and a traceback are a failing test. The values stand in `_hostile.py`, the damaged
files in `_hostile_files.py`; both are drawn the same way in every run.
"""

from __future__ import annotations

import importlib
import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _hostile import DEEP_JSON, JSON_DIGITS, Call, bounded, calls, changed, damaged
from _hostile_files import Files, Reader, readers, study_reader
from _sample import spread

from biotrain.cli import main
from biotrain.errors import BioTrainError

SMALL = ["mibminet", "--chans", "2", "--times", "64", "--classes", "3", "--sfreq", "125"]

ALL = list(calls())
SOME = [ALL[k] for k in spread(len(ALL), 320)]
FILES = list(readers())
QUICK_FILES, LONG_FILES = 15, 4000
"""Damaged files of each reader in `make test` and in `make exhaustive`."""


def recordings(folder: Path) -> Path:
    """Two people, two classes, windows of 128 samples."""
    rng = np.random.default_rng(0)
    trials = 32
    np.savez(
        folder / "d.npz",
        x=rng.integers(-3000, 3000, (trials, 2, 128)).astype(np.int16),
        scale=np.float32(0.5),
        y=np.arange(trials) % 2,
        subject=np.repeat([1, 2], trials // 2),
        session=np.ones(trials, int),
        fs=np.float32(125),
        channels=np.array(["a", "b"]),
        classes=np.array(["u", "v"]),
        unit=np.array("uV"),
    )
    return folder / "d.npz"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder with recordings and the finished study of a strategy on them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = str(recordings(folder))
        learn = ["--strategies", "none,last", "--pretrain-epochs", "0", "--epochs", "1"]
        assert main(["study", "--data", data, *learn, "--out", str(folder / "study")]) == 0
        yield folder


def run(call: Call, place: Path, tmp: Path, capfd: Any) -> tuple[int, str]:
    """The exit code of a call, and what it said on standard error."""
    known = {"{data}": place / "d.npz", "{study}": place / "study", "{tmp}": tmp}
    arguments = list(call.arguments)
    for name, path in known.items():
        arguments = [a.replace(name, str(path)) for a in arguments]
    with bounded():
        code = main(arguments)
    return code, capfd.readouterr().err


def check(code: int, said: str) -> None:
    """A result, a failed check, or one line about the input."""
    assert code in (0, 1, 2), said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("biotrain: ")]
    assert len(lines) == (code == 2), said
    if code == 2:
        assert said.endswith(f"{lines[0]}\n")
        assert len(lines[0]) < 4200


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def light(ready: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and nothing is pretrained: what is wrong is to be refused before that."""

    def stopped(*_: object, **__: object) -> None:
        raise BioTrainError("the test stops here")

    for module, name in (
        ("biotrain.study.adapt", "pretrain"),
        ("biotrain.study.work", "pretrain"),
        ("biotrain.cli.live", "build_network"),
    ):
        monkeypatch.setattr(importlib.import_module(module), name, stopped)
    return ready


@pytest.mark.sample(test=40, ci=320)
@pytest.mark.parametrize("call", SOME, ids=str)
def test_no_option_is_an_error_of_ours(call: Call, place: Path, light: Path, capfd: Any) -> None:
    check(*run(call, place, light, capfd))


@pytest.mark.exhaustive
@pytest.mark.parametrize("verb", sorted({c.arguments[0] for c in ALL} - {"demo"}))
def test_every_value_of_every_option(verb: str, place: Path, ready: Path, capfd: Any) -> None:
    for call in ALL:
        if call.arguments[0] == verb:
            check(*run(call, place, ready, capfd))


# ---------------------------------------------------------------- files


def read(reader: Reader, files: Files) -> str:
    """What the reader says of the files; "" where it takes them."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        try:
            with bounded(20):
                reader.read(Path(folder))
        except BioTrainError as error:
            return str(error)
        except Exception as error:
            pytest.fail(f"{reader.name}: {type(error).__name__}: {error}")
    return ""


def sweep(reader: Reader, count: int, begin: int = 0) -> None:
    good = reader.good()
    assert read(reader, good) == ""
    for k in range(begin, begin + count):
        files = reader.damage(good, random.Random(f"{reader.name} {k}"))
        said = read(reader, files)
        assert len(said) < 1500, (k, said)
        assert "pickle" not in said, (k, said)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", FILES, ids=lambda reader: reader.name)
def test_damaged_files(reader: Reader) -> None:
    sweep(reader, QUICK_FILES)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", FILES, ids=lambda reader: reader.name)
def test_many_damaged_files(reader: Reader) -> None:
    sweep(reader, LONG_FILES, QUICK_FILES)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_study(place: Path) -> None:
    sweep(study_reader(place / "study"), 12)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_studies(place: Path) -> None:
    sweep(study_reader(place / "study"), 2000, 12)


def damaged_package(text: bytes, rng: random.Random) -> bytes:
    """package.json with another value somewhere, or damaged bytes."""
    if rng.random() < 0.3:
        return damaged(text, rng)
    if rng.random() < 0.2:
        return rng.choice((DEEP_JSON, JSON_DIGITS, b"[]", b"{}", b""))
    return json.dumps(changed(json.loads(text), rng)).encode()


@pytest.mark.parametrize("count", [8, pytest.param(1000, marks=pytest.mark.exhaustive)])
def test_a_damaged_package(count: int, ready: Path, capfd: Any) -> None:
    assert main(["compile", *SMALL, "-o", "c"]) == 0
    capfd.readouterr()
    settings, module = Path("c/package.json"), Path("c/model.pt2")
    good = settings.read_bytes()
    for k in range(count):
        settings.write_bytes(damaged_package(good, random.Random(k)))
        with bounded():
            code = main(["run", "c", "--samples", "1"])
        check(code, capfd.readouterr().err)
    settings.write_bytes(good)
    for lost in (module, Path("c/model.h"), settings):
        lost.unlink()
        assert main(["run", "c", "--samples", "1"]) == 2
        check(2, capfd.readouterr().err)


def test_a_text_that_is_called_npz(tmp_path: Path, capfd: Any) -> None:
    """numpy would advise to unpickle it."""
    (tmp_path / "t.npz").write_text("a,b\n1,2\n")
    assert main(["data", "info", str(tmp_path / "t.npz")]) == 2
    said = capfd.readouterr().err
    assert "no archive of arrays" in said
    assert "pickle" not in said

# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, never through a link, never over somebody else's."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import biotrain as bt
from biotrain.cli import main as biotrain
from biotrain.study.data.sources import load
from biotrain.study.store import Store
from biotrain.writing import drawing, files
from biotrain.writing.files import MANIFEST, Folder, replaced, write_file

SMALL = ("mibminet", "--chans", "2", "--times", "64", "--classes", "2", "--strategy", "last")


def refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which a verb refuses, with exit code 2."""
    capfd.readouterr()
    assert biotrain([str(a) for a in arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1].startswith("biotrain: ")
    return lines[-1]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- one file


def test_a_file_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    path.chmod(0o640)
    write_file(path, "new ü")
    assert path.read_text(encoding="utf-8") == "new ü"
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_no_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious", encoding="utf-8")
    link = tmp_path / "link.json"
    link.symlink_to("precious")
    dangling = tmp_path / "dangling.json"
    dangling.symlink_to("absent")
    for path in (link, dangling):
        with pytest.raises(bt.BioTrainError, match="it is a link"):
            write_file(path, "x")
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def half(error: BaseException) -> None:
        with replaced(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(bt.BioTrainError, match="No space left"):
        half(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(KeyboardInterrupt):
        half(KeyboardInterrupt())
    assert snapshot(tmp_path) == {"a": b"old"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="wants /dev/full")
def test_a_device_is_written_to() -> None:
    write_file("/dev/null", "x")
    with pytest.raises(bt.BioTrainError, match="No space left"):
        write_file("/dev/full", "x" * 100_000)


def writers(tmp_path: Path) -> dict[str, Callable[[Path], Any]]:
    """Everything that writes one file."""
    rec = load("synthetic-emg").take(np.arange(4))
    pkg = bt.compile(
        nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), torch.zeros(1, 2, 4), accumulate=1
    )
    return {
        "weights.safetensors": pkg.run("host").save,
        "rec.npz": rec.save,
        "figure.png": lambda path: drawing.save(Figure(), path),
        "figure.svg": lambda path: drawing.save(Figure(), path),
        "model.pt2": lambda path: biotrain(["prepare", *SMALL[:-2], "-o", str(path)]),
        "list.json": lambda path: biotrain(["list", "models", "--json", str(path)]),
        "plan.svg": lambda path: biotrain(
            ["plan", *SMALL, "--no-frontier", "--figure", str(path), "--show", "graph"]
        ),
    }


def test_everything_that_writes_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No link is followed; a full disk leaves the old file and no part of a new one."""
    every = writers(tmp_path)
    for name, write in every.items():
        (tmp_path / "precious").write_bytes(b"precious")
        (tmp_path / name).symlink_to("precious")
        assert "it is a link" in why(write, tmp_path / name, capfd)
        (tmp_path / name).unlink()
        (tmp_path / name).write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fdopen", full_disk)
            assert "No space left" in why(write, tmp_path / name, capfd)
        assert snapshot(tmp_path) == {"precious": b"precious", name: b"old"}
        write(tmp_path / name)
        assert len((tmp_path / name).read_bytes()) > 100
        (tmp_path / name).unlink()


def why(write: Callable[[Path], Any], path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The line with which something that writes refuses."""
    capfd.readouterr()
    try:
        code = write(path)
    except bt.BioTrainError as error:
        return str(error)
    lines = capfd.readouterr().err.splitlines()
    return lines[-1] if code == 2 else f"{code}: {lines}"


def full_disk(file: int, mode: str) -> Any:
    os.close(file)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---------------------------------------------------------------- a folder


def test_only_what_was_written_is_replaced(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    folder.write({"a": "1", "deep/b": b"1"})
    folder.write({"a": "2", "deep/b": b"2"})
    (tmp_path / "out/a").write_text("mine", encoding="utf-8")
    (tmp_path / "out/c").write_text("mine", encoding="utf-8")
    before = snapshot(tmp_path)
    with pytest.raises(bt.BioTrainError, match=r"out/a' was changed since: .*--force"):
        folder.write({"a": "3", "deep/b": "3"})
    with pytest.raises(bt.BioTrainError, match=r"out/c' is not BioTrain's"):
        folder.write({"c": "3", "deep/b": "3"})
    with pytest.raises(bt.BioTrainError, match=r"\(and 1 more\)"):
        folder.write({"a": "3", "c": "3"})
    assert snapshot(tmp_path) == before
    folder.write({"c": "mine"})  # what stands there is what was to be written
    Folder(tmp_path / "out", force=True).write({"a": "3"})
    assert (tmp_path / "out/a").read_text(encoding="utf-8") == "3"


def test_the_whole_folder(tmp_path: Path) -> None:
    """What an earlier package had and this one has not goes, unless somebody changed it."""
    folder = Folder(tmp_path)
    folder.write({"a": "1", "deep/er/b": "1", "deep/c": "1", "d": "1"}, whole=True)
    (tmp_path / "d").write_text("mine", encoding="utf-8")
    (tmp_path / "other").write_text("mine", encoding="utf-8")
    folder.write({"a": "2"}, whole=True)
    left = snapshot(tmp_path)
    left.pop(MANIFEST)
    assert left == {"a": b"2", "d": b"mine", "other": b"mine"}
    assert not (tmp_path / "deep").exists()


def test_no_link_in_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "precious").write_text("precious", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    (out / "deep").symlink_to("../elsewhere")
    (out / "a").symlink_to("../precious")
    for force in (False, True):
        with pytest.raises(bt.BioTrainError, match="deep': it is a link"):
            Folder(out, force).write({"deep/b": "1"})
    with pytest.raises(bt.BioTrainError, match="a' is not BioTrain's"):
        Folder(out).write({"a": "1"})
    Folder(out, force=True).write({"a": "1"})  # the link itself is replaced
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "precious"
    assert not (out / "a").is_symlink()
    assert not list((tmp_path / "elsewhere").iterdir())
    (out / MANIFEST).unlink()
    (out / MANIFEST).symlink_to("../precious")
    with pytest.raises(bt.BioTrainError, match="it is a link"):
        Folder(out).write({"new": "1"})
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "precious"


def test_names_stay_below_the_folder(tmp_path: Path) -> None:
    for name in ("../a", "/tmp/a", "deep/../../a", MANIFEST):
        with pytest.raises(bt.BioTrainError, match="no file below"):
            Folder(tmp_path / "out").write({name: "1"})
    manifest = {"files": {"../precious": ["0"], "deep/../../x": ["0"]}}
    (tmp_path / "precious").write_text("", encoding="utf-8")
    (tmp_path / "out").mkdir()
    for text in (json.dumps(manifest), "[", "[]", '{"files": [1]}', "[" * 100_000):
        (tmp_path / "out" / MANIFEST).write_text(text, encoding="utf-8")
        Folder(tmp_path / "out").write({}, whole=True)
    assert (tmp_path / "precious").exists()


def test_a_kill_between_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written until then is BioTrain's still, before and after."""
    folder = Folder(tmp_path)
    folder.write({"a": "1", "b": "1", "c": "1"})
    calls = []

    def killed(path: Path, data: str | bytes, **more: Any) -> None:
        calls.append(path.name)
        if path.name == "b":
            raise KeyboardInterrupt
        write_file(path, data, **more)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.write({"a": "2", "b": "2", "c": "2"})
    assert calls == [MANIFEST, "a", "b"]
    folder.write({"a": "3", "b": "3", "c": "3"})
    assert {n: t for n, t in snapshot(tmp_path).items() if n != MANIFEST} == dict.fromkeys(
        "abc", b"3"
    )


# ---------------------------------------------------------------- verbs


def test_compile_keeps_what_others_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("mine", encoding="utf-8")
    compile_it = ("compile", *SMALL, "-o", out)
    assert "README.md' is not BioTrain's" in refused(capfd, *compile_it)
    assert snapshot(out) == {"README.md": b"mine"}
    (out / "README.md").unlink()
    assert biotrain([str(a) for a in compile_it]) == 0
    assert biotrain([str(a) for a in compile_it]) == 0
    board = out / "example/board.c"
    board.write_text(board.read_text(encoding="utf-8") + "/* mine */\n", encoding="utf-8")
    assert "example/board.c' was changed since" in refused(capfd, *compile_it)
    assert "/* mine */" in board.read_text(encoding="utf-8")
    assert biotrain([*(str(a) for a in compile_it), "--force"]) == 0
    assert "/* mine */" not in board.read_text(encoding="utf-8")


def test_adapt_refuses_before_it_works(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for verb in (("adapt", "--data", "synthetic-emg"), ("demo",)):
        out = tmp_path / verb[0]
        out.mkdir()
        (out / "results.json").write_text("mine", encoding="utf-8")
        assert "results.json' is not BioTrain's" in refused(capfd, *verb, "--out", out)
        assert snapshot(out) == {"results.json": b"mine"}


@pytest.mark.parametrize("name", ["results.jsonl", "study.json", "pretrained", ".lock"])
def test_a_study_follows_no_link(name: str, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir() if name == "pretrained" else (tmp_path / "precious").touch()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / name).symlink_to("../precious")
    with pytest.raises(bt.BioTrainError, match="it is a link"), Store(tmp_path / "study"):
        pass
    assert not snapshot(tmp_path).get("precious")


def test_a_study_keeps_a_study_json_of_others(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(bt.BioTrainError, match=r"study\.json: not the JSON"), Store(tmp_path):
        pass


def test_recordings_survive_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = load("synthetic-emg").take(np.arange(4))
    path = rec.save(tmp_path / "a.npz")
    before = snapshot(tmp_path)

    def torn(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", torn)
    with pytest.raises(bt.BioTrainError, match="No space left"):
        rec.save(path)
    assert snapshot(tmp_path) == before

# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, a folder that goes away, a reader that leaves: no row is lost or torn, and
there is one line about it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import biotrain
from biotrain.errors import BioTrainError
from biotrain.study.rows import StudyRow
from biotrain.study.store import Store, StoreError, read_rows, read_study

SOURCE = Path(biotrain.__file__).parents[1]
RUN = "import sys; from biotrain.cli import main; sys.exit(main())"

ROW = StudyRow(
    key="a", dataset="d", scenario="day1", model="m", norm="group", strategy="none", subject=1,
    session=1, seed=0, accuracy=0.5, balanced_accuracy=0.5, chance=0.5, ram_bytes=None, ops=None,
    steps=0, confusion=((1, 2), (3, 4)),
)  # fmt: skip


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file grows beyond `size` bytes: the system writes what fits, then says EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_row_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """At every place where the disk may be full."""
    file = tmp_path / "results.jsonl"
    with Store(tmp_path) as store:
        store.add(ROW)
        before = file.read_bytes()
        for spare in range(0, len(before), 7):
            with room_for(len(before) + spare), pytest.raises(StoreError, match="File too large"):
                store.add(replace(ROW, key="b"))
            assert file.read_bytes() == before
            assert list(store.rows) == ["a"]
        store.add(replace(ROW, key="b"))
    assert [row.key for row in read_rows(tmp_path)] == ["a", "b"]


def test_weights_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.put_weights("pretrained", "k", b"old")
        with room_for(100), pytest.raises(StoreError, match="run the same command again"):
            store.put_weights("pretrained", "k", b"new" * 100)
        assert store.weights("pretrained", "k") == b"old"
    assert [path.name for path in (tmp_path / "pretrained").iterdir()] == ["k.safetensors"]


def test_a_torn_row_is_cut_off_and_told(tmp_path: Path) -> None:
    """Whatever a power cut left of the last row."""
    file = tmp_path / "results.jsonl"
    with Store(tmp_path) as store:
        store.add(ROW)
        store.add(replace(ROW, key="b"))
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) + 1, 11):
        file.write_bytes(whole[:end])
        with Store(tmp_path) as store:
            assert list(store.rows) == ["a"]
            assert len(store.notes) == (end > first)
            store.add(replace(ROW, key="b"))
        assert file.read_bytes() == whole


def test_a_row_that_stands_there_twice_counts_once(tmp_path: Path) -> None:
    line = json.dumps(ROW.to_json()) + "\n"
    (tmp_path / "results.jsonl").write_text(line + line)
    assert read_rows(tmp_path) == [ROW]
    other = json.dumps(replace(ROW, accuracy=0.75).to_json()) + "\n"
    (tmp_path / "results.jsonl").write_text(line + other)
    with pytest.raises(BioTrainError, match="line 2: another result of a cell that has one"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("accuracy", "high", "accuracy is no float"),
        ("accuracy", 1.5, "accuracy is no fraction"),
        ("accuracy", float("nan"), "NaN is no number"),
        ("subject", True, "subject is no int"),
        ("confusion", [[1, 2]], "confusion is no square"),
        ("curve", [0.5, None], r"curve\[1\] is no float"),
        ("key", "", "key is missing"),
    ],
)
def test_a_damaged_row_is_told_by_its_field(
    tmp_path: Path, key: str, value: Any, complaint: str
) -> None:
    (tmp_path / "results.jsonl").write_text(json.dumps(ROW.to_json() | {key: value}) + "\n")
    with pytest.raises(BioTrainError, match=f"line 1: no result of a study .*{complaint}"):
        read_rows(tmp_path)


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with Store(folder) as store:
        shutil.rmtree(folder)
        for write in (
            lambda: store.add(ROW),
            lambda: store.time("a", 1.0),
            lambda: store.put_weights("adapted", "a", b"x"),
            lambda: store.weights("adapted", "a"),
        ):
            with pytest.raises(StoreError, match=r"No such file or directory|there is no folder"):
                write()
    assert store.rows == {}
    for read in (read_study, lambda place: Store(place / "file" / "below").__enter__()):
        (tmp_path / "file").touch()
        with pytest.raises(BioTrainError):
            read(tmp_path)


def listed(*redirected: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`biotrain list targets`, whose standard output a shell redirects."""
    command = f"{sys.executable} -c '{RUN}' list targets {' '.join(redirected)}"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **more}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment, check=False
    )


def test_standard_output_that_takes_nothing() -> None:
    full = listed("> /dev/full")
    assert (full.returncode, full.stderr) == (
        2,
        "biotrain: cannot write: No space left on device\n",
    )
    closed = listed(">&-")
    assert closed.returncode == 2
    assert closed.stderr.startswith("biotrain: standard output is closed")
    assert closed.stderr.count("\n") == 1
    silent = listed("2>&-")
    assert silent.returncode == 0
    assert "nrf52840" in silent.stdout


def test_a_pipe_that_closes_is_no_error() -> None:
    done = listed("| head -1; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 141)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("columns", ["x", "-5", "0", "", "9" * 5000, "1e3"])
def test_columns_that_are_no_number(columns: str) -> None:
    done = listed(COLUMNS=columns)
    assert done.returncode == 0, done.stderr
    assert "nrf52840" in done.stdout


@pytest.mark.parametrize("verb", [["list", "targets"], ["data", "list"]])
def test_json_onto_a_full_disk(verb: list[str], capfd: Any) -> None:
    code = biotrain_main([*verb, "--json", "/dev/full"])
    said = capfd.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert "No space left on device" in said


def biotrain_main(arguments: list[str]) -> int:
    """The command line in this process."""
    from biotrain.cli import main

    return main(arguments)

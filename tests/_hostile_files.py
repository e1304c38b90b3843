# SPDX-License-Identifier: Apache-2.0
"""A fuzzer for every reader of files: each has a good file, ways to damage it, and a call that must
end well or with one clear error."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _formats import WRITERS, Example
from _hostile import (
    DEEP_JSON,
    DEEP_TABLES,
    DEEP_TOML,
    DIGITS,
    HEADERS,
    JSON_DIGITS,
    as_toml,
    changed,
    damaged,
    nasty_arrays,
    npy_with,
)

from biotrain.frontend import read_front
from biotrain.study.data.sources import load, load_continuous
from biotrain.study.results.finished import study_rows
from biotrain.study.results.report import write_report
from biotrain.study.spec import make_spec, read_spec
from biotrain.study.store import Store

Files = dict[str, bytes]
"""The files of one input, by their name."""


@dataclass(frozen=True)
class Reader:
    """`good`: the files of an input; `damage`: bad ones from the good ones; `read`: reads what lies
    in a folder."""

    name: str
    good: Callable[[], Files]
    damage: Callable[[Files, random.Random], Files]
    read: Callable[[Path], object]


def one_of(files: Files, rng: random.Random) -> Files:
    """One of the files with damaged bytes."""
    name = rng.choice(sorted(files))
    return files | {name: damaged(files[name], rng)}


# ---------------------------------------------------------------- arrays


def windows() -> dict[str, Any]:
    """Recordings in BioTrain's layout."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(-3000, 3000, (12, 2, 20)).astype(np.int16),
        "scale": np.float32(0.5),
        "y": np.arange(12) % 2,
        "subject": np.repeat([1, 2], 6),
        "session": np.ones(12, np.int64),
        "fs": np.float32(100),
        "channels": np.array(["a", "b"]),
        "classes": np.array(["u", "v"]),
        "unit": np.array("uV"),
        "time_s": np.arange(12.0),
        "run": np.ones(12, np.int64),
        "subject_names": np.array([["1", "Ann"], ["2", "Bob"]]),
        "left_out": np.array([["1", "3", "too short"]]),
        "notes": np.array(["as found"]),
    }


def continuous() -> dict[str, Any]:
    """Continuous recordings in BioTrain's layout."""
    rng = np.random.default_rng(0)
    return {
        "signal": rng.integers(-3000, 3000, (2, 400)).astype(np.int16),
        "scale": np.float64(0.5),
        "fs": np.float64(100),
        "channels": np.array(["a", "b"]),
        "classes": np.array(["u", "v"]),
        "unit": np.array("uV"),
        "part_begin": np.array([0, 200]),
        "part_subject": np.array([1, 2]),
        "part_session": np.array([1, 1]),
        "span_begin": np.array([10, 60, 210, 260]),
        "span_end": np.array([50, 100, 250, 300]),
        "span_label": np.array([0, 1, 0, 1]),
        "bad_begin": np.array([120]),
        "bad_end": np.array([130]),
        "subject_names": np.array([["1", "Ann"]]),
    }


def archived(arrays: dict[str, Any]) -> bytes:
    """A `.npz`."""
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def bad_arrays(make: Callable[[], dict[str, Any]]) -> Callable[[Files, random.Random], Files]:
    """An archive of which an array is another one, or lies about itself, or with damaged bytes."""

    def damage(files: Files, rng: random.Random) -> Files:
        arrays, kind = make(), rng.randrange(4)
        key = rng.choice(sorted(arrays))
        if kind == 0:
            return {"d.npz": damaged(files["d.npz"], rng)}
        if kind == 1:
            return {"d.npz": _with_member(files["d.npz"], f"{key}.npy", rng)}
        arrays[key] = rng.choice(list(nasty_arrays(arrays[key])))
        if kind == 2:
            del arrays[rng.choice(sorted(arrays))]
        return {"d.npz": archived(arrays)}

    return damage


def _with_member(data: bytes, member: str, rng: random.Random) -> bytes:
    """The archive with a member whose header lies, or which is said to be encrypted."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, npy_with(rng.choice(HEADERS)) if name == member else old.read(name))
    changed_bytes = bytearray(out.getvalue())
    if rng.random() < 0.2:  # bit 0 of the flags, in the directory, says that it is encrypted
        at = changed_bytes.find(b"PK\x01\x02")
        changed_bytes[at + 8] |= 1
    return bytes(changed_bytes)


# ---------------------------------------------------------------- tables of settings

FRONT = {
    "bandpass": [5, 40], "notch": 20, "reference": "average", "decimate": 1, "order": 4,
    "standardise": "running", "memory_s": 3.0, "window_s": 1.0, "hop_s": 0.5, "unit": 0.01,
    "fs_in": 125.0, "n_chans": 2, "scale": 0.5, "notch_q": 30.0,
}  # fmt: skip
SPEC: dict[str, Any] = {
    "title": "Study", "seeds": [0, 1], "scenarios": ["day1", "sizes"], "sizes": [5, 10],
    "strategies": ["none", "last", "gentle"], "others": 20, "bootstrap_seed": 3,
    "calibrate": {"epochs": 3, "lr": 1e-3, "memory": "64KiB", "target": "host", "holdout": 0.2},
    "strategy": {"gentle": {"rule": "full", "lr": 1e-3}, "last": {"norm": "group"}},
    "pretrain": {"epochs": 2, "every": 1, "batch": 8, "engine": "c", "lr": 1e-3},
    "data": [
        {"source": "synthetic-emg", "models": ["epidenet"], "subjects": [1, 2], "decimate": 100.0},
        {"source": "synthetic-eeg", "models": ["mibminet"], "strategies": ["none"],
         "strategy": {"none": {"epochs": 0}}, "calibration": 0.7},
    ],
}  # fmt: skip
OWN: dict[str, Any] = {
    "folder": ".", "pattern": "{subject}_{run}.csv", "channels": ["C3", "C4"], "window": 0.5,
    "hop": 0.5, "tmin": 0.1, "events": {"tone": "tone", "rest": "rest"}, "scale": 1e4,
    "reject_uv": 1e9, "bad_channels": "keep", "resample": False, "name": "own", "unit": "uV",
}  # fmt: skip


def bad_toml(good: dict[str, Any], name: str) -> Callable[[Files, random.Random], Files]:
    """A table with another value somewhere, damaged bytes, or one of the ways to nest."""

    def damage(files: Files, rng: random.Random) -> Files:
        kind = rng.randrange(6)
        if kind == 0:
            text = damaged(files[name], rng)
        elif kind == 1:
            text = rng.choice((DEEP_TOML, DEEP_TABLES, DIGITS, b"", b"\xff\xfe"))
        else:
            given = changed(good, rng)
            text = as_toml(given if isinstance(given, dict) else {"a": given}).encode()
        return files | {name: text}

    return damage


def read_front_file(folder: Path) -> object:
    """The front end of a file, designed."""
    return read_front(folder / "f.toml").front(fs_in=125.0, n_chans=2, scale=0.5, window=125)


def small_table() -> bytes:
    """Two channels and labels as CSV, with a comment about the rate."""
    rng = np.random.default_rng(0)
    lines = ["# fs = 100", "C3,C4,label"]
    lines += [f"{a:.2f},{b:.2f},{('tone', 'rest')[k // 100 % 2]}"
              for k, (a, b) in enumerate(rng.standard_normal((800, 2)))]  # fmt: skip
    return "\n".join(lines).encode()


# ---------------------------------------------------------------- formats of others


UNFUZZED = {".set": "each takes a process of its own (test_readers.py has what ended it)"}
"""Formats whose damaged files are not read here, and why."""


def written(kind: str) -> Callable[[], Files]:
    """The files of one recording in a format."""

    @cache
    def good() -> Files:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            told = WRITERS[kind](Path(folder), Example())
            name = Path(told.partition("?")[0]).relative_to(folder)
            found = {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.is_file()}
            return {"NAME": f"{name}{told[len(folder) + 1 + len(str(name)) :]}".encode(), **found}

    return good


def read_named(folder: Path) -> object:
    """The recording that the file NAME of the folder names, both ways."""
    source = str(folder / (folder / "NAME").read_text())
    load_continuous(source)
    return load(source, window_s=2.0)


def not_the_name(files: Files, rng: random.Random) -> Files:
    """One of the files but NAME with damaged bytes."""
    return one_of({k: v for k, v in files.items() if k != "NAME"}, rng) | {"NAME": files["NAME"]}


# ---------------------------------------------------------------- studies


def study_reader(folder: Path) -> Reader:
    """The reader of a study's folder, with that of a finished study as the good one."""

    def good() -> Files:
        return {name: (folder / name).read_bytes() for name in ("study.json", "results.jsonl")}

    def damage(files: Files, rng: random.Random) -> Files:
        kind = rng.randrange(5)
        if kind == 0:
            return one_of(files, rng)
        if kind == 1:
            name = rng.choice(sorted(files))
            return files | {
                name: rng.choice((DEEP_JSON, JSON_DIGITS, b"", b"[]", b"\xff\n")) + b"\n"
            }
        if kind == 2:
            given = changed(json.loads(files["study.json"]), rng)
            return files | {"study.json": json.dumps(given).encode()}
        lines = files["results.jsonl"].splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), rng)).encode()
        return files | {"results.jsonl": b"\n".join(lines) + b"\n"}

    def read(place: Path) -> object:
        study_rows(place)
        with Store(place):
            pass
        return write_report(place, place / "page")

    return Reader("study", good, damage, read)


def readers() -> Iterator[Reader]:
    """Every reader of files that needs no other input first."""
    for name, make in (("windows", windows), ("continuous", continuous)):
        read = (lambda folder: load(folder / "d.npz")) if name == "windows" else (
            lambda folder: load_continuous(folder / "d.npz"))  # fmt: skip
        yield Reader(name, lambda make=make: {"d.npz": archived(make())}, bad_arrays(make), read)  # type: ignore[misc]
    yield Reader(
        "front", lambda: {"f.toml": as_toml(FRONT).encode()}, bad_toml(FRONT, "f.toml"),
        read_front_file,
    )  # fmt: skip
    yield Reader(
        "spec", lambda: {"s.toml": as_toml(SPEC).encode()}, bad_toml(SPEC, "s.toml"),
        lambda folder: make_spec(read_spec(folder / "s.toml")),
    )  # fmt: skip
    yield Reader(
        "own",
        lambda: {"o.toml": as_toml(OWN).encode(), "ann_1.csv": small_table()},
        bad_toml(OWN, "o.toml"),
        lambda folder: load(folder / "o.toml"),
    )
    for kind in WRITERS:
        if kind not in (".toml", "bids:", *UNFUZZED):
            yield Reader(kind, written(kind), not_the_name, read_named)

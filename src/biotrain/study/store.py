# SPDX-License-Identifier: Apache-2.0
"""The folder of a study.

    study.json      settings, versions, command, the keys that belong to it
    results.jsonl   one line per cell, appended when it is computed
    timings.jsonl   seconds per cell and per fold
    pretrained/     one .safetensors per fold, named by its key
    adapted/        weights that a later session starts from, named by the cell's key

Only the process that leads a study writes here. A line is written at once; a last line that was
torn by an interruption is dropped when the folder is opened again.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from biotrain.errors import BioTrainError
from biotrain.files import check_file, write_file
from biotrain.study.rows import StudyRow


@dataclass(frozen=True)
class StudyRecord:
    """study.json: what was asked (`spec`), with which versions, facts on each set of recordings,
    what was left out, what failed, and the keys of its cells in the order of the tables."""

    title: str
    biotrain: str
    python: str
    torch: str
    numpy: str
    machine: str
    command: str
    spec: dict[str, Any]
    sets: dict[str, dict[str, Any]]
    left_out: list[str]
    failures: list[str]
    keys: list[str]

    def to_json(self) -> dict[str, Any]:
        """The keys of study.json in their order."""
        return vars(self)


class Store:
    """Opened with `with`; a second leader in the same folder is refused."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.rows: dict[str, StudyRow] = {}
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            for name in ("pretrained", "adapted"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                if (self.folder / name).is_symlink():
                    raise BioTrainError(f"cannot write below '{self.folder / name}': it is a link")
            for name in (".lock", "study.json", "results.jsonl", "timings.jsonl"):
                check_file(self.folder / name)
            if (self.folder / "study.json").exists():
                read_study(self.folder)  # somebody else's file of this name is refused
            self._lock = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            raise BioTrainError(f"cannot write into '{self.folder}': {error.strerror}") from error
        _exclusive(self._lock, self.folder)
        for name in ("results.jsonl", "timings.jsonl"):
            _mend(self.folder / name)
        self.rows = {row.key: row for row in read_rows(self.folder)}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def add(self, row: StudyRow) -> None:
        """Append a result, unless it is there."""
        if row.key not in self.rows:
            self.rows[row.key] = row
            _append(self.folder / "results.jsonl", row.to_json())

    def time(self, key: str, seconds: float) -> None:
        """Note how long the cell or fold `key` took."""
        _append(self.folder / "timings.jsonl", {"key": key, "seconds": round(seconds, 3)})

    def has_weights(self, kind: str, key: str) -> bool:
        """Whether weights of `kind` "pretrained" or "adapted" are there."""
        return self._weights(kind, key).exists()

    def weights(self, kind: str, key: str) -> bytes:
        """The weights of `kind` under `key`, as safetensors."""
        return self._weights(kind, key).read_bytes()

    def put_weights(self, kind: str, key: str, weights: bytes) -> None:
        """Write weights, whole or not at all."""
        _replace(self._weights(kind, key), weights)

    def _weights(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.safetensors"

    def describe(self, study: StudyRecord) -> None:
        """Write study.json."""
        text = json.dumps(study.to_json(), indent=2, allow_nan=False) + "\n"
        _replace(self.folder / "study.json", text.encode())


def read_study(folder: str | Path) -> StudyRecord:
    """study.json of a folder; BioTrainError where there is none."""
    path = Path(folder) / "study.json"
    try:
        return StudyRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BioTrainError(f"'{folder}' is no folder of a study: run biotrain study") from error
    except (ValueError, TypeError) as error:
        raise BioTrainError(f"{path}: not the JSON of a study: {error}") from error


def read_rows(folder: str | Path) -> list[StudyRow]:
    """The whole lines of results.jsonl, in their order in the file."""
    path = Path(folder) / "results.jsonl"
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline was torn
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = StudyRow.from_json(json.loads(line))
            assert row.key
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise BioTrainError(
                f"{path}, line {number}: no result of a study; remove it"
            ) from error
        rows.append(row)
    return rows


def canonical(rows: list[StudyRow]) -> str:
    """Rows as text, sorted by key: equal studies give equal text, in whatever order their cells
    were computed."""
    return "".join(_line(row.to_json()) for row in sorted(rows, key=lambda row: row.key))


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"), allow_nan=False) + "\n"


def _append(path: Path, row: dict[str, Any]) -> None:
    check_file(path)  # no link is followed
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    try:
        os.write(file, _line(row).encode())
        os.fsync(file)
    finally:
        os.close(file)


def _mend(path: Path) -> None:
    """Cut off a last line that has no end."""
    if path.exists():
        text = path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(path, whole)


def _replace(path: Path, data: bytes) -> None:
    write_file(path, data, sync=True)


def _exclusive(file: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise BioTrainError(f"another study is running in '{folder}'") from error

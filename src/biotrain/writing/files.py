# SPDX-License-Identifier: Apache-2.0
"""How BioTrain writes files: whole or not at all, never through a link, never over somebody else's.

**A file that the user names** (`--json`, `--figure`, `--save`, `-o FILE`) replaces a regular file
of that name, as compilers and `numpy.save` do. A link or a folder of that name is refused; a pipe
or a device is written to.

**A folder that the user names** (`compile -o DIR`, `report`, `adapt --out`) gets many files whose
names the user did not choose. `MANIFEST` in the folder has the SHA-256 of each file that BioTrain
wrote there. Only such a file is replaced, and only while it is as it was written; anything else in
the way is refused before the first byte is written, unless `force` is given. Links below the folder
are never followed.

A file appears by a rename, when its last byte is written: a full disk, a kill or an error leaves
what was there before.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from biotrain.errors import BioTrainError

MANIFEST = ".biotrain.json"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def check_file(path: str | Path) -> Path:
    """`path`, if a file can be written there; BioTrainError says in one line why not."""
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise BioTrainError(f"cannot write '{path}': there is no folder '{folder}'")
    kind = _kind(path)
    if kind in ("link", "folder"):
        hint = "; name the file that it points to" if kind == "link" else ""
        raise BioTrainError(f"cannot write '{path}': it is a {kind}{hint}")
    if not os.access(path if kind == "stream" else folder, os.W_OK):
        raise BioTrainError(f"cannot write '{path}': permission denied")
    if kind == "file" and not os.access(path, os.W_OK):
        raise BioTrainError(f"cannot write '{path}': permission denied")
    return path


def write_file(path: str | Path, data: str | bytes, *, sync: bool = False) -> None:
    """Write a file whole or not at all. Text becomes UTF-8.

    sync : return when the disk has it.
    Raises BioTrainError where it cannot be written; then what was there is as it was.
    """
    with replaced(path, sync=sync) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def replaced(path: str | Path, *, sync: bool = False) -> Iterator[BinaryIO]:
    """A stream whose bytes become the file `path` when the block ends without an error."""
    path = check_file(path)
    try:
        if _kind(path) == "stream":
            with path.open("wb") as stream:
                yield stream
            return
        unfinished = path.with_name(f".biotrain-{uuid.uuid4().hex}")
        try:
            with os.fdopen(_created(unfinished, path), "wb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            with suppress(OSError):
                unfinished.unlink()  # it is there only where something went wrong
    except OSError as error:
        raise BioTrainError(f"cannot write '{path}': {error.strerror or error}") from error


def _created(unfinished: Path, path: Path) -> int:
    """A new file with the permissions of the one that it will replace."""
    file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
    with suppress(OSError):
        if _kind(path) == "file":
            unfinished.chmod(stat.S_IMODE(path.lstat().st_mode))
    return file


def _kind(path: Path) -> str:
    """What stands at `path`: "", "file", "folder", "link", or "stream" (a pipe, a device)."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return ""
    kinds = (("link", stat.S_ISLNK), ("file", stat.S_ISREG), ("folder", stat.S_ISDIR))
    return next((name for name, is_it in kinds if is_it(mode)), "stream")


@dataclass(frozen=True)
class Folder:
    """A folder that BioTrain fills; `force`: files of others in it are replaced too."""

    path: Path
    force: bool = False

    def write(self, files: Mapping[str, str | bytes], *, whole: bool = False) -> None:
        """Write files by their path below the folder, which is made where it is missing.

        whole : they are all of what BioTrain has in the folder: what it wrote before and is not
            among them is removed, unless somebody changed it.
        Raises BioTrainError before anything is written where a file stands in the way, and where
        the folder cannot be written.
        """
        data = {n: f.encode() if isinstance(f, str) else f for n, f in sorted(files.items())}
        hashes = {name: [_hash(content)] for name, content in data.items()}
        self.check(hashes)
        written = self._written()
        stale = [n for n in written if whole and n not in data and self._own(n, written[n])]
        both = {n: [*written.get(n, ()), *hashes.get(n, ())] for n in sorted({**written, **hashes})}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._note(both)  # first, so that after a kill the files are known to be BioTrain's
            for name, content in data.items():
                place = self.path / name
                place.parent.mkdir(parents=True, exist_ok=True)
                if self.force and _kind(place) == "link":
                    place.unlink()
                write_file(place, content)
            for name in stale:
                (self.path / name).unlink()
                self._tidy(Path(name).parent)
        except OSError as error:
            raise BioTrainError(
                f"cannot write into '{self.path}': {error.strerror or error}"
            ) from error
        self._note({n: h for n, h in (written | hashes).items() if n not in stale})

    def check(self, files: Mapping[str, Sequence[str]] | Sequence[str]) -> None:
        """BioTrainError where one of the files, by name or by name and new hash, stands in the way
        as something that BioTrain did not write, or where somebody has changed it since."""
        written = self._written()
        new = files if isinstance(files, Mapping) else dict.fromkeys(files, ())
        refused = []
        for name in new:
            self._check_path(name)
            known = [*written.get(name, ()), *new[name]]
            if not self.force and _kind(self.path / name) and not self._own(name, known):
                changed = name in written and _kind(self.path / name) == "file"
                refused.append((name, "was changed since" if changed else "is not BioTrain's"))
        if refused:
            name, why = refused[0]
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise BioTrainError(
                f"'{self.path / name}' {why}{more}: move it, write into another folder, or give "
                "--force to replace it"
            )

    def __truediv__(self, name: str) -> Folder:
        return Folder(self.path / name, self.force)

    def _check_path(self, name: str) -> None:
        """Nothing that is not a folder on the way to a file, no folder in its place."""
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or name == MANIFEST:
            raise BioTrainError(f"'{name}' is no file below '{self.path}'")
        place = self.path
        for part in parts[:-1]:
            place = place / part
            if _kind(place) not in ("", "folder"):
                raise BioTrainError(f"cannot write below '{place}': it is a {_kind(place)}")
        if _kind(self.path / name) in ("folder", "stream"):
            kind = "folder" if _kind(self.path / name) == "folder" else "pipe or a device"
            raise BioTrainError(f"cannot write '{self.path / name}': it is a {kind}")

    def _own(self, name: str, hashes: Sequence[str]) -> bool:
        """Whether a regular file is there, without a link on the way, with one of the hashes."""
        place = self.path
        for part in Path(name).parts[:-1]:
            place = place / part
            if _kind(place) != "folder":
                return False
        if _kind(self.path / name) != "file":
            return False
        try:
            return _hash((self.path / name).read_bytes()) in hashes
        except OSError:
            return False

    def _written(self) -> dict[str, list[str]]:
        """The manifest: hashes by name; empty where there is none that can be read."""
        path = self.path / MANIFEST
        if _kind(path) != "file":
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["files"]
            return {
                str(name): [str(one) for one in hashes]
                for name, hashes in found.items()
                if not Path(name).is_absolute() and ".." not in Path(name).parts
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def _note(self, hashes: Mapping[str, Sequence[str]]) -> None:
        about = "SHA-256 of the files that BioTrain wrote here; only these it replaces"
        text = json.dumps({"about": about, "files": {n: hashes[n] for n in sorted(hashes)}})
        write_file(self.path / MANIFEST, text.replace("], ", "],\n") + "\n")

    def _tidy(self, folder: Path) -> None:
        """Remove folders below this one that are empty now."""
        while folder.parts:
            try:
                (self.path / folder).rmdir()
            except OSError:
                return
            folder = folder.parent


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

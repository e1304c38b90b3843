# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are read, and why others are not: real files of other projects, say.

    python benchmarks/real_files.py FOLDER... [--json FILE]

Every file whose name one of the readers takes is read as `biotrain data info` would: "windows"
means that signal and labels were found, "signal" that there are no labels (or none without a
setting), "refused" that BioTrain said why not. An error of another kind is a fault of BioTrain, and
the program ends with 1. Nothing is downloaded; the folder is what you have.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from pathlib import Path

from biotrain.errors import BioTrainError
from biotrain.study.data.raw import CutRequest
from biotrain.study.data.readers.table import is_beside, read_signal, reader_of
from biotrain.study.data.sources import load

FAULTS = ("cannot be read: ",)
"""What BioTrain says where a reader raised what its author did not expect."""


def outcome(path: Path) -> tuple[str, str]:
    """What became of a file, and how it is told."""
    try:
        raw = read_signal(path, CutRequest(), {})
    except BioTrainError as error:
        text = str(error).replace(f"{path}: ", "")
        return ("fault" if text.startswith(FAULTS) else "refused"), text
    except Exception as error:
        return "fault", f"{type(error).__name__}: {error}"
    seconds = raw.x.shape[1] / raw.fs
    told = f"{len(raw.channels)} {raw.kinds[0]} at {raw.fs:g} Hz, {seconds:.4g} s"
    for given in ("", "?window=0.5"):  # markers and short events want a length
        try:
            rec = load(f"{path}{given}")
        except BioTrainError as error:
            why = str(error).replace(f"{path}: ", "")
        except Exception as error:
            return "fault", f"{type(error).__name__}: {error}"
        else:
            return "windows", f"{told}: {len(rec)} of {rec.n_classes} classes {given}"
    return "signal", f"{told}: {why}"


def main() -> int:
    """Walk the folders and print a line per file; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for folder in given.folders:
        counts: Counter[str] = Counter()
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or reader_of(path) is None:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                what, text = ("beside", "") if is_beside(path) else outcome(path)
            counts[what] += 1
            rows.append({"file": path.relative_to(folder).as_posix(), "is": what, "says": text})
            print(f"{what:8} {rows[-1]['file']}  {text[:150]}", flush=True)
        print(f"{folder}: {sum(counts.values())} files: "
              f"{', '.join(f'{n} {k}' for k, n in sorted(counts.items()))}\n")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return int(any(row["is"] == "fault" for row in rows))


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Files of MATLAB (`.set` of EEGLAB, `.mat`), which scipy reads in C: damaged ones may end the
process. So another process reads them first, and only what it survives is read here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from biotrain.study.data.recordings import RecordingError

TRIAL_S = 120
"""Seconds within which a file is read."""

TRIAL = """
import sys
from scipy.io import loadmat
try:
    loadmat(sys.argv[1], struct_as_record=False, squeeze_me=True)
except Exception:
    sys.exit(1)  # whoever reads it next says why
"""


def check_readable(path: Path) -> None:
    """Raises RecordingError where reading a file ends the process that reads it.

    A file that scipy refuses in its own words passes: so do those of MATLAB 7.3, which are HDF5.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", TRIAL, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RecordingError(f"{path}: reading it took more than {TRIAL_S} s") from error
    if done.returncode not in (0, 1):
        raise RecordingError(f"{path}: damaged: reading it ended the process that tried")

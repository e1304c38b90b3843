# SPDX-License-Identifier: Apache-2.0
"""Public data sets by name, through MOABB (extra `moabb`)."""

from difflib import get_close_matches

import numpy as np

from biotrain.study.data.readers.mne_files import first_line, pick, ranks
from biotrain.study.data.recordings import RecordingError, Recordings, from_signal

PARADIGMS = {"imagery": "MotorImagery", "p300": "P300", "ssvep": "SSVEP", "cvep": "CVEP"}
"""Attribute `paradigm` of a MOABB data set -> the paradigm class that reads it."""


def read_windows(name: str) -> Recordings:
    """The MOABB data set called `name`, read by MOABB's paradigm for it with that paradigm's own
    filter and window (for motor imagery 8-32 Hz, zero phase: offline)."""
    try:
        import moabb.datasets
        import moabb.paradigms
    except ImportError as error:
        raise RecordingError(f"moabb:{name} needs MOABB: pip install 'biotrain[moabb]'") from error
    maker = getattr(moabb.datasets, name.replace("-", "_"), None)
    if not isinstance(maker, type):
        near = get_close_matches(name.replace("-", "_"), dir(moabb.datasets), 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise RecordingError(f"moabb:{name}: MOABB has no data set of that name{hint}")
    dataset = maker()
    if dataset.paradigm not in PARADIGMS:
        raise RecordingError(f"moabb:{name}: no labelled trials in paradigm {dataset.paradigm}")
    paradigm = getattr(moabb.paradigms, PARADIGMS[dataset.paradigm])()
    try:
        epochs, labels, table = paradigm.get_data(dataset, return_epochs=True)
    except Exception as error:  # downloads and file formats of many kinds
        raise RecordingError(f"moabb:{name}: MOABB cannot load it: {first_line(error)}") from error
    epochs = pick(epochs.load_data())
    classes, y = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    columns = {key: [str(value) for value in table[key]] for key in ("subject", "session", "run")}
    return from_signal(
        epochs.get_data(copy=False) * 1e6,
        y=y,
        subject=np.array(ranks(columns["subject"])),
        session=np.array(ranks(columns["session"])),
        run=np.array(ranks(columns["run"])),
        fs=float(epochs.info["sfreq"]),
        channels=list(epochs.ch_names),
        classes=classes,
        unit="uV (x*scale)",
        name=f"moabb-{name}",
        synthetic=name.startswith("Fake"),  # MOABB's own noise, for tests
    )

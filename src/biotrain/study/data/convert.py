# SPDX-License-Identifier: Apache-2.0
"""Four public sets from the files that their authors publish to the `.npz` layout: whose they are,
what their files look like, and how they are cut.

No original is downloaded or shipped; each set has a licence of its own (`Original.licence`).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biotrain.errors import BioTrainError
from biotrain.study.data.matlab import check_readable
from biotrain.study.data.readers.mne_files import read_raw
from biotrain.study.data.recordings import RecordingError, Recordings

Signal = NDArray[np.float64]
"""[channels, time], in the unit of the set."""


@dataclass(frozen=True)
class Original:
    """A public set.

    files: what SOURCE holds. cut: how windows come about. wants: the extra that reads the files.
    """

    title: str
    address: str
    licence: str
    files: str
    cut: str
    wants: str
    read: Callable[[Path], Recordings]


@dataclass
class _Windows:
    """Windows as they are found, with where they stand."""

    x: list[NDArray[Any]]
    keys: dict[str, list[float]]

    @classmethod
    def of(cls, *keys: str) -> "_Windows":
        return cls([], {key: [] for key in keys})

    def add(self, window: NDArray[Any], **where: float) -> None:
        self.x.append(window)
        for key, value in where.items():
            self.keys[key].append(value)

    def recordings(self, scale: float, kind: type[np.integer[Any]], **more: Any) -> Recordings:
        """`x` in steps of `scale`; what lies outside of `kind` is held at its end."""
        if not self.x:
            raise RecordingError(f"{more['name']}: no window in these files")
        limits = np.iinfo(kind)
        x = np.clip(np.rint(np.stack(self.x) / scale), limits.min, limits.max)
        found: dict[str, Any] = {
            key: np.array(values, np.float64 if key == "time_s" else np.int64)
            for key, values in self.keys.items()
        }
        return Recordings(x=x.astype(kind), scale=float(np.float32(scale)), **found, **more)


def convert(name: str, source: str | Path) -> Recordings:
    """The set `name` from its original files in the folder `source` (or any folder below it).

    Subjects whose files are not there are left out.
    Raises RecordingError for an unknown set, a folder without its files, a file that is not what
    it should be, a package that is not installed.
    """
    if name not in ORIGINALS:
        raise RecordingError(f"no set is called {name}; there are {', '.join(ORIGINALS)}")
    folder = Path(source)
    if not folder.is_dir():
        raise RecordingError(
            f"{folder}: there is no such folder; it should hold the original files"
        )
    return ORIGINALS[name].read(folder)


def _found(folder: Path, pattern: str, name: str) -> list[tuple[re.Match[str], Path]]:
    """Files below `folder` whose relative path ends as `pattern` says, by path."""
    ends = re.compile(rf"(?:^|.*/){pattern}$", re.IGNORECASE)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    found = [(m, p) for p in files if (m := ends.match(p.relative_to(folder).as_posix()))]
    if not found:
        raise RecordingError(f"{folder}: no original file of {name}: {ORIGINALS[name].files}")
    return found


def _scipy() -> tuple[Any, Any]:
    """scipy.signal and scipy.io."""
    try:
        import scipy.io
        import scipy.signal
    except ImportError as error:
        message = "converting needs scipy: pip install 'biotrain[study]'"
        raise BioTrainError(message) from error
    return scipy.signal, scipy.io


def _raw(path: Path) -> Any:
    """A continuous file of MNE."""
    return read_raw(path)


def _zero_phase(x: Signal, order: int, hz: float | Sequence[float], kind: str, fs: float) -> Signal:
    """A Butterworth filter, there and back."""
    signal, _ = _scipy()
    sos = signal.butter(order, hz, kind, fs=fs, output="sos")
    out: Signal = signal.sosfiltfilt(sos, x, axis=-1)
    return out


def _mat(path: Path) -> dict[str, Any]:
    """A MATLAB file up to version 7."""
    _, io = _scipy()
    check_readable(path)
    try:
        found: dict[str, Any] = io.loadmat(path, struct_as_record=False, squeeze_me=True)
    except Exception as error:  # whatever scipy meets in a file that is none
        raise RecordingError(f"{path}: not a MATLAB file: {error}") from error
    return found


# ---------------------------------------------------------------- mi_graz2b

GRAZ_FS, GRAZ_S, GRAZ_TRIALS = 250.0, 4.0, 120
GRAZ_CUE_S = 3.0  # after the start of a trial
GRAZ_CHANNELS = ("C3", "Cz", "C4")
GRAZ_BAND_HZ = (8.0, 30.0)

Trial = tuple[int, int]
"""First sample of the cue, and class 0 or 1."""


def _graz(folder: Path) -> Recordings:
    name = "mi_graz2b"
    windows = _Windows.of("y", "subject", "session", "order")
    sessions: dict[tuple[int, int], tuple[Signal, list[Trial]]] = {}
    for match, path in _found(folder, r"B0(\d)(0\d)?([TE])\.(gdf|mat)", name):
        subject, session, kind, suffix = match.groups()
        if suffix.lower() == "gdf":
            if session is None:
                raise RecordingError(f"{path}: a GDF file is called B0101T.gdf: subject, session")
            sessions[int(subject), int(session)] = _graz_gdf(path)
        elif session is None:  # B01T.mat: sessions 1 to 3; B01E.mat: 4 and 5
            first = 1 if kind.upper() == "T" else 4
            for k, one in enumerate(_graz_runs(path)):
                sessions[int(subject), first + k] = one
    if not sessions:
        raise RecordingError(f"{folder}: no original file of {name}: {ORIGINALS[name].files}")
    length = round(GRAZ_S * GRAZ_FS)
    for (subject, session), (signal, trials) in sorted(sessions.items()):
        for order, (at, label) in enumerate(trials[:GRAZ_TRIALS]):
            window = signal[:, at : at + length]
            if window.shape[1] < length or not np.isfinite(window).all():
                continue
            window = _zero_phase(window, 4, GRAZ_BAND_HZ, "bandpass", GRAZ_FS)
            windows.add(window, y=label, subject=subject, session=session, order=order)
    return windows.recordings(
        0.002,
        np.int16,
        fs=GRAZ_FS,
        channels=GRAZ_CHANNELS,
        classes=("left_hand", "right_hand"),
        unit="uV (x*scale)",
        name=name,
    )


def _graz_runs(path: Path) -> Iterator[tuple[Signal, list[Trial]]]:
    """BNCI Horizon's files: `data` holds a struct per session with X [time, channels] in
    microvolts, `trial` (first samples, from 1) and `y` (1 or 2)."""
    content = _mat(path)
    if "data" not in content:
        raise RecordingError(f"{path}: no 'data' in it; is it a file of BNCI 004-2014?")
    for run in np.atleast_1d(content["data"]):
        try:
            x, fs = np.asarray(run.X, float), float(run.fs)
            starts, labels = np.atleast_1d(run.trial), np.atleast_1d(run.y)
        except AttributeError as error:
            raise RecordingError(f"{path}: {error}; is it a file of BNCI 004-2014?") from error
        if fs != GRAZ_FS or x.ndim != 2 or x.shape[1] < 3:
            raise RecordingError(f"{path}: {list(x.shape)} at {fs:g} Hz, not [time, 6] at 250 Hz")
        cue = round(GRAZ_CUE_S * fs)
        trials = [(int(t) - 1 + cue, int(c) - 1) for t, c in zip(starts, labels, strict=True)]
        yield x[:, :3].T, trials


def _graz_gdf(path: Path) -> tuple[Signal, list[Trial]]:
    """BCI Competition's files: events 769 and 770 at the cue; in evaluation files 783, whose
    classes stand in the `.mat` of the same name, which is published apart."""
    raw = _raw(path)
    if raw.info["sfreq"] != GRAZ_FS or len(raw.ch_names) < 3:
        raise RecordingError(f"{path}: not three channels and more at 250 Hz")
    cues = [
        (round(a["onset"] * GRAZ_FS), str(a["description"]))
        for a in raw.annotations
        if str(a["description"]) in ("769", "770", "783")
    ]
    if any(code == "783" for _, code in cues):
        beside = next((p for p in path.parent.glob(f"{path.stem}.[mM][aA][tT]")), None)
        if beside is None:
            raise RecordingError(
                f"{path}: its classes are not in it; put the true labels beside it: {path.stem}.mat"
            )
        true = np.atleast_1d(_mat(beside).get("classlabel", ()))
        if len(true) != len(cues):
            raise RecordingError(f"{beside}: {len(true)} labels for {len(cues)} trials")
        trials = [(at, int(label) - 1) for (at, _), label in zip(cues, true, strict=True)]
    else:
        trials = [(at, int(code) - 769) for at, code in cues]
    return raw.get_data(picks=list(range(3))) * 1e6, trials


# ---------------------------------------------------------------- eeg_arithmetic

MAT_FS, MAT_TO_HZ, MAT_WINDOW_S, MAT_WINDOWS = 500.0, 128.0, 4, 15
MAT_CHANNELS = ("F3", "Fz", "F4", "C3", "C4", "P3", "Pz", "P4")


def _arithmetic(folder: Path) -> Recordings:
    name = "eeg_arithmetic"
    signal, _ = _scipy()
    windows = _Windows.of("y", "subject", "session", "order")
    for match, path in _found(folder, r"Subject(\d\d)_([12])\.edf", name):
        raw = _raw(path)
        short = {re.sub(r"^EEG\s+", "", c): c for c in raw.ch_names}
        missing = [c for c in MAT_CHANNELS if c not in short]
        if missing or raw.info["sfreq"] != MAT_FS:
            raise RecordingError(f"{path}: no channel {', '.join(missing)} at 500 Hz")
        x = raw.get_data(picks=[short[c] for c in MAT_CHANNELS]) * 1e6
        x = _zero_phase(x, 4, 0.5, "highpass", MAT_FS)
        x = signal.resample_poly(x, 32, 125, axis=-1)
        length = round(MAT_WINDOW_S * MAT_TO_HZ)
        whole = x.shape[1] // length
        rest = match[2] == "1"
        chosen = range(max(0, whole - MAT_WINDOWS), whole) if rest else range(whole)[:MAT_WINDOWS]
        for k in chosen:
            windows.add(
                x[:, k * length : (k + 1) * length],
                y=0 if rest else 1,
                subject=int(match[1]) + 1,
                session=1,
                order=k,
            )
    return windows.recordings(
        0.02,
        np.int16,
        fs=MAT_TO_HZ,
        channels=MAT_CHANNELS,
        classes=("rest", "arithmetic"),
        unit="uV (x*scale)",
        name=name,
    )


# ---------------------------------------------------------------- eog_office

EOG_FS, EOG_WINDOW, EOG_HOP, EOG_LOST = 128.0, 1280, 640, 0.15
EOG_CLASSES = ("null", "read", "browse", "write", "video", "copy")


def _eog(folder: Path) -> Recordings:
    """[time, 5]: seconds and microseconds of the time stamp, horizontal, vertical, label from 1."""
    name = "eog_office"
    windows = _Windows.of("y", "subject", "session", "time_s", "segment")
    for segment, (match, path) in enumerate(_found(folder, r"participant(\d+)_([01])\.mat", name)):
        held = [v for k, v in _mat(path).items() if not k.startswith("__")]
        tables = [v for v in held if isinstance(v, np.ndarray) and v.ndim == 2 and v.shape[1] == 5]
        if len(tables) != 1:
            raise RecordingError(f"{path}: it should hold one array of five columns")
        table = tables[0].astype(np.float64)
        clock = table[:, 0] - table[0, 0] + (table[:, 1] - table[0, 1]) * 1e-6
        signal = _zero_phase(table[:, 2:4].T, 2, (0.1, 30.0), "bandpass", EOG_FS)
        label = table[:, 4].astype(int) - 1
        ends = np.flatnonzero(np.diff(label)) + 1
        for stretch in np.split(np.arange(len(label)), ends):
            if not 0 <= label[stretch[0]] < len(EOG_CLASSES):
                continue  # the two short distractors
            for at in range(stretch[0], stretch[-1] + 2 - EOG_WINDOW, EOG_HOP):
                lasted = clock[at + EOG_WINDOW - 1] - clock[at]
                if 1 - (EOG_WINDOW - 1) / EOG_FS / max(lasted, 1e-9) > EOG_LOST:
                    continue  # the radio dropped out
                windows.add(
                    signal[:, at : at + EOG_WINDOW],
                    y=int(label[at]),
                    subject=int(match[1]),
                    session=int(match[2]) + 1,
                    time_s=float(clock[at]),
                    segment=segment,
                )
    return windows.recordings(
        4.0,
        np.int16,
        fs=EOG_FS,
        channels=("EOG_h", "EOG_v"),
        classes=EOG_CLASSES,
        unit="Mobi amplitude units (x*scale)",
        name=name,
    )


# ---------------------------------------------------------------- emg_myo

MYO_FS, MYO_WINDOW, MYO_HOP, MYO_CHANNELS = 200.0, 200, 100, 8
MYO_SETS = ("training0", "test0", "test1")
MYO_CLASSES = (
    "neutral",
    "radial_deviation",
    "wrist_flexion",
    "ulnar_deviation",
    "wrist_extension",
    "hand_close",
    "hand_open",
)


def _myo(folder: Path) -> Recordings:
    """classe_N.dat: int16, eight channels by turns; class N % 7, repetition N // 7."""
    name = "emg_myo"
    windows = _Windows.of("y", "subject", "session", "repetition")
    pattern = r"(Male|Female)(\d+)/(training0|Test[01])/classe_(\d+)\.dat"
    found = _found(folder, pattern, name)
    people = sorted({(m[1].lower() == "female", int(m[2])) for m, _ in found})

    def place(one: tuple[re.Match[str], Path]) -> tuple[int, int, int]:
        match = one[0]
        person = people.index((match[1].lower() == "female", int(match[2])))
        return person, MYO_SETS.index(match[3].lower()), int(match[4])

    for match, path in sorted(found, key=place):
        person, which, number = place((match, path))
        if number >= 4 * len(MYO_CLASSES):
            continue
        samples = np.fromfile(path, dtype="<i2")
        if len(samples) % MYO_CHANNELS:
            raise RecordingError(f"{path}: {len(samples)} numbers are not whole rows of 8 channels")
        signal = samples.reshape(-1, MYO_CHANNELS).T
        if len(samples) and np.abs(signal).max() > 128:
            raise RecordingError(f"{path}: beyond 8 bits; is it a raw file of the armband?")
        for at in range(0, signal.shape[1] - MYO_WINDOW + 1, MYO_HOP):
            windows.add(
                signal[:, at : at + MYO_WINDOW],
                y=number % len(MYO_CLASSES),
                subject=person + 1,
                session=which + 1,
                repetition=number // len(MYO_CLASSES),
            )
    return windows.recordings(
        1.0,
        np.int8,
        fs=MYO_FS,
        channels=tuple(f"EMG{k + 1}" for k in range(MYO_CHANNELS)),
        classes=MYO_CLASSES,
        unit="Myo int8 counts",
        name=name,
    )


ORIGINALS: Mapping[str, Original] = MappingProxyType(
    {
        "mi_graz2b": Original(
            "EEG, motor imagery of the left and right hand: BNCI 2014-004, BCI Competition IV 2b",
            "bnci-horizon-2020.eu (004-2014) or bbci.de/competition/iv",
            "CC BY-ND 4.0: what you convert is for yourself",
            "B01T.mat, B01E.mat, ... B09E.mat; or B0101T.gdf, ... B0905E.gdf, and for the "
            "evaluation files the true labels B0104E.mat beside them",
            "4 s from the cue, three bipolar channels, 250 Hz; each trial 8-30 Hz (Butterworth, "
            "order 4, zero phase), offline; the first 120 trials of a session",
            "study for .mat, data for .gdf",
            _graz,
        ),
        "eeg_arithmetic": Original(
            "EEG, mental workload: PhysioNet eegmat 1.0.0",
            "physionet.org/content/eegmat/1.0.0",
            "ODC-By 1.0",
            "Subject00_1.edf, Subject00_2.edf, ... Subject35_2.edf",
            "4 s without overlap: the last 15 of rest, the first 15 of serial subtraction; eight "
            "channels, high pass 0.5 Hz (Butterworth, order 4, zero phase), 500 to 128 Hz, offline",
            "data, study",
            _arithmetic,
        ),
        "eog_office": Original(
            "EOG, office activities: Bulling et al., IEEE TPAMI 33(4), 2011",
            "the authors' archive of EOG recordings",
            "CC BY-NC 3.0",
            "participant1_0.mat, participant1_1.mat, ... participant8_1.mat",
            "10 s every 5 s within one label; 0.1-30 Hz over the whole run (Butterworth, order 2, "
            "zero phase), offline; windows that lost more than 15 % of their samples are left out",
            "study",
            _eog,
        ),
        "emg_myo": Original(
            "surface EMG, seven gestures: Myo armband, Cote-Allard et al., IEEE TNSRE 27(4), 2019",
            "github.com/UlysseCoteAllard/MyoArmbandDataset",
            "GPL-3.0 (of the repository)",
            "EvaluationDataset/Male0/training0/classe_0.dat, ...; Test0, Test1; Female1",
            "1 s every 0.5 s, raw 8-bit counts; sessions are training0, Test0, Test1; men first",
            "",
            _myo,
        ),
    }
)
"""Sets by the name of their `.npz`."""

# SPDX-License-Identifier: Apache-2.0
"""One made recording, written in every format that the table of readers has.

Channel C3 carries a tone of 100 uV (standard deviation 70.7) during events called "tone" and noise
of 1 uV elsewhere, so a window that lies where its label says can be told from one that does not.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

FS = 128.0
LENGTH_S = 40.0
GAP_S = (20.0, 24.0)
"""Lost signal, between two events."""
TONE_STD = 70.7
FACTORS = {"uV": 1.0, "mV": 1e-3}


@dataclass(frozen=True)
class Example:
    """What is special about the recording; `first_s`: how much was cut from its beginning."""

    date: bool = False
    gap: bool = False
    unit: str = "uV"
    rejected: bool = False
    bad_channel: bool = False
    first_s: float = 0.0
    beyond: bool = False
    """Whether there are events before the first and after the last sample."""

    def marks(self) -> list[tuple[float, float, str]]:
        """Onset and duration in seconds of the original recording, and class."""
        found = [(2.0 + 4 * k, 2.0, ("tone", "rest")[k % 2]) for k in range(9)]
        if self.rejected:
            found.append((10.5, 0.5, "BAD_move"))
        if self.beyond:
            found += [(-9.0, 2.0, "tone"), (90.0, 2.0, "rest")]
        return sorted(found)

    def times(self) -> np.ndarray:
        """When the samples were taken, in seconds of the original recording."""
        t = np.arange(round(LENGTH_S * FS)) / FS
        lost = (t >= GAP_S[0]) & (t < GAP_S[1]) & self.gap
        return t[~lost & (t >= self.first_s)]

    def signal(self) -> np.ndarray:
        """Microvolts [C3, C4; samples]."""
        t = self.times()
        x = np.random.default_rng(0).standard_normal((2, len(t)))
        for onset, duration, text in self.marks():
            inside = (t >= onset) & (t < onset + duration)
            x[0] += 100 * np.sin(2 * np.pi * 10 * t) * inside * (text == "tone")
            x[:, inside] += 1000 * (text == "BAD_move")
        return x

    def counts(self) -> dict[str, int]:
        """How many windows of 2 s of each class there are."""
        out = {"tone": 0, "rest": 0}
        t = self.times()
        for onset, _, text in self.marks():
            held = np.count_nonzero((t >= onset - 1e-9) & (t < onset + 2.0 - 1e-9))
            bad = self.rejected and onset == 10.0
            if text in out and held == round(2.0 * FS) and not bad:
                out[text] += 1
        return out


Write = Callable[[Path, Example], str]
"""Writes the recording into a folder and returns what DATA calls it."""


# ---------------------------------------------------------------- EDF and BDF, by the bytes


def edf_bytes(x: np.ndarray, starts: list[float], tals: list[list[bytes]], **more: object) -> bytes:
    """An EDF+ (or BDF+) file of records of 1 s. starts: of each record; tals: annotations in each;
    labels, units, per_uv (digital steps per unit), wide (24 bits), kind, date."""
    labels = list(more.get("labels", ("C3", "C4")))  # type: ignore[call-overload]
    units = list(more.get("units", ["uV"] * len(labels)))  # type: ignore[call-overload]
    wide = bool(more.get("wide"))
    size, top = (3, 2**23 - 1) if wide else (2, 32767)
    fs = round(FS)
    blocks = [
        f"+{start:g}".encode() + b"\x14\x14\x00" + b"".join(own)
        for start, own in zip(starts, tals, strict=True)
    ]
    room = -(-max(len(block) for block in blocks) // size) * size
    name = "BDF Annotations" if wide else "EDF Annotations"
    names, count = [*labels, name], len(labels) + 1
    peak = float(np.abs(x).max()) or 1.0
    columns = [
        ([*names], 16), ([""] * count, 80), ([*units, ""], 8),
        ([eight(-peak)] * len(labels) + ["-1"], 8),
        ([eight(peak)] * len(labels) + ["1"], 8),
        ([str(-top)] * len(labels) + [str(-top - 1)], 8), ([str(top)] * count, 8),
        ([""] * count, 80), ([str(fs)] * len(labels) + [str(room // size)], 8), ([""] * count, 32),
    ]  # fmt: skip
    version = b"\xffBIOSEMI" if wide else b"0       "
    kind = str(more.get("kind", "BDF+C" if wide else "EDF+C"))
    day = "02.03.21" if more.get("date") else "01.01.85"
    head = version + f"{'X X X X':<80}{'Startdate X X X X':<80}{day}00.00.00".encode()
    head += f"{256 * (count + 1):<8}{kind:<44}{len(starts):<8}{'1':<8}{count:<4}".encode()
    head += b"".join(f"{v:<{w}}".encode() for values, w in columns for v in values)
    low, high = float(eight(-peak)), float(eight(peak))
    steps = np.rint((x - low) / (high - low) * 2 * top - top).astype("<i4")
    body = b""
    for k, block in enumerate(blocks):
        for row in steps[:, k * fs : (k + 1) * fs]:
            four = row.astype("<i4").view(np.uint8).reshape(-1, 4)
            body += four[:, :size].tobytes()
        body += block.ljust(room, b"\x00")
    return head + body


def eight(value: float) -> str:
    """A number in the eight characters of an EDF header."""
    return next(t for p in range(7, 0, -1) if len(t := f"{value:.{p}g}") <= 8)


def _edf(path: Path, example: Example, wide: bool = False, name: str = "") -> str:
    t = example.times()
    starts = [float(s) - float(t[0]) for s in t[:: round(FS)]]
    zero = 0.5 if example.first_s else 0.0  # EDF+ starts less than a second after its header
    tals: list[list[bytes]] = [[] for _ in starts]
    for onset, duration, text in example.marks():
        at = onset - float(t[0]) + zero
        tals[0].append(f"{at:+.6g}\x15{duration:g}\x14{text}\x14\x00".encode())
    kind = f"{'BDF' if wide else 'EDF'}+{'D' if example.gap else 'C'}"
    x = example.signal() * FACTORS[example.unit]
    file = path / (name or f"sub-1_eeg.{'bdf' if wide else 'edf'}")
    file.write_bytes(
        edf_bytes(
            x, [s + zero for s in starts], tals, units=[example.unit] * 2, wide=wide, kind=kind,
            date=example.date,
        )
    )  # fmt: skip
    return str(file)


def _bdf(path: Path, example: Example) -> str:
    return _edf(path, example, wide=True)


# ---------------------------------------------------------------- MNE


def _mne_raw(example: Example) -> object:
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    whole = Example(**{**vars(example), "first_s": 0.0})
    info = mne.create_info(["C3", "C4"], FS, "eeg")
    raw = mne.io.RawArray(whole.signal() * 1e-6, info, verbose="error")
    if example.date:
        raw.set_meas_date(1_600_000_000)
    inside = [m for m in example.marks() if 0 <= m[0] < LENGTH_S]
    raw.set_annotations(mne.Annotations(*([m[k] for m in inside] for k in range(3))))
    raw.info["bads"] = ["C4"] if example.bad_channel else []
    return raw.crop(tmin=example.first_s) if example.first_s else raw


def _fif(path: Path, example: Example, end: str = ".fif") -> str:
    file = path / f"sub-1_raw{end}"
    _mne_raw(example).save(file, verbose="error")  # type: ignore[attr-defined]
    return str(file)


def _fif_gz(path: Path, example: Example) -> str:
    return _fif(path, example, ".fif.gz")


def _vhdr(path: Path, example: Example) -> str:
    x = example.signal() * FACTORS[example.unit]
    x.T.astype("<f4").tofile(path / "a.eeg")
    (path / "a.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=a.eeg\nMarkerFile=a.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels=2\nSamplingInterval={1e6 / FS:g}\n\n[Binary Infos]\n"
        "BinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n"
        f"Ch1=C3,,1,{example.unit}\nCh2=C4,,1,{example.unit}\n",
        encoding="utf-8",
    )
    first = ",20200101000000000000" if example.date else ""
    lines = [f"Mk1=New Segment,,1,1,0{first}"]
    for k, (onset, duration, text) in enumerate(example.marks(), 2):
        kind = "Bad Interval" if text.startswith("BAD") else "Comment"
        size = round(duration * FS)
        lines.append(f"Mk{k}={kind},{text},{round(onset * FS) + 1},{size},0")
    (path / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=a.eeg\n\n[Marker Infos]\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    return f"{path / 'a.vhdr'}?events=Comment/tone:tone,Comment/rest:rest"


def _set(path: Path, example: Example) -> str:
    savemat(path / "a.set", {"EEG": eeglab(example.signal(), example.marks())})
    return str(path / "a.set")


def eeglab(x: np.ndarray, marks: list[tuple[float, float, str]]) -> dict[str, object]:
    """What EEGLAB keeps of a continuous recording [channels, samples] in microvolts, or of epochs
    [channels, samples, epochs]."""
    places = np.zeros(len(x), [("labels", object)])
    places["labels"] = ["C3", "C4"][: len(x)]
    events = np.zeros(
        len(marks), [("type", object), ("latency", float), ("duration", float), ("epoch", float)]
    )
    length = x.shape[1]
    for k, (onset, duration, text) in enumerate(marks):
        latency = onset * FS + 1
        events[k] = (text, latency, duration * FS, latency // length + 1)
    kinds = [("event", float), ("eventlatency", float), ("eventtype", object)]
    epochs = np.zeros(x.shape[2] if x.ndim == 3 else 0, kinds)
    epochs["eventtype"] = [text for _, _, text in marks][: len(epochs)]
    epochs["event"] = np.arange(len(epochs)) + 1
    return {
        "setname": "made", "nbchan": len(x), "trials": x.shape[2] if x.ndim == 3 else 1,
        "pnts": length, "srate": FS, "xmin": 0.0, "xmax": (length - 1) / FS, "data": x,
        "times": np.arange(length) / FS * 1000, "chanlocs": places, "event": events,
        "epoch": epochs, "chaninfo": {"nosedir": "+X"}, "ref": "common", "urevent": [],
        "icawinv": [], "icasphere": [], "icaweights": [], "icachansind": [], "icaact": [],
        "comments": "", "filename": "a.set", "filepath": "",
    }  # fmt: skip


# ---------------------------------------------------------------- text, XDF, WFDB


def _text(path: Path, example: Example, mark: str = ",", end: str = ".csv") -> str:
    t, x = example.times(), example.signal() * FACTORS[example.unit]
    label = np.full(len(t), "", dtype="<U9")
    for onset, duration, text in sorted(example.marks(), key=lambda m: m[2], reverse=True):
        label[(t >= onset) & (t < onset + duration)] = text
    lines = ["# bads = C4"] if example.bad_channel else []
    lines.append(mark.join(["time (s)", f"C3 ({example.unit})", f"C4 ({example.unit})", "label"]))
    lines += [
        mark.join([f"{s:.6f}", f"{a:.6f}", f"{b:.6f}", c])
        for s, a, b, c in zip(t, *x, label, strict=True)
    ]
    (path / f"sub-1{end}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path / f"sub-1{end}")


def _tsv(path: Path, example: Example) -> str:
    return _text(path, example, "\t", ".tsv")


def _openbci(path: Path, example: Example) -> str:
    t, x = example.times(), example.signal()
    lines = ["%OpenBCI Raw EXG Data", "%Number of channels = 2", f"%Sample Rate = {FS:g} Hz"]
    lines += ["%Board = OpenBCI_GUI$BoardCytonSerial"]
    lines += ["Sample Index, EXG Channel 0, EXG Channel 1, Accel Channel 0, Marker, Timestamp"]
    codes = np.zeros(len(t), int)
    for onset, duration, text in example.marks():
        code = {"tone": 1, "rest": 2}.get(text)
        if code:
            codes[(t >= onset) & (t < onset + duration)] = code
    for k, (a, b) in enumerate(x.T):
        index = round(t[k] * FS) % 256
        lines.append(f"{index}, {a:.6f}, {b:.6f}, 0.0, {codes[k]}, {1.6e9 + t[k]:.4f}")
    (path / "sub-1.txt").write_text("\n".join(lines) + "\n")
    return f"{path / 'sub-1.txt'}?events=1:tone,2:rest"


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def xdf_bytes(streams: list[tuple[str, list[float], list[object]]], offsets: list[float]) -> bytes:
    """An XDF file: header, time stamps, samples of each stream; and by how much (s) the clock of
    each is behind the recorder's."""
    out = b"XDF:" + _chunk(1, b'<?xml version="1.0"?><info><version>1.0</version></info>')
    for k, (header, _, _) in enumerate(streams, 1):
        out += _chunk(2, struct.pack("<I", k) + header.encode())
    for k, ((header, stamps, values), offset) in enumerate(zip(streams, offsets, strict=True), 1):
        for at in np.linspace(stamps[0], stamps[-1], 12):
            out += _chunk(4, struct.pack("<Idd", k, float(at), offset))
        body = b""
        for stamp, value in zip(stamps, values, strict=True):
            body += b"\x08" + struct.pack("<d", stamp)
            if "string" in header:
                text = str(value).encode()
                body += b"\x01" + bytes([len(text)]) + text
            else:
                body += np.asarray(value, "<f4").tobytes()
        out += _chunk(3, struct.pack("<IB", k, 4) + struct.pack("<I", len(stamps)) + body)
    for k, (_, stamps, _) in enumerate(streams, 1):
        foot = f"<info><first_timestamp>{stamps[0]}</first_timestamp><last_timestamp>{stamps[-1]}"
        foot += f"</last_timestamp><sample_count>{len(stamps)}</sample_count></info>"
        out += _chunk(6, struct.pack("<I", k) + foot.encode())
    return out


def _xdf(path: Path, example: Example) -> str:
    pytest.importorskip("pyxdf", reason="pyxdf is not installed (extra data)")
    unit = {"uV": "microvolts", "mV": "millivolts"}[example.unit]
    channels = "".join(
        f"<channel><label>{n}</label><unit>{unit}</unit><type>EEG</type></channel>"
        for n in ("C3", "C4")
    )
    eeg = (
        "<info><name>E</name><type>EEG</type><channel_count>2</channel_count><channel_format>float32"
        f"</channel_format><nominal_srate>{FS:g}</nominal_srate><desc><channels>{channels}"
        "</channels></desc></info>"
    )
    marker = (
        "<info><name>M</name><type>Markers</type><channel_count>1</channel_count><nominal_srate>0"
        "</nominal_srate><channel_format>string</channel_format><desc></desc></info>"
    )
    x = (example.signal() * FACTORS[example.unit]).T
    marks = example.marks()
    behind = 5000.0  # the computer of the markers started so much later
    (path / "sub-1.xdf").write_bytes(
        xdf_bytes(
            [
                (eeg, [float(s) + 7000 for s in example.times()], list(x)),
                (marker, [m[0] + 7000 - behind for m in marks], [m[2] for m in marks]),
            ],
            [0.0, behind],
        )
    )
    return str(path / "sub-1.xdf")


def _xdfz(path: Path, example: Example, end: str = ".xdfz") -> str:
    import gzip

    plain = Path(_xdf(path, example))
    (path / f"sub-1{end}").write_bytes(gzip.compress(plain.read_bytes()))
    return str(path / f"sub-1{end}")


def _xdf_gz(path: Path, example: Example) -> str:
    return _xdfz(path, example, ".xdf.gz")


def _hea(path: Path, example: Example) -> str:
    wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed (extra data)")
    x = example.signal()
    gain = 20.0  # steps per microvolt
    per_unit = gain / FACTORS[example.unit]
    steps = np.rint(x * gain).astype("<i2")
    if example.gap:  # samples that are not there are written as the lowest integer
        t = np.arange(round(LENGTH_S * FS)) / FS
        whole = np.full((2, len(t)), -32768, "<i2")
        whole[:, np.rint(example.times() * FS).astype(int)] = steps
        steps = whole
    steps.T.tofile(path / "a.dat")
    date = " 12:00:00 01/02/2020" if example.date else ""
    rows = [f"a.dat 16 {per_unit:g}(0)/{example.unit} 16 0 0 0 0 {n}" for n in ("C3", "C4")]
    (path / "a.hea").write_text("\n".join([f"a 2 {FS:g} {steps.shape[1]}{date}", *rows]) + "\n")
    marks = example.marks()
    with warnings.catch_warnings():  # what wfdb calls in pandas is deprecated there
        warnings.simplefilter("ignore")
        wfdb.wrann(
            "a", "event", np.array([round(m[0] * FS) for m in marks]), ['"'] * len(marks),
            aux_note=[m[2] for m in marks], write_dir=str(path),
        )  # fmt: skip
    return str(path / "a.hea")


# ---------------------------------------------------------------- what names files


def _toml(path: Path, example: Example) -> str:
    (path / "files").mkdir()
    _text(path / "files", example)
    (path / "own.toml").write_text(
        'folder = "files"\npattern = "sub-{subject}.csv"\n[events]\nrest = "rest"\ntone = "tone"\n',
        encoding="utf-8-sig",  # as a text editor of Windows writes it
    )
    return str(path / "own.toml")


def _bids(path: Path, example: Example) -> str:
    pytest.importorskip("mne_bids", reason="the extra `data` is not installed")
    folder = path / "sub-01" / "eeg"
    folder.mkdir(parents=True)
    told = {"Name": "made", "BIDSVersion": "1.8.0", "DatasetType": "raw"}
    (path / "dataset_description.json").write_text(json.dumps(told))
    kept = Example(**{**vars(example), "bad_channel": False})
    _edf(folder, kept, name="sub-01_task-x_eeg.edf")
    zero = float(example.times()[0])
    rows = [f"{m[0] - zero:g}\t{m[1]:g}\t{m[2]}" for m in example.marks()]
    events = ["onset\tduration\ttrial_type", *rows]
    (folder / "sub-01_task-x_events.tsv").write_text("\n".join(events) + "\n")
    status = "bad" if example.bad_channel else "good"
    channels = ["name\ttype\tunits\tstatus", "C3\tEEG\tuV\tgood", f"C4\tEEG\tuV\t{status}"]
    (folder / "sub-01_task-x_channels.tsv").write_text("\n".join(channels) + "\n")
    return f"bids:{path}"


def _moabb(path: Path, example: Example) -> str:
    """A data set of MOABB that lies in memory."""
    datasets = pytest.importorskip("moabb.datasets", reason="MOABB is not installed (extra moabb)")
    from moabb.datasets.base import BaseDataset

    raw = _mne_raw(example)
    held = raw.annotations  # type: ignore[attr-defined]
    cut = (held.duration < 1.99) & (held.description != "BAD_move")  # to MOABB all are as long
    held.delete(np.flatnonzero(cut))

    class Made(BaseDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__([1], 1, {"tone": 1, "rest": 2}, "Made", [0, 2], "imagery")

        def _get_single_subject_data(self, subject: int) -> object:
            return {"0": {"0": raw.copy()}}  # type: ignore[attr-defined]

        def data_path(self, *given: object, **more: object) -> list[str]:
            return []

    datasets.Made = Made
    return "moabb:Made"


NO_PLACE: dict[str, tuple[str, ...]] = {
    ".edf": ("bad_channel",),
    ".bdf": ("bad_channel",),
    ".fif": ("gap", "unit", "beyond"),
    ".fif.gz": ("gap", "unit", "beyond"),
    ".vhdr": ("gap", "bad_channel", "first_s", "beyond"),
    ".set": ("date", "gap", "unit", "bad_channel", "first_s", "beyond"),
    ".csv": ("date", "beyond"),
    ".tsv": ("date", "beyond"),
    ".toml": ("date", "beyond"),
    ".txt": ("date", "bad_channel", "first_s", "beyond", "unit", "rejected"),
    ".xdf": ("date", "bad_channel", "beyond"),
    ".xdfz": ("date", "bad_channel", "beyond"),
    ".xdf.gz": ("date", "bad_channel", "beyond"),
    ".hea": ("bad_channel", "first_s", "beyond"),
    "moabb:": ("gap", "unit", "beyond"),
}
"""What a format has no place for, or its writers refuse; all else is in the matrix."""


def possible(kind: str, example: Example) -> bool:
    """Whether a format can hold what is special about the recording."""
    plain = Example()
    return all(getattr(example, k) == getattr(plain, k) for k in NO_PLACE.get(kind, ()))


WRITERS: dict[str, Write] = {
    ".edf": _edf,
    ".bdf": _bdf,
    ".fif": _fif,
    ".fif.gz": _fif_gz,
    ".vhdr": _vhdr,
    ".set": _set,
    ".csv": _text,
    ".tsv": _tsv,
    ".txt": _openbci,
    ".xdf": _xdf,
    ".xdfz": _xdfz,
    ".xdf.gz": _xdf_gz,
    ".hea": _hea,
    ".toml": _toml,
    "bids:": _bids,
    "moabb:": _moabb,
}
"""By the key that the tables of readers have."""

UNWRITTEN = {
    ".gdf": "no program here writes GDF",
}
"""Readers that are not in the matrix, and why."""

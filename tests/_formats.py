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

    def stored(self) -> list[tuple[float, float, str]]:
        """The marks by the samples that are there, one after the other, in seconds: onset from the
        first sample, without the time that is lost."""
        lost = GAP_S[1] - GAP_S[0] if self.gap else 0.0
        return [
            (onset - self.first_s - (lost if onset >= GAP_S[0] else 0.0), duration, text)
            for onset, duration, text in self.marks()
            if onset >= self.first_s
            and not (self.gap and GAP_S[0] <= onset < GAP_S[1])  # it was not recorded
        ]

    @property
    def paused_at(self) -> int:
        """The first sample after the gap."""
        return round((GAP_S[0] - self.first_s) * FS)


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


# ---------------------------------------------------------------- GDF, by the bytes

GDF_CODES = {"tone": 769, "rest": 770, "BAD_move": 1023}


def gdf(path: Path, example: Example, version: str = "GDF 2.10") -> str:
    """Records of a sample each, in float32, and a table of events with their lengths."""
    new = version >= "GDF 1.9"
    x = (example.signal() * FACTORS[example.unit]).astype("<f4")
    count, samples = x.shape
    fixed = bytearray(256)
    fixed[:8] = version.encode()
    if example.date:
        at, value = (168, struct.pack("<Q", 737000 << 32)) if new else (168, b"2021030210000000")
        fixed[at : at + len(value)] = value
    fixed[184:192] = struct.pack("<H6x", 1 + count) if new else struct.pack("<q", 256 * (1 + count))
    fixed[236:256] = struct.pack("<qIII", samples, 1, round(FS), count)
    rows = [
        b"".join(name.ljust(16, b"\x00") for name in (b"C3", b"C4")),
        bytes(80 * count),
        bytes(6 * count) + struct.pack("<H", {"uV": 4275, "mV": 4274}[example.unit]) * count
        if new
        else example.unit.encode().ljust(8, b"\x00") * count,
        struct.pack("<d", -1000) * count + struct.pack("<d", 1000) * count,
        (struct.pack("<d", -1000) * count + struct.pack("<d", 1000) * count)
        if new
        else (struct.pack("<q", -1000) * count + struct.pack("<q", 1000) * count),
        bytes(80 * count),
        struct.pack("<I", 1) * count + struct.pack("<I", 16) * count,
        bytes(32 * count),
    ]
    marks = [m for m in example.stored() if m[2] in GDF_CODES]
    events = np.array([[round(m[0] * FS) + 1, GDF_CODES[m[2]], round(m[1] * FS)] for m in marks])
    head = struct.pack("<B", 3)
    size = len(events).to_bytes(3, "little") + struct.pack("<f", FS)
    if not new:
        size = round(FS).to_bytes(3, "little") + struct.pack("<I", len(events))
    table = (
        head + size + events[:, 0].astype("<u4").tobytes() + events[:, 1].astype("<u2").tobytes()
    )
    table += bytes(2 * len(events)) + events[:, 2].astype("<u4").tobytes()
    (path / "sub-1.gdf").write_bytes(bytes(fixed) + b"".join(rows) + x.T.tobytes() + table)
    return f"{path / 'sub-1.gdf'}?events=769:tone,770:rest,1023:BAD_move"


# ---------------------------------------------------------------- MNE


def _mne_raw(example: Example) -> object:
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    whole = Example(**{**vars(example), "first_s": 0.0, "gap": False})
    info = mne.create_info(["C3", "C4"], FS, "eeg")
    raw = mne.io.RawArray(whole.signal() * 1e-6, info, verbose="error")
    if example.date:
        raw.set_meas_date(1_600_000_000)
    inside = [m for m in example.marks() if 0 <= m[0] < LENGTH_S]
    if example.gap:
        inside.append((GAP_S[0], GAP_S[1] - GAP_S[0], "BAD_ACQ_SKIP"))
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
    for onset, duration, text in example.stored():
        kind = "Bad Interval" if text.startswith("BAD") else "Comment"
        size = round(duration * FS)
        lines.append(f"Mk{len(lines) + 1}={kind},{text},{round(onset * FS) + 1},{size},0")
    if example.gap:
        lines.append(f"Mk{len(lines) + 1}=New Segment,,{example.paused_at + 1},1,0{first}")
    (path / "a.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        "DataFile=a.eeg\n\n[Marker Infos]\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )
    return f"{path / 'a.vhdr'}?events=Comment/tone:tone,Comment/rest:rest"


def _set(path: Path, example: Example) -> str:
    marks = example.stored()
    if example.gap:
        marks.append((example.paused_at / FS - 0.5 / FS, GAP_S[1] - GAP_S[0], "boundary"))
    savemat(path / "a.set", {"EEG": eeglab(example.signal(), sorted(marks))})
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
    time = "timestamp (s)" if example.date else "time (s)"
    t = t + 1.6e9 if example.date else t
    lines.append(mark.join([time, f"C3 ({example.unit})", f"C4 ({example.unit})", "label"]))
    lines += [
        mark.join([f"{s:.6f}", f"{a:.6f}", f"{b:.6f}", c])
        for s, a, b, c in zip(t, *x, label, strict=True)
    ]
    (path / f"sub-1{end}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path / f"sub-1{end}")


def _tsv(path: Path, example: Example) -> str:
    return _text(path, example, "\t", ".tsv")


def _openbci(path: Path, example: Example) -> str:
    t, x = example.times(), example.signal() * FACTORS[example.unit]
    lines = [
        "%OpenBCI Raw EXG Data",
        f"%unit = {example.unit}",
        "%Number of channels = 2",
        f"%Sample Rate = {FS:g} Hz",
    ]
    lines += ["%Board = OpenBCI_GUI$BoardCytonSerial"]
    lines += ["Sample Index, EXG Channel 0, EXG Channel 1, Accel Channel 0, Marker, Timestamp"]
    zero = 1.6e9 if example.date else 0.0
    codes = np.zeros(len(t), int)
    for onset, duration, text in example.marks():
        inside = (t >= onset) & (t < onset + duration)
        codes[inside] = {"tone": 1, "rest": 2, "BAD_move": 3}[text]
    for k, (a, b) in enumerate(x.T):
        index = round(t[k] * FS) % 256
        lines.append(f"{index}, {a:.6f}, {b:.6f}, 0.0, {codes[k]}, {zero + t[k]:.4f}")
    (path / "sub-1.txt").write_text("\n".join(lines) + "\n")
    return f"{path / 'sub-1.txt'}?events=1:tone,2:rest,3:BAD_move"


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def xdf_bytes(
    streams: list[tuple[str, list[float], list[object]]], offsets: list[float], date: bool = False
) -> bytes:
    """An XDF file: header, time stamps, samples of each stream; and by how much (s) the clock of
    each is behind the recorder's."""
    dated = "<datetime>2021-03-02T10:00:00+0100</datetime>" if date else ""
    head = f'<?xml version="1.0"?><info><version>1.0</version>{dated}</info>'
    out = b"XDF:" + _chunk(1, head.encode())
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
            date=example.date,
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
        at = np.rint((example.times() - example.first_s) * FS).astype(int)
        whole = np.full((2, at[-1] + 1), -32768, "<i2")
        whole[:, at] = steps
        steps = whole
    steps.T.tofile(path / "a.dat")
    date = " 12:00:00 01/02/2020" if example.date else ""
    rows = [f"a.dat 16 {per_unit:g}(0)/{example.unit} 16 0 0 0 0 {n}" for n in ("C3", "C4")]
    (path / "a.hea").write_text("\n".join([f"a 2 {FS:g} {steps.shape[1]}{date}", *rows]) + "\n")
    marks = [(m[0] - example.first_s, *m[1:]) for m in example.marks() if m[0] >= example.first_s]
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


SPECIAL = ("date", "gap", "unit", "rejected", "bad_channel", "first_s")
"""What every reader is tested with; and, where a format has it, events outside of the recording."""

VOLTS, NONE_LOST = "its signals are volts by definition", "no sample is left out of its runs"
NO_DATE = "it has no field for a date"
NO_PLACE: dict[str, dict[str, str]] = {
    ".fif": {"unit": VOLTS},
    ".fif.gz": {"unit": VOLTS},
    ".set": {"unit": "its signals are microvolts by definition", "date": NO_DATE},
    ".gdf": {"gap": "it has no times of records"},
    "moabb:": {"unit": VOLTS, "gap": NONE_LOST},
}
"""What a format has no place for, and why; all else is in the matrix."""

NOTHING_BEYOND = (
    *(".fif", ".fif.gz", ".vhdr", ".set", ".csv", ".tsv", ".toml", ".txt", ".xdf", ".xdfz"),
    *(".xdf.gz", ".hea", ".gdf", "moabb:"),
)
"""Formats whose writers refuse events outside of the recording, or whose events are a column."""

BADS_ASKED = (
    *(".edf", ".bdf", ".gdf", ".vhdr", ".set", ".txt", ".xdf", ".xdfz", ".xdf.gz", ".hea"),
)
"""Formats that cannot name bad channels themselves, so DATA does (`bads`)."""


def possible(kind: str, example: Example) -> bool:
    """Whether a format can hold what is special about the recording."""
    without = [*NO_PLACE.get(kind, ()), *(["beyond"] if kind in NOTHING_BEYOND else [])]
    return all(getattr(example, k) == getattr(Example(), k) for k in without)


def channels(kind: str) -> tuple[str, str]:
    """The names of the channels in a format."""
    return ("EXG Channel 0", "EXG Channel 1") if kind == ".txt" else ("C3", "C4")


def written(kind: str, path: Path, example: Example) -> str:
    """The recording in a format; what DATA calls it."""
    source = WRITERS[kind](path, example)
    if example.bad_channel and kind in BADS_ASKED:
        source += f"{'&' if '?' in source else '?'}bads={channels(kind)[1]}"
    return source


WRITERS: dict[str, Write] = {
    ".edf": _edf,
    ".bdf": _bdf,
    ".gdf": gdf,
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

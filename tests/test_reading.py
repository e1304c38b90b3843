# SPDX-License-Identifier: Apache-2.0
"""Rules of reading that are the same for all formats: units, kinds, windows, labels, sets."""

from __future__ import annotations

import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from _formats import FS, WRITERS, Example, edf_bytes, eeglab, xdf_bytes
from scipy.io import savemat

from biotrain.frontend import read_front
from biotrain.study import RecordingError, Recordings, load
from biotrain.study.data.raw import CutRequest, kind_of, microvolts
from biotrain.study.data.readers import table, wfdb_files
from biotrain.study.data.sources import load_continuous, recordings

MARKS = [(2.0, 4.0, "left"), (8.0, 4.0, "right"), (14.0, 4.0, "left"), (20.0, 4.0, "right")]


def edf(
    path: Path,
    marks: list[tuple[float, float, str]] | None = None,
    scale: float = 20.0,
    **more: object,
) -> Path:
    """An EDF+ file of 30 s of noise of 20 uV with these annotations."""
    labels = more.get("labels", ("C3", "C4"))
    x = scale * np.random.default_rng(0).standard_normal((len(labels), round(30 * FS)))  # type: ignore[arg-type]
    tals: list[list[bytes]] = [[] for _ in range(30)]
    for onset, duration, text in MARKS if marks is None else marks:
        tals[0].append(f"{onset:+g}\x15{duration:g}\x14{text}\x14\x00".encode())
    x = np.asarray(more.pop("x", x))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(edf_bytes(x, [float(k) for k in range(30)], tals, **more))
    return path


def notes(rec: Recordings) -> str:
    return " | ".join(rec.notes)


def left(rec: Recordings) -> dict[str, int]:
    out: dict[str, int] = {}
    for one in rec.left_out:
        out[one.reason] = out.get(one.reason, 0) + one.count
    return out


# ---------------------------------------------------------------- units and kinds


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("uV", 1), ("UV", 1), ("µV", 1), ("μV", 1), ("mV", 1e3), ("MV", 1e3), ("V", 1e6), ("nV", 1e-3),
     ("microvolts", 1), ("Volt", 1e6), ("degC", None), ("%", None), ("", None)],
)  # fmt: skip
def test_units(unit: str, factor: float | None) -> None:
    assert microvolts(unit) == factor


@pytest.mark.parametrize(
    ("name", "kind"),
    [("EEG Fpz-Cz", "eeg"), ("C3", "eeg"), ("EOG horizontal", "eog"), ("EMG submental", "emg"),
     ("Temp rectal", "temp"), ("Event marker", "stim"), ("STATUS", "stim"), ("Resp flow", "resp"),
     ("ECG1", "ecg"), ("SpO2", "misc"), ("Trigger", "stim")],
)  # fmt: skip
def test_kinds_by_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_only_channels_of_the_kind_are_taken(tmp_path: Path) -> None:
    labels = ("EEG C3", "EOG left", "Temp rectal", "Event marker")
    path = edf(tmp_path / "sub-1_eeg.edf", labels=labels, units=["uV", "uV", "degC", ""])
    rec = load(path)
    assert rec.channels == ("EEG C3",)
    assert "channels left out: EOG left (eog), Temp rectal (temp)" in notes(rec)
    assert load(f"{path}?kind=eog").channels == ("EOG left",)
    with pytest.raises(RecordingError, match="no channel of the types emg; there are: EEG C3"):
        load(f"{path}?kind=emg")
    named = load(f"{path}?channels=Temp rectal")
    assert "is in 'degC', which is no voltage" in notes(named)


def test_a_file_in_another_unit_is_named(tmp_path: Path) -> None:
    for k in (1, 2):
        edf(tmp_path / f"sub-{k}_eeg.edf")
    edf(tmp_path / "sub-3_eeg.edf", scale=20e-6)  # volts, called microvolts
    told = notes(load(tmp_path))
    assert "sub-3_eeg.edf has an amplitude of" in told
    assert "another unit?" in told


def test_channels_of_two_rates(tmp_path: Path) -> None:
    """An ECG of four times the rate costs the EEG nothing; both together take the lower one."""
    edfio = pytest.importorskip("edfio", reason="the extra `data` is not installed")
    rng = np.random.default_rng(0)
    slow = np.sin(2 * np.pi * 5 * np.arange(128 * 20) / 128)
    fast = np.sin(2 * np.pi * 5 * np.arange(512 * 20) / 512)
    signals = [
        edfio.EdfSignal(100 * slow + rng.standard_normal(128 * 20), 128, label="EEG C3",
                        physical_dimension="uV"),
        edfio.EdfSignal(0.1 * fast, 512, label="ECG", physical_dimension="mV"),
    ]  # fmt: skip
    marks = [edfio.EdfAnnotation(2.0, 4.0, "a"), edfio.EdfAnnotation(8.0, 4.0, "b")]
    path = tmp_path / "sub-1_eeg.edf"
    edfio.Edf(signals, annotations=marks).write(path)
    rec = load(path)
    assert (rec.fs, rec.channels) == (128.0, ("EEG C3",))
    assert load(f"{path}?kind=ecg").fs == 512.0
    both = load(f"{path}?channels=EEG C3,ECG")
    assert both.fs == 128.0
    assert "channels of 128, 512 Hz are resampled to 128 Hz" in notes(both)
    x = both.signal()[0, :, 64:-64]
    np.testing.assert_allclose(x[1], x[0], atol=6)  # both are 100 uV, in phase


def test_a_wfdb_record_of_several_samples_per_frame(tmp_path: Path) -> None:
    """Its header has the rate of frames: the EEG of 200 Hz is not 50 Hz, and the marks stay."""
    wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed (extra data)")
    t = np.arange(40 * 200) / 200
    tone = np.rint(1000 * np.sin(2 * np.pi * 60 * t) * (t >= 20)).astype("<i2")  # 50 Hz hides it
    pulse = np.rint(1000 * np.sin(2 * np.pi * 2 * t[::4])).astype("<i2")
    tone[4000 + 8 : 4000 + 16] = -32768  # no value
    frames = np.concatenate([tone.reshape(-1, 4), pulse[:, None]], axis=1)
    frames.astype("<i2").tofile(tmp_path / "a.dat")
    (tmp_path / "a.hea").write_text(
        "a 2 50 2000\na.dat 16x4 10/uV 16 0 0 0 0 C3\na.dat 16 1/mmHg 16 0 0 0 0 ABP\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wfdb.wrann(
            "a", "event", np.array([250, 1250]), ['"'] * 2, aux_note=["rest", "tone"],
            write_dir=str(tmp_path),
        )  # fmt: skip
    rec = load(f"{tmp_path / 'a.hea'}?window=4")
    assert (rec.fs, rec.channels) == (200.0, ("C3",))
    spread = rec.signal()[:, 0].std(axis=1)
    assert spread[rec.y == rec.classes.index("tone")] == pytest.approx(70.7, rel=0.01)
    assert spread[rec.y == rec.classes.index("rest")] == 0
    both = load(f"{tmp_path / 'a.hea'}?window=4&channels=C3,ABP")
    assert both.fs == 50.0
    assert "channels of 50, 200 Hz are resampled to 50 Hz" in notes(both)
    np.testing.assert_allclose(both.signal()[0, 1].std(), 707, rtol=0.02)


@pytest.mark.parametrize("fast", [1.0002, 1.08])
def test_markers_of_xdf_stay_at_their_samples(fast: float, tmp_path: Path) -> None:
    """Where the clock of the signal drifts (after 10 minutes by 15 samples), and where its rate is
    another than its name."""
    pytest.importorskip("pyxdf", reason="pyxdf is not installed (extra data)")
    count = round(600 * FS)
    stamps = 100 + np.arange(count) / (FS * fast)
    signal = np.zeros((count, 2))
    at = [round(k * FS) for k in (50, 300, 590)]
    for k in at:
        signal[k : k + 64, 0] = 50.0
    header = (
        "<info><name>E</name><type>EEG</type><channel_count>2</channel_count><channel_format>float32"
        f"</channel_format><nominal_srate>{FS:g}</nominal_srate><desc></desc></info>"
    )
    marker = (
        "<info><name>M</name><type>Markers</type><channel_count>1</channel_count><nominal_srate>0"
        "</nominal_srate><channel_format>string</channel_format><desc></desc></info>"
    )
    marks = [float(stamps[k]) for k in at]
    (tmp_path / "a.xdf").write_bytes(
        xdf_bytes(
            [(header, [float(s) for s in stamps], list(signal)), (marker, marks, ["x"] * 3)],
            [0.0, 0.0],
        )
    )
    rec = load(f"{tmp_path / 'a.xdf'}?window=0.4")
    assert len(rec) == 3
    np.testing.assert_allclose(rec.signal()[:, 0], 50.0, atol=0.01)
    assert ("by the time stamps, which hold" in notes(rec)) == (fast > 1.01)


def test_the_leads_of_frank_are_an_electrocardiogram() -> None:
    assert [wfdb_files._kind(name, "mV") for name in ("vx", "V6", "avr", "C3")] == [
        *["ecg"] * 3,
        "eeg",
    ]


@pytest.mark.parametrize("kind", [".edf", ".bdf"])
def test_the_bytes_say_what_mne_says(kind: str, tmp_path: Path) -> None:
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    path = Path(WRITERS[kind](tmp_path, Example(unit="mV", date=True)))
    found = mne.io.read_raw(path, verbose="error")
    raw = table.READERS[kind](path, CutRequest())
    np.testing.assert_allclose(raw.x, found.get_data() * 1e6, rtol=1e-6, atol=1e-6)
    marks = [(m.onset_s, m.duration_s, m.text) for m in raw.marks]
    assert marks == [
        (float(a["onset"]), float(a["duration"]), str(a["description"])) for a in found.annotations
    ]


def test_a_boundary_of_eeglab_is_no_class(tmp_path: Path) -> None:
    """EEGLAB marks where signal was cut out: nothing is learned over it, and nobody reads it as an
    event; what was cut out counts in the times of what follows."""
    x = 20 * np.random.default_rng(0).standard_normal((2, round(30 * FS)))
    marks = [(2.0, 2.0, "a"), (10.0 - 0.5 / FS, 7.0, "boundary"), (12.0, 2.0, "b")]
    savemat(tmp_path / "a.set", {"EEG": eeglab(x, marks)})
    rec = load(tmp_path / "a.set")
    assert rec.classes == ("a", "b")
    assert rec.time_s is not None
    np.testing.assert_allclose(rec.time_s, [2.0, 19.0])
    expected = x[:, round(12 * FS) : round(14 * FS)]
    np.testing.assert_allclose(rec.signal([1])[0], expected, atol=0.01)


def test_bad_channels_and_bad_codes_that_only_the_settings_know(tmp_path: Path) -> None:
    path = edf(tmp_path / "sub-1_eeg.edf")
    assert load(f"{path}?bads=C4&bad_channels=drop").channels == ("C3",)
    with pytest.raises(RecordingError, match="bads names Cz, which no file has; there are: C3, C4"):
        load(f"{path}?bads=Cz")
    rec = load(f"{path}?events=left:left,right:BAD&window=2")
    assert rec.classes == ("left",)
    over = edf(tmp_path / "over_eeg.edf", marks=[(2.0, 8.0, "a"), (5.0, 1.0, "x")])
    rec = load(f"{over}?events=a:a,x:EDGE of x&window=2")
    assert left(rec) == {"touch a BAD or EDGE annotation": 1}
    (tmp_path / "own.toml").write_text('pattern = "{subject}_eeg.edf"\nbads = "C3"\n')
    with pytest.raises(RecordingError, match="bads is a list of names of channels"):
        load(tmp_path / "own.toml")


# ---------------------------------------------------------------- windows


def test_an_amplitude_limit(tmp_path: Path) -> None:
    x = 20 * np.random.default_rng(0).standard_normal((2, round(30 * FS)))
    x[1, round(9 * FS)] = 900
    path = edf(tmp_path / "sub-1_eeg.edf", x=x)
    assert len(load(f"{path}?window=2")) == 8
    rec = load(f"{path}?window=2&reject_uv=400")
    assert len(rec) == 7
    assert left(rec) == {"exceed the amplitude limit": 1}
    front = read_front({"window_s": 1.0, "hop_s": 1.0, "unit": 0.1})
    whole, _ = recordings(path, None, front)
    held, _ = recordings(f"{path}?reject_uv=400", None, front)
    assert len(whole) - len(held) == 1


def test_markers_of_a_millisecond_are_no_windows(tmp_path: Path) -> None:
    marks = [(2.0 + 3 * k, 0.001, "ab"[k % 2]) for k in range(8)]
    path = edf(tmp_path / "sub-1_eeg.edf", marks=marks)
    with pytest.raises(RecordingError, match=r"are markers without a length; give .*\?window=2"):
        load(path)
    assert (len(load(f"{path}?window=2")), load(f"{path}?window=2").n_times) == (8, 256)
    late = load(f"{path}?window=2&tmin=1.5")
    assert left(late)["would reach into the next event"] == 7
    assert len(load(f"{path}?window=2&tmin=1.5&duration=4")) == 8  # the file says otherwise


def test_a_window_lies_within_its_event_and_what_is_cut_is_counted(tmp_path: Path) -> None:
    marks = [(2.0, 5.0, "a"), (7.0, 1.0, "b"), (8.0, 4.0, "a"), (28.0, 4.0, "b")]
    rec = load(edf(tmp_path / "sub-1_eeg.edf", marks=marks), window_s=2.0)
    assert rec.time_s is not None
    assert rec.time_s.tolist() == [2.0, 4.0, 8.0, 10.0, 28.0]
    assert left(rec) == {
        "events end with a rest shorter than a window": 1,
        "events are shorter than the window": 1,
        "reach past the recording or over lost samples": 1,
    }
    short = load(tmp_path / "sub-1_eeg.edf")
    assert "assumed to be as long as the shortest event, 1 s" in notes(short)
    assert load(tmp_path / "sub-1_eeg.edf", window_s=2.0, tmin_s=1.0).time_s is not None


def test_what_lies_outside_of_the_recording_is_refused(tmp_path: Path) -> None:
    path = edf(tmp_path / "sub-1_eeg.edf", marks=[(7000.0, 4.0, "a"), (7010.0, 4.0, "b")])
    with pytest.raises(RecordingError, match="all 2 events lie outside of its 30 s"):
        load(path)


# ---------------------------------------------------------------- labels


def test_codes_of_biosemis_status_channel(tmp_path: Path) -> None:
    """The upper bits of Status are no codes; a code from the first sample on is no event."""
    codes = np.zeros(round(30 * FS))
    for onset, _, text in MARKS:
        codes[round(onset * FS) : round((onset + 4) * FS)] = 1 if text == "left" else 2
    codes[:10] = 7
    top = 2**23 - 1  # the digital values of both channels are written as they are
    signal = 20 * np.random.default_rng(0).standard_normal(len(codes))
    x = np.stack([np.rint(signal), codes + 65536 * 16])
    x[0, 0], x[0, 1] = top, -top
    path = tmp_path / "sub-1_eeg.bdf"
    none: list[list[bytes]] = [[] for _ in range(30)]
    starts = [float(k) for k in range(30)]
    path.write_bytes(
        edf_bytes(x, starts, none, wide=True, labels=("C3", "Status"), units=["uV", ""])
    )
    rec = load(path)
    assert rec.classes == ("1", "2")
    assert rec.channels == ("C3",)
    assert "codes of channel Status" in notes(rec)
    assert rec.time_s is not None
    np.testing.assert_allclose(rec.time_s, [2, 8, 14, 20])


def test_events_of_a_table_beside_the_recording(tmp_path: Path) -> None:
    edf(tmp_path / "sub-1_task-x_eeg.edf", marks=[])
    table = ["onset\tduration\ttrial_type\tvalue"]
    table += [f"{on}\t{long}\t{what}\t{k}" for k, (on, long, what) in enumerate(MARKS)]
    (tmp_path / "sub-1_task-x_events.tsv").write_text("\n".join(table) + "\n")
    rec = load(tmp_path)
    assert rec.classes == ("left", "right")
    assert "events are taken from sub-1_task-x_events.tsv" in notes(rec)
    other = load(f"{tmp_path}?column=value&source=file:{{stem}}".replace("{stem}", "sub-1*.tsv"))
    assert other.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("events", "classes"),
    [
        ('{source = "channel:state", map = {go = "move", still = "rest"}}', ("move", "rest")),
        ('{source = "channel:code", map = {1 = "one"}}', ("one",)),
        ('{source = "channel:state"}', ("go", "still")),
    ],
)
def test_events_of_a_column(tmp_path: Path, events: str, classes: tuple[str, ...]) -> None:
    rows = ["time,C3,C4,state,code"]
    for k in range(2000):
        state, code = (("go", 1), ("", 0), ("still", 2), ("", 0))[k // 100 % 4]
        rows.append(f"{k / 100:.2f},{k % 7},{k % 5},{state},{code}")
    (tmp_path / "7.csv").write_text("\n".join(rows) + "\n")
    toml = f'pattern = "{{subject}}.csv"\nevents = {events}\nchannels = ["C3", "C4"]\n'
    (tmp_path / "own.toml").write_text(toml.replace("state", "label"))
    text = (tmp_path / "7.csv").read_text().replace("state", "label")
    (tmp_path / "7.csv").write_text(text)
    rec = load(tmp_path / "own.toml")
    assert rec.classes == classes
    assert rec.subjects == [7]
    assert rec.fs == 100.0


def test_what_events_cannot_say(tmp_path: Path) -> None:
    edf(tmp_path / "1.edf")
    for events, words in (
        ('{source = "nowhere"}', "events cannot come from 'nowhere'"),
        ('{source = "channel:x"}', "no channel of codes is called x; there are: none"),
        ('{source = "file:{stem}.tsv"}', "0 files beside it are called 1.tsv"),
        ("{source = 5}", "is a table of description = class"),
        ('{source = "stim", kap = {1 = "a"}}', "is a table of description = class"),
    ):
        (tmp_path / "own.toml").write_text(f'pattern = "{{subject}}.edf"\nevents = {events}\n')
        with pytest.raises(RecordingError) as caught:
            load(tmp_path / "own.toml")
        assert words in str(caught.value)


# ---------------------------------------------------------------- epochs and split files


def test_epochs_of_eeglab(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 128, 6))
    marks = [(k * 128 / FS, 0.0, "ab"[k % 2]) for k in range(6)]
    savemat(tmp_path / "sub-1.set", {"EEG": eeglab(x, marks)})
    rec = load(tmp_path / "sub-1.set")
    assert (rec.n_times, len(rec), rec.classes) == (128, 6, ("a", "b"))
    np.testing.assert_allclose(rec.signal([1])[0], x[:, :, 1], atol=1e-3)
    assert load_continuous(tmp_path / "sub-1.set") is None
    with pytest.raises(RecordingError, match="give the continuous recording"):
        recordings(tmp_path / "sub-1.set", None, read_front({"window_s": 0.5, "unit": 1}))


def test_epochs_that_touch_bad_annotations(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    raw = mne.io.RawArray(1e-5 * np.random.default_rng(0).standard_normal((2, 1280)),
                          mne.create_info(["C3", "C4"], FS, "eeg"), verbose="error")  # fmt: skip
    raw.set_annotations(mne.Annotations([4.3], [0.2], ["BAD_blink"]))
    events = np.array([[round(t * FS), 0, 1 + t % 2] for t in range(1, 9)])
    epochs = mne.Epochs(raw, events, {"l": 1, "r": 2}, -0.2, 0.7, baseline=None, preload=True,
                        reject_by_annotation=False, verbose="error")  # fmt: skip
    epochs.save(tmp_path / "sub-1-epo.fif", verbose="error")
    rec = load(tmp_path / "sub-1-epo.fif")
    assert len(rec) == 7
    assert left(rec) == {"touch a BAD or EDGE annotation": 1}
    assert rec.time_s is not None
    assert 3.8 not in rec.time_s.round(3)


def test_a_channel_may_be_called_as_a_kind(tmp_path: Path) -> None:
    """MNE takes the names "eeg" and "stim" for kinds where it is asked for channels by name."""
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    x = 1e-5 * np.random.default_rng(0).standard_normal((3, 1280))
    x[2] = 0
    x[2, 256:512] = 1
    info = mne.create_info(["eeg", "C3", "stim"], FS, ["eeg", "eeg", "stim"])
    mne.io.RawArray(x, info, verbose="error").save(tmp_path / "sub-1_raw.fif", verbose="error")
    rec = load(f"{tmp_path}?window=2")
    assert rec.channels == ("eeg", "C3")
    np.testing.assert_allclose(rec.signal()[0], 1e6 * x[:2, 256:512], atol=0.01)


def test_a_split_fif_is_one_recording(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne", reason="the extra `data` is not installed")
    data = 1e-5 * np.random.default_rng(0).standard_normal((20, 128 * 300))
    raw = mne.io.RawArray(data, mne.create_info(20, FS, "eeg"), verbose="error")
    raw.set_annotations(mne.Annotations([2.0, 250.0], [4.0, 4.0], ["a", "b"]))
    raw.save(tmp_path / "sub-1_raw.fif", split_size="2MB", buffer_size_sec=1.0, verbose="error")
    assert len(list(tmp_path.glob("*.fif"))) > 1
    rec = load(tmp_path)
    assert len(rec) == 2
    np.testing.assert_allclose(rec.signal([1])[0], 1e6 * data[:, 250 * 128 : 254 * 128], atol=0.01)


# ---------------------------------------------------------------- people, runs, sets of files


def test_people_and_sessions_keep_their_names(tmp_path: Path) -> None:
    for name in ("sub-07_ses-2_eeg.edf", "sub-12_ses-2_eeg.edf"):
        edf(tmp_path / "n" / name)
    rec = load(tmp_path / "n")
    assert rec.subjects == [7, 12]
    assert [rec.name_of("subject", s) for s in rec.subjects] == ["07", "12"]
    assert (rec.number_of("subject", "07"), rec.number_of("subject", "7")) == (7, 7)
    for name in ("sub-anna_eeg.edf", "sub-bert_eeg.edf"):
        edf(tmp_path / "t" / name)
    rec = load(tmp_path / "t")
    assert [rec.name_of("subject", s) for s in rec.subjects] == ["anna", "bert"]
    assert rec.number_of("subject", "bert") == 2
    with pytest.raises(RecordingError, match="no subject carl; there are anna, bert"):
        rec.number_of("subject", "carl")
    again = load(rec.save(tmp_path / "t.npz"))
    assert again.subject_names == rec.subject_names
    assert again.notes == rec.notes
    assert again.left_out == rec.left_out


def test_two_files_of_one_session_have_clocks_of_their_own(tmp_path: Path) -> None:
    for name in ("sub-1_task-a_eeg.edf", "sub-1_task-b_eeg.edf"):
        edf(tmp_path / name)
    rec = load(tmp_path)
    assert rec.run is not None
    assert len(set(rec.run.tolist())) == 2
    assert len(set(rec.starts().round(6))) == len(rec)


def test_files_that_differ(tmp_path: Path) -> None:
    edf(tmp_path / "sub-1_eeg.edf")
    x = 20 * np.random.default_rng(0).standard_normal((2, round(30 * FS)))
    edf(tmp_path / "sub-2_eeg.edf", labels=("C4", "C3"), x=x)
    rec = load(tmp_path)
    assert rec.channels == ("C3", "C4")
    assert "stood in another order" in notes(rec)
    second = rec.signal(np.flatnonzero(rec.subject == 2)[:1])[0]
    np.testing.assert_allclose(second[0], x[1, 256 : 256 + rec.n_times], atol=0.02)
    edf(tmp_path / "sub-3_eeg.edf", labels=("C3", "Cz"))
    with pytest.raises(
        RecordingError, match=r"sub-3_eeg.edf: .* it lacks C4; channels = \"common\""
    ):
        load(tmp_path)
    assert load(f"{tmp_path}?channels=common").channels == ("C3",)
    rows = ["# fs = 64", "C3,C4,label", *(f"{k % 9},{k % 4},go" for k in range(640))]
    (tmp_path / "sub-4.csv").write_text("\n".join(rows))
    (tmp_path / "own.toml").write_text(
        'pattern = "sub-{subject}*"\nchannels = ["C3"]\nwindow = 1\n'
    )
    with pytest.raises(RecordingError, match=r"it has 64 Hz, others 128 Hz; resample = true"):
        load(tmp_path / "own.toml")
    both = load(f"{tmp_path / 'own.toml'}?resample=true")
    assert (both.fs, both.subjects) == (64.0, [1, 2, 3, 4])


def test_a_file_without_events_is_left_out(tmp_path: Path) -> None:
    edf(tmp_path / "sub-1_eeg.edf")
    edf(tmp_path / "sub-2_eeg.edf", marks=[])
    rec = load(tmp_path)
    assert rec.subjects == [1]
    assert "sub-2_eeg.edf: no annotations, so no labels" in notes(rec)
    (tmp_path / "sub-1_eeg.edf").unlink()
    with pytest.raises(RecordingError, match="no annotations, so no labels"):
        load(tmp_path)


def test_composed_and_decomposed_letters_agree(tmp_path: Path) -> None:
    """A Mac writes names of files decomposed; a TOML with a byte order mark is one."""
    edf(
        tmp_path / unicodedata.normalize("NFD", "jürgen_x.edf"),
        marks=[(2, 4, "ruhe"), (8, 4, "böse")],
    )
    toml = 'pattern = "{subject}_x.edf"\n[events]\n"' + unicodedata.normalize("NFD", "böse")
    (tmp_path / "own.toml").write_text(toml + '" = "böse"\nruhe = "ruhe"\n', encoding="utf-8-sig")
    rec = load(tmp_path / "own.toml")
    assert rec.classes == ("böse", "ruhe")
    assert rec.name_of("subject", 1) == unicodedata.normalize("NFC", "jürgen")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("C3,C4\n1,2\n3,4\n", "no column of time"),
        ("time,C3\n0,1\n1,x\n2,3\n", "line 3: 'x' is no number (column C3)"),
        ("time,C3\n0,1\n2,2\n1,3\n", "time goes back at sample 2"),
        ("time,C3\n0,1\n1\n", "line 3: 1 columns, not 2"),
        ("", "it holds no sample"),
        ("1,2\n3,4\n", "does not name the columns"),
    ],
)
def test_what_a_table_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(RecordingError) as caught:
        load(tmp_path / "a.csv")
    assert words in str(caught.value)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    path = edf(tmp_path / "sub-1_eeg.edf")
    for options, words in (
        ("widow=2", "no setting is called widow (did you mean window?)"),
        ("bad_channels=burn", "bad_channels is one of keep, drop, zero"),
        ("window=long", "could not convert"),
    ):
        with pytest.raises(RecordingError) as caught:
            load(f"{path}?{options}")
        assert words in str(caught.value)
    with pytest.raises(RecordingError, match="takes no settings"):
        load("synthetic?window=2")


def test_a_front_end_takes_every_source_of_signals(tmp_path: Path) -> None:
    """A TOML of one's own, a table and a BIDS tree are continuous like a file."""
    front = read_front({"window_s": 1.0, "hop_s": 0.5, "unit": 0.1})
    for kind in (".toml", ".csv", "bids:"):
        (tmp_path / kind.strip(":.")).mkdir()
        source = WRITERS[kind](tmp_path / kind.strip(":."), Example())
        rec, told = recordings(source, None, front)
        assert "through the front end in C" in told
        assert rec.n_times == 128


def test_a_file_that_only_has_the_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "note.edf").write_bytes(b"not a recording")
    with pytest.raises(RecordingError, match=r"note\.edf"):
        load(tmp_path / "note.edf")

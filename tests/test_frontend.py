# SPDX-License-Identifier: Apache-2.0
"""The front end: its C against scipy's causal filters in float64, at borders, in any build."""

import dataclasses
import hashlib
import itertools
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _cc import STRICT, compilers, has_fma, shared_library
from _thumb import Thumb, build, need_emulator
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from biotrain.errors import BioTrainError
from biotrain.frontend import FrontEnd, emit, read_front
from biotrain.run.cycles import cycles
from biotrain.run.front_stream import HOST_LOOPS, FrontStream, windows_of
from biotrain.run.histogram import Histogram

EPS = 2.0**-24
DESIGNS: dict[str, dict[str, Any]] = {
    "eeg": {"bandpass": (0.5, 40.0), "notch": 50.0},
    "slow": {"bandpass": (0.05, None), "order": 2},
    "ecg": {"bandpass": (0.1, 100.0), "notch": 60.0, "reference": "average"},
    "emg": {"bandpass": (20.0, 240.0), "order": 6},
    "low": {"bandpass": (None, 40.0), "order": 3, "scale": 0.25e-6},
    "notch": {"notch": 50.0, "notch_q": 10.0},
    "decimated": {"bandpass": (4.0, 30.0), "decimate": 4, "reference": "average"},
    "alias": {"decimate": 5},
    "none": {"reference": "average"},
}


def front(**keys: Any) -> FrontEnd:
    return FrontEnd(**{"fs_in": 500.0, "n_chans": 2, "window": 250, "hop": 250, **keys})


def reference(chain: FrontEnd, x: np.ndarray) -> np.ndarray:
    """The filtered signal in float64 [n_chans, n_samples / decimate], without standardisation."""
    y = x.astype(np.float64)
    for sos, keep in zip(chain.sos, (chain.decimate, 1), strict=True):
        if len(sos):
            start = signal.sosfilt_zi(sos)[:, None, :] * y[None, :, :1]
            y, _ = signal.sosfilt(sos, y, zi=start)
        y = y[:, ::keep]
    if chain.reference == "average":
        y = y - y.mean(0)
    return y * chain.scale


@cache
def biosignal(samples: int, offset: int, seed: int = 0) -> np.ndarray:
    """Two channels of coloured noise with deviation 300, `offset` deviations off zero."""
    rng = np.random.default_rng(seed)
    noise = signal.lfilter([1.0], [1.0, -0.98], rng.standard_normal((2, samples)))
    noise += 0.5 * np.sin(2 * np.pi * 0.1 * np.arange(samples))
    centre = offset * np.array([[1.0], [-0.7]])
    x = np.rint(300 * (noise / noise.std() + centre)).astype(np.int32)
    x.flags.writeable = False
    return x


def joined(windows: np.ndarray) -> np.ndarray:
    """Windows that follow each other without a gap, as one signal."""
    return windows.transpose(1, 0, 2).reshape(windows.shape[1], -1)


@pytest.mark.sample(test=8)
@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("name", DESIGNS)
def test_an_hour_equals_scipy_to_float_rounding(name: str, offset: int) -> None:
    chain = front(**DESIGNS[name])
    x = biosignal(500 * 3600, offset)
    got = joined(windows_of(chain, x))
    want = reference(chain, x)[:, : got.shape[1]]
    assert got.shape[1] == len(x[0]) // chain.decimate
    # Three roundings: integer to float, the scale, their product. With an offset of 1000 deviations
    # the start of scipy's slowest filter is itself wrong: sosfilt_zi has few digits there.
    settled = slice(int(20 * chain.fs_out), None) if name == "slow" and offset else slice(None)
    error = np.abs(got - want)[:, settled]
    assert error.max() <= 3 * EPS * np.abs(want).max()


@pytest.mark.parametrize("name", DESIGNS)
def test_it_starts_without_a_jump(name: str) -> None:
    """With an offset of 1000 deviations: nothing at first, then no more than without the offset."""
    chain = front(**DESIGNS[name], window=50, hop=50)
    got = joined(windows_of(chain, biosignal(2000, 1000)))
    plain = joined(windows_of(chain, biosignal(2000, 0)))
    first, plain_first = got[:, :1], plain[:, :1]
    if not chain.passes_constants:
        assert (first == 0).all()
    tolerance = 4 * EPS * np.abs(got).max()
    np.testing.assert_allclose(got - first, plain - plain_first, rtol=0, atol=tolerance)


def test_a_step_of_full_scale_does_not_overflow() -> None:
    for keys in DESIGNS.values():
        chain = front(**keys)
        x = np.full((2, 6000), -(2**31), np.int64)
        x[:, 1500::7] = 2**31 - 1
        x[0, 3000:] = 2**31 - 1
        got = joined(windows_of(chain, x.astype(np.int32)))
        want = reference(chain, x)[:, : got.shape[1]]
        assert np.abs(got - want).max() <= 3 * EPS * np.abs(want).max()


def worst_input(chain: FrontEnd, length: int = 4000) -> np.ndarray:
    """Full-scale samples, each with the sign that drives the output highest at the end."""
    impulse = np.zeros((1, length))
    impulse[0, 0] = 1.0
    sos = np.vstack(chain.sos)
    response = signal.sosfilt(sos, impulse)[0, ::-1]
    x = np.where(response > 0, 2**31 - 1, -(2**31))
    x[0] = -(2**31)
    return np.stack([x, -1 - x]).astype(np.int32)


@pytest.mark.parametrize("name", ["eeg", "ecg", "emg", "low", "notch"])
def test_the_worst_input_does_not_overflow(name: str) -> None:
    chain = front(**DESIGNS[name], window=1, hop=1)
    x = worst_input(chain)
    want = reference(chain, x)
    got = joined(windows_of(chain, x))
    assert np.abs(want).max() > 2**31 * chain.scale
    assert np.abs(got - want).max() <= 3 * EPS * np.abs(want).max()


def test_chunks_change_nothing() -> None:
    chain = front(**DESIGNS["decimated"], window=64, hop=24)
    x = biosignal(5000, 3)
    whole = windows_of(chain, x)
    stream = FrontStream(chain)
    cuts = [0, 1, 2, 3, 100, 101, 1023, 1024, 4999, 5000]
    parts = [stream.push(x[:, a:b]) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    stream.reset()
    np.testing.assert_array_equal(stream.push(x), whole)


@pytest.mark.parametrize(
    ("window", "hop", "decimate"), [(64, 64, 1), (64, 16, 3), (50, 7, 2), (10, 33, 4), (1, 1, 1)]
)
def test_windows_are_slices_of_the_filtered_signal(window: int, hop: int, decimate: int) -> None:
    keys: dict[str, Any] = {"bandpass": (1.0, 50.0), "decimate": decimate}
    x = biosignal(1200, 5)
    whole = joined(windows_of(front(**keys, window=1, hop=1), x))
    starts = range(0, whole.shape[1] - window + 1, hop)
    want = np.stack([whole[:, a : a + window] for a in starts])
    np.testing.assert_array_equal(windows_of(front(**keys, window=window, hop=hop), x), want)


def test_int16_and_int32_give_the_same() -> None:
    chain = front(**DESIGNS["eeg"])
    x = biosignal(3000, 0)
    assert np.abs(x).max() < 2**15
    np.testing.assert_array_equal(windows_of(chain, x.astype(np.int16)), windows_of(chain, x))


def test_without_a_filter_the_samples_come_through() -> None:
    x = biosignal(2000, 1000)
    chain = front(scale=0.5)
    np.testing.assert_array_equal(
        joined(windows_of(chain, x)), x.astype(np.float32) * np.float32(0.5)
    )


def running(chain: FrontEnd, y: np.ndarray) -> np.ndarray:
    """Running standardisation in float64."""
    out = np.zeros_like(y)
    mean, variance = np.zeros(len(y)), np.zeros(len(y))
    for t in range(y.shape[1]):
        r = 1.0 / min(t + 1, chain.memory)
        d = y[:, t] - mean
        mean = mean + r * d
        variance = (1 - r) * (variance + r * d * d)
        out[:, t] = (1 - r) * d / np.maximum(np.sqrt(variance), chain.scale)
    return out


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bandpass", [None, (0.5, 40.0)])
def test_running_standardisation(bandpass: Any, fused: bool) -> None:
    if fused and not has_fma():
        pytest.skip("this machine has no fused multiply-add")
    chain = front(bandpass=bandpass, standardise="running", memory_s=10.0, scale=0.02)
    x = biosignal(60_000, 1000)
    got = joined(windows_of(chain, x, fused=fused))
    want = running(chain, reference(chain, x))[:, : got.shape[1]]
    assert np.abs(got - want).max() <= 16 * EPS * np.abs(want).max()
    assert (got[:, 0] == 0).all()


def test_running_statistics_of_the_beginning_are_plain_ones() -> None:
    chain = front(standardise="running", memory_s=100.0, window=1, hop=1)
    x = biosignal(400, 10)
    got = joined(windows_of(chain, x))[:, -1]
    want = (x[:, -1] - x.mean(1)) / x.std(1)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("window", [1, 31, 32, 250])
def test_window_standardisation(window: int) -> None:
    chain = front(standardise="window", window=window, hop=window)
    x = biosignal(2000, 1000)
    got = joined(windows_of(chain, x))
    plain = x[:, : got.shape[1]].reshape(2, -1, window).astype(np.float64)
    centred = plain - plain.mean(-1, keepdims=True)
    want = centred / np.maximum(plain.std(-1, keepdims=True), 1.0)
    np.testing.assert_allclose(got, want.reshape(2, -1), rtol=0, atol=1e-6)


def test_a_flat_channel_is_zero_and_not_nan() -> None:
    for standardise in ("running", "window"):
        chain = front(standardise=standardise, bandpass=(1.0, 40.0))
        assert (windows_of(chain, np.full((2, 1000), 123456, np.int32)) == 0).all()


def test_the_figures_are_those_of_the_c() -> None:
    for keys in DESIGNS.values():
        for standardise in ("none", "running", "window"):
            chain = front(**keys, n_chans=3, window=37, standardise=standardise)
            assert int(FrontStream(chain)._c.front_bytes()) == chain.ram_bytes
    # 4 band sections: b0 is zero where a zero lies at z = 1, and b1 too where both do.
    eeg = front(**DESIGNS["eeg"])
    most = 5 * 5 + 1
    assert 0.6 * most * 2 * 500 <= eeg.ops_per_second <= most * 2 * 500


# ---- any build ----------------------------------------------------------------------------------

# 1000 pseudo-random samples of 2 channels through the front end, and a hash of all windows.
PROGRAM = """\
#include <stdio.h>
#include "front.h"
int main(void)
{
    static bt_front front;
    static float x[BT_FRONT_CHANS * BT_FRONT_TIMES];
    uint32_t state = 1u, hash = 2166136261u;
    bt_front_init(&front);
    for (int t = 0; t < 4000; t++) {
        int32_t sample[BT_FRONT_CHANS];
        for (int c = 0; c < BT_FRONT_CHANS; c++) {
            state = state * 1664525u + 1013904223u;
            sample[c] = (int32_t)(state >> (t % 2 ? 9 : 0));
        }
        if (!bt_front_push(&front, sample))
            continue;
        bt_front_window(&front, x);
        for (int i = 0; i < BT_FRONT_CHANS * BT_FRONT_TIMES; i++)
            hash = (hash ^ bt_bits(x[i])) * 16777619u;
    }
    printf("%08x", (unsigned)hash);
    return 0;
}
"""


def build_and_run(folder: Path, chain: FrontEnd, command: list[str]) -> str:
    for name, text in {**emit(chain), "main.c": PROGRAM}.items():
        (folder / name).write_text(text)
    subprocess.run([*command, "main.c", "-o", "program"], cwd=folder, check=True)
    done = subprocess.run([folder / "program"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["eeg", "decimated", "running", "window"])
def test_same_bits_in_every_build_and_clean_under_sanitizers(name: str, tmp_path: Path) -> None:
    keys = DESIGNS.get(name) or {"bandpass": (1.0, 45.0), "standardise": name}
    chain = front(**keys)
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    builds = [
        ["gcc", *STRICT, "-O0"],
        ["gcc", *STRICT, "-O3"],
        ["gcc", *STRICT, "-O1", "-g", *sanitize],
    ]
    if shutil.which("clang"):
        builds += [["clang", *STRICT, "-O2"]]
    hashes = [build_and_run(tmp_path, chain, build) for build in builds]
    assert len(set(hashes)) == 1


@pytest.mark.parametrize("compiler", compilers())
def test_strict_warnings(compiler: str, tmp_path: Path) -> None:
    for name, text in emit(front(**DESIGNS["ecg"], standardise="running", decimate=2)).items():
        (tmp_path / name).write_text(text)
    shared_library(HOST_LOOPS, (f"-I{tmp_path}", "-O1"), compiler)


def test_emission_is_deterministic_and_exact() -> None:
    chain = front(**DESIGNS["decimated"])
    again = front(**DESIGNS["decimated"])
    assert emit(chain) == emit(again)
    assert next(iter(emit(chain))) == "front.h"
    hashed = hashlib.sha256(emit(chain)["front.h"].encode()).hexdigest()
    changed = dataclasses.replace(chain, hop=7)
    assert hashed != hashlib.sha256(emit(changed)["front.h"].encode()).hexdigest()
    for part in chain.sections:
        for section in part:
            for (m, shift), value in zip(section.coefficients(), section.values, strict=True):
                assert abs(m) < 2**31
                assert m * 2.0 ** -(32 + shift) == pytest.approx(value, rel=2**-30, abs=0)


@settings(max_examples=8)
@given(
    fs=st.sampled_from([125.0, 250.0, 1000.0, 2048.0]),
    low=st.floats(0.05, 20.0),
    high=st.floats(25.0, 55.0),
    order=st.integers(1, 6),
    notch=st.sampled_from([None, 50.0]),
)
def test_any_design(fs: float, low: float, high: float, order: int, notch: float | None) -> None:
    """Random bands against scipy; scipy's own error in float64 bounds what can be asked."""
    chain = FrontEnd(fs, 2, 64, 64, bandpass=(low, high), notch=notch, order=order)
    x = biosignal(20_000, 0)
    got = joined(windows_of(chain, x))
    want = reference(chain, x)[:, : got.shape[1]]
    assert np.abs(got - want).max() <= 4 * EPS * np.abs(want).max()


# ---- on a core ----------------------------------------------------------------------------------

ON_A_CORE = """\
#include "front.h"
volatile uint32_t hash = 2166136261u;
bt_front front;
float x[BT_FRONT_CHANS * BT_FRONT_TIMES];
void stream(void);
__attribute__((noinline)) void stream(void)
{
    uint32_t state = 1u;
    for (int t = 0; t < 1000; t++) {
        int32_t sample[BT_FRONT_CHANS];
        for (int c = 0; c < BT_FRONT_CHANS; c++) {
            state = state * 1664525u + 1013904223u;
            sample[c] = (int32_t)state >> 8;
        }
        (void)bt_front_push(&front, sample);
    }
}
int main(void)
{
    bt_front_init(&front);
    stream();
    bt_front_window(&front, x);
    for (int i = 0; i < BT_FRONT_CHANS * BT_FRONT_TIMES; i++)
        hash = (hash ^ bt_bits(x[i])) * 16777619u;
    return 0;
}
"""


def lcg(samples: int, channels: int) -> np.ndarray:
    """The samples of ON_A_CORE."""
    state, out = 1, np.zeros((channels, samples), np.int32)
    for t in range(samples):
        for c in range(channels):
            state = (state * 1664525 + 1013904223) % 2**32
            out[c, t] = (state - (state >> 31 << 32)) >> 8
    return out


def fnv(x: np.ndarray) -> int:
    value = 2166136261
    for word in x.astype(np.float32).view(np.uint32).ravel().tolist():
        value = (value ^ word) * 16777619 % 2**32
    return value


@pytest.mark.parametrize("core", ["cortex-m4f", "cortex-m33"])
@pytest.mark.parametrize("name", ["eeg", "running", "decimated"])
def test_a_core_gives_the_same_bits(name: str, core: str) -> None:
    """8 channels at 500 Hz in the emulator; `-s` prints what a sample costs."""
    need_emulator()
    keys = DESIGNS.get(name) or {**DESIGNS["eeg"], "standardise": name}
    chain = front(**keys, n_chans=8, window=50, hop=1)
    elf = build({**emit(chain), "main.c": ON_A_CORE}, core)
    thumb = Thumb(elf, core)
    histogram = Histogram()
    histogram.attach(thumb.uc, thumb.begin, thumb.end)
    thumb.run()
    got = int.from_bytes(thumb.uc.mem_read(thumb.symbols["hash"], 4), "little")
    assert got == fnv(windows_of(chain, lcg(1000, 8))[-1])
    spent = cycles(core, elf, histogram.blocks(), histogram.taken())
    each = sum(n for f, n in spent.functions.items() if f not in ("main", "memset")) / 1000
    print(
        f"\n{core}, {name}: {each:.0f} cycles a sample of 8 channels, "
        f"{100 * each * 500 / 64e6:.1f} % of 64 MHz at 500 Hz; {chain.ram_bytes} bytes of RAM, "
        f"{chain.ops_per_second:.0f} multiply-adds a second"
    )
    assert each < 12_000


# ---- bad descriptions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"bandpass": (0.5, 250.0)}, "250 Hz must lie above 0 and below 250 Hz"),
        ({"bandpass": (0.0, 40.0)}, "band edge 0 Hz"),
        ({"bandpass": (0.5, 40.0), "decimate": 8}, "below 31.25 Hz, half the sampling rate after"),
        ({"bandpass": (40.0, 40.0)}, "low edge 40 Hz must be below its high 40 Hz"),
        ({"bandpass": (None, None)}, "bandpass is"),
        ({"notch": 300.0}, "notch at 300 Hz"),
        ({"notch": float("nan")}, "notch at nan Hz"),
        ({"hop": 0}, "hop must be a whole number from 1, not 0"),
        ({"window": -1}, "window must be"),
        ({"n_chans": 0}, "n_chans must be"),
        ({"decimate": 1.5}, "decimate must be"),
        ({"order": 11}, "order 11 is above 10"),
        ({"fs_in": -1.0}, "fs_in must be a positive number"),
        ({"scale": float("inf")}, "scale must be a positive number"),
        ({"reference": "linked"}, "reference is none or average"),
        ({"standardise": "yes"}, "standardise is none, running or window"),
        ({"reference": "average", "n_chans": 1}, "average of one channel"),
        ({"bandpass": (1e-6, None)}, "too narrow"),
        ({"notch": 50.0, "notch_q": 1e9}, "too narrow"),
    ],
)
def test_bad_descriptions_get_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(BioTrainError) as caught:
        front(**keys)
    text = str(caught.value)
    assert words in text
    assert "\n" not in text
    assert text.startswith("front end: ")


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((3, 10), np.int16), "must be [2, n], not [3, 10]"),
        (np.zeros(10, np.int16), "must be [2, n], not [10]"),
        (np.zeros((2, 10)), "not float64"),
        (np.zeros((2, 10), np.int64), "not int64"),
    ],
)
def test_bad_samples_get_one_line(samples: np.ndarray, words: str) -> None:
    with pytest.raises(BioTrainError, match="front end: ") as caught:
        windows_of(front(), samples)
    assert words in str(caught.value)


# ---- integers out, and frames -------------------------------------------------------------------


@pytest.mark.parametrize("keys", [DESIGNS["eeg"], DESIGNS["decimated"], {"standardise": "running"}])
def test_integer_windows_are_the_rounded_floats(keys: dict[str, Any]) -> None:
    chain = front(**keys, scale=0.02, window=50, hop=25)
    unit = 1 / 4096 if "standardise" in keys else 0.05
    ints = dataclasses.replace(chain, unit=unit)
    x = biosignal(6000, 3)
    got, exact = windows_of(ints, x), windows_of(chain, x).astype(np.float64) / unit
    assert got.dtype == np.int16
    assert np.abs(got).max() > 100
    # Half a step, and what float32 loses of the value itself.
    assert np.abs(got - np.clip(exact, -32768, 32767)).max() <= 0.5 + 4 * EPS * 32768
    assert ints.ram_bytes == int(FrontStream(ints)._c.front_bytes()) == chain.ram_bytes - 2 * 50 * 2


def test_what_16_bits_cannot_hold_becomes_the_largest_that_they_can() -> None:
    chain = front(window=1, hop=1, unit=0.5)
    x = np.array([[0, 16383, 16384, -16384, -16385, 2**31 - 1, -(2**31)], [0] * 7], np.int32)
    got = windows_of(chain, x)[:, 0, 0]
    np.testing.assert_array_equal(got, [0, 32766, 32767, -32768, -32768, 32767, -32768])


def test_halves_go_to_the_even_step() -> None:
    x = np.tile(np.array([1, 3, 5, -1, -3], np.int32), (2, 1))
    got = windows_of(front(window=1, hop=1, unit=2.0), x)[:, 0, 0]
    np.testing.assert_array_equal(got, np.rint(x[0] / 2))


@pytest.mark.parametrize("unit", [None, 0.25])
def test_frames_are_what_the_windows_are_made_of(unit: float | None) -> None:
    chain = front(**DESIGNS["decimated"], window=64, hop=64, unit=unit)
    x = biosignal(5000, 3)
    frames = FrontStream(chain).frames(x)
    windows = windows_of(chain, x)
    assert frames.dtype == windows.dtype
    assert frames.shape == (2, 1250)
    np.testing.assert_array_equal(frames[:, : 64 * len(windows)], joined(windows))


def test_without_a_ring_it_is_smaller_by_the_ring(tmp_path: Path) -> None:
    chain = front(**DESIGNS["ecg"], window=37, unit=1.0)
    for name, text in emit(chain, ring=False).items():
        (tmp_path / name).write_text(text)
    program = (
        '#include "front.h"\n'
        f"typedef char size[sizeof(bt_front) == {chain.state_bytes} ? 1 : -1];\n"
        "int main(void)\n{\n    bt_front f;\n    int32_t x[2] = {1, 2};\n    int16_t y[2];\n"
        "    bt_front_init(&f);\n    return bt_front_frame(&f, x, y) != 1;\n}\n"
    )
    (tmp_path / "main.c").write_text(program)
    subprocess.run(["gcc", *STRICT, "main.c", "-o", "program"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "program"], check=True)


# ---- as a person writes it ----------------------------------------------------------------------


def test_a_description_is_the_same_front_end(tmp_path: Path) -> None:
    path = tmp_path / "front.toml"
    path.write_text(
        "bandpass = [4, 30]\nnotch = 50\ndecimate = 4\nreference = 'average'\n"
        "window_s = 2.0\nhop = 25\nunit = 0.1\n"
    )
    made = read_front(path).front(fs_in=500.0, n_chans=2, scale=0.02)
    assert made == front(
        bandpass=(4.0, 30.0), notch=50.0, decimate=4, reference="average", window=250, hop=25,
        unit=0.1, scale=0.02,
    )  # fmt: skip
    given = {"fs_in": 500.0, "n_chans": 2, "scale": 0.02, "window": 64}
    plain = read_front({"highpass": 1.0}).front(**given)
    assert (plain.bandpass, plain.hop, plain.unit) == ((1.0, None), 64, 0.02)
    running = read_front({"standardise": "running"}).front(**given)
    assert running.unit == 1 / 4096
    assert read_front({"standardise": "window"}).front(**given).unit is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bandpas": [1, 2]}, "no setting is called bandpas (did you mean bandpass?)"),
        ({"bandpass": 4}, "bandpass must be a list of numbers, not 4"),
        ({"bandpass": [4.0]}, "for one side write highpass or lowpass"),
        ({"bandpass": [4.0, 30.0], "lowpass": 20}, "not both"),
        ({"window": 100, "window_s": 1.0}, "give window (samples) or window_s, not both"),
        ({"window": 1.5}, "window must be a whole number, not 1.5"),
        ({"notch": "50"}, "notch must be a number, not '50'"),
        ({"fs_in": 250}, "described for fs_in = 250, the recording has 500"),
        ({"standardise": "window", "unit": 1.0}, "leave unit out"),
        ({"reference": 1}, "reference must be text"),
        ({"unit": -1.0}, "unit must be a positive number"),
    ],
)
def test_a_bad_description_gets_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BioTrainError) as caught:
        read_front(given).front(fs_in=500.0, n_chans=2, scale=1.0, window=100)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_description_that_leaves_something_open(tmp_path: Path) -> None:
    with pytest.raises(BioTrainError, match=r"window \(samples\) or window_s is missing"):
        read_front({}).front(fs_in=500.0, n_chans=2, scale=1.0)
    with pytest.raises(BioTrainError, match="fs_in is missing: the sampling rate"):
        read_front({"window": 8}).front(n_chans=2, scale=1.0)
    with pytest.raises(BioTrainError, match="cannot read"):
        read_front(tmp_path / "nothing.toml")
    (tmp_path / "bad.toml").write_text("window = ")
    with pytest.raises(BioTrainError, match="not TOML"):
        read_front(tmp_path / "bad.toml")

# SPDX-License-Identifier: Apache-2.0
"""Artefacts: found by a robust z-score, alike in a study and in the live firmware's C."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _cc import RUNTIME
from scipy.stats import median_abs_deviation
from test_live import HOP, SPAN, TIMES, by_hand, cut_out, names, package, signal

import biotrain as bt
from biotrain.frontend.screen import LEVELS, artefacts, artefacts_in_turn, levels
from biotrain.study import Recordings
from biotrain.study.data.sources import load
from biotrain.study.data.splits import day1, default_split

BOUND = 5.0


def windows(n: int = 60, chans: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, chans, 64)) * rng.uniform(20, 60, (n, 1, 1))).astype(np.int16)


def test_levels_are_half_octaves_of_the_variance() -> None:
    x = windows()
    x[3, 1] = 7  # flat
    x[4, 2] *= 100
    with np.errstate(divide="ignore"):
        want = 2 * np.log2(x.var(-1, dtype=np.float64) * 64**2)
    want[3, 1] = 0
    found = levels(x)
    assert (np.abs(found + 0.5 - want) <= 0.5 + 1e-3)[want > 0].all()
    assert found[3, 1] == 0
    loudest = np.where(np.arange(2**16) % 2, -32768, 32767).astype(np.int16)[None, None]
    assert 0 <= levels(loudest)[0, 0] < LEVELS


def test_what_is_an_artefact_is_what_scipy_says() -> None:
    """Half an octave is the grid; between the two bounds either may be right."""
    x = windows(200)
    x[[17, 90]] = np.clip(x[[17, 90]].astype(np.int32) * 300, -32768, 32767)
    x[40, 2] = np.clip(x[40, 2].astype(np.int32) * 8, -32768, 32767)
    power = 2 * np.log2(x.var(-1, dtype=np.float64))
    spread = median_abs_deviation(power, 0, scale="normal")
    z = (power - np.median(power, 0)) / spread
    grid = 2 / spread  # of the level, of the median
    found = artefacts(x, BOUND)
    assert found[[17, 90]].all()
    assert not found[((z + grid) * 1.7 < BOUND).all(1)].any()
    assert found.sum() <= 3
    assert not artefacts(x, 0.0).any()
    assert not artefacts(x[14:20], BOUND).any()  # too few to say


def test_a_signal_that_has_changed_for_good_is_no_artefact() -> None:
    x = windows(600)
    x[300:] *= 64
    found = artefacts_in_turn(x, BOUND)
    assert found[300:330].all()
    assert not found[:300].any()
    assert not found[520:].any()


MAIN = """
#include "bt_screen.h"
#include <stdio.h>
static uint8_t counts[BT_SCREEN_LEVELS];
int main(void)
{
  int16_t x[64];
  while (fread(x, sizeof x, 1, stdin) == 1) {
    const uint32_t level = bt_screen_level(x, 64);
    printf("%u %d\\n", (unsigned)level, bt_screen_judge(counts, level, FACTOR));
  }
  return 0;
}
"""


@pytest.mark.parametrize("bound", [1.0, 5.0])
def test_c_and_python_say_the_same_of_every_window(bound: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    loud = 2.0 ** rng.uniform(-6, 9, 900)
    x = rng.standard_normal((900, 1, 64)) * np.where(rng.random(900) < 0.1, loud, 1)[:, None, None]
    x[600:] *= 20
    whole = np.clip(x * 30, -32768, 32767).astype(np.int16)
    (tmp_path / "main.c").write_text(MAIN)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined,address"]
    factor = f"-DFACTOR={round(256 * 1.4826 * bound)}"
    program = tmp_path / "screen"
    subprocess.run(
        ["gcc", *flags, factor, f"-I{RUNTIME}", "main.c", "-o", program], cwd=tmp_path, check=True
    )
    said = subprocess.run([program], input=whole.tobytes(), capture_output=True, check=True).stdout
    level, found = np.array(said.split(), int).reshape(-1, 2).T
    np.testing.assert_array_equal(level, levels(whole)[:, 0])
    np.testing.assert_array_equal(found.astype(bool), artefacts_in_turn(whole, bound))
    assert 10 < found.sum() < 800


def injected(n: int = 1500) -> tuple[np.ndarray, np.ndarray]:
    """The signal of the live tests, one window of it a thousand times as large."""
    x, y = signal(n)
    bad = slice(11 * SPAN + HOP, 11 * SPAN + HOP + TIMES)
    x[0, bad] = np.clip(x[0, bad].astype(np.int64) * 1000, -32767, 32766)
    return x, y


def test_the_live_firmware_leaves_the_windows_out_that_python_does() -> None:
    x, y = injected()
    cut = cut_out(x, y)
    found = artefacts_in_turn(np.stack([w for w, _ in cut]), BOUND)
    assert found.any()
    device = package(artefacts=BOUND, store_pages=128).live()
    device.set(guards=0)  # they would refuse saturated frames before anything is measured
    events = device.play(x, y)
    assert names(events) == {"predicted": len(cut)}
    labelled = np.array([label >= 0 for _, label in cut])
    assert device.outliers == (found & labelled).sum() > 0
    assert device.counters["stored"] == (~found & labelled).sum()
    loudest = int(np.argmax([np.abs(w.astype(np.int32)).max() for w, _ in cut]))
    by_all = artefacts(np.stack([w for w, _ in cut]), BOUND)
    assert found[loudest]
    assert by_all[loudest]


@pytest.mark.parametrize("on", ["host", "emulator"])
def test_a_calibration_on_the_device_survives_an_artefact(on: str) -> None:
    """It ends with the bits of plain calls on the windows that Python keeps."""
    if on == "emulator":
        for needed in ("unicorn", "elftools"):
            pytest.importorskip(needed)
    x, y = injected()
    cut = cut_out(x, y)
    found = artefacts_in_turn(np.stack([w for w, _ in cut]), BOUND)
    clean = [one for one, out in zip(cut, found, strict=True) if one[1] >= 0 and not out]
    settings = {"epochs": 3, "patience": 0, "held_back": 5}
    device = package(artefacts=BOUND, store_pages=128, **settings).live(on)
    device.set(guards=0)
    device.play(x, y)
    assert device.counters["stored"] == len(clean)
    device.calibrate()
    (end,) = [e for e in device.play(signal(800, 1)[0]) if e.name == "calibrated"]
    assert end.kept
    assert device.crc32() == by_hand(clean, **settings)[0]


@pytest.mark.parametrize("wrong", [-1.0, 1e9, float("nan")])
def test_a_bound_that_is_none_is_refused(wrong: float) -> None:
    with pytest.raises(bt.BioTrainError, match="live: artefacts is a z-score from 0 to 1000"):
        bt.Live(artefacts=wrong)


def test_a_calibration_survives_an_artefact() -> None:
    """Five windows in one channel a thousand times as large, on a recording whose people differ."""
    rec = load("synthetic-emg")
    person = rec.subjects[0]
    calibration, _ = day1(rec, person, default_split(rec), 0.8, None)
    spoilt = rec.x.astype(np.int32)
    loud = calibration[spoilt[calibration, 0].std(-1).argsort()[-5:]]
    spoilt[loud, 0] *= 1000
    dirty: Recordings = replace(rec, x=spoilt)
    how: dict[str, Any] = {"pretrain_epochs": 6, "pretrain_every": 4, "epochs": 8}

    def result(one: Recordings, bound: float) -> Any:
        return bt.adapt(one, "epidenet", person, ["align+full"], artefacts=bound, **how)

    never = rec.take(np.setdiff1d(np.arange(len(rec)), loud))
    without, left_in, left_out = result(never, 0), result(dirty, 0), result(dirty, BOUND)
    (note,) = left_out.settings.notes
    assert note == (
        f"subject {person}, seed 0: 5 of {len(calibration)} calibration windows are artefacts: "
        "left out"
    )
    rows = [r.rows[0] for r in (without, left_in, left_out)]
    assert rows[0].crc32 == rows[2].crc32 != rows[1].crc32
    assert rows[2].accuracy > rows[1].accuracy

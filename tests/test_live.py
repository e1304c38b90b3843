# SPDX-License-Identifier: Apache-2.0
"""The live firmware: records, predicts, calibrates, survives power cuts; against plain calls."""

import shutil
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cc import RUNTIME

import biotrain as bt
from biotrain.frontend import FrontEnd
from biotrain.frontend.live import Live
from biotrain.live import PacedDevice
from biotrain.package import Package
from biotrain.run.front_stream import windows_of
from biotrain.run.live_clock import ClockedDevice
from biotrain.run.live_device import Event, LiveDevice

CHANS, TIMES, HOP, CLASSES, SCALE = 2, 32, 16, 3, 0.01
GROUP = 4
FUZZ = Path(__file__).parent / "fuzz"
SPAN = 64  # frames of one class, in `signal`


class Small(torch.nn.Module):
    """Enough of a network to tell three patterns of amplitudes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(CHANS, 4, 5, padding=2, bias=False)
        self.norm = torch.nn.GroupNorm(1, 4)
        self.pool = torch.nn.AvgPool1d(8)
        self.classifier = torch.nn.Linear(4 * 4, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pool(torch.relu(self.norm(self.conv(x)))).flatten(1))


@cache
def package(live: bool = True, **options: Any) -> Package:
    torch.manual_seed(0)
    given: dict[str, Any] = {"optimizer": bt.SGD(lr=0.05), "accumulate": GROUP}
    own = {key: options.pop(key) for key in list(options) if key in Live.__dataclass_fields__}
    settings: dict[str, Any] = {"page_bytes": 256, "store_pages": 64, "epochs": 4, "patience": 2}
    settings |= {"hop": HOP} | own
    around = Live(**{"epochs": 10, **settings}) if live else None
    given |= {"input_type": "int16", "input_scale": SCALE, "fused": False, "target": "nrf52840"}
    net = Small()
    net.train()
    return bt.compile(
        net, torch.zeros(1, CHANS, TIMES), live=around, **({"accumulate": 1} | given | options)
    )


def signal(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames [CHANS, n] whose amplitudes tell the class, and the labels."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.integers(0, CLASSES, n // SPAN + 1), SPAN)[:n].astype(np.int32)
    amplitude = np.array([[30, 300], [300, 30], [200, 200]])[y].T
    return (rng.standard_normal((CHANS, n)) * amplitude).astype(np.int16), y


def cut_out(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Windows and the labels that hold for all of them, or -1."""
    starts = range(0, x.shape[1] - TIMES + 1, HOP)
    labels = [y[t : t + TIMES] for t in starts]
    return [
        (x[:, t : t + TIMES], int(part[0]) if len(set(part)) == 1 else -1)
        for t, part in zip(starts, labels, strict=True)
    ]


def recorded(n: int = 1200, **options: Any) -> LiveDevice:
    dev = package(**options).live()
    dev.play(*signal(n))
    return dev


def names(events: list[Event]) -> Counter[str]:
    return Counter(e.name for e in events)


# ---------------------------------------------------------------- signals


def test_every_window_is_predicted_and_labelled_ones_are_stored() -> None:
    dev = package().live()
    x, y = signal(1200)
    events = dev.play(x, y)
    cut = cut_out(x, y)
    plain = package(live=False).run("host").predict(np.stack([w for w, _ in cut]))
    assert names(events) == {"predicted": len(cut)}
    np.testing.assert_array_equal(np.asarray([e.logits for e in events], np.float32), plain)
    assert [e.predicted for e in events] == plain.argmax(1).tolist()
    assert [e.label for e in events] == [label for _, label in cut]
    assert [e.window for e in events] == list(range(len(cut)))
    stored = sum(label >= 0 for _, label in cut)
    counted = dev.counters
    assert (counted["frames"], counted["windows"], counted["stored"]) == (1200, len(cut), stored)
    assert dev.state["stored"] == min(stored, dev.state["capacity"])
    assert dev.breaches == 0


@pytest.mark.parametrize("cycles", [3000, 20_000])
def test_little_time_changes_when_and_not_what(cycles: int) -> None:
    x, y = signal(600)
    full, slow = package().live(), package(ring=256).live()
    events, later = full.play(x, y), slow.play(x, y, cycles_per_frame=cycles)
    later += slow.work()
    assert [e.logits for e in later] == [e.logits for e in events]
    assert slow.counters["lost"] == 0
    assert slow.flash.image == full.flash.image


FRONTS = {
    "filters": FrontEnd(200, CHANS, TIMES, HOP, bandpass=(4, 40), notch=50, scale=0.02),
    "decimation, window": FrontEnd(
        400, CHANS, TIMES, HOP, decimate=2, standardise="window", scale=0.02
    ),
}


@pytest.mark.parametrize("kind", FRONTS)
def test_a_front_end_gives_the_windows_of_the_study(kind: str) -> None:
    front = FRONTS[kind]
    wide = kind != "filters"
    dev = package(front=front, hop=0, converter_bits=24 if wide else 16).live()
    x, _ = signal(700)
    frames = x.astype(np.int32) * 200 if wide else x
    windows = windows_of(front, frames)
    events = dev.play(frames)
    q = np.clip(np.rint(windows * np.float32(1 / SCALE)), -32767, 32767).astype(np.int16)
    plain = package(live=False).run("host").predict(q)
    assert len(events) == len(plain) > 10
    np.testing.assert_array_equal(np.asarray([e.logits for e in events], np.float32), plain)


# ---------------------------------------------------------------- guards


def test_a_flat_channel_is_refused_where_it_is() -> None:
    x, y = signal(400)
    x[1, 96:200] = 7  # from the first frame of a window on
    events = package().live().play(x, y)
    refused = [e for e in events if e.name == "refused"]
    assert {(e.status, e.channel) for e in refused} == {("BT_ERR_INPUT_FLAT", 1)}
    flat = [i for i, (w, _) in enumerate(cut_out(x, y)) if len(set(w[1])) == 1]
    assert [e.window for e in refused] == flat
    assert flat


def test_a_saturated_channel_is_refused() -> None:
    x, y = signal(400)
    x[0, 150] = np.iinfo(np.int16).max
    dev = package().live()
    events = dev.play(x, y)
    refused = [e.window for e in events if e.name == "refused"]
    assert refused == [i for i, (w, _) in enumerate(cut_out(x, y)) if 32767 in w]
    assert dev.counters["saturated"] == len(refused) == 2
    assert {e.status for e in events if e.name == "refused"} == {"BT_ERR_INPUT_SATURATED"}
    dev.set(guards=0)
    assert names(dev.play(x, y)) == {"predicted": 25}


def test_labels_that_are_none_count_as_none() -> None:
    x, y = signal(400)
    dev = package().live()
    y[:200] = CLASSES
    y[200:] = -5
    dev.play(x, y)
    assert dev.counters["labels"] == 400
    assert dev.counters["stored"] == 0


def test_lost_frames_begin_a_new_window() -> None:
    x, y = signal(500)
    dev = package(ring=20).live()
    dev.play(x[:, :40], y[:40])
    dev.push(x[:, 40:80], y[40:80])  # nobody works: 20 of 40 are lost
    events = dev.work()
    events += dev.play(x[:, 80:200], y[80:200])
    assert dev.counters["lost"] == 20
    whole = [w for w, _ in cut_out(x[:, :60], y[:60])][1:]  # until the gap
    whole += [w for w, _ in cut_out(x[:, 80:200], y[80:200])]  # and after it
    plain = package(live=False).run("host").predict(np.stack(whole))
    np.testing.assert_array_equal(np.asarray([e.logits for e in events], np.float32), plain)


@pytest.mark.parametrize("kind", ["none", *FRONTS])
def test_after_a_gap_that_is_told_everything_begins_anew(kind: str) -> None:
    """Filters, window and labels: what is predicted behind the gap is what a device predicts that
    gets the signal from there on only; its calibration goes on."""
    wide = kind == "decimation, window"
    front: dict[str, Any] = {}
    if kind != "none":
        front = {"front": FRONTS[kind], "hop": 0, "converter_bits": 24 if wide else 16}
    x, y = signal(900)
    frames = x.astype(np.int32) * 200 if wide else x
    told, plain, fresh = (package(**front).live() for _ in range(3))
    before = told.play(frames[:, :405], y[:405])
    told.gap()
    events = told.play(frames[:, 405:], y[405:])
    alone = fresh.play(frames[:, 405:], y[405:])
    assert [e.logits for e in events] == [e.logits for e in alone]
    assert [e.label for e in events] == [e.label for e in alone]
    first = len(before)
    assert [e.window for e in events] == [first + k for k in range(len(alone))]
    untold = plain.play(frames, y)
    assert [e.logits for e in untold[first:]] != [e.logits for e in alone]
    assert told.counters["lost"] == 0


def test_a_clock_goes_on_through_a_gap() -> None:
    """In the emulator a prediction is as late after lost frames as before them."""
    for needed in ("unicorn", "elftools"):
        pytest.importorskip(needed)
    x, _ = signal(200)
    dev = PacedDevice(ClockedDevice(package(), fs=250.0), 250.0)
    before = dev.play(x[:, :100], -1)  # no label: nothing is written to flash meanwhile
    ended = dev.gap(500)
    after = dev.play(x[:, 100:], -1)
    clock = dev.device
    assert isinstance(clock, ClockedDevice)
    assert clock.t == pytest.approx(700 / 250.0, abs=0.05)
    late = [e.late_s for e in [*before, *ended, *after] if e.name == "predicted"]
    assert len(after) >= 4
    assert min(late) > 0
    assert max(late) < 0.01
    fresh = package().live().play(x[:, 100:])
    assert [e.predicted for e in after] == [e.predicted for e in fresh][: len(after)]


def test_a_loss_that_is_not_finite_is_left_out() -> None:
    dev = recorded(epochs=2, patience=0)
    before = dev.crc32()
    dev.set(rate=1e10)
    dev.calibrate()
    events = dev.play(signal(600, 1)[0])
    counted = dev.counters
    assert counted["losses"] + counted["gradients"] > 0
    assert [e.kept for e in events if e.name == "calibrated"] == [False]
    assert dev.crc32() == before
    assert counted["undone"] == 1
    assert dev.mode == "record"


# ---------------------------------------------------------------- calibration


def mixed(x: int) -> int:
    """`bt_mixed`."""
    m = 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x9E3779B1 & m
    x = (x ^ x >> 15) * 0xB7E15163 & m
    x = (x ^ x >> 14) * 0x243F6A89 & m
    return x ^ x >> 16


def shuffled(n: int, seed: int, epoch: int, i: int) -> int:
    """`bt_shuffled`."""
    half = 1
    while half < 16 and n > 1 << 2 * half:
        half += 1
    mask = (1 << half) - 1
    key = mixed(seed ^ mixed((epoch + 0x9E3779B9) & 0xFFFFFFFF))
    while True:
        left, right = i >> half, i & mask
        for turn in range(6):
            word = (key + mixed((right << 3 | turn) & 0xFFFFFFFF)) & 0xFFFFFFFF
            left, right = right, left ^ (mixed(word) & mask)
        i = left << half | right
        if i < n:
            return i


def by_hand(
    windows: list[tuple[np.ndarray, int]],
    epochs: int,
    patience: int,
    held_back: int,
    lr: float | None = None,
    **options: Any,
) -> tuple[int, float]:
    """The calibration with plain calls, in the documented order: the weights' CRC-32, accuracy."""
    dev = package(live=False, **options).run("host")
    x, y = np.stack([w for w, _ in windows]), np.asarray([label for _, label in windows])
    n, key = len(x), mixed(1)  # seed 0, session 1
    held = n // held_back if held_back else 0
    order = [shuffled(n, key, 0xFFFFFFFF, i) for i in range(n)]
    test, train = order[:held], order[held:]

    def judged() -> tuple[int, float]:
        z = dev.predict(x[test]).astype(np.float64)
        z -= z.max(1, keepdims=True)
        losses = np.log(np.exp(z).sum(1)) - z[range(held), y[test]]
        return int((z.argmax(1) == y[test]).sum()), -float(losses.mean())

    best, kept, stale = (0, -1e9) if not held else judged(), dev.crc32(), 0
    dev.begin(lr=lr)
    for epoch in range(epochs):
        turn = [train[shuffled(len(train), key, epoch, i)] for i in range(len(train))]
        dev.train(x[turn], y[turn])
        now = judged() if held else (0, float(epoch))
        stale = 0 if now > best else stale + 1
        if now > best:
            best, kept = now, dev.crc32()
        if patience and stale >= patience:
            break
    return kept, best[0] / max(held, 1)


@pytest.mark.parametrize(
    ("epochs", "patience", "held_back", "options"),
    [
        (8, 2, 5, {}),
        (3, 0, 0, {}),  # nothing judges: the last weights are kept
        (3, 0, 4, {"gradients": "momentum"}),
        (2, 0, 5, {"gradients": "update", "accumulate": 1}),
    ],
)
def test_a_calibration_is_what_plain_calls_do(
    epochs: int, patience: int, held_back: int, options: dict[str, Any]
) -> None:
    settings = {"epochs": epochs, "patience": patience, "held_back": held_back}
    dev = package(**settings, store_pages=128, **options).live()
    x, y = signal(1200)
    dev.play(x, y)
    windows = [(w, label) for w, label in cut_out(x, y) if label >= 0]
    assert dev.state["stored"] == len(windows) < dev.state["capacity"]
    dev.calibrate()
    events = dev.play(*signal(1200, 1), cycles_per_frame=20_000)
    crc, accuracy = by_hand(windows, **settings, **options)
    done = [e for e in events if e.name == "calibrated"]
    assert [e.kept for e in done] == [True]
    assert dev.crc32() == crc
    assert dev.state["best"] == pytest.approx(accuracy)
    assert dev.state["best"] > dev.state["before"] or not held_back
    assert dev.mode == "use"
    # no window was missed meanwhile, and those with a label were stored
    assert names(events)["predicted"] == 75
    assert [e.window for e in events if e.name == "predicted"] == list(range(74, 149))
    counted = dev.counters
    assert (counted["lost"], counted["unstored"]) == (0, 0)
    assert dev.restart().crc32() == crc


def test_a_calibration_that_found_nothing_better_begins_anew_at_a_quarter_of_the_rate() -> None:
    settings = {"epochs": 4, "patience": 0, "held_back": 5}
    dev = package(**settings, store_pages=128).live()
    x, y = signal(1200)
    dev.play(x, y)
    windows = [(w, label) for w, label in cut_out(x, y) if label >= 0]
    dev.set(rate=5.0)
    dev.calibrate()
    events = dev.play(*signal(3600, 1), cycles_per_frame=40_000)
    assert [e.kept for e in events if e.name == "calibrated"] == [True]
    counted = dev.counters
    assert (counted["repeated"], counted["kept"], counted["undone"]) == (2, 1, 0)
    crc, accuracy = by_hand(windows, **settings, lr=5.0 / 16)
    assert dev.crc32() == crc
    assert dev.state["best"] == pytest.approx(accuracy)


@pytest.mark.parametrize("repeats", [0, 1])
def test_repeats_are_as_many_as_the_settings_say(repeats: int) -> None:
    dev = recorded(repeats=repeats)
    before = dev.crc32()
    dev.set(rate=100.0)
    dev.calibrate()
    dev.work()
    counted = dev.counters
    assert (counted["repeated"], counted["kept"], counted["undone"]) == (repeats, 0, 1)
    assert (dev.mode, dev.crc32()) == ("record", before)


def test_time_to_work_does_not_change_the_weights() -> None:
    crcs = set()
    for cycles in (2500, 9001, 0xFFFFFFFF):
        dev = recorded(ring=256)
        dev.calibrate()
        dev.play(*signal(4000, 1), cycles_per_frame=cycles)
        assert dev.mode == "use"
        crcs.add(dev.crc32())
    assert len(crcs) == 1


def test_the_emulated_core_lives_the_same_life() -> None:
    for needed in ("unicorn", "elftools", "ziglang"):
        pytest.importorskip(needed)
    ends = []
    for on in ("host", "emulator"):
        dev = package().live(on)
        events = dev.play(*signal(700))
        dev.calibrate()
        events += dev.play(*signal(700, 1), cycles_per_frame=20_000)
        assert dev.mode == "use"
        again = dev.restart()
        ends.append((dev.crc32(), again.crc32(), events, dev.counters, dev.flash.image))
    assert ends[0] == ends[1]


def test_too_few_windows_and_two_at_a_time() -> None:
    dev = package(least=10).live()
    with pytest.raises(bt.BioTrainError, match="too few stored windows"):
        dev.calibrate()
    dev.play(*signal(600))
    dev.calibrate()
    with pytest.raises(bt.BioTrainError):
        dev.calibrate()
    with pytest.raises(bt.BioTrainError):
        dev.forget()


def test_back_factory_and_cancel() -> None:
    dev = recorded()
    factory = dev.crc32()
    dev.calibrate()
    dev.work()
    first = dev.crc32()
    dev.play(*signal(900, 3))
    dev.set(rate=0.01)
    dev.calibrate()
    dev.work()
    second = dev.crc32()
    assert len({factory, first, second}) == 3
    dev.calibrate()
    done = dev.counters["steps"]
    while dev.counters["steps"] < done + 2:
        dev.step(3000)
    assert dev.crc32() != second
    dev.cancel()
    assert (dev.mode, dev.crc32()) == ("use", second)
    dev.back()
    assert dev.crc32() == first
    with pytest.raises(bt.BioTrainError, match="no checkpoint"):
        dev.back()
    assert dev.restart().crc32() == first
    dev.factory()
    assert (dev.mode, dev.crc32()) == ("record", factory)
    assert dev.restart().crc32() == factory
    dev.forget()
    assert dev.state["stored"] == 0
    assert dev.breaches == 0


def test_drift_is_told_and_begins_a_calibration() -> None:
    options: dict[str, Any] = {"drift": 0.05, "automatic": True, "least": 20, "store_pages": 128}
    dev = recorded(**options)
    dev.calibrate()
    dev.work()
    assert dev.mode == "use"
    settled = dev.play(*signal(900, 5))
    assert "drifted" not in names(settled)
    x, y = signal(2400, 6)
    weak = (x // 12 + np.array([[0], [9]])).astype(np.int16)  # a loose electrode: little signal
    events = dev.play(weak[::-1], y)
    assert names(events)["drifted"] == 1
    assert names(events)["calibrated"] >= 1
    assert dev.counters["calibrations"] >= 2


# ---------------------------------------------------------------- power


FAST = bt.SGD(lr=20.0)
"""At first too fast to find anything better."""


@cache
def interrupted(**options: Any) -> tuple[Any, int, int]:
    """Flash before a calibration, the CRC after an undisturbed one, and its steps."""
    dev = recorded(700, epochs=2, **options)
    flash = dev.flash
    dev = package(epochs=2, **options).live(flash=flash)
    dev.calibrate()
    dev.work()
    assert dev.mode == "use"
    assert (dev.counters["repeated"] > 0) == bool(options)
    return flash, dev.crc32(), dev.steps


def survive(cut: int, **options: Any) -> None:
    flash, wanted, _ = interrupted(**options)
    dev = package(epochs=2, **options).live(flash=flash)
    factory = dev.crc32()
    dev.calibrate()
    dev.cut(cut, noise=cut)
    dev.work()
    assert dev.off
    if cut % 3 == 0:  # power goes once more, while it comes back or soon after
        dev = dev.restart()
        dev.cut(1 + cut % 701, noise=cut)
        dev.work()
    dev = dev.restart()
    if dev.mode == "record":  # nothing of the calibration had been written
        assert dev.crc32() == factory
        dev.calibrate()
    dev.work()
    assert (dev.mode, dev.crc32(), dev.breaches) == ("use", wanted, 0), cut
    assert dev.restart().crc32() == wanted


def test_power_may_go_during_a_calibration() -> None:
    steps = interrupted()[2]
    assert steps > 2000
    for cut in [*range(1, steps, 61), steps]:
        survive(cut)


def test_power_may_go_while_a_calibration_begins_anew() -> None:
    steps = interrupted(optimizer=FAST)[2]
    assert steps > interrupted()[2]
    for cut in [*range(1, steps, 137), steps]:
        survive(cut, optimizer=FAST)


@pytest.mark.exhaustive
def test_power_may_go_at_every_byte_of_a_calibration() -> None:
    for cut in range(1, interrupted()[2] + 1):
        survive(cut)
    for cut in range(1, interrupted(optimizer=FAST)[2] + 1):
        survive(cut, optimizer=FAST)


def test_windows_stored_meanwhile_do_not_join() -> None:
    options: dict[str, Any] = {"store_pages": 128, "epochs": 6, "patience": 0, "ring": 256}
    dev = recorded(700, **options)
    flash = dev.flash
    dev.calibrate()
    dev.work()
    wanted = dev.crc32()
    dev = package(**options).live(flash=flash)
    dev.calibrate()
    dev.play(*signal(800, 1), cycles_per_frame=6000)
    assert dev.mode == "calibrate"
    assert dev.record["epoch"] >= 1
    assert dev.counters["stored"] > 20
    dev = dev.restart()  # power goes in the middle of an epoch
    assert dev.mode == "calibrate"
    dev.play(*signal(300, 2), cycles_per_frame=6000)
    dev.work()
    assert (dev.mode, dev.crc32()) == ("use", wanted)


def test_power_may_go_while_a_window_is_stored() -> None:
    flash = recorded(500).flash
    x, y = signal(200, 2)
    ref = package().live(flash=flash)
    before = ref.state["stored"]
    ref.play(x, y)
    for cut in range(1, ref.steps, 37):
        dev = package().live(flash=flash)
        dev.cut(cut, noise=cut)
        events = dev.play(x, y)
        assert dev.off
        done = sum(e.label >= 0 for e in events if e.name == "predicted")
        dev = dev.restart()
        assert before <= dev.state["stored"] <= before + done
        dev.play(x, y)
        assert dev.counters["stored"] == ref.counters["stored"]
        assert dev.breaches == 0


def damaged(folder: Path, *flags: str) -> list[str]:
    """Builds `fuzz/fuzz_live.c` for flash in the middle of a second calibration; the command."""
    if not shutil.which("clang"):
        pytest.skip("clang is not installed")
    dev = recorded(700)
    dev.calibrate()
    dev.work()
    dev.calibrate()
    while dev.record["epoch"] < 2 or not dev.record["found"]:
        assert dev.step(3000).name == "more"
    files = {n: t for n, t in package().files.items() if n.endswith((".c", ".h"))}
    files["sim_flash.h"] = (RUNTIME / "sim_flash.h").read_text()
    flash = dev.flash
    arrays = {"image": flash.memory, "blanked": flash.programmed}
    files["image.h"] = "\n".join(
        f"static const unsigned char {name}[] = {{{','.join(map(str, array.tolist()))}}};"
        for name, array in arrays.items()
    )
    for name, text in files.items():
        (folder / name).write_text(text)
    sources = [str(FUZZ / "fuzz_live.c"), *sorted(n for n in files if n.endswith(".c"))]
    command = ["clang", "-std=c99", "-g", "-O1", "-ffp-contract=off", "-Wall", "-Wextra", "-I."]
    command += ["-fno-sanitize-recover=all", *flags, "-o", "live_damage", *sources]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if "libclang_rt" in built.stderr or "cannot find" in built.stderr:
        pytest.skip("this clang has no sanitizers (Debian: libclang-rt-14-dev)")
    assert built.returncode == 0, built.stderr
    return [str(folder / "live_damage")]


@pytest.mark.parametrize("count", [3000, pytest.param(100_000, marks=pytest.mark.exhaustive)])
def test_damaged_flash_leaves_good_weights(count: int, tmp_path: Path) -> None:
    command = damaged(tmp_path, "-fsanitize=address,undefined")
    done = subprocess.run([*command, str(count)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout == f"{count} images\n"


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(5, marks=pytest.mark.ci), pytest.param(60, marks=pytest.mark.exhaustive)],
)
def test_fuzzed_flash_leaves_good_weights(seconds: int, tmp_path: Path) -> None:
    command = damaged(tmp_path, "-DFUZZ", "-fsanitize=fuzzer,address,undefined")
    command += [f"-max_total_time={seconds}", "-max_len=96", "-seed=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_type": "float", "input_scale": None}, "input_type='int16'"),
        ({"strategy": "none"}, "leaves nothing that trains"),
        ({"hop": 16, "front": FrontEnd(200, CHANS, 40, HOP)}, "windows of 2 x 40"),
        ({"loss": "mse"}, "cross_entropy"),
        ({"converter_bits": 24}, "need a front end"),
        ({"held_back": 1}, "nothing to train on"),
        ({"page_bytes": 100}, "multiple of 64"),
        ({"ring": 2_000_000_000}, "ring must be a whole number from 2 to 1048576"),
        ({"hop": 2_000_000_000}, "hop must be a whole number from 0 to"),
        ({"epochs": 2**31}, "epochs must be a whole number from 1 to"),
    ],
)
def test_what_cannot_live_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(bt.BioTrainError, match=message):
        package(**options)


def test_a_ring_larger_than_the_board_is_refused_before_plans_are_sought(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def sought(*_: object) -> None:
        pytest.fail("plans were sought")

    monkeypatch.setattr("biotrain.planner.fit.Planner", sought)
    with pytest.raises(bt.BioTrainError, match="does not fit: 262,144 B of RAM are there"):
        package(target="nrf52840", ring=1_000_000)


def test_the_plan_counts_what_lives() -> None:
    pkg = package()
    plan, live = pkg.plan, pkg.source.live
    assert live is not None
    assert plan.placed_bytes == plan.context_bytes + plan.live_bytes
    assert plan.ram_bytes == plan.placed_bytes + plan.stack_bytes
    assert sum(live.parts.values()) <= plan.live_bytes < sum(live.parts.values()) + 8
    tight = package(memory=plan.ram_bytes)
    assert tight.plan.ram_bytes <= plan.ram_bytes
    with pytest.raises(bt.BioTrainError):
        package(memory=6000)


@pytest.mark.ci
def test_measured_slices_are_cut_by_what_the_core_takes() -> None:
    for needed in ("unicorn", "elftools", "ziglang"):
        pytest.importorskip(needed)
    pkg = package(slice_cycles=6000)
    cut = pkg.measured()
    longest = cut.plan.longest_slice_cycles
    assert 0 < longest < 20_000
    assert f"{longest:,} cycles, {cut.plan.longest_slice}" in cut.plan.choices[-1]
    assert cut.plan.longest_slice in {v.name for n in cut.graph.nodes for v in n.outputs} | {
        v.name for n in cut.source.predict.nodes for v in n.outputs
    }
    ends = []
    for one in (pkg, cut):
        dev = one.live()
        dev.play(*signal(600))
        dev.calibrate()
        dev.work(5000)
        ends.append(dev.crc32())
    assert ends[0] == ends[1]

# SPDX-License-Identifier: Apache-2.0
"""`biotrain live`: a recording into the host's device; what it says, writes and refuses."""

import json
import re
from pathlib import Path

import pytest

from biotrain.cli import main
from biotrain.study.data.synthetic_raw import continuous


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two synthetic people, a session of 28 s, and a front end for them."""
    folder = tmp_path_factory.mktemp("live")
    path = continuous("emg", subjects=2, sessions=1, trials=4).save(folder / "raw.npz")
    front = folder / "front.toml"
    front.write_text("bandpass = [20, 90]\nwindow = 200\nhop = 100\nunit = 0.25\n")
    return str(path), str(front)


def test_a_recording_is_played_and_told(
    raw: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, front = raw
    command = ["live", "_small:tiny", "--data", data, "--front", front, "--subject", "2"]
    more = ["--pretrain-epochs", "0", "--speed", "0", "--calibrate", "16", "--epochs", "2"]
    figure, told = tmp_path / "live.png", tmp_path / "live.json"
    assert main([*command, *more, "--figure", str(figure), "--json", str(told)]) == 0
    said = capsys.readouterr().err
    assert "16 windows stored" in said
    assert "windows missed" in said
    result = json.loads(told.read_text())
    counted = result["counters"]
    assert counted["windows"] == counted["predicted"] == len(result["predictions"]) == 55
    assert counted["calibrations"] == 1
    assert counted["trained"] > 0
    assert result["seconds"] == pytest.approx(28.0)
    assert {p["label"] for p in result["predictions"]} == set(range(-1, 7))
    assert [note["kind"] for note in result["notes"]][:2] == ["calibrate", "calibrated"]
    assert result["on"] == "host"
    assert figure.stat().st_size > 5000


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["live"], "live needs --data, --lsl or --board"),
        (["live", "--lsl", "a", "--board", "-1"], "two sources"),
        (["live", "--board", "-1"], "name at least two classes"),
        (["live", "--board", "-1", "--classes", "a,b"], "needs --scale"),
        (["live", "--data", "DATA", "--front", "FRONT", "--subject", "9"], "no subject 9"),
        (["live", "--data", "DATA", "--figure", "x.pdf"], "a figure is .png or .svg"),
    ],
)
def test_what_it_refuses(
    raw: tuple[str, str], given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"DATA": raw[0], "FRONT": raw[1]}
    assert main([names.get(word, word) for word in given]) == 2
    assert words in capsys.readouterr().err


def test_the_table_of_ram_lists_each_part_of_a_live_firmware_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shape = ["--chans", "2", "--times", "64", "--classes", "2"]
    windows = ["--live", "--input-type", "int16", "--input-scale", "0.25"]
    target = ["--target", "nrf52840", "--no-frontier"]
    assert main(["plan", "_small:tiny", *shape, *windows, *target]) == 0
    said = capsys.readouterr().out
    table = said.partition("RAM  ")[2].partition("whole RAM")[0].splitlines()[1:]
    cells = [re.match(r"(.*?)  +(-?[\d,]+)", line) for line in table]
    parts = [(found[1], int(found[2].replace(",", ""))) for found in cells if found]
    names = [name for name, _ in parts]
    assert {"arena of predictions", "session", "sample store", "capture ring"} <= set(names)
    assert len(names) == len(set(names))
    assert min(size for _, size in parts) >= 0


@pytest.mark.extras
def test_a_board_of_brainflow(raw: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The real synthetic board, cued, where the extra is installed."""
    pytest.importorskip("brainflow", reason="the extra `brainflow` is not installed")
    front = Path(raw[1]).with_name("board.toml")
    front.write_text("bandpass = [1, 40]\nwindow = 250\nhop = 125\nunit = 1.0\n")
    command = ["live", "_small:tiny", "--board", "synthetic", "--chans", "4"]
    more = ["--classes", "rest,move", "--front", str(front), "--cue", "1", "--seconds", "2.5"]
    assert main([*command, *more, "--calibrate", "1000", "--json", "-"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["feed"] == "BrainFlow Synthetic, cued"
    assert result["counters"]["predicted"] >= 3


def test_a_calibration_of_too_few_windows_is_said_before_anything_is_compiled(
    raw: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    data, front = raw
    command = ["live", "_small:tiny", "--data", data, "--front", front, "--calibrate", "100,4"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "--calibrate 4: a calibration wants 10 stored windows at least" in told

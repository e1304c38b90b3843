# SPDX-License-Identifier: Apache-2.0
"""`biotrain data info`: what is in a file on one screen, and a picture of its windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from _formats import WRITERS, Example

from biotrain.cli import main


def test_info_says_events_rejected_windows_and_what_was_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = WRITERS[".edf"](tmp_path, Example(rejected=True, gap=True))
    asked = ["data", "info", source, "--window", "1", "--tmin", "0.5"]
    assert main([*asked, "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["events"]["tone"] == {"count": 5, "shortest_s": 2.0, "longest_s": 2.0}
    (person,) = facts["subjects"]
    assert (person["subject_name"], person["runs"], person["rejected"]) == ("1", 1, 1)
    assert 1 < person["amplitude"] < 100
    assert facts["left_out"]["touch a BAD or EDGE annotation"] == {"windows": 1}
    assert any("4 s of signal are missing" in note for note in facts["notes"])
    assert main(asked) == 0
    shown = capsys.readouterr().out
    for words in ("events of tone", "5, 2 s", "left out: 1 touch a BAD", "signal are missing"):
        assert words in shown


def test_info_through_a_front_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = WRITERS[".edf"](tmp_path, Example(rejected=True))
    front = tmp_path / "front.toml"
    front.write_text("bandpass = [4, 40]\nwindow = 64\nhop = 32\nunit = 0.05\n")
    asked = ["data", "info", source, "--front", str(front)]
    assert main([*asked, "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["samples"], facts["windows"]) == (64, 60)  # of 63; three touch it
    assert facts["left_out"]["touch a BAD or EDGE annotation"]["windows"] > 0
    assert main(asked) == 0
    assert "through the front end in C: 2 channels at 128 Hz" in capsys.readouterr().out
    assert main([*asked, "--window", "1"]) == 2
    assert "the file of --front says what a window is" in capsys.readouterr().err


def test_a_picture_of_the_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = WRITERS[".csv"](tmp_path, Example())
    for name in ("a.png", "a.svg"):
        assert main(["data", "info", source, "--figure", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 5000
    assert main(["data", "info", source, "--figure", "a.jpg"]) == 2
    assert "a figure is .png or .svg" in capsys.readouterr().err


def test_windows_that_are_cut_already_take_no_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "info", "synthetic-emg", "--window", "2"]) == 2
    assert "its windows are cut already" in capsys.readouterr().err


def test_people_are_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("anna", "bert"):
        (tmp_path / name).mkdir()
        WRITERS[".csv"](tmp_path / name, Example())
        (tmp_path / name / "sub-1.csv").rename(tmp_path / f"{name}.csv")
    (tmp_path / "own.toml").write_text('pattern = "{subject}.csv"\nwindow = 1\n')
    asked = ["adapt", "--data", str(tmp_path / "own.toml"), "--strategies", "none", "--subject"]
    assert main([*asked, "bert", "--pretrain-epochs", "0"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bert"))
    assert "%" in row
    study = ["study", "--data", str(tmp_path / "own.toml"), "--strategies", "none"]
    study += ["--pretrain-epochs", "0", "--scenarios", "day1", "--out", str(tmp_path / "out")]
    assert main([*study, "--subject", "bert"]) == 0
    assert capsys.readouterr().out
    assert main([*study, "--subject", "dora"]) == 2
    assert "no subject dora; there are anna, bert" in capsys.readouterr().err
    assert main([*asked, "carl"]) == 2
    assert "no subject carl; there are anna, bert" in capsys.readouterr().err

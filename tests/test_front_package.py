# SPDX-License-Identifier: Apache-2.0
"""A front end in a package: its C beside the model, its RAM in the plan, its cost on a target."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from _cc import STRICT
from _thumb import need_emulator
from torch import nn

import biotrain as bt
from biotrain.cli import main
from biotrain.errors import BioTrainError, DoesNotFitError
from biotrain.frontend import FrontEnd
from biotrain.run.front_cost import MULTIPLY_CYCLES, front_cost
from biotrain.targets.target import load_target

FRONT = FrontEnd(200.0, 2, 32, 8, bandpass=(20.0, 90.0), notch=50.0, scale=0.5, unit=0.25)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv1d(2, 4, 5, padding=2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
        )


def compiled(front: FrontEnd | None, **more: object) -> bt.Package:
    options = {"input_type": "int16", "input_scale": 0.25, "fused": False, **more}
    return bt.compile(
        network(), np.zeros((1, 2, 32), np.float32), front=front, **{"accumulate": 1, **options}
    )


def test_its_ram_counts_and_changes_nothing_else(tmp_path: Path) -> None:
    plain, with_front = compiled(None), compiled(FRONT)
    assert with_front.plan.ram_bytes == plain.plan.ram_bytes + FRONT.ram_bytes
    assert with_front.plan.context_bytes == plain.plan.context_bytes
    assert with_front.files["model.c"] == plain.files["model.c"]
    with_front.save(tmp_path)
    # Both headers in one program, and a window of the one is what the other takes.
    (tmp_path / "both.c").write_text(
        '#include "front.h"\n#include "model.h"\n'
        "int main(void)\n{\n    static bt_front front;\n    static bt_model model;\n"
        "    const int32_t sample[BT_FRONT_CHANS] = {1, 2};\n    float logits[BT_OUTPUTS];\n"
        "    bt_init(&model);\n    bt_front_init(&front);\n    for (;;)\n"
        "        if (bt_front_push(&front, sample)) {\n"
        "            bt_front_window(&front, bt_window(&model));\n"
        "            return (int)bt_predict(&model, bt_window(&model), logits);\n        }\n}\n"
    )
    sources = ["both.c", "model.c", "model_weights.c"]
    subprocess.run(["gcc", *STRICT, "-O1", *sources, "-o", "both"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "both"], check=True)


def test_the_budget_holds_it_too() -> None:
    free = compiled(None).plan.ram_bytes
    with pytest.raises(DoesNotFitError) as caught:
        compiled(FRONT, memory=free // 2)
    least = int(str(caught.value).split("needs ")[1].split(" B")[0].replace(",", ""))
    assert compiled(FRONT, memory=least).plan.ram_bytes == least
    assert compiled(None, memory=least).plan.ram_bytes <= least
    with pytest.raises(DoesNotFitError):
        compiled(FRONT, memory=least - 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": 16}, "makes windows of 2 x 16, the model takes 2 x 32"),
        ({"unit": 0.5}, "makes steps of 0.5, the model takes steps of 0.25"),
        ({"unit": None}, "makes floats, the model takes steps of 0.25"),
    ],
)
def test_a_front_end_for_another_model(change: dict, words: str) -> None:
    from dataclasses import replace

    with pytest.raises(BioTrainError, match=words):
        compiled(replace(FRONT, **change))


def test_what_it_costs() -> None:
    need_emulator()
    found = front_cost(FRONT, load_target("nrf52840"))
    assert found is not None
    assert found.ram_bytes == FRONT.ram_bytes
    multiplies = FRONT.ops_per_second / FRONT.fs_in
    assert 0.5 * MULTIPLY_CYCLES < found.cycles_per_frame / multiplies < 2 * MULTIPLY_CYCLES
    per_second = found.cycles_per_frame * 200 + found.cycles_per_window * 25
    assert found.share == pytest.approx(per_second / 64e6)
    assert found.mw == pytest.approx(per_second * 52e-6 * 3 / 1e3, rel=0.05)  # 52 uA/MHz at 3 V
    assert 500 < found.code_bytes < 8000
    guessed = front_cost(FRONT, load_target("cortex-m55"))  # unicorn has none
    assert guessed is not None
    assert guessed.source.startswith("estimate")
    assert guessed.cycles_per_frame == pytest.approx(MULTIPLY_CYCLES * multiplies)
    assert front_cost(FRONT, load_target("host")) is None


def test_compile_from_a_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front = tmp_path / "front.toml"
    front.write_text("bandpass = [20, 90]\nhop = 50\nscale = 0.5\nunit = 0.25\n")
    shape = ["--chans", "2", "--times", "200", "--classes", "3", "--sfreq", "200"]
    out = tmp_path / "c"
    given = ["compile", "epidenet", *shape, "--front", str(front), "-o", str(out)]
    assert main([*given, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["front"]["description"].startswith("2 channels at 200 Hz; band from 20 Hz to 90")
    assert "front.h" in {f["name"] for f in told["files"]}
    assert "int16_t" in (out / "model.h").read_text()
    assert (
        main(["run", str(out), "--samples", "1"]) == 0
    )  # with the front end that it was made with
    assert "not as this version emits" not in capsys.readouterr().out
    front.write_text("window = 100\nscale = 1.0\n")
    assert main([*given]) == 2
    assert "give --times 100" in capsys.readouterr().err

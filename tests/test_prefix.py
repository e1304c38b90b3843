# SPDX-License-Identifier: Apache-2.0
"""A prefix: names of its own for each model, and one firmware that runs two of them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.emit import emit
from biotrain.errors import BioTrainError
from biotrain.run.firmware import build, linker_script, memories, start_files
from biotrain.run.project import project_files

WINDOWS = 3
"""As many as `main` below trains on."""
MAIN = """
#include "emg_model.h"
#include "eeg_model.h"

void bt_idle(void);
__attribute__((noinline)) void bt_idle(void) { __asm__ volatile("" ::: "memory"); }

static emg_model emg;
static eeg_model eeg;
uint32_t result[3];

static void fill(float *x, int count, uint32_t seed)
{
  for (int i = 0; i < count; i++) {
    seed = seed * 1664525u + 1013904223u;
    x[i] = (float)(int32_t)(seed >> 16) * 0x1p-15f - 1.0f;
  }
}

int main(void)
{
  float loss;
  emg_init(&emg);
  eeg_init(&eeg);
  for (uint32_t i = 0; i < 3; i++) {
    fill(emg_window(&emg), EMG_INPUT_ROWS * EMG_INPUT_TIMES, i);
    result[2] += emg_train_sample(&emg, emg_window(&emg), (int32_t)i % EMG_OUTPUTS, &loss);
    result[2] += emg_step(&emg);
    fill(eeg_window(&eeg), EEG_INPUT_ROWS * EEG_INPUT_TIMES, i);
    result[2] += eeg_train_sample(&eeg, eeg_window(&eeg), (int32_t)i % EEG_OUTPUTS, &loss);
    result[2] += eeg_step(&eeg);
  }
  result[0] = emg_weights_crc32(&emg);
  result[1] = eeg_weights_crc32(&eeg);
  bt_idle();
  return 0;
}
"""


def package(name: str, shape: tuple[int, int, int], prefix: str, target: str) -> bt.Package:
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build(name, *shape, 200.0))
    return bt.compile(net, torch.zeros(1, *shape[:2]), target=target, prefix=prefix, accumulate=1)


EMG, EEG = ("epidenet", (2, 400, 3)), ("mibminet", (4, 160, 2))


def filled(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    x = np.empty(shape[0] * shape[1], np.float32)
    for i in range(len(x)):
        seed = (seed * 1664525 + 1013904223) & 0xFFFFFFFF
        x[i] = np.float32(seed >> 16) * np.float32(2.0**-15) - np.float32(1.0)
    return x.reshape(1, *shape[:2])


def alone(name: str, shape: tuple[int, int, int], prefix: str) -> int:
    """CRC-32 of the weights of one model that trains alone, on this machine."""
    dev = package(name, shape, prefix, "cortex-m4f").run("host")
    for i in range(WINDOWS):
        dev.train(filled(shape, i), np.array([i % shape[2]], np.int32))
    return dev.crc32()


@pytest.mark.ci
def test_one_firmware_runs_two_models() -> None:
    pytest.importorskip("ziglang")
    pytest.importorskip("unicorn")
    from biotrain.run.elf import Elf
    from biotrain.run.emulator import EmulatorMachine

    emg, eeg = package(*EMG, "emg_", "cortex-m4f"), package(*EEG, "eeg_", "cortex-m4f")
    for name in {**emg.files, **eeg.files}:
        if name in emg.files and name in eeg.files:
            assert name.startswith("bt_")
    target = emg.target
    files = {n: t for n, t in {**emg.files, **eeg.files}.items() if n.endswith((".c", ".h"))}
    files |= {**start_files(target), "main.c": MAIN}
    flash, ram = memories(target)
    elf = build(files, target, linker_script(target, flash, ram))
    machine = EmulatorMachine(elf, target, (flash, ram))
    machine.run()
    at = Elf(elf).symbol("result")[0]
    crc_emg, crc_eeg, status = np.frombuffer(machine.read(at, 12), "<u4")
    assert status == 0
    assert crc_emg == alone(*EMG, "emg_") == alone(*EMG, "")
    assert crc_eeg == alone(*EEG, "eeg_") == alone(*EEG, "")


def test_nothing_public_is_without_the_prefix() -> None:
    pkg = package(*EMG, "emg_", "nrf52840")
    shared = "".join(t for n, t in emit(pkg.source).items() if n.startswith("bt_"))
    header = pkg.files["emg_model.h"]
    names = set(re.findall(r"\b(?:bt|BT)_\w+", header))
    assert names  # bt_status and its kin are shared
    for name in names:
        assert re.search(rf"\b{name}\b", shared) or f'#include "{name}' in header, name
    around = project_files(pkg)
    assert "emg_model.o" in around["firmware/Makefile"]
    assert "emg_init" in around["firmware/main.c"]
    assert "emg_begin" in around["README.md"]


@pytest.mark.parametrize("prefix", ["emg", "Emg_", "bt_", "1_", "bt_x_"])
def test_a_prefix_that_makes_no_names_is_refused(prefix: str) -> None:
    with pytest.raises(BioTrainError, match="prefix"):
        package(*EMG, prefix, "nrf52840")

# SPDX-License-Identifier: Apache-2.0
"""Firmware in the emulator and in QEMU: what bad input, bad firmware and a bad target get."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

import biotrain as bt
from biotrain.errors import BioTrainError, CheckpointError, DeviceError, EmulatorError
from biotrain.package import Package
from biotrain.run.elf import Elf
from biotrain.run.emulator import EmulatorMachine
from biotrain.run.firmware import OPTIMISED, build, linker_script, memories, start_files
from biotrain.run.machine import Machine
from biotrain.run.qemu import QemuMachine, qemu_memories, registers
from biotrain.run.session import SessionDevice
from biotrain.targets.target import load_target

CHANS, TIMES, CLASSES = 3, 160, 4
PLACES = ("emulator", "qemu")
CORES = ("cortex-m4f", "cortex-m33", "rv32imfc")
OUTSIDE = 0xF0000000
"""Nothing answers there on any of the machines."""


def needs(on: str, core: str = "cortex-m4f") -> None:
    """Skip where something is not installed."""
    chosen = load_target(core).build
    assert chosen is not None
    if not find_spec("elftools"):
        pytest.skip("the package pyelftools is not installed")
    if on == "emulator" and not find_spec("unicorn"):
        pytest.skip("the package unicorn is not installed")
    if on == "qemu" and not shutil.which(chosen.qemu[0]):
        pytest.skip(f"{chosen.qemu[0]} is not installed")
    if not find_spec("ziglang") and not shutil.which(chosen.gcc[0]):
        pytest.skip(f"neither the package ziglang nor {chosen.gcc[0]} is installed")


@cache
def package() -> Package:
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build("eegnet", CHANS, TIMES, CLASSES, 128.0, norm="group"))
    example = torch.zeros(1, CHANS, TIMES)
    return bt.compile(net.train(), example, target="cortex-m4f", accumulate=2)


def windows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, CHANS, TIMES)).astype(np.float32)
    return x, rng.integers(0, CLASSES, n)


@pytest.fixture(scope="module", params=PLACES)
def device(request: pytest.FixtureRequest) -> Iterator[SessionDevice]:
    needs(request.param)
    flags = tuple(flag for flag in OPTIMISED if flag != "-g")
    running = package().run(request.param, flags=flags)
    assert isinstance(running, SessionDevice)
    with running:
        yield running


# ------------------------------------------------------------ a package


@pytest.mark.sample(test=1)
def test_it_does_what_the_host_does(device: SessionDevice) -> None:
    """Training, a rest, gradients by hand, logits, tensors, checkpoints: every bit."""
    host = package().run("host")
    device.reset()
    x, y = windows(5)
    for each in (host, device):
        each.begin(total_steps=8)
    assert device.train(x, y) == host.train(x, y)
    assert device.crc32() == host.crc32()
    np.testing.assert_array_equal(device.accumulate(x[:2], y[:2]), host.accumulate(x[:2], y[:2]))
    for name, gradient in host.gradients().items():
        np.testing.assert_array_equal(device.gradients()[name], gradient)
    device.step()
    host.step()
    assert device.crc32() == host.crc32()
    np.testing.assert_array_equal(device.predict(x), host.predict(x))
    assert device.save_state()[20:] == host.save_state()[20:], "all but the sequence number"
    for name, values in host.parameters().items():
        np.testing.assert_array_equal(device.parameters()[name], values)


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("kind", ["nan", "inf", "label", "flat"])
def test_a_bad_window_gets_the_host_s_line(device: SessionDevice, kind: str) -> None:
    host = package().run("host")
    x, y = windows(2)
    if kind == "label":
        y[1] = CLASSES
    elif kind == "flat":
        x[1, 0] = 4.0
    else:
        x[1, 2, 7] = np.nan if kind == "nan" else np.inf
    device.reset()
    said = []
    for each in (host, device):
        before = each.crc32()
        each.check_flat(kind == "flat")
        with pytest.raises(DeviceError) as error:
            each.train(x, y)
        each.check_flat(False)
        said.append((str(error.value), error.value.status))
        assert each.crc32() == before
    assert said[0] == said[1]
    assert "sample 1: " in said[0][0]
    x, y = windows(2)
    assert device.train(x, y) == host.train(x, y)
    assert device.crc32() == host.crc32()


def test_a_bad_checkpoint_changes_nothing(device: SessionDevice) -> None:
    device.reset()
    host = package().run("host")
    state = device.save_state()
    x, y = windows(2)
    device.train(x, y)
    before = device.crc32()
    flipped = bytearray(state)
    flipped[len(flipped) // 2] ^= 1
    for bad in (bytes(flipped), state[:-5], b"", bytes(len(state)), b"x" * len(state)):
        said = []
        for each in (host, device):
            with pytest.raises(CheckpointError) as error:
                each.load_state(bad)
            said.append(str(error.value))
        assert said[0] == said[1]
        assert device.crc32() == before
    device.load_state(state)
    assert device.crc32() == host.crc32()


def test_a_checkpoint_goes_from_one_place_to_the_other(device: SessionDevice) -> None:
    """Trained on the host, continued on the device."""
    host = package().run("host")
    x, y = windows(4)
    host.train(x, y)
    device.load_state(host.save_state())
    device.train(x, y)
    host.train(x, y)
    assert device.crc32() == host.crc32()


@pytest.mark.ci
def test_windows_of_a_batch_lie_where_each_pass_wants_them() -> None:
    """They are asked for in several passes, and each pass has a layout of its own."""
    needs("emulator")
    torch.manual_seed(0)
    net = bt.models.build("eegnet", CHANS, TIMES, CLASSES, 128.0, norm="batch")
    pkg = bt.compile(
        bt.prepare(net, norm="batch").train(),
        torch.zeros(1, CHANS, TIMES),
        target="cortex-m4f",
        batch=2,
    )
    host, emulated = pkg.run("host"), pkg.run("emulator")
    x, y = windows(3)
    assert emulated.train(x, y) == host.train(x, y)
    assert emulated.crc32() == host.crc32()


@pytest.mark.parametrize("on", PLACES)
def test_no_firmware_for_the_host(on: str) -> None:
    torch.manual_seed(0)
    pkg = bt.compile(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)),
        torch.zeros(1, 2, 2),
        accumulate=1,
    )
    with pytest.raises(BioTrainError, match="no firmware is built for 'host'"):
        pkg.run(on)


def test_a_core_without_that_emulator_says_where_to_run() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    pkg = bt.compile(net, torch.zeros(1, 2, 2), target="cv32e40p", accumulate=1)
    with pytest.raises(BioTrainError, match="QEMU has no board"):
        pkg.run("qemu")


def test_a_missing_qemu_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BioTrainError, match="apt-get install qemu-system-misc"):
        qemu_memories(load_target("rv32imfc"))


# ------------------------------------------------------------ bad firmware

FIRMWARE = """
#include <stdint.h>

struct { volatile uint32_t command, asked, status, argument; } session;

void bt_idle(void);

__attribute__((noinline)) void bt_idle(void) { __asm__ volatile("" ::: "memory"); }

__attribute__((noinline)) static uint32_t deep(uint32_t n)
{
  volatile uint32_t room[64];
  room[n & 63u] = n;
  return n == 0 ? 0 : deep(n - 1) + room[n & 63u];
}

__attribute__((noinline)) static void store(uint32_t address)
{
  *(volatile uint32_t *)(uintptr_t)address = 1;
}

int main(void)
{
  for (;;) {
    session.command = 0;
    while (session.command == 0)
      bt_idle();
    session.status = 0;
    if (session.command == 1)
      store(session.argument);
    else if (session.command == 2)
      session.argument = deep(session.argument);
    else if (session.command == 3)
      for (;;)
        __asm__ volatile("");
    else
      session.status = 99;
  }
}
"""
"""The mailbox without a model: 1 stores to an address, 2 uses so much stack, 3 never ends."""


def machine(on: str, core: str, timeout: float = 60.0) -> tuple[Machine, Elf]:
    needs(on, core)
    target = load_target(core)
    flash, ram = memories(target) if on == "emulator" else qemu_memories(target)
    files = {"main.c": FIRMWARE, **start_files(target)}
    elf = build(files, target, linker_script(target, flash, ram))
    if on == "emulator":
        return EmulatorMachine(elf, target, (flash, ram)), Elf(elf)
    return QemuMachine(elf, target, timeout), Elf(elf)


def tell(running: Machine, elf: Elf, command: int, argument: int = 0) -> int:
    """Carry out a command; returns the argument afterwards."""
    at, _ = elf.symbol("session")
    running.write(at + 12, struct.pack("<I", argument))
    running.write(at, struct.pack("<I", command))
    running.run()
    return int.from_bytes(running.read(at + 12, 4), "little")


def within(pc: int, elf: Elf, function: str) -> bool:
    start, size = elf.symbol(function)
    return start <= pc <= start + size


def counter(error: EmulatorError) -> int:
    """The program counter that a message names."""
    return int(str(error).partition("0x")[2][:8], 16)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("on", PLACES)
def test_a_store_outside_the_memories_is_an_error_with_its_place(on: str, core: str) -> None:
    running, elf = machine(on, core)
    running.run()
    with pytest.raises(EmulatorError, match="the firmware stopped at 0x") as error:
        tell(running, elf, 1, OUTSIDE)
    assert within(counter(error.value), elf, "store"), error.value
    assert "\n" not in str(error.value)
    running.close()


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("on", PLACES)
def test_a_stack_that_is_too_small_does_not_reach_the_weights(on: str, core: str) -> None:
    running, elf = machine(on, core)
    running.run()
    assert tell(running, elf, 2, 3) == 6
    with pytest.raises(EmulatorError, match="the firmware stopped at 0x") as error:
        tell(running, elf, 2, 100)
    if on == "emulator":
        assert within(counter(error.value), elf, "deep"), error.value
    else:
        assert "the stack has left the RAM" in str(error.value)
    running.close()


@pytest.mark.parametrize("core", ["cortex-m4f", "rv32imfc"])
def test_firmware_that_does_not_answer_is_an_error(core: str) -> None:
    running, elf = machine("qemu", core, timeout=0.5)
    running.run()
    with pytest.raises(EmulatorError, match=r"did not answer within 0.5 s; it is at 0x") as error:
        tell(running, elf, 3)
    assert within(int(str(error.value).rpartition("0x")[2], 16), elf, "main")
    running.close()


def test_writes_that_a_board_ignores_are_errors_too() -> None:
    """Below its RAM the board with the M4 takes writes and forgets them."""
    running, elf = machine("qemu", "cortex-m4f")
    running.run()
    with pytest.raises(EmulatorError, match="left its memories"):
        tell(running, elf, 1, load_target("cortex-m4f").build.qemu_memories[1].origin - 16)
    running.close()


def test_memory_outside_the_ram_is_refused() -> None:
    running, _ = machine("qemu", "cortex-m4f")
    for address in (0, OUTSIDE):
        with pytest.raises(BioTrainError, match="outside the RAM"):
            running.read(address, 4)
    running.close()


def test_qemu_that_does_not_start_says_why() -> None:
    running, elf = machine("qemu", "cortex-m4f")
    running.close()
    target = load_target("cortex-m4f")
    other = replace(target.build, qemu=("qemu-system-arm", "no-such-board"))
    with pytest.raises(EmulatorError, match=r"did not start: .*unsupported machine"):
        QemuMachine(elf.path, replace(target, build=other))


def test_registers_are_read() -> None:
    arm = "R00=00000001 R15=0001248c\nXPSR=61000000 -ZC- T"
    assert registers(arm) == {"R00": 1, "R15": 0x1248C}
    riscv = " pc       20009ae2\r\n mepc     00000010\r\n x1/ra    20009ae2 x2/sp    80000fc0\r\n"
    assert registers(riscv) == {"pc": 0x20009AE2, "mepc": 0x10, "sp": 0x80000FC0}


# ------------------------------------------------------------ QEMU leaves nothing behind


def children(folder: str) -> list[str]:
    """Command lines of the processes that work in a folder below `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(folder):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


PROGRAM = """
import sys
from pathlib import Path
from biotrain.run.qemu import QemuMachine
from biotrain.targets.target import load_target
machine = QemuMachine(Path(sys.argv[1]), load_target("cortex-m4f"))
machine.run()
print("runs", flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("end", ["exit", "kill"])
def test_qemu_ends_with_the_process_that_started_it(end: str, tmp_path: Path) -> None:
    """After a plain end of Python nothing is left; after SIGKILL no process."""
    running, elf = machine("qemu", "cortex-m4f")
    running.close()
    folder = tempfile.mkdtemp(prefix="bt-")  # short: the path of a socket has at most 107 bytes
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(elf.path), "wait" if end == "kill" else "go"],
        env={**os.environ, "TMPDIR": folder},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        if end == "kill":
            assert any("qemu-system-arm" in line for line in children(folder))
            process.kill()
        process.wait()
    for _ in range(100):
        if not children(folder):
            break
        time.sleep(0.05)
    assert not children(folder)
    if end == "exit":
        assert not list(Path(folder).iterdir())
    shutil.rmtree(folder)

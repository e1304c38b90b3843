# SPDX-License-Identifier: Apache-2.0
"""Firmware in QEMU: a second emulator, with a second compiler, and the only one with a Cortex-M55.

The machine's RAM is a file that this process maps too, so the mailbox needs neither semihosting
nor a debugger. QEMU's monitor (QMP) stops the core while the firmware waits, and tells the
registers where it does not answer.
"""

from __future__ import annotations

import json
import mmap
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError, EmulatorError
from biotrain.run.elf import Elf
from biotrain.run.firmware import Compiler, core_of, session_elf
from biotrain.run.machine import Machine
from biotrain.run.mailbox import FIELDS, POINTER_BYTES
from biotrain.run.session import SLOT_BYTES, SessionDevice
from biotrain.targets.target import Memory, Target

PACKAGES = {"qemu-system-arm": "qemu-system-arm", "qemu-system-riscv32": "qemu-system-misc"}
"""Debian's packages of the programs."""

WATCHED = 'ulimit -c 0; "$@" </dev/null & read -r _; kill -9 $!; wait $!'
"""A shell that ends QEMU when this process closes the shell's input, or is no more."""

LONGEST_NAP_S = 2e-3
LONGEST_WATCH_S = 5.0
"""Longest pauses between two reads of the mailbox, and of the registers."""


class QemuGone(Exception):
    """QEMU has ended; the message holds its last output."""


class Monitor:
    """QEMU's machine protocol on a socket."""

    def __init__(self, path: Path, log: Path, seconds: float = 20.0) -> None:
        self._log = log
        self._lines = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        try:
            self._connect(str(path), time.monotonic() + seconds)
            self("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command of the monitor and return its answer."""
        asked = {"execute": command, "arguments": arguments}
        try:
            self._socket.sendall(json.dumps(asked).encode() + b"\n")
        except OSError:
            raise QemuGone(self._words()) from None
        while True:
            line, found, rest = self._lines.partition(b"\n")
            if not found:
                self._receive()
                continue
            self._lines = rest
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise EmulatorError(f"QEMU: {command}: {answer['error']['desc']}")

    def nap(self, seconds: float) -> None:
        """Sleep, or less where QEMU ends."""
        if select.select([self._socket], [], [], seconds)[0]:
            self._receive()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _connect(self, path: str, end: float) -> None:
        while True:
            try:
                return self._socket.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                words = self._words()
                said = words.startswith("qemu-system") and words.endswith("\n")  # all of it
                if said or time.monotonic() > end:
                    raise QemuGone(words or "it has not opened its monitor") from None
                time.sleep(0.005)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise QemuGone("it does not answer") from None
        except OSError:
            data = b""
        if not data:
            raise QemuGone(self._words())
        self._lines += data

    def _words(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


class QemuMachine(Machine):
    """A board in QEMU."""

    name = "qemu"

    def __init__(self, elf: Path, target: Target, timeout: float = 600.0) -> None:
        """`timeout`: seconds that one command may take."""
        core = core_of(target)
        _, ram = qemu_memories(target)
        self.timeout = timeout
        self._ram = ram
        self._elf = Elf(elf)
        self._session = self._elf.symbol("session")[0]
        self._command = self._session + FIELDS.offset("command", POINTER_BYTES)
        self._booted = False
        self._known = 0
        held = ExitStack()
        self._closing = weakref.finalize(self, held.close)
        folder = Path(tempfile.mkdtemp(prefix="biotrain-qemu-"))
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        with (folder / "ram").open("w+b") as file:
            file.truncate(ram.bytes)  # without blocks until somebody writes
            self._memory = held.enter_context(mmap.mmap(file.fileno(), ram.bytes))
        program, machine, *options = core.qemu
        image = str(elf.resolve())
        command = [
            program,
            *("-machine", f"{machine},memory-backend=ram"),
            *options,
            *("-object", f"memory-backend-file,id=ram,size={ram.bytes},mem-path=ram,share=on"),
            *("-nodefaults", "-display", "none", "-S"),
            *("-d", "unimp,guest_errors"),  # boards ignore some stray accesses, but log them
            *("-chardev", "socket,id=qmp,path=qmp,server=on,wait=off", "-mon", "qmp,mode=control"),
            *(
                ("-kernel", image)
                if core.family == "arm"
                else (
                    "-bios",
                    "none",
                    "-device",
                    f"loader,file={image.replace(',', ',,')},cpu-num=0",
                )
            ),
        ]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            shell = subprocess.Popen(
                ["/bin/sh", "-c", WATCHED, "sh", *command],
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which then closes
            )
        held.callback(_end, shell)
        try:
            self._monitor = held.enter_context(closing(Monitor(folder / "qmp", self._log)))
        except QemuGone as gone:
            self.close()
            raise EmulatorError(f"{program} did not start: {_first(str(gone))}") from None

    def read(self, address: int, count: int) -> bytes:
        at = self._offset(address, count)
        return self._memory[at : at + count]

    def write(self, address: int, data: bytes) -> None:
        at = self._offset(address, len(data))
        self._memory[at : at + len(data)] = data

    def run(self) -> None:
        try:
            self._monitor("cont")
            if not self._booted:
                self._boot()
            self._wait()
            self._monitor("stop")  # it would poll the mailbox with a whole core of this machine
            if words := self._log.read_text(errors="replace")[self._known :]:
                raise EmulatorError(f"the firmware left its memories: {_first(words)}")
        except KeyboardInterrupt:
            self.close()  # or it would go on without end
            raise
        except QemuGone as gone:
            words = str(gone)
            raise EmulatorError(f"the firmware stopped{_at(words)}: {_first(words)}") from None

    def close(self) -> None:
        self._closing()

    def _boot(self) -> None:
        """Start the firmware, until it takes commands.

        The mailbox is 0 before the firmware clears its memory too. A command that does not exist
        is answered with a status by who has started, and lost otherwise.
        """
        end = time.monotonic() + self.timeout
        status = self._session + FIELDS.offset("status", POINTER_BYTES)
        while not any(self.read(status, 4)):
            self.write(self._command, b"\xff\x00\x00\x00")
            self._wait()
            if time.monotonic() > end:
                raise EmulatorError(f"the firmware did not start within {self.timeout:g} s")
        self._booted = True
        self._known = len(self._log.read_text(errors="replace"))

    def _wait(self) -> None:
        """Until the command is 0."""
        at = self._offset(self._command, 4)
        start = time.monotonic()
        nap, watch, watched = 5e-5, 0.2, start
        while any(self._memory[at : at + 4]):
            self._monitor.nap(nap)
            nap = min(1.5 * nap, LONGEST_NAP_S)
            now = time.monotonic()
            late = now - start > self.timeout
            if late or now - watched > watch:
                self._examine(late)
                watch, watched = min(2 * watch, LONGEST_WATCH_S), time.monotonic()

    def _examine(self, late: bool) -> None:
        """Read the registers of a firmware that does not answer: has it stopped at a fault?"""
        self._monitor("stop")
        registers = self._registers()
        pc = registers.get("R15", registers.get("pc", 0))
        fault, size = self._elf.symbol("bt_fault")
        if fault <= pc < fault + max(size, 2):
            raise EmulatorError(f"the firmware stopped at {self._faulted(registers)}")
        if late:
            raise EmulatorError(
                f"the firmware did not answer within {self.timeout:g} s; it is at {pc:#010x}"
            )
        self._monitor("cont")

    def _registers(self) -> dict[str, int]:
        text = self._monitor("human-monitor-command", **{"command-line": "info registers"})
        return registers(str(text))

    def _faulted(self, registers: dict[str, int]) -> str:
        """The program counter where the core faulted."""
        stack = registers.get("R13", registers.get("sp", 0))
        pc = registers.get("mepc", registers.get("R15", 0))
        if not self._ram.origin <= stack <= self._ram.origin + self._ram.bytes - 32:
            return f"{pc:#010x}: the stack has left the RAM, to {stack:#010x}"
        if "R15" in registers:  # of the handler; r0-r3, r12, lr, pc, xpsr lie on the stack
            pc = int.from_bytes(self.read(stack + 24, 4), "little")
        return f"{pc:#010x}: a fault"

    def _offset(self, address: int, count: int) -> int:
        at = address - self._ram.origin
        if at < 0 or at + count > self._ram.bytes:
            raise BioTrainError(f"{address:#010x} is outside the RAM of {self._ram.name}")
        return at


class QemuDevice(SessionDevice):
    """The package as firmware of its target's core, on a board in QEMU."""

    on = "qemu"

    def __init__(
        self,
        package: Build,
        *,
        compiler: Compiler | None = None,
        flags: Sequence[str] | None = None,
        timeout: float = 600.0,
    ) -> None:
        """`compiler`: the cross gcc where it is installed, else zig."""
        target = package.target
        flash, ram = qemu_memories(target)
        linked = replace(ram, bytes=ram.bytes - SLOT_BYTES)
        core = core_of(target)
        chosen = compiler or ("gcc" if core.gcc and shutil.which(core.gcc[0]) else None)
        elf = session_elf(package, flash, linked, chosen, flags)
        machine = QemuMachine(elf, target, timeout)
        try:
            super().__init__(package, machine, elf, linked.origin + linked.bytes)
        except BaseException:
            machine.close()
            raise


def qemu_memories(target: Target) -> tuple[Memory, Memory]:
    """Flash and RAM of the board in QEMU that has the target's core.

    Raises
    ------
    BioTrainError
        where QEMU has no such board, or is not installed.
    """
    core = core_of(target)
    if not core.qemu:
        raise BioTrainError(f"QEMU has no board with a {target.core}; run it on the emulator")
    program = core.qemu[0]
    if not shutil.which(program):
        package = PACKAGES.get(program, program)
        raise BioTrainError(f"{program} is missing: apt-get install {package}")
    flash, ram = core.qemu_memories
    return flash, ram


def registers(text: str) -> dict[str, int]:
    """Registers in the text of `info registers`: all of Arm, of RISC-V pc, mepc and sp."""
    found = re.findall(r"\b(R\d\d|pc|mepc|sp)(?:=| +)([0-9a-f]{8})\b", text)
    return {name: int(value, 16) for name, value in found}


def _at(words: str) -> str:
    """The program counter among QEMU's last words."""
    pc = registers(words).get("R15")
    return "" if pc is None else f" at {pc:#010x}"


def _first(words: str) -> str:
    """The first line that is no warning."""
    lines = [s.strip() for s in words.splitlines() if s.strip() and "warning:" not in s]
    return lines[0] if lines else "QEMU ended without a word"


def _end(shell: subprocess.Popen[bytes]) -> None:
    """End QEMU, which ends the shell."""
    if shell.stdin is not None:
        shell.stdin.close()
    shell.wait()

# SPDX-License-Identifier: Apache-2.0
"""Which blocks of instructions a firmware executed in the emulator, and how often: exact."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError, CompilerError
from biotrain.run.compiler import shared_library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Block = tuple[int, int]
"""Address and size in bytes of what the emulator translates at once."""

Schedule = tuple[tuple[int, int], ...]
"""Where the code of the functions whose calls are told apart begins and ends."""
MOST_FUNCTIONS = 32
"""Functions of a schedule that block_hook.c has space for."""

FLAGS = ("-O2", "-fPIC", "-std=c99")


def instruction_length(first: int, riscv: bool = False) -> int:
    """Bytes of the instruction that begins with this half-word.

    Thumb: 32 bits where bits 15:11 are 0b11101, 0b11110 or 0b11111 (Armv7-M ARM, A5.1).
    RISC-V: 32 bits where bits 1:0 are 0b11 (unprivileged ISA, 1.5).
    """
    if riscv:
        return 4 if first & 3 == 3 else 2
    return 4 if first >= 0xE800 else 2


def instruction_count(code: bytes, riscv: bool = False) -> int:
    """Instructions in a block of code."""
    at = count = 0
    while at < len(code):
        at += instruction_length(int.from_bytes(code[at : at + 2], "little"), riscv)
        count += 1
    return count


class Histogram:
    """Counts executed blocks through a hook of unicorn.

    A block is entered at its first instruction only and left at its last, so the counts times the
    instructions in each block are the executed instructions, however the emulator cuts the code
    and however the blocks overlap. One block can be an exception: the one in which a run was
    stopped or met a fault; `cut` puts that right.
    """

    def __init__(self, native: bool = True) -> None:
        self._uc: Any = None
        self._counter: _Native | _Python = _Python()
        if native:
            try:
                self._counter = _Native()
            except CompilerError:
                self._counter = _Python()
        self._lengths: dict[Block, int] = {}

    @property
    def native(self) -> bool:
        """Whether the hook is the fast one; False where no C compiler was found."""
        return isinstance(self._counter, _Native)

    def attach(
        self, uc: Any, code_begin: int, code_end: int, schedule: Sequence[tuple[int, int]] = ()
    ) -> None:
        """Count in this `unicorn.Uc` from now on.

        The code in [code_begin, code_end) must not change while it is counted. `schedule` is where
        the code of some functions begins and ends: what they call is counted by call, see `calls`.
        """
        if self._uc is not None:
            raise BioTrainError("this histogram is attached already; make another one")
        self._uc = uc
        self._counter.attach(uc, code_begin, code_end - 1, tuple(schedule)[:MOST_FUNCTIONS])
        uc.ctl_flush_tb()  # what is translated already does not call the hook

    def reset(self) -> None:
        """Forget all counts."""
        self._counter.reset()

    def blocks(self) -> dict[Block, int]:
        """How often each block was executed, by address and size, in order of address."""
        return self._added(lambda slot: slot[0])

    def taken(self) -> dict[Block, int]:
        """How often each block was left by a taken branch, not to the address behind it."""
        return self._added(lambda slot: slot[1])

    def calls(self) -> dict[tuple[Block, int], int]:
        """How often each block outside of the schedule was executed for each of its calls, by the
        address behind the call."""
        return {key: count for key, (count, _) in sorted(self._counter.table().items()) if key[1]}

    def _added(self, which: Callable[[tuple[int, int]], int]) -> dict[Block, int]:
        found: dict[Block, int] = {}
        for (block, _), slot in sorted(self._counter.table().items()):
            found[block] = found.get(block, 0) + which(slot)
        return found

    @property
    def instructions(self) -> int:
        """Instructions executed; one that an IT instruction skips counts, as it takes a cycle."""
        return self._counter.weighted(self._length)

    def cut(self, pc: int) -> None:
        """Put right the last block, which a stop or a fault left before the instruction at `pc`.

        To be called with the program counter whenever a run has ended; a run that ended between
        two blocks is not changed.
        """
        self._counter.cut(pc)

    def _length(self, block: Block) -> int:
        found = self._lengths.get(block)
        if found is None:
            from unicorn import UC_ARCH_RISCV

            code = bytes(self._uc.mem_read(*block))
            found = instruction_count(code, self._uc._arch == UC_ARCH_RISCV)
            self._lengths[block] = found
        return found


class _Native:
    """The hook in C."""

    def __init__(self) -> None:
        self._lib = _library()
        self._state = self._lib.bt_histogram_new()
        if not self._state:
            raise MemoryError("no memory for the block histogram")
        self._keys = self._weights = np.zeros(0, np.uint64)

    def __del__(self) -> None:
        # The engine holds this object until it is closed, so the hook no longer runs.
        if getattr(self, "_state", None):
            self._lib.bt_histogram_free(self._state)

    def attach(self, uc: Any, first: int, last: int, schedule: Schedule) -> None:
        from unicorn import UC_ERR_OK, UC_HOOK_BLOCK, UcError
        from unicorn.unicorn_py3 import unicorn as binding

        # A library object of our own over the same handle, with the types of a plain C hook.
        engine = ctypes.CDLL(binding.uclib._name, handle=binding.uclib._handle)
        add = engine.uc_hook_add
        add.restype = ctypes.c_int
        handle = ctypes.c_size_t()
        hook = ctypes.cast(self._lib.bt_histogram_block, ctypes.c_void_p)
        status = add(
            uc._uch,
            ctypes.byref(handle),
            ctypes.c_int(UC_HOOK_BLOCK),
            hook,
            ctypes.c_void_p(ctypes.addressof(self._state.contents)),
            ctypes.c_uint64(first),
            ctypes.c_uint64(last),
        )
        if status != UC_ERR_OK:
            raise UcError(status)
        uc._biotrain_histogram = self
        for begin, end in schedule:
            self._lib.bt_histogram_schedule(self._state, begin, end)

    def reset(self) -> None:
        self._lib.bt_histogram_reset(self._state)

    def _slots(self) -> npt.NDArray[np.uint64]:
        """(key, count, taken, call) of every slot."""
        state = self._state.contents
        if state.lost:
            raise BioTrainError(f"the block histogram ran out of memory; {state.lost} blocks lost")
        slots: npt.NDArray[np.uint64] = np.ctypeslib.as_array(
            state.slots, shape=(state.mask + 1, 4)
        )
        return slots

    def weighted(self, weight: Callable[[Block], int]) -> int:
        """Sum of counts times weights; the weight of a block is asked for once."""
        slots = self._slots()
        keys = slots[:, 0]
        if len(self._keys) != len(keys):
            self._keys, self._weights = np.zeros_like(keys), np.zeros_like(keys)
        for i in np.flatnonzero((keys != self._keys) & (keys != 0)):
            self._weights[i] = weight(_block(int(keys[i])))
            self._keys[i] = keys[i]
        return int(slots[:, 1] @ self._weights)

    def table(self) -> Mapping[tuple[Block, int], tuple[int, int]]:
        slots = self._slots()
        rows = slots[(slots[:, 0] != 0) & (slots[:, 1] != 0)].tolist()
        return {(_block(key), call): (count, taken) for key, count, taken, call in rows}

    def cut(self, pc: int) -> None:
        self._lib.bt_histogram_cut(self._state, pc)


class _Python:
    """The hook as a Python function, 10 to 20 times slower, for machines without a C compiler."""

    def __init__(self) -> None:
        self._table: dict[tuple[Block, int], list[int]] = {}
        self._spare = [0, 0]
        self._schedule: Schedule = ()
        self._call = self._back = 0
        self._slot, self._last, self._next = self._spare, (0, 0), 0

    def attach(self, uc: Any, first: int, last: int, schedule: Schedule) -> None:
        from unicorn import UC_HOOK_BLOCK

        self._schedule = schedule
        uc.hook_add(UC_HOOK_BLOCK, self._block, None, first, last)

    def weighted(self, weight: Callable[[Block], int]) -> int:
        return sum(count * weight(block) for (block, _), (count, _) in self._table.items())

    def _block(self, uc: Any, address: int, size: int, user: object) -> None:
        if address != self._next:
            self._slot[1] += 1
        self._last = (address, size)
        scheduled = any(begin <= address < end for begin, end in self._schedule)
        if scheduled and not self._call and any(address == begin for begin, _ in self._schedule):
            self._back = self._next  # where the schedule returns to
        elif not scheduled and address == self._back:
            self._call = 0
        key = self._last, 0 if scheduled else self._call
        self._slot = slot = self._table.setdefault(key, [0, 0])
        slot[0] += 1
        self._next = address + size
        if scheduled:
            self._call = self._next

    def reset(self) -> None:
        self._table.clear()
        self._slot, self._last, self._next = self._spare, (0, 0), 0
        self._call = self._back = 0

    def table(self) -> Mapping[tuple[Block, int], tuple[int, int]]:
        return {key: (count, taken) for key, (count, taken) in self._table.items() if count}

    def cut(self, pc: int) -> None:
        address, size = self._last
        if address <= pc < address + size:
            self._slot[0] -= 1
            self._last, self._slot, self._next = (0, 0), self._spare, address
            if pc > address:
                self._block(None, address, pc - address, None)


def _block(key: int) -> Block:
    return key & 0xFFFFFFFF, key >> 32


class _State(ctypes.Structure):
    """`bt_histogram` of block_hook.c."""

    _fields_ = (
        ("slots", ctypes.POINTER(ctypes.c_uint64)),
        ("mask", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("last", ctypes.c_uint64),
        ("next", ctypes.c_uint64),
        ("lost", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    text = Path(__file__).with_name("block_hook.c").read_text(encoding="utf-8")
    lib = ctypes.CDLL(str(shared_library({"block_hook.c": text}, FLAGS)))
    state = ctypes.POINTER(_State)
    lib.bt_histogram_new.restype = state
    lib.bt_histogram_free.argtypes = lib.bt_histogram_reset.argtypes = (state,)
    lib.bt_histogram_free.restype = lib.bt_histogram_reset.restype = None
    lib.bt_histogram_schedule.argtypes = (state, ctypes.c_uint64, ctypes.c_uint64)
    lib.bt_histogram_schedule.restype = None
    lib.bt_histogram_cut.argtypes = (state, ctypes.c_uint64)
    lib.bt_histogram_cut.restype = None
    return lib

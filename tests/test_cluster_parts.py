# SPDX-License-Identifier: Apache-2.0
"""The parts of the RTL cluster by themselves: banks, barrier, instruction caches, DMA."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from biotrain.run.cluster import machine
from biotrain.run.cluster.settings import ClusterSettings
from biotrain.run.compiler import shared_library

ACCESS = np.dtype(
    [("address", "<u4"), ("data", "<u4"), ("lanes", "u1"), ("write", "?"), ("_", "V2")]
)
COMMAND = np.dtype(
    [
        (name, "<u4")
        for name in (
            *("get", "bytes", "local", "local_row", "local_stride"),
            *("external", "external_row", "external_stride"),
        )
    ]
)
L2_LATENCY, SHARED_LATENCY, START = 8, 2, 8


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    source = Path(__file__).parent / "_cluster_parts.cpp"
    files = {path.name: path.read_text("utf-8") for path in machine.FOLDER.glob("*.hpp")}
    files = {name: files[name] for name in ("parts.hpp", "cache.hpp", "dma.hpp")}
    files["parts.c"] = source.read_text("utf-8")
    flags = ("-x", "c++", "-std=gnu++17", "-O1", "-fPIC", "-Wall", "-Wextra", "-Werror")
    flags += (f"-I{machine.FOLDER}",)
    library = ctypes.CDLL(str(shared_library(files, flags, ("g++",))))
    library.bt_test_banks.restype = ctypes.c_uint64
    return library


def pointer(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize(("banks", "words"), [(16, 64), (16, 1024), (1, 8), (4, 4)])
def test_banks_serve_everybody_in_turn_and_lose_nothing(
    parts: ctypes.CDLL, rng: np.random.Generator, banks: int, words: int
) -> None:
    masters, count = 12, 200
    asked = np.zeros((masters, count), ACCESS)
    asked["address"] = 4 * rng.integers(words, size=asked.shape)
    asked["data"] = rng.integers(1 << 32, size=asked.shape, dtype=np.uint32)
    asked["lanes"] = rng.integers(16, size=asked.shape)
    asked["write"] = rng.integers(2, size=asked.shape)
    memory = rng.integers(256, size=4 * words, dtype=np.uint8)
    expected = memory.copy()
    served = np.zeros(asked.shape, np.uint64)
    loaded = np.zeros(asked.shape, np.uint32)
    end = parts.bt_test_banks(
        *(banks, masters, count, pointer(asked)),
        *(pointer(memory), memory.size, pointer(served), pointer(loaded)),
    )
    bank = asked["address"] // 4 % banks
    slots = served.astype(np.int64) * banks + bank
    assert np.unique(slots).size == slots.size  # one access of a bank in each cycle
    begun = np.concatenate([np.zeros((masters, 1)), served[:, :-1] + 1], axis=1)
    assert np.all(served - begun < masters)  # nobody waits for more than one turn of the others
    busiest = np.bincount(bank.ravel(), minlength=banks).max()
    assert busiest <= end <= masters * count
    if banks == 1:
        assert end == masters * count  # work is done in every cycle
    for m, i in sorted(np.ndindex(*asked.shape), key=lambda at: served[at]):
        one = asked[m, i]
        word = expected[one["address"] : one["address"] + 4]
        if one["write"]:
            lanes = np.array([one["lanes"] >> k & 1 for k in range(4)], bool)
            word[lanes] = np.frombuffer(one["data"].tobytes(), np.uint8)[lanes]
        else:
            assert loaded[m, i] == word.view("<u4")[0]
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize("latency", [0, 1, 4])
def test_a_barrier_lets_all_go_when_the_last_has_come(
    parts: ctypes.CDLL, rng: np.random.Generator, latency: int
) -> None:
    arrivals = rng.integers(50, size=(20, 8)).astype(np.uint64)
    released = np.zeros(20, np.uint64)
    parts.bt_test_barrier(8, latency, 20, pointer(arrivals), pointer(released))
    np.testing.assert_array_equal(released, arrivals.max(axis=1) + latency)


class CacheSettings(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            *("private_bytes", "private_ways", "shared_bytes", "shared_ways"),
            *("shared_banks", "shared_latency", "l2_latency"),
        )
    ]


def fetch(
    parts: ctypes.CDLL,
    addresses: npt.NDArray[np.uint32],
    memory: npt.NDArray[np.uint8],
    others: int = 0,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64], list[int]]:
    """Words, the cycles in which they came, and misses and prefetches, for cores x fetches."""
    whole = ClusterSettings()
    settings = CacheSettings(
        *(whole.private_bytes, whole.private_ways, whole.shared_bytes, whole.shared_ways),
        *(whole.shared_banks, SHARED_LATENCY, L2_LATENCY),
    )
    words, answered = np.zeros(addresses.shape, np.uint32), np.zeros(addresses.shape, np.uint64)
    events = np.zeros(3, np.uint64)
    parts.bt_test_cache(
        *(ctypes.byref(settings), *addresses.shape, pointer(addresses), pointer(memory)),
        *(memory.size, others, pointer(words), pointer(answered), pointer(events)),
    )
    return words, answered, events.tolist()


@pytest.mark.parametrize("others", [0, 3])
def test_caches_hold_what_memory_holds(
    parts: ctypes.CDLL, rng: np.random.Generator, others: int
) -> None:
    memory = rng.integers(256, size=1 << 16, dtype=np.uint8)
    jumps = 4 * rng.integers(1 << 14, size=(8, 60, 1))  # runs of code, and loops over 8 kB
    runs = (jumps + 4 * np.arange(20)) % (1 << 16)
    near = 4 * rng.integers(1 << 11, size=(8, 400))
    addresses = np.concatenate([runs.reshape(8, -1), near], axis=1).astype(np.uint32)
    words, answered, _ = fetch(parts, addresses, memory, others)
    np.testing.assert_array_equal(words, memory.view("<u4")[addresses // 4])
    assert np.all(np.diff(answered.astype(np.int64), axis=1) > 0)  # in order, one a cycle


def test_a_loop_in_the_private_cache_costs_nothing(parts: ctypes.CDLL) -> None:
    memory = np.zeros(1 << 14, np.uint8)
    loop = np.tile(4 * np.arange(100, dtype=np.uint32), (1, 50))  # 400 of 512 bytes
    _, answered, (misses, shared, prefetches) = fetch(parts, loop, memory)
    assert np.all(np.diff(answered[0, 200:].astype(np.int64)) == 1)
    # the shared cache looks, two beats of L2, its latency, the private cache, the answer
    assert answered[0, 0] == 1 + 1 + L2_LATENCY + SHARED_LATENCY + 1
    assert misses + prefetches == shared == 26  # 25 lines and the one behind


def test_a_line_ahead_hides_the_shared_cache(parts: ctypes.CDLL) -> None:
    """A loop of 1 kB misses the private cache in every line, and half of the shared one."""
    memory = np.zeros(1 << 14, np.uint8)
    loop = np.tile(4 * np.arange(256, dtype=np.uint32), (8, 20))
    _, answered, (_, shared, prefetches) = fetch(parts, loop[:1], memory)
    assert shared == 65
    assert prefetches > 19 * 64
    waits = np.diff(answered[0, 512:].astype(np.int64)) - 1
    assert set(waits.tolist()) == {
        0,
        SHARED_LATENCY,
    }  # only at the jump back, which nobody foresees
    assert waits.sum() == SHARED_LATENCY * 17
    _, answered, _ = fetch(parts, loop, memory)  # eight cores want 2 of the 4 lines a cycle
    assert np.mean(np.diff(answered[:, 512:].astype(np.int64))) < 1.1


def transfers(rng: np.random.Generator, aligned: int) -> npt.NDArray[np.void]:
    """Gets and puts of blocks that do not touch each other: 1 kB in L1, 4 kB in L2 for each."""
    found = np.zeros(12, COMMAND)
    for i, one in enumerate(found):
        row = aligned * int(rng.integers(1, 1 + 96 // aligned))
        rows = int(rng.integers(1, 9))
        one["get"], one["bytes"] = i % 2, row * rows - (aligned * int(rng.integers(row // aligned)))
        one["local"] = 1024 * i + aligned * int(rng.integers(8))
        one["external"] = 4096 * i + aligned * int(rng.integers(8))
        one["local_row"], one["external_row"] = row, row
        one["local_stride"] = row + aligned * int(rng.integers(3))
        one["external_stride"] = row + aligned * int(rng.integers(60))
    return found


@pytest.mark.parametrize("others", [0, 4, 8])
@pytest.mark.parametrize("aligned", [1, 4, 8])
def test_the_dma_moves_blocks(
    parts: ctypes.CDLL, rng: np.random.Generator, aligned: int, others: int
) -> None:
    commands = transfers(rng, aligned)
    l1 = rng.integers(256, size=16 << 10, dtype=np.uint8)
    l2 = rng.integers(256, size=64 << 10, dtype=np.uint8)
    expected = l1.copy(), l2.copy()
    ended = np.zeros(len(commands), np.int64)
    parts.bt_test_dma(
        *(L2_LATENCY, START, len(commands), pointer(commands)),
        *(pointer(l1), l1.size, pointer(l2), l2.size, others, pointer(ended)),
    )
    for one in commands:
        byte = np.arange(one["bytes"])
        local, external = (
            one[side]
            + byte // one[f"{side}_row"] * one[f"{side}_stride"]
            + byte % one[f"{side}_row"]
            for side in ("local", "external")
        )
        if one["get"]:
            expected[0][local] = expected[1][external]
        else:
            expected[1][external] = expected[0][local]
    np.testing.assert_array_equal(l1, expected[0])
    np.testing.assert_array_equal(l2, expected[1])
    for get in (0, 1):  # each way in order, and not faster than eight bytes a cycle
        mine = commands["get"] == get
        assert np.all(np.diff(ended[mine]) > 0)
        moved = np.cumsum(commands["bytes"][mine])
        assert np.all(ended[mine] >= START + L2_LATENCY + moved / 8 - 1)


@pytest.mark.parametrize("get", [0, 1])
def test_the_dma_takes_its_latency(parts: ctypes.CDLL, get: int) -> None:
    l1, l2 = np.zeros(4096, np.uint8), np.zeros(4096, np.uint8)
    ended = np.zeros(1, np.int64)
    for count in (8, 64, 1024, 4096):
        row = np.array([(get, count, 0, count, 0, 0, count, 0)], COMMAND)
        parts.bt_test_dma(
            *(L2_LATENCY, START, 1, pointer(row)),
            *(pointer(l1), l1.size, pointer(l2), l2.size, 0, pointer(ended)),
        )
        assert START + L2_LATENCY + count // 8 <= ended[0] <= START + L2_LATENCY + count // 8 + 2


def test_a_transfer_outside_the_memories_is_refused(parts: ctypes.CDLL) -> None:
    l1, l2 = np.zeros(4096, np.uint8), np.zeros(4096, np.uint8)
    bad = [(1, 8, 4092, 8, 0, 0, 8, 0), (1, 64, 0, 64, 0, 0, 16, 1500), (0, 0, 0, 8, 0, 0, 8, 0)]
    bad += [(1, 8, 0, 0, 0, 0, 8, 0), (1, 32, 0, 16, 4090, 0, 32, 0)]
    commands, ended = np.array(bad, COMMAND), np.zeros(len(bad), np.int64)
    parts.bt_test_dma(
        *(L2_LATENCY, START, len(bad), pointer(commands)),
        *(pointer(l1), l1.size, pointer(l2), l2.size, 0, pointer(ended)),
    )
    assert np.all(ended == -1)


def test_transfers_have_numbers(parts: ctypes.CDLL) -> None:
    again = ctypes.c_int()
    assert parts.bt_test_numbers(ctypes.byref(again)) == 16
    assert again.value == 5


@pytest.mark.parametrize(
    "wrong", [{"cores": 9}, {"fpus": 9}, {"cores": 2}, {"l1_banks": 12}, {"private_ways": 3}]
)
def test_a_cluster_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if len(wrong) else ""):
        ClusterSettings(**wrong)

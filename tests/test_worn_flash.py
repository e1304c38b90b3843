# SPDX-License-Identifier: Apache-2.0
"""Store and checkpoint slots on flash that wears out: stuck bits, pages that no longer erase, bits
that change behind a good write, until the last block."""

import ctypes

import pytest
from _flash import GEOMETRIES, HEADER, OK, Bench, Slots

DEATHS = ("refuses", "refuses, half done", "is silent", "is silent, half done")
"""What an erasure of a dead page does: `DEATH_` of tests/fuzz/nor.h."""


def swept(bench: Bench, name: str, *arguments: int, first: int = 0) -> None:
    """A sweep of tests/fuzz/worn.h, which names the line and the place that fail."""
    at = ctypes.c_uint32(first)
    before, after = arguments[:1], arguments[1:]
    if name == "dying":
        line = bench.dying(*before, ctypes.byref(at), *after)
    else:
        line = getattr(bench, name)(ctypes.byref(at), *arguments)
    assert line == 0, f"tests/fuzz/worn.h or checks.h:{line}, place {at.value}"


def bits(geometry: str) -> int:
    page, pages, _, _ = GEOMETRIES[geometry]
    return 8 * page * pages


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_stuck_bit_loses_nothing(geometry: str) -> None:
    """Every 1499th bit of the flash; all appends are OK and what they stored is there."""
    swept(Bench(geometry), "stuck_bits", bits(geometry), 1499)


def test_a_stuck_bit_in_a_header_loses_nothing() -> None:
    swept(Bench("several windows in a page"), "stuck_bits", 8 * HEADER, 7)


@pytest.mark.exhaustive
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_stuck_bit_at_every_place(geometry: str) -> None:
    swept(Bench(geometry), "stuck_bits", bits(geometry), 1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_bit_that_changes_costs_one_window(geometry: str) -> None:
    swept(Bench(geometry), "rotten_bits", 199)


@pytest.mark.exhaustive
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_any_bit_that_changes_costs_one_window(geometry: str) -> None:
    swept(Bench(geometry), "rotten_bits", 1)


@pytest.mark.parametrize("death", range(len(DEATHS)), ids=DEATHS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_page_that_no_longer_erases_is_left_out(geometry: str, death: int) -> None:
    pages = GEOMETRIES[geometry][1]
    swept(Bench(geometry), "dying", death, 1 if pages < 20 else 7)


@pytest.mark.parametrize("death", range(len(DEATHS)), ids=DEATHS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_wear_until_the_last_block(geometry: str, death: int) -> None:
    """Every page dies after 10 to 29 erasures: windows are stored as long as two blocks work."""
    bench = Bench(geometry)
    appended = ctypes.c_uint32(0)
    line = bench.worn_out(death, ctypes.byref(appended))
    assert line == 0, f"tests/fuzz/worn.h:{line} after {appended.value} windows"
    # Copies cost up to three erasures for one that is needed (test_wear_is_spread).
    assert appended.value >= 10 * bench.blocks() * bench.per_block() / 4
    assert bench.worn() > 0


@pytest.mark.parametrize(("page", "pages"), [(128, 4), (256, 2), (1024, 2)])
@pytest.mark.parametrize("unit", [4, 32])
def test_worn_slots_hold_what_a_save_says(page: int, pages: int, unit: int) -> None:
    slots = Slots(page, pages, unit)
    at = ctypes.c_uint32(0)
    line = slots.c.slots_worn(slots.at, ctypes.byref(at), 13)
    assert line == 0, f"tests/fuzz/worn.h:{line}, place {at.value}"


@pytest.mark.exhaustive
@pytest.mark.parametrize(("page", "pages"), [(128, 4), (256, 2), (1024, 2)])
@pytest.mark.parametrize("unit", [1, 4, 8, 16, 32])
def test_worn_slots_at_every_place(page: int, pages: int, unit: int) -> None:
    slots = Slots(page, pages, unit)
    at = ctypes.c_uint32(0)
    line = slots.c.slots_worn(slots.at, ctypes.byref(at), 1)
    assert line == 0, f"tests/fuzz/worn.h:{line}, place {at.value}"


def test_forgotten_windows_are_gone() -> None:
    """`bt_store_clear` erases what was dropped too: no byte of a window is left in flash."""
    bench = Bench("few large sectors")
    for i in range(1, 90):
        assert bench.append(i, i % 3) == OK
    assert bench.clear() == OK
    page, pages, _, _ = GEOMETRIES["few large sectors"]
    memory = bytes((ctypes.c_uint8 * (page * pages)).from_address(bench.memory()))
    for block in range(0, page * pages, page):
        assert memory[block + HEADER : block + page] == b"\xff" * (page - HEADER)

# SPDX-License-Identifier: Apache-2.0
"""Expressions and estimates that the emitter writes into C, against what they stand for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from _behaviour import cases, package
from hypothesis import given
from hypothesis import strategies as st

import biotrain as bt
from biotrain.emit.live import live_header
from biotrain.emit.schedule import Shapes, affine
from biotrain.frontend import FrontEnd
from biotrain.ir.op import Call
from biotrain.planner.slices import CALL_CYCLES

numbers = st.integers(-40, 40)


def evaluated(text: str, count: int) -> list[int]:
    """The values of an expression in i."""
    names = {"bt_min": min, "bt_max": max}
    return [eval(text, {"__builtins__": {}}, {**names, "i": i}) for i in range(count)]  # noqa: S307


@given(step=numbers, shift=numbers, count=st.integers(1, 12), low=numbers, size=st.integers(0, 60))
def test_an_expression_of_an_iteration_has_its_numbers(
    step: int, shift: int, count: int, low: int, size: int
) -> None:
    """Whatever is found is right: it may be nothing, then the emitter prints a table."""
    wanted = [min(max(step * i + shift, low), low + size) for i in range(count)]
    text = affine(wanted)
    assert text is None or evaluated(text, count) == wanted


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ([7, 7, 7], ()),
        ([0, 3, 6, 9], ()),
        ([5, 3, 1, -1], ()),
        ([0, 0, 2, 5, 8], ("bt_max",)),
        ([1, 4, 7, 8, 8], ("bt_min",)),
        ([0, 0, 3, 6, 9, 10], ("bt_max", "bt_min")),
    ],
)
def test_straight_lines_need_no_table(wanted: list[int], words: tuple[str, ...]) -> None:
    text = affine(wanted)
    assert text is not None
    assert evaluated(text, len(wanted)) == wanted
    assert all((word in text) == (word in words) for word in ("bt_min", "bt_max"))


def test_what_is_no_line_has_no_expression() -> None:
    assert affine([0, 1, 4, 9, 16]) is None
    assert affine([0, 1, 0, 1]) is None


def test_slices_ask_for_what_their_loops_take() -> None:
    """Before each loop over a gradient: six cycles for an element, and a call."""
    case = cases()["epidenet-live"]
    options = {**case.options, "optimizer": bt.SGD(lr=1e-3, momentum=0.9, clip_norm=1.0)}
    text = package(replace(case, options=options)).files["model.c"]
    asks = r"bt_goes\(s, (\d+)u\)\)\s+return BT_MORE;\s+"
    loop = r"[^\n]*\s+for \(int i = 0; i < (\d+); i \+= BT_LEAF\)"
    checked = re.findall(asks + r"uint32_t finite = 1;\s+for \(int i = 0; i < (\d+); i\+\+\)", text)
    squared = re.findall(asks + r"float square = s->scale;" + loop, text)
    assert len(checked) == len(squared) >= 5
    for cycles, size in (*checked, *squared):
        assert int(cycles) == 6 * int(size) + CALL_CYCLES


def test_a_frame_costs_its_front_end() -> None:
    """`live.h` has the estimate: 40 cycles for a channel, 24 for a multiply-add of the filters."""
    case = cases()["epidenet-live"]
    live = case.options["live"]
    plain = package(case)
    front = FrontEnd(200.0, 2, 400, live.hop, bandpass=(1.0, 40.0))
    filtered = package(
        type(case)(
            case.network,
            case.norm,
            case.shape,
            {**case.options, "live": type(live)(hop=live.hop, store_pages=4, front=front)},
        )
    )
    found = []
    for pkg in (plain, filtered):
        cycles = re.search(r"BT_LIVE_FRAME_CYCLES (\d+)u", pkg.files["live.h"])
        assert cycles
        found.append(int(cycles[1]))
    assert found[0] == 40 * 2 + 60
    assert found[1] == round(40 * 2 + 24 * front.ops_per_second / front.fs_in) + 60
    assert found[1] > found[0]


@pytest.mark.parametrize(
    ("bits", "low", "high", "frame_bytes"),
    [
        (16, "(-32768)", "32767", 4),
        (24, "(-8388608)", "8388607", 8),
        (32, "(-2147483647 - 1)", "2147483647", 8),
    ],
)
def test_the_ends_of_a_converter_are_those_of_its_bits(
    bits: int, low: str, high: str, frame_bytes: int
) -> None:
    source = package(cases()["epidenet-live"]).source
    assert source.live is not None
    front = FrontEnd(200.0, 2, 400, 100, bandpass=(1.0, 40.0))
    live = replace(source.live.live, converter_bits=bits, front=front)
    plan = replace(source.live, live=live)
    assert plan.frame_bytes == frame_bytes  # two channels
    text = live_header(source, plan)
    assert f"#define BT_LIVE_LOW {low} " in text
    assert f"#define BT_LIVE_HIGH {high}\n" in text


def test_a_geometry_of_two_numbers_has_a_name_and_one_number_none() -> None:
    shapes = Shapes()
    two = Call("bt_f", "bt_pair", (("rows", 2), ("times", 3)), (), (2, 3))
    assert shapes.name(two, "layer") == "k_layer_pair"
    assert shapes.lines() == ["static const bt_pair k_layer_pair = {.rows = 2, .times = 3};"]
    one = replace(two, geometry=(("rows", 2),))
    assert shapes.name(one, "layer") == "(bt_pair){.rows = 2}"
    run_time = replace(two, geometry=(("rows", 2), ("rate", "m->lr")))
    assert shapes.name(run_time, "layer") == "(bt_pair){.rows = 2, .rate = m->lr}"

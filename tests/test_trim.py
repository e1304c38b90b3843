# SPDX-License-Identifier: Apache-2.0
"""Kernel headers of a board: what is in use stays, whatever uses it, and nothing else."""

from __future__ import annotations

from biotrain.emit.trim import trimmed

HEADERS = {
    "bt_low.h": """\
#ifndef BT_LOW_H
#define BT_LOW_H
/* One. */
BT_KERNEL int bt_one(int x)
{
  return x + 1;
}

/* Calls itself, and nobody else does. */
BT_KERNEL int bt_again(int x)
{
  return x > 0 ? bt_again(x - 1) : 0;
}
#endif
""",
    "bt_mid.h": """\
#ifndef BT_MID_H
#define BT_MID_H
#include "bt_low.h"
BT_KERNEL int bt_unused(int x) { return bt_one(x); }
#endif
""",
    "bt_top.h": """\
#ifndef BT_TOP_H
#define BT_TOP_H
#include "bt_mid.h"
#if BT_VECTOR
BT_KERNEL int bt_wide(int x) { return bt_one(x); }
#else
BT_KERNEL int bt_called(int x)
{
  return bt_one(x);
}
#endif
#endif
""",
}


def test_what_is_called_stays_and_the_rest_goes() -> None:
    found = trimmed(HEADERS, '#include "bt_top.h"\nint y = bt_called(1);', {"BT_VECTOR": False})
    assert sorted(found) == ["bt_low.h", "bt_top.h"]
    assert "bt_one" in found["bt_low.h"]
    assert "/* One. */" in found["bt_low.h"]
    assert "bt_again" not in found["bt_low.h"], "a function that calls itself is not in use"
    assert "Calls itself" not in found["bt_low.h"]
    assert "bt_called" in found["bt_top.h"]
    assert "bt_wide" not in found["bt_top.h"]
    assert '#include "bt_low.h"' in found["bt_top.h"], "the header between them is gone"
    assert "bt_mid.h" not in found["bt_top.h"]


def test_a_condition_that_is_met_has_its_first_branch() -> None:
    (text,) = (
        trimmed(HEADERS, "int y = bt_wide(1);", {"BT_VECTOR": True})[k] for k in ("bt_top.h",)
    )
    assert "bt_wide" in text
    assert "bt_called" not in text


def test_a_header_with_one_name_in_use_stays() -> None:
    more = {"bt_two.h": "#define BT_A 1\n#define BT_B 2\n", "bt_none.h": "#define BT_C 3\n"}
    assert trimmed(more, "int y = BT_B;", {}) == {"bt_two.h": more["bt_two.h"]}


def test_two_packages_of_one_firmware_share_whole_headers() -> None:
    found = trimmed(HEADERS, "", {"BT_VECTOR": False}, shared=True)
    assert sorted(found) == sorted(HEADERS)
    assert "bt_unused" in found["bt_mid.h"]

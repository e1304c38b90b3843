# SPDX-License-Identifier: Apache-2.0
"""Kernel calls that share code: functions of their own instead of a copy of the kernel per node.

A kernel is inlined and specialised by the constants of its call. On a microcontroller code is
scarce, so calls share it in two ways:

- *alike*: calls with the same constants, such as a layer in `bt_predict` and in training, become
  calls of one function, which has the constants inside and takes pointers. It costs no time.
- *general*: calls of one kernel become calls of one function that takes geometry and box at run
  time. Only with `optimize="size"`: even in cheap nodes it costs a tenth of the cycles.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from biotrain.emit.text import wrap
from biotrain.ir.op import Call
from biotrain.ops import SOURCES
from biotrain.planner.request import Optimize

SPECIALISED = ("bt_linear", "bt_fir", "bt_fft")
"""Beginnings of the kernels whose body depends on constants: at run time they are long and slow.
Convolutions have another body for that, `bt_conv_small.h`."""

_SIGNATURE = re.compile(r"^BT_KERNEL void (bt_\w+)\(([^)]*)\)\n?\{", re.M)
_PARAMETER = re.compile(r"(.*?)(\w+)")
_VIEW = re.compile(r"(bt_(?:read|write)(?:8|16)?(?:_at)?)\(([^,]+)(, .*)\)$")
_CONSTANT = re.compile(r"-?(?:0[xX][\w.+-]+|\d[\w.]*|NULL)")
_WORD = re.compile(r"\b[A-Za-z_]\w*")
_ATTRIBUTES = """\
/* Kernel calls that several nodes share: once in the code. */
#if defined(__GNUC__) && !defined(__clang__)
#define BT_SHARED static __attribute__((noinline, noclone))
#elif defined(__GNUC__)
#define BT_SHARED static __attribute__((noinline))
#else
#define BT_SHARED static
#endif
"""


@lru_cache
def signatures() -> dict[str, tuple[tuple[str, str], ...]]:
    """Parameters of every kernel as (type, name), read from the headers that define them."""
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for path in sorted(SOURCES.glob("bt_*.h")):
        for match in _SIGNATURE.finditer(path.read_text(encoding="utf-8")):
            parts = [_PARAMETER.fullmatch(" ".join(p.split())) for p in match[2].split(",")]
            found[match[1]] = tuple(
                (p[1].replace("restrict ", "").strip(), p[2]) for p in parts if p is not None
            )
    return found


class Routines:
    """The shared functions of one file. It is printed twice, first to count what is alike."""

    def __init__(self, optimize: Optimize) -> None:
        self._optimize = optimize
        self._seen: dict[str, int] = {}
        self._names: dict[str, str] = {}
        self._definitions: list[str] = []
        self.counting = True

    def call(
        self, call: Call, geometry: str, box: str, arguments: Sequence[str]
    ) -> tuple[str, list[str]]:
        """The function to call for a node, and its arguments."""
        function = call.function
        items = [geometry, box, *arguments, *call.extra]
        signature = signatures().get(function)
        if signature is None or len(signature) != len(items):
            return call.function, items
        if self._general(function):
            return self._at_run_time(function, signature, items)
        return self._alike(function, signature, items)

    def _general(self, function: str) -> bool:
        if function.startswith(SPECIALISED):
            return False
        return self._optimize == "size"

    def _at_run_time(
        self, function: str, signature: Sequence[tuple[str, str]], items: list[str]
    ) -> tuple[str, list[str]]:
        kind, name = signature[0]
        flat = kind == "bt_flat"
        key = f"general {function}"
        if key not in self._names:
            self._names[key] = self._name(function)
            first = f"{kind} {name}" if flat else f"const {kind} *{name}"
            parameters = [first, *(_declared(k, n) for k, n in signature[1:])]
            inner = [name if flat else f"*{name}", *(n for _, n in signature[1:])]
            self._define(self._names[key], parameters, f"{function}({', '.join(inner)});")
        return self._names[key], [items[0] if flat else f"&{items[0]}", *items[1:]]

    def _alike(
        self, function: str, signature: Sequence[tuple[str, str]], items: list[str]
    ) -> tuple[str, list[str]]:
        parameters: list[str] = []
        given: list[str] = []
        inner: list[str] = []
        own = {"i", "count", "worker", "NULL"}

        def parameter(kind: str, name: str, value: str) -> str:
            own.add(name)
            parameters.append(_declared(kind, name))
            given.append(value)
            return name

        for (kind, name), item in zip(signature, items, strict=True):
            if found := _VIEW.match(item):
                maker, pointer, rest = found.groups()
                inner.append(f"{maker}({parameter(_pointer(maker), name, pointer)}{rest})")
            elif item == "NULL" or _CONSTANT.fullmatch(item) or kind.startswith("bt_"):
                inner.append(item)
            else:
                inner.append(parameter(kind, name, item))
        text = f"{function}({', '.join(inner)});"
        words = set(_WORD.findall(text.partition("(")[2]))
        if any(not w.startswith(("bt_", "k_")) for w in words - own):
            return function, items  # depends on a variable of its caller
        for name in ("i", "worker"):
            if re.search(rf"\b{name}\b", text):
                parameters.append(f"int {name}")
                given.append(name)
        if self.counting:
            self._seen[text] = self._seen.get(text, 0) + 1
            return function, items
        if self._seen.get(text, 0) < 2:
            return function, items
        if text not in self._names:
            self._names[text] = self._name(function)
            self._define(self._names[text], parameters, text)
        return self._names[text], given

    def _name(self, function: str) -> str:
        base = f"do_{function.removeprefix('bt_')}"
        taken = set(self._names.values())
        name, i = base, 1
        while name in taken:
            i += 1
            name = f"{base}_{i}"
        return name

    def _define(self, name: str, parameters: Sequence[str], body: str) -> None:
        head = f"BT_SHARED void {name}({', '.join(parameters) or 'void'})"
        glued = body.replace("{.", "{\x00.").replace("\x00.", ".")
        self._definitions += [*wrap(head, "", "    "), "{", *wrap(glued, "  ", "      "), "}", ""]

    def lines(self) -> list[str]:
        """Their definitions."""
        return [*_ATTRIBUTES.splitlines(), "", *self._definitions] if self._definitions else []


def _declared(kind: str, name: str) -> str:
    return f"{kind}{name}" if kind.endswith("*") else f"{kind} {name}"


def _pointer(maker: str) -> str:
    kind = "uint8_t" if "8" in maker else "int16_t" if "16" in maker else "float"
    return f"{'const ' if 'read' in maker else ''}{kind} *"

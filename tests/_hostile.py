# SPDX-License-Identifier: Apache-2.0
"""Input that nobody should give: values for every option of every verb, and damaged files."""

from __future__ import annotations

import json
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import typer

from biotrain.cli import app
from biotrain.cli.data import app as data_app

SECONDS = 60
"""Processor time that one case may take."""

SPARE_BYTES = 6 * 2**30
"""Address space that a case may take on top of what the process has."""

WHOLE = ("0", "-1", "2", "4097", "2147483648", "9223372036854775808", "1" + "0" * 400, "9" * 5000)
NUMBERS = ("nan", "inf", "-inf", "1e400", "-1", "0", "1e-320", "1e-9", "1e308", "0.5")
TEXTS = (
    "", " ", ",", "nan", "-1", "1e400", "256", "[", "fp16:[", "fp16:", "*", "**", "\0", "a\nb",
    "../..", "é" * 3, "a" * 5000, "json:loads", "sys:exit", ":", "a:b:c", "9" * 5000, "/dev/full",
    "bids:", "moabb:", "moabb:nothing", "none,none", "adabn+adabn+full", "1,1", "x=", "=1",
    "last=nan", "last=1e400", "host",
)  # fmt: skip
PATHS = ("", ".", "/", "/dev/null", "/dev/full", "/proc/self/mem", "/proc/none/x", "a\0b",
         "a" * 300, "x.png", "x.svg", "x.pt2")  # fmt: skip

SMALL = ("mibminet", "--chans", "2", "--times", "64", "--classes", "3", "--sfreq", "125")
DATA = "{data}"
"""Stands for a file of small recordings."""

LEARN = ("--data", DATA, "--pretrain-epochs", "0", "--epochs", "1", "--strategies", "last")
BASE: dict[str, tuple[str, ...]] = {
    "list": (),
    "prepare": SMALL,
    "plan": (*SMALL, "--no-frontier"),
    "compile": (*SMALL, "--out", "{tmp}/c"),
    "run": (*SMALL, "--samples", "2"),
    "verify": (*SMALL, "--steps", "1", "--seeds", "1"),
    "adapt": (*LEARN, "--subject", "2"),
    "live": ("--data", DATA, "--seconds", "1", "--calibrate", "0", "--pretrain-epochs", "0"),
    "demo": ("--out", "{tmp}/demo"),
    "study": (*LEARN, "--out", "{tmp}/study", "--subject", "2"),
    "report": ("{study}",),
    "data list": (),
    "data info": (DATA,),
    "data convert": ("emg_myo", "{tmp}", "--out", "{tmp}/out.npz"),
}
"""Arguments with which a verb does its work, in little time; `demo` is stopped by its test."""

IN_PLACE_OF = {"model": ("mibminet",), "data": (DATA,), "folder": ("{study}",)}
"""Positional arguments that a hostile one takes the place of."""


@dataclass(frozen=True)
class Call:
    """One call of the command line: {data}, {tmp} and {study} stand for paths."""

    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(a if len(a) < 40 else f"{a[:8]}({len(a)})" for a in self.arguments)


def calls() -> Iterator[Call]:
    """Every option and argument of every verb with each hostile value of its kind."""
    root: Any = typer.main.get_command(app)
    for verb, base in BASE.items():
        command = root
        for word in verb.split():
            command = command.commands[word]
        kinds = get_type_hints(_callback(verb))
        for parameter in command.params:
            for value in _values(kinds.get(parameter.name, bool)):
                yield Call((*verb.split(), *_replaced(base, parameter, value)))


def _callback(verb: str) -> Callable[..., Any]:
    """The function behind a verb, whose annotations say of which kind its parameters are."""
    group, _, name = verb.rpartition(" ")
    known = data_app if group else app
    found = next(c.callback for c in known.registered_commands if c.name == name)
    assert found is not None
    return found


def _values(kind: Any) -> tuple[str, ...]:
    """Hostile values for an option of the type `kind`; none for a switch."""
    kinds = [one for one in get_args(kind) or (kind,) if one is not type(None)]
    if get_origin(kinds[0]) is Literal or isinstance(kinds[0], str):
        return ("", "nothing", "\0")
    for known, values in ((bool, ()), (int, WHOLE), (float, NUMBERS), (Path, PATHS)):
        if kinds[0] is known:
            return values
    return TEXTS


def _replaced(base: tuple[str, ...], parameter: Any, value: str) -> tuple[str, ...]:
    """The arguments of a verb with one of them given, in place of what stood there."""
    if parameter.param_type_name == "argument":
        rest = list(base)
        if rest and not rest[0].startswith("--"):
            rest.pop(0)
        return (*rest, "--", value)
    kept = list(base)
    for name in parameter.opts:
        while name in kept:
            at = kept.index(name)
            del kept[at : at + 2]
    return (*kept, parameter.opts[0], value)


@contextmanager
def bounded(seconds: int = SECONDS, spare: int = SPARE_BYTES) -> Iterator[None]:
    """Processor time and memory that one case may take (and ten times as long on the clock); it
    ends with TimeoutError or MemoryError."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = [(kind, signal.signal(kind, late)) for kind in (signal.SIGPROF, signal.SIGALRM)]
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for kind, handler in before:
            signal.signal(kind, handler)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ---------------------------------------------------------------- files

NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1.5, float("nan"), float("inf"), 1e308, "", "x", "\0", "é" * 3,
    "a" * 3000, [], {}, [[]], [None], [1, "a"], {"a": {}}, {"": 0}, [0] * 300,
)  # fmt: skip
"""Values that stand in a file in place of another one."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes that were cut, flipped, doubled, or lost in the middle."""
    text = bytearray(data)
    head = rng.choice((len(text), len(text), 1024, 64))  # headers decide more than samples
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if not text:
            break
        at, kind = rng.randrange(min(head, len(text))), rng.randrange(6)
        end = min(len(text), at + rng.choice((1, 4, 64)))
        if kind == 0:
            del text[at:]
        elif kind == 1:
            text[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            text[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
        elif kind == 3:
            del text[at:end]
        elif kind == 4:
            text[at:at] = text[at:end]
        else:
            text[at:end] = rng.choice((b"\xff", b"\0")) * (end - at)
    return bytes(text)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside of a JSON value, itself included."""
    yield path
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in inside:
            yield from places(one, (*path, key))


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a JSON value with another one at `path`."""
    if not path:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(value[path[0]], path[1:], new)
    return copy


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy of a JSON value that lacks what stands at `path`."""
    if not path:
        return None
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(value[path[0]], path[1:])
    return copy


def changed(value: Any, rng: random.Random) -> Any:
    """A JSON value in which one place holds something else, or is missing."""
    path = rng.choice(list(places(value)))
    if path and rng.random() < 0.15:
        return without(value, path)
    return with_value(value, path, rng.choice(NASTY))


def as_toml(value: Any) -> str:
    """A dictionary as TOML, tables in one line; what TOML cannot say is left out."""
    lines = [f"{json.dumps(str(k))} = {_inline(v)}" for k, v in value.items() if v is not None]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        inside = (f"{json.dumps(str(k))} = {_inline(v)}" for k, v in value.items())
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(v) for v in value if v is not None) + "]"
    if isinstance(value, float):
        return {"NaN": "nan", "Infinity": "inf"}.get(text := json.dumps(value), text)
    if value is None:
        return '""'
    return json.dumps(value)


DEEP_JSON = b"[" * 100_000
DEEP_TOML = b"a = " + b"[" * 100_000
DEEP_TABLES = b"[" + b".".join([b"a"] * 20_000) + b"]\n"
DIGITS = b"fs = " + b"9" * 5000 + b"\n"
JSON_DIGITS = b'{"a": ' + b"9" * 5000 + b"}"


def nasty_arrays(array: Any) -> Iterator[Any]:
    """Arrays in place of another one: shapes, kinds and values that do not belong there."""
    given = np.asarray(array)
    yield from (np.array(v) for v in (-1, 0, 10**18, 1.5, np.nan, np.inf, 1e308, "", "x", True, 1j))
    yield from (np.zeros(0), np.zeros((0, 3)), np.zeros((2, 2, 2, 2)), np.array(["a", "b"]))
    yield np.array([np.datetime64("nat")])
    yield np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])
    yield np.array([b"x"])
    yield given[..., None]
    yield given.ravel()[:1]
    yield given.astype("U8")
    if given.dtype.kind in "iuf" and given.size:
        for value in (-1, 2**31, 1e308):
            with np.errstate(all="ignore"):
                wide = given.astype(np.float64 if isinstance(value, float) else np.int64)
            wide.ravel()[-1:] = value
            yield wide


def npy_with(header: str, data: bytes = b"") -> bytes:
    """An array file whose header says what it wants."""
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + (len(text) & 0xFFFF).to_bytes(2, "little") + text + data


HEADERS = (
    "{'descr': '<i2', 'fortran_order': False, 'shape': (9223372036854775807,)}",
    "{'descr': '<i2', 'fortran_order': False, 'shape': (4000000000, 4000000000, 3)}",
    "{'descr': '<i2', 'fortran_order': False, 'shape': (-1, 2, 3)}",
    "{'descr': '<i2', 'fortran_order': False, 'shape': (100000000000,)}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
    "{'descr': 'nothing', 'fortran_order': False, 'shape': (3,)}",
    "{'descr': '<U999999999', 'fortran_order': False, 'shape': (9,)}",
    "{'descr': '<i2', 'fortran_order': False, 'shape': " + "(" * 300 + ")" * 300 + "}",
    "{'descr': '<i2', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}",
    "(" * 9000,
    "__import__('os')",
    "",
)
"""Headers of arrays that lie, nest, or are none."""

Reader = Callable[[Path], object]

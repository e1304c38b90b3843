# SPDX-License-Identifier: Apache-2.0
"""The C runtime's base: elementary functions, CRC-32, status texts, checkpoints."""

from __future__ import annotations

import ctypes
import re
import zlib
from functools import cache

import numpy as np
import pytest
from _cc import (
    RUNTIME,
    CompileError,
    compiler_notes,
    compilers,
    fused_flags,
    has_fma,
    shared_library,
)
from scipy import special

# ---- elementary functions -----------------------------------------------------------------------


def _cospi(x: np.ndarray) -> np.ndarray:
    a = np.abs(np.fmod(x, 2.0))
    a = np.minimum(a, 2.0 - a)
    sign, b = np.where(a > 0.5, -1.0, 1.0), np.minimum(a, 1.0 - a)
    y = np.where(b <= 0.25, np.cos(np.pi * b), np.sin(np.pi * (0.5 - b)))
    return np.where(b == 0.5, 0.0, sign * y)


# name: (float64 reference, bar in ulp of the result)
FUNCTIONS = {
    "expf": (np.exp, 1.1),
    "logf": (np.log, 1.0),
    "log1pf": (np.log1p, 1.0),
    "tanhf": (np.tanh, 2.0),
    "sigmoidf": (special.expit, 2.0),
    "erff": (special.erf, 1.5),
    "cospif": (_cospi, 1.75),
    "rsqrtf": (lambda x: 1.0 / np.sqrt(x), 1.5),
}
NAN_IS_THE_CORES = ("rsqrtf",)

MATH_DRIVER = (
    '#include "bt_math.h"\n#include <stddef.h>\n'
    "#define LOOP(f) void v_##f(float *restrict y, const float *restrict x, size_t n); \\\n"
    "    void v_##f(float *restrict y, const float *restrict x, size_t n) \\\n"
    "    { for (size_t i = 0; i < n; i++) y[i] = bt_##f(x[i]); }\n"
    + "".join(f"LOOP({name})\n" for name in FUNCTIONS)
    + "void v_muladd(float *y, const float *a, const float *b, const float *c, size_t n);\n"
    "void v_muladd(float *y, const float *a, const float *b, const float *c, size_t n)\n"
    "{ for (size_t i = 0; i < n; i++) y[i] = bt_fma(a[i], b[i], c[i]); }\n"
    "void v_maxmin(float *y, const float *a, const float *b, size_t n);\n"
    "void v_maxmin(float *y, const float *a, const float *b, size_t n)\n"
    "{ for (size_t i = 0; i < n; i++) y[i] = bt_maxf(bt_minf(a[i], b[i]), -bt_absf(b[i])); }\n"
    "void v_finite(float *y, const float *x, size_t n);\n"
    "void v_finite(float *y, const float *x, size_t n)\n"
    "{ for (size_t i = 0; i < n; i++) y[i] = bt_isfinite(x[i]) ? 1.0f : 0.0f; }\n"
)

MODES = ["separate", "fused"]
UBSAN = ("-O1", "-fsanitize=undefined,float-cast-overflow", "-fsanitize-undefined-trap-on-error")
BUILDS = [
    (compiler, flags)
    for compiler in compilers()
    for flags in [("-O0",), ("-O2",), ("-O3", "-march=native")]
    + ([UBSAN] if compiler == "gcc" else [])
]


def _flags(mode: str) -> tuple[str, ...]:
    if mode == "separate":
        return ("-DBT_FUSED=0",)
    if not has_fma():
        pytest.skip("this machine has no fused multiply-add")
    return fused_flags()


def _run(library: ctypes.CDLL, name: str, *inputs: np.ndarray) -> np.ndarray:
    y = np.empty_like(inputs[0])
    arrays = [ctypes.c_void_p(a.ctypes.data) for a in (y, *inputs)]
    getattr(library, f"v_{name}")(*arrays, ctypes.c_size_t(y.size))
    return y


@cache
def _arguments(count: int) -> np.ndarray:
    """Floats over all bit patterns (low bits mixed), dense where the functions bend, the ends."""
    i = np.arange(count, dtype=np.uint64)
    step = 2**32 // count
    strided = (i * step + i * 0x9E3779B1 % step).astype(np.uint32).view(np.float32)
    m = count // 16
    rng = np.random.default_rng(1)
    dense = [
        rng.uniform(-a, a, m).astype(np.float32) for a in (0.1, 0.5, 1.0, 4.0, 10.0, 90.0, 105.0)
    ]
    edges = [0.0, 1.0, 0.5, 2.0, 89.0, 88.72284, 87.33655, 103.97208, 104.0, 9.011, 3.925, 2.0**24]
    edges += [2.0**-25, 1.1754944e-38, 1e-45, 3.4028235e38, np.sqrt(0.5), np.sqrt(2.0), 1.25, 1e7]
    ends = np.array(edges, np.float32).view(np.uint32)
    near = (ends[:, None] + np.arange(-9, 10, dtype=np.int64)).clip(0, 0xFFFFFFFF).ravel()
    near = np.r_[near, 0x7F800000, 0x7FC00000, 0x7F800001, 0x7FFFFFFF].astype(np.uint32)
    near = np.r_[near, near | np.uint32(0x80000000)].view(np.float32)
    return np.concatenate([strided, *dense, near])


@cache
def _reference(name: str, count: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        return FUNCTIONS[name][0](_arguments(count).astype(np.float64))


def _ulp_error(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance in units of the last place of float32 at `want` (finite, not overflowing)."""
    exponent = np.maximum(np.frexp(want)[1] - 24, -149)
    return np.abs(got.astype(np.float64) - want) * np.ldexp(1.0, -exponent)


@pytest.mark.sample(test=8)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_ulp(name: str, mode: str) -> None:
    compiler = compilers()[0]
    library = shared_library(MATH_DRIVER, ("-O3", "-march=native", *_flags(mode)), compiler)
    x, want = _arguments(2**22), _reference(name, 2**22)
    got = _run(library, name, x)
    with np.errstate(all="ignore"):
        rounded = want.astype(np.float32)
    nan = np.isnan(want)
    bits = got.view(np.uint32)
    assert np.isnan(got[nan]).all()
    if name not in NAN_IS_THE_CORES:
        assert (bits[nan] == 0x7FC00000).all()
    # Zeros, infinities and overflow: the very bits, sign included.
    exact = ~nan & (np.isinf(rounded) | (want == 0.0))
    assert (bits[exact] == rounded.view(np.uint32)[exact]).all()
    rest = ~nan & ~exact
    error = _ulp_error(got[rest], want[rest])
    worst = int(error.argmax())
    assert error[worst] <= FUNCTIONS[name][1], f"{name}({float(x[rest][worst]).hex()})"


@pytest.mark.parametrize("mode", MODES)
def test_same_bits_in_every_build(mode: str) -> None:
    x = _arguments(2**18)
    sums: dict[str, dict[str, int]] = {}
    for compiler, flags in BUILDS:
        library = shared_library(MATH_DRIVER, (*flags, *_flags(mode)), compiler)
        for name in FUNCTIONS:
            y = _run(library, name, x)
            if name in NAN_IS_THE_CORES:
                y = y[~np.isnan(y)]
            sums.setdefault(name, {})[f"{compiler} {' '.join(flags)}"] = zlib.crc32(y.tobytes())
    for name, by_build in sums.items():
        assert len(set(by_build.values())) == 1, (name, by_build)


@pytest.mark.parametrize("mode", MODES)
def test_vector_and_scalar_agree(mode: str) -> None:
    library = shared_library(MATH_DRIVER, ("-O3", "-march=native", *_flags(mode)), compilers()[0])
    x = _arguments(2**18)[::257].copy()
    for name in FUNCTIONS:
        whole = _run(library, name, x).view(np.uint32)
        parts = [_run(library, name, x[i : i + 1]) for i in range(x.size)]
        single = np.concatenate(parts).view(np.uint32)
        both = ~np.isnan(whole.view(np.float32)) if name in NAN_IS_THE_CORES else slice(None)
        assert (whole[both] == single[both]).all(), name


@pytest.mark.parametrize("mode", MODES)
def test_multiply_add_rounds_as_the_mode_says(mode: str) -> None:
    rng = np.random.default_rng(2)
    a, b, c = (rng.standard_normal(2**16).astype(np.float32) for _ in range(3))
    c[::2] = -(a[::2] * b[::2])  # cancels: what is left is the rounding of the product
    product = a.astype(np.float64) * b.astype(np.float64)  # exact
    if mode == "fused":
        total = product + c
        want = total.astype(np.float32)
        lost = (product - (total - c)) + (c - (total - (total - c)))
        sure = lost == 0.0  # the float64 sum was exact, so one rounding was made
        assert sure.mean() > 0.5
    else:
        want, sure = product.astype(np.float32) + c, np.ones(a.size, bool)
    for compiler, flags in BUILDS:
        library = shared_library(MATH_DRIVER, (*flags, *_flags(mode)), compiler)
        got = _run(library, "muladd", a, b, c)
        assert (got.view(np.uint32)[sure] == want.view(np.uint32)[sure]).all(), (compiler, flags)


def test_max_min_abs_isfinite() -> None:
    values = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    a, b = (v.ravel().copy() for v in np.meshgrid(values, values))
    smaller = np.where(a < b, a, b)
    want = np.where(smaller > -np.abs(b), smaller, -np.abs(b))
    for compiler, flags in BUILDS:
        library = shared_library(MATH_DRIVER, flags, compiler)
        got = _run(library, "maxmin", a, b)
        equal = (got.view(np.uint32) == want.view(np.uint32)) | (np.isnan(got) & np.isnan(want))
        assert equal.all(), (compiler, flags)
        assert (_run(library, "finite", a) == np.isfinite(a)).all()


@pytest.mark.parametrize("mode", MODES)
def test_loops_are_vectorised(mode: str) -> None:
    if "gcc" not in compilers():
        pytest.skip("needs gcc")
    notes = compiler_notes(MATH_DRIVER, ("-O3", "-march=native", "-fopt-info-vec", *_flags(mode)))
    columns = set(re.findall(r":(\d+):\d+: optimized: loop vectorized", notes))
    lines = MATH_DRIVER.splitlines()
    vectorised = {lines[int(line) - 1] for line in columns}
    assert {f"LOOP({name})" for name in FUNCTIONS} <= vectorised, notes


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-ffast-math",), "without -ffast-math"),
        (("-ffinite-math-only",), "without -ffinite-math-only"),
    ],
)
def test_refuses_builds_that_change_bits(flags: tuple[str, ...], words: str) -> None:
    if "gcc" not in compilers():
        pytest.skip("needs gcc")
    with pytest.raises(CompileError, match=re.escape(words)):
        shared_library(MATH_DRIVER, flags, "gcc")


# ---- CRC-32 -------------------------------------------------------------------------------------

STORE_DRIVER = """
#include "bt_checkpoint.h"
uint32_t crc(uint32_t c, const void *p, size_t n);
uint32_t crc(uint32_t c, const void *p, size_t n) { return bt_crc32(c, p, n); }
const char *text(int s);
const char *text(int s) { return bt_status_text((bt_status)s); }
size_t bytes(const bt_segment *s, size_t n);
size_t bytes(const bt_segment *s, size_t n) { return bt_checkpoint_bytes(s, n); }
int put(void *p, size_t m, const bt_segment *s, size_t n, uint32_t f, uint32_t q);
int put(void *p, size_t m, const bt_segment *s, size_t n, uint32_t f, uint32_t q)
{ return (int)bt_checkpoint_write(p, m, s, n, f, q); }
int check(const void *p, size_t m, uint32_t f);
int check(const void *p, size_t m, uint32_t f) { return (int)bt_checkpoint_check(p, m, f); }
int get(const void *p, size_t m, const bt_segment *s, size_t n, uint32_t f);
int get(const void *p, size_t m, const bt_segment *s, size_t n, uint32_t f)
{ return (int)bt_checkpoint_read(p, m, s, n, f); }
int choose(const void *a, size_t n, const void *b, size_t m, uint32_t f);
int choose(const void *a, size_t n, const void *b, size_t m, uint32_t f)
{ return (int)bt_checkpoint_choose(a, n, b, m, f); }
uint32_t sequence(const void *p);
uint32_t sequence(const void *p) { return bt_checkpoint_sequence(p); }
int stream(bt_checkpoint_sink k, const bt_segment *s, size_t n, uint32_t f, uint32_t q);
int stream(bt_checkpoint_sink k, const bt_segment *s, size_t n, uint32_t f, uint32_t q)
{ return (int)bt_checkpoint_stream(k, NULL, s, n, f, q); }
"""

STATUS = re.findall(r"^  (BT_\w+)(?: = 0)?,? ", (RUNTIME / "bt_status.h").read_text(), re.MULTILINE)
OK, SHORT, FOREIGN, CORRUPT, WRITE = (
    STATUS.index(f"BT_{name}")
    for name in (
        "OK",
        *(f"ERR_CHECKPOINT_{kind}" for kind in ("SHORT", "FOREIGN", "CORRUPT", "WRITE")),
    )
)


class Segment(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


@cache
def _store(compiler: str) -> ctypes.CDLL:
    flags = UBSAN if compiler == "gcc" else ("-O2",)
    library = shared_library(STORE_DRIVER, flags, compiler)
    size, u32, pointer = ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p
    library.crc.argtypes, library.crc.restype = (u32, pointer, size), u32
    library.text.restype = ctypes.c_char_p
    library.bytes.argtypes, library.bytes.restype = (pointer, size), size
    library.put.argtypes = (pointer, size, pointer, size, u32, u32)
    library.check.argtypes = (pointer, size, u32)
    library.get.argtypes = (pointer, size, pointer, size, u32)
    library.choose.argtypes = (pointer, size, pointer, size, u32)
    library.sequence.argtypes, library.sequence.restype = (pointer,), u32
    library.stream.argtypes = (pointer, pointer, size, u32, u32)
    return library


@pytest.fixture(params=compilers())
def store(request: pytest.FixtureRequest) -> ctypes.CDLL:
    return _store(request.param)


def test_crc_is_that_of_zlib(store: ctypes.CDLL) -> None:
    rng = np.random.default_rng(3)
    for size in [0, 1, 2, 3, 4, 9, 255, 256, 10_001]:
        data = rng.bytes(size)
        assert store.crc(0, data, size) == zlib.crc32(data)
        cut = size // 3
        assert store.crc(store.crc(0, data[:cut], cut), data[cut:], size - cut) == zlib.crc32(data)
    assert store.crc(0, b"123456789", 9) == 0xCBF43926


def test_every_status_has_its_own_text(store: ctypes.CDLL) -> None:
    assert STATUS[0] == "BT_OK"
    assert STATUS[-1] == "BT_STATUS_COUNT"
    assert len(STATUS) > 10
    texts = [store.text(i) for i in range(len(STATUS))]
    assert len(set(texts)) == len(texts)
    assert texts[-1] == b"unknown status"


# ---- checkpoints --------------------------------------------------------------------------------

MODEL = 0x1234ABCD


class State:
    """Weights, an empty segment, momentum and counters, as the C sees them."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.parts = [
            rng.standard_normal(7).astype(np.float32),
            np.empty(0, np.float32),
            rng.standard_normal(5).astype(np.float32),
            rng.integers(0, 256, 3, np.uint8),
        ]
        pairs = [Segment(a.ctypes.data if a.size else None, a.nbytes) for a in self.parts]
        self.segments = (Segment * len(pairs))(*pairs)
        self.count = len(pairs)

    def payload(self) -> bytes:
        return b"".join(a.tobytes() for a in self.parts)


def _image(store: ctypes.CDLL, state: State, sequence: int = 7, model: int = MODEL) -> bytes:
    size = store.bytes(state.segments, state.count)
    slot = ctypes.create_string_buffer(size)
    assert store.put(slot, size, state.segments, state.count, model, sequence) == OK
    return slot.raw


def test_checkpoint_layout(store: ctypes.CDLL) -> None:
    state = State(1)
    body = b"BTCK" + np.array([1, MODEL, 7, 51], "<u4").tobytes() + state.payload()
    assert _image(store, state) == body + zlib.crc32(body).to_bytes(4, "little")


@pytest.mark.parametrize("spare", [0, 1, 13])
def test_checkpoint_round_trip(store: ctypes.CDLL, spare: int) -> None:
    saved, other = State(1), State(2)
    image = _image(store, saved) + b"\xff" * spare
    assert store.check(image, len(image), MODEL) == OK
    assert store.sequence(image) == 7
    assert store.get(image, len(image), other.segments, other.count, MODEL) == OK
    assert other.payload() == saved.payload()


def test_checkpoint_needs_room(store: ctypes.CDLL) -> None:
    state = State(1)
    size = store.bytes(state.segments, state.count)
    slot = ctypes.create_string_buffer(b"\xa5" * size, size)
    for room in range(size):
        assert store.put(slot, room, state.segments, state.count, MODEL, 1) == SHORT
    assert slot.raw == b"\xa5" * size


def _refused(store: ctypes.CDLL, image: bytes, model: int = MODEL) -> int:
    state = State(2)
    before = state.payload()
    status = store.get(image, len(image), state.segments, state.count, model)
    assert state.payload() == before
    assert status == store.check(image, len(image), model) != OK
    assert store.choose(image, len(image), None, 0, model) == -1
    return int(status)


def test_every_truncation_is_refused(store: ctypes.CDLL) -> None:
    image = _image(store, State(1))
    for size in range(len(image)):
        assert _refused(store, image[:size]) == SHORT


def test_every_flipped_bit_is_refused(store: ctypes.CDLL) -> None:
    image = _image(store, State(1))
    for bit in range(8 * len(image)):
        flipped = bytearray(image)
        flipped[bit // 8] ^= 1 << bit % 8
        status = _refused(store, bytes(flipped))
        assert status == FOREIGN if bit < 64 else status in (SHORT, CORRUPT)


def test_checkpoint_of_another_model_is_refused(store: ctypes.CDLL) -> None:
    image = _image(store, State(1))
    assert _refused(store, image, MODEL + 1) == FOREIGN
    assert _refused(store, b"\xff" * len(image)) == FOREIGN
    fewer = State(2)
    before = fewer.payload()
    assert store.get(image, len(image), fewer.segments, fewer.count - 1, MODEL) == FOREIGN
    assert fewer.payload() == before


@pytest.mark.parametrize(
    ("a", "b", "newer"),
    [(1, 2, 1), (2, 1, 0), (5, 5, 0), (0xFFFFFFFF, 0, 1), (0, 0xFFFFFFFF, 0), (0xFFFFFFF0, 3, 1)],
)
def test_the_newer_slot_is_chosen(store: ctypes.CDLL, a: int, b: int, newer: int) -> None:
    state = State(1)
    slot_a, slot_b = _image(store, state, a), _image(store, state, b)
    size, erased = len(slot_a), b"\xff" * len(slot_a)
    assert store.choose(slot_a, size, slot_b, size, MODEL) == newer
    assert store.choose(slot_a, size, erased, size, MODEL) == 0
    assert store.choose(erased, size, slot_b, size, MODEL) == 1
    assert store.choose(erased, size, erased, size, MODEL) == -1
    assert store.choose(slot_a, size, slot_b, size, MODEL + 1) == -1


@pytest.mark.parametrize("erase_first", [True, False])
def test_a_power_cut_at_any_byte_leaves_the_previous(store: ctypes.CDLL, erase_first: bool) -> None:
    first, second, third = State(1), State(2), State(3)
    older, newer = _image(store, first, 1), _image(store, second, 2)
    target = _image(store, third, 3)
    size = len(target)
    rest = b"\xff" * size if erase_first else older
    for cut in range(size + 1):
        slot_a = target[:cut] + rest[cut:]
        chosen = store.choose(slot_a, size, newer, size, MODEL)
        assert chosen == (0 if slot_a == target else 1), cut
    assert slot_a == target


def test_stream_writes_the_same_bytes_in_order(store: ctypes.CDLL) -> None:
    state = State(1)
    image = _image(store, state)
    kind = ctypes.CFUNCTYPE(
        ctypes.c_bool, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t
    )
    for fails_at in range(6):
        written = bytearray()
        calls: list[int] = []

        def sink(context: int, offset: int, data: int, count: int) -> bool:
            assert context is None
            assert offset == len(written)  # noqa: B023
            calls.append(count)  # noqa: B023
            if len(calls) > fails_at:  # noqa: B023
                return False
            written.extend(ctypes.string_at(data, count))  # noqa: B023
            return True

        status = store.stream(kind(sink), state.segments, state.count, MODEL, 7)
        if fails_at < 5:
            assert status == WRITE
            assert calls == [20, 28, 20, 3, 4][: fails_at + 1]
            assert store.check(bytes(written), len(written), MODEL) != OK
        else:
            assert status == OK
            assert bytes(written) == image

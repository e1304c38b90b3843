# SPDX-License-Identifier: Apache-2.0
"""Sample store and checkpoint slots on a model of NOR flash: power cuts, wear, damage, shuffles."""

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from _cc import RUNTIME, STRICT, compilers
from _flash import (
    ALL_CUTS,
    BACK,
    CORRUPT,
    ERASE_STEPS,
    FACTORY,
    FOREIGN,
    FUZZ,
    GEOMETRIES,
    HEADER,
    INCLUDE,
    INDEX,
    LABEL,
    OK,
    SANITIZE,
    SAVE,
    SHORT,
    SPACE,
    UBSAN,
    Bench,
    Slots,
    library,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule


def expected(windows: list[tuple[int, int]], new: tuple[int, int], capacity: int) -> list:
    """The rule of a full store: the oldest window of the most frequent classes makes room."""
    if len(windows) < capacity:
        return [*windows, new]
    labels = [label for _, label in [*windows, new]]
    most = max(map(labels.count, labels))
    victim = next(w for w in windows if labels.count(w[1]) == most)
    return [*(w for w in windows if w != victim), new]


def label_of(i: int) -> int:
    """Three classes, one of them rare."""
    return 2 if i % 11 == 0 else i % 5 % 2


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_it_keeps_what_the_rule_says(geometry: str, old: bool) -> None:
    bench = Bench(geometry, old=old)
    assert bench.status == OK
    assert bench.windows() == []
    capacity = bench.capacity()
    assert capacity >= 1
    model: list[tuple[int, int]] = []
    for i in range(1, 6 * capacity + 20):
        new = (i, label_of(i))
        assert bench.append(*new) == OK
        model = expected(model, new, capacity)
        assert bench.windows() == model
        if i % 7 == 0:
            assert bench.mount() == OK
            assert bench.windows() == model
    assert bench.check() == 0
    assert bench.breaches() == 0
    counts = [sum(label == c for _, label in model) for c in range(3)]
    if capacity > 10:
        assert max(counts[:2]) - min(counts[:2]) <= 1


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_most_of_the_flash_holds_windows(geometry: str) -> None:
    page, pages, _, samples = GEOMETRIES[geometry]
    bench = Bench(geometry)
    blocks, per_block = bench.blocks(), bench.per_block()
    spare = blocks * per_block // 16 + per_block // 2 if per_block > 1 else 0
    assert bench.capacity() == (blocks - 1) * per_block - spare
    assert bench.capacity() * 2 * samples <= page * pages


def test_bad_geometries_and_labels() -> None:
    c = library()
    at = ctypes.c_void_p(c.bench_new())
    assert c.init(at, 256, 1, 4, 20, 3, 0) == SPACE  # one page cannot be erased and hold a window
    assert c.init(at, 256, 4, 4, 400, 3, 0) == SPACE
    assert c.init(at, 256, 4, 4, 0, 3, 0) == SPACE
    assert c.init(at, 96, 40, 4, 20, 3, 0) == SPACE
    assert c.init(at, 256, 4, 12, 20, 3, 0) == SPACE
    assert c.init(at, 64, 3, 64, 4, 3, 0) == SPACE
    assert c.init(at, 256, 8, 4, 20, 17, 0) == LABEL
    assert c.init(at, 256, 8, 4, 20, 0, 0) == LABEL
    assert c.init(at, 256, 8, 4, 20, 3, 0) == OK
    assert c.append(at, 1, 3) == LABEL
    assert c.append(at, 1, 2**32 - 1) == LABEL
    row = (ctypes.c_uint32 * 3)()
    assert c.window(at, 0, row) == INDEX
    c.forget(at)


def test_the_context_is_small() -> None:
    assert library().context_bytes() <= 80 + 4 * 16 + 2 * 512 // 8


def test_a_refused_program_costs_a_slot_until_the_next_mount() -> None:
    """The window goes into another one; a full store then has room for fewer."""
    bench = Bench("several windows in a page")
    model: list[tuple[int, int]] = []
    for i in range(1, 120):
        new = (i, label_of(i))
        if i % 3 == 0:
            bench.fail_next()
        assert bench.append(*new) == OK
        windows = bench.windows()
        assert new in windows
        if i % 3 == 0:
            assert len(windows) == min(len(model) + 1, bench.capacity())
            assert set(windows) <= {*model, new}
            assert bench.mount() == OK
            assert bench.windows() == windows
            model = windows
        else:
            model = expected(model, new, bench.capacity())
            assert windows == model


def test_a_bit_that_changes_later_is_found() -> None:
    bench = Bench("several windows in a page")
    assert [bench.append(i, 0) for i in (1, 2)] == [OK, OK]
    memory = (ctypes.c_uint8 * 256).from_address(bench.memory())
    memory[HEADER + 20 + 7] ^= 16  # a sample of the first window
    row = (ctypes.c_uint32 * 3)()
    assert bench.window(0, row) == CORRUPT
    assert bench.window(1, row) == OK
    assert bench.mount() == OK
    assert bench.windows() == [(2, 0)]


def test_moving_does_not_make_damage_look_whole() -> None:
    """A copy gets a CRC of its own; a window that has changed since must not be copied."""
    bench = Bench("several windows in a page")
    capacity = bench.capacity()
    for i in range(3 * capacity):
        assert bench.append(i, mixed(i) % 3) == OK
    memory = (ctypes.c_uint8 * 2560).from_address(bench.memory())
    for at in range(HEADER + 20 + 7, 2560, 320):  # a sample of each block's first window
        memory[at] ^= 8
    for i in range(capacity):
        assert bench.append(500 + i, mixed(i + 9) % 3) == OK
    assert bench.mount() == OK
    assert bench.check() == 0


def test_clear() -> None:
    bench = Bench("few large sectors")
    for i in range(30):
        assert bench.append(i, 0) == OK
    assert bench.clear() == OK
    assert bench.windows() == []
    assert bench.mount() == OK
    assert bench.windows() == []
    assert bench.append(7, 1) == OK
    assert bench.windows() == [(7, 1)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kept", [0, 5])
def test_wear_is_spread(geometry: str, kept: int) -> None:
    """`kept` windows of a rare class stay for good and are moved all the same."""
    bench = Bench(geometry)
    for i in range(min(kept, bench.capacity() // 3)):
        assert bench.append(i, 2) == OK
    appends = 60 * bench.capacity()
    for i in range(appends):
        assert bench.append(i % 1000, i % 2) == OK
    wear = bench.wear()
    assert max(wear) - min(wear) <= 16  # twice BT_STORE_LAG
    assert sum(wear) >= appends / bench.per_block() * 0.9
    # Copies cost erasures: up to three for one that is needed.
    assert sum(wear) <= 4 * appends / bench.per_block() + bench.blocks()
    assert bench.breaches() == 0


@pytest.mark.parametrize(
    ("page", "pages", "samples"), [(4096, 16, 1000), (4096, 16, 400), (4096, 16, 150)]
)
def test_what_a_window_costs(page: int, pages: int, samples: int) -> None:
    """Flash like that of an nRF52840; `-s` prints what a window costs once the store is full."""
    bench = Bench("several windows in a page")
    assert bench.init(page, pages, 4, samples, 4, 0) == OK
    capacity, appends = bench.capacity(), 2000
    for i in range(3 * capacity):
        assert bench.append(i, i % 4) == OK
    before = bench.programmed(), sum(bench.page_wear(p) for p in range(pages))
    for i in range(appends):
        assert bench.append(i, mixed(i) % 4) == OK
    erasures = (sum(bench.page_wear(p) for p in range(pages)) - before[1]) / appends
    programmed = (bench.programmed() - before[0]) / appends - ERASE_STEPS * erasures
    print(
        f"\n{page * pages // 1024} KiB, windows of {2 * samples} bytes: {capacity} fit, in blocks "
        f"of {bench.per_block()}; a window more costs {programmed:.0f} bytes programmed and "
        f"{erasures:.2f} pages erased; wear {min(bench.wear())} to {max(bench.wear())}"
    )
    assert capacity * 2 * samples > 0.6 * page * pages
    assert programmed < 5 * (2 * samples + 64)
    assert max(bench.wear()) - min(bench.wear()) <= 16


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("geometry", ALL_CUTS)
def test_a_power_cut_at_every_step_of_an_append(geometry: str, old: bool) -> None:
    """Over blank and over old flash, from the first append until the store has wrapped twice."""
    bench = Bench(geometry, old=old)
    cuts = ctypes.c_uint64(0)
    appends = min(2 * bench.capacity() + 3, 45)
    for i in range(1, appends):
        twice = i % 2
        line = bench.all_cuts(i, label_of(i), twice, ctypes.byref(cuts))
        assert line == 0, f"tests/fuzz/checks.h:{line}, append {i}, breach {bench.breaches()}"
    assert cuts.value > 50 * appends


def test_a_power_cut_while_a_block_is_moved_for_its_wear() -> None:
    bench = Bench("several windows in a page")
    for i in range(6):
        assert bench.append(i, 2) == OK
    for i in range(600):
        assert bench.append(i, i % 2) == OK
    cuts = ctypes.c_uint64(0)
    for i in range(60):
        line = bench.all_cuts(1000 + i, i % 2, i % 3 == 0, ctypes.byref(cuts))
        assert line == 0, f"tests/fuzz/checks.h:{line}, append {i}, breach {bench.breaches()}"
    kept = [w for w in bench.windows() if w[1] == 2]
    assert kept == [(i, 2) for i in range(6)]


# ---- a store against its model, in any order of calls -------------------------------------------


class StoreMachine(RuleBasedStateMachine):
    """Appends, cuts, refusals and remounts in any order."""

    @initialize(geometry=st.sampled_from([*GEOMETRIES]), old=st.booleans())
    def start(self, geometry: str, old: bool) -> None:
        self.bench = Bench(geometry, old=old)
        self.model: list[tuple[int, int]] = []
        self.next = 1

    @rule(label=st.integers(0, 2), times=st.integers(1, 9))
    def append(self, label: int, times: int) -> None:
        for _ in range(times):
            assert self.bench.append(self.next, label) == OK
            self.grow(label)

    def grow(self, label: int) -> None:
        self.model = expected(self.model, (self.next, label), self.bench.capacity())
        self.next += 1

    @rule(label=st.integers(0, 2), step=st.integers(1, 1500))
    def append_and_lose_power(self, label: int, step: int) -> None:
        self.bench.cut(step)
        self.bench.append(self.next, label)
        assert self.bench.mount() == OK
        if self.bench.windows() == self.model:
            self.next += 1
        else:
            self.grow(label)

    @rule(step=st.integers(1, 300))
    def lose_power_while_mounting(self, step: int) -> None:
        self.bench.cut(step)
        self.bench.mount()
        assert self.bench.mount() == OK

    @rule()
    def mount(self) -> None:
        assert self.bench.mount() == OK

    @precondition(lambda self: self.next % 5 == 0)
    @rule()
    def clear(self) -> None:
        assert self.bench.clear() == OK
        self.model = []

    @rule(label=st.integers(0, 2))
    def refuse(self, label: int) -> None:
        """A program that is refused costs a slot until the next mount; here that comes at once.
        That of the header of the one block that was ready costs the block with the fewest windows,
        too (`bt_store_spare`)."""
        self.bench.fail_next()
        capacity, worn = self.bench.capacity(), self.bench.worn()
        if self.bench.append(self.next, label) == OK and self.bench.capacity() == capacity:
            self.grow(label)
            return
        held = self.bench.windows()
        assert (self.next, label) in held or not self.bench.capacity()
        block = self.bench.per_block()
        lost = block - 1 if self.bench.worn() - worn >= block else 0
        assert len(held) >= min(len(self.model), self.bench.capacity()) - lost
        self.model = held
        self.next += 1
        assert self.bench.mount() == OK

    @invariant()
    def agree(self) -> None:
        assert self.bench.windows() == self.model
        assert self.bench.check() == 0
        assert self.bench.breaches() == 0


StoreMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_any_order_of_calls = StoreMachine.TestCase


# ---- checkpoint slots ---------------------------------------------------------------------------


def test_a_header_that_is_refused_when_the_store_is_full_costs_the_emptiest_block() -> None:
    """Found by hypothesis: eight blocks of three, the last that was ready refuses its header."""
    machine = StoreMachine()
    machine.start(geometry="several windows in a page", old=False)
    for label in (1, 1, 1, 1, 0):
        machine.refuse(label=label)
    machine.append(label=0, times=9)
    machine.refuse(label=0)
    machine.append(label=0, times=1)
    machine.refuse(label=0)
    before = len(machine.model)
    machine.refuse(label=0)
    assert before - 2 <= len(machine.model) < before + 1
    machine.agree()


def test_save_load_back_factory() -> None:
    slots = Slots(old=True)
    assert slots.version == 0
    assert slots.do(BACK) == FOREIGN
    for version in range(1, 8):
        assert slots.do(SAVE, version) == OK
        assert slots.version == version
    assert slots.do(BACK) == OK
    assert slots.version == 6
    assert slots.do(BACK) == FOREIGN  # there is none before it
    assert slots.version == 6
    assert slots.do(SAVE, 8) == OK
    assert slots.version == 8
    assert slots.do(BACK) == OK
    assert slots.version == 6
    assert slots.do(FACTORY) == OK
    assert slots.version == 0
    assert slots.do(FACTORY) == OK
    assert slots.do(SAVE, 9) == OK
    assert slots.version == 9
    assert slots.c.slots_breaches(slots.at) == 0


def test_a_damaged_checkpoint_gives_way_to_the_one_before() -> None:
    slots = Slots()
    assert [slots.do(SAVE, v) for v in (1, 2)] == [OK, OK]
    memory = (ctypes.c_uint8 * 512).from_address(slots.c.slots_memory(slots.at))
    memory[256 + 50] ^= 1
    assert slots.version == 1
    assert slots.do(SAVE, 3) == OK
    assert slots.version == 3


def test_slots_need_room() -> None:
    assert Slots(page=64, pages=2).do(SAVE, 1) == SHORT
    assert Slots(page=64, pages=4, unit=8).do(SAVE, 1) == SHORT  # 115 bytes, and the mark
    assert Slots(page=64, pages=6).do(SAVE, 1) == OK


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("unit", [1, 4, 8, 16, 32])
@pytest.mark.parametrize(("page", "pages"), [(128, 4), (256, 2), (1024, 2)])
def test_a_power_cut_at_every_step_of_a_checkpoint(
    page: int, pages: int, unit: int, old: bool
) -> None:
    """Nothing comes back that was withdrawn, in whatever order a page is erased; one page holds a
    whole slot, or two do."""
    slots = Slots(page, pages, unit, old)
    cuts = ctypes.c_uint64(0)
    calls = [SAVE] * 3 + [BACK] + [SAVE] * 3 + [FACTORY] + [SAVE] * 2 + [BACK, SAVE, FACTORY, SAVE]
    for version, what in enumerate(calls, 10):
        line = slots.c.slots_cuts(slots.at, what, version, ctypes.byref(cuts))
        assert line == 0, f"tests/fuzz/checks.h:{line}, call {version - 10}"
    assert cuts.value > 1000


# ---- shuffles -----------------------------------------------------------------------------------


def order(n: int, seed: int = 1, epoch: int = 0, compiler: str = "gcc") -> list[int]:
    out = (ctypes.c_uint32 * n)()
    library(compiler, UBSAN if compiler == "gcc" else ("-O2",)).shuffled(n, seed, epoch, out)
    return list(out)


def mixed(x: int) -> int:
    for shift, factor in ((16, 0x9E3779B1), (15, 0xB7E15163), (14, 0x243F6A89)):
        x = (x ^ x >> shift) * factor % 2**32
    return x ^ x >> 16


def feistel(n: int, seed: int, epoch: int, i: int) -> int:
    half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
    key = mixed(seed ^ mixed((epoch + 0x9E3779B9) % 2**32))
    while True:
        left, right = i >> half, i % 2**half
        for number in range(6):
            key_of_round = mixed((key + mixed(right << 3 | number)) % 2**32)
            left, right = right, left ^ key_of_round % 2**half
        i = left << half | right
        if i < n:
            return i


@pytest.mark.parametrize("compiler", compilers())
def test_shuffles_are_permutations_and_the_same_everywhere(compiler: str) -> None:
    for n in [*range(1, 300), 1000, 4096, 4097]:
        got = order(n, seed=n, epoch=3, compiler=compiler)
        assert sorted(got) == list(range(n))
        if n < 40 or n > 990:
            assert got == [feistel(n, n, 3, i) for i in range(n)]


def test_shuffles_differ_and_are_even() -> None:
    n = 24
    epochs = [tuple(order(n, epoch=e)) for e in range(2400)]
    assert len(set(epochs)) == 2400
    assert order(n, seed=2) != order(n, seed=1)
    # Every window comes at every place about as often: chi-square with 23 degrees of freedom.
    for place in (0, 1, 11, 23):
        counts = [sum(e[place] == w for e in epochs) for w in range(n)]
        chi = sum((c - 100.0) ** 2 / 100.0 for c in counts)
        assert chi < 50.0, (place, counts)
    neighbours = sum(e[i] + 1 == e[i + 1] for e in epochs for i in range(n - 1))
    assert abs(neighbours / 2400 - (n - 1) / n) < 0.1


# ---- any build, damage --------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", compilers())
def test_strict_warnings(compiler: str) -> None:
    library(compiler, ("-O1",))


@cache
def damage_program(folder: Path) -> Path:
    source = str(FUZZ / "damage.c")
    command = ["gcc", *STRICT, "-O2", "-g", *SANITIZE, f"-I{RUNTIME}", INCLUDE, source]
    subprocess.run([*command, "-o", str(folder / "damage")], check=True)
    return folder / "damage"


def run_damage(folder: Path, images: int) -> None:
    done = subprocess.run(
        [damage_program(folder), str(images)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == f"{images} images\n"


def test_damaged_images(tmp_path: Path) -> None:
    run_damage(tmp_path, 4000)


@pytest.mark.exhaustive
def test_100_000_damaged_images(tmp_path: Path) -> None:
    run_damage(tmp_path, 100_000)


def test_fuzzer(tmp_path: Path) -> None:
    """A bounded run of libFuzzer under ASan and UBSan."""
    if not shutil.which("clang"):
        pytest.skip("no clang: libFuzzer comes with it")
    command = ["clang", *STRICT, "-g", "-O1", "-fsanitize=fuzzer,address,undefined"]
    command += ["-fno-sanitize-recover=all", f"-I{RUNTIME}", str(FUZZ / "fuzz_store.c")]
    built = subprocess.run(
        [*command, "-o", str(tmp_path / "fuzz")], capture_output=True, text=True, check=False
    )
    if "libclang_rt" in built.stderr or "cannot find" in built.stderr:
        pytest.skip("this clang has no libFuzzer (Debian: libclang-rt-14-dev)")
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        [
            tmp_path / "fuzz",
            "-runs=3000",
            "-seed=1",
            "-max_len=60",
            f"-artifact_prefix={tmp_path}/",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

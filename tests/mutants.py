# SPDX-License-Identifier: Apache-2.0
"""Small wrong changes to the compiler and its kernels, each of which a test must notice.

`make mutants` draws 60 of them with a fixed seed, a quarter each from the planner, from
differentiation, from the emitter and from the kernels; applies each alone in a copy of the tree;
and runs the tests that stand for what it changes (`JUDGES`) until one fails. A mutant that no test
notices has survived, unless `EQUIVALENT` says why it computes the same. The score is the share that
was noticed, and below 90 % the run fails. docs/testing.md has the last score.

The hashes of tests/behaviour.json take no part: they notice every change, right or wrong.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/biotrain")
COPIED = ("src", "tests", "benchmarks", "docs", "examples", "pyproject.toml", "README.md")
LEAST_SCORE = 0.9
MOST_MEMORY = 8 << 30
"""Bytes of addresses of one test process: a search that a mutant keeps from ending asks for all."""

AREAS: dict[str, tuple[str, ...]] = {
    "planner": ("planner/*.py",),
    "autodiff": ("graph/autodiff.py", "graph/strategy.py", "graph/cost.py"),
    "emit": ("emit/*.py",),
    "kernels": ("ops/*.h",),
}
"""What is changed, below the package."""

PLANS = (
    "test_memory.py",
    "test_planner_figures.py",
    "test_live.py::test_the_plan_counts_what_lives",
    "test_stream.py",
    "test_batch.py",
)

JUDGES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "planner": (
        ("adabn", ("test_adabn.py",)),
        ("batch", ("test_search_parts.py", "test_batch.py", "test_adabn.py")),
        ("search", ("test_search_parts.py", *PLANS)),
        ("tiles", ("test_search_parts.py", "test_two_memories.py")),
        ("transfers", ("test_two_memories.py",)),
        ("two_memories", ("test_two_memories.py",)),
        ("slice", ("test_slices.py", "test_planner_figures.py")),
        ("live_layout", ("test_layout.py",)),
        ("context", ("test_layout.py",)),
        ("live", ("test_live.py::test_the_plan_counts_what_lives", "test_planner_figures.py")),
        ("account", ("test_small_parts.py", *PLANS)),
        ("request", ("test_small_parts.py", "test_request.py", "test_int16.py")),
        ("team_cost", ("test_gap9.py",)),
        ("team", ("test_search_parts.py", "test_workers.py", "test_gap9.py")),
        ("validate", ("test_memory.py", "test_stream.py -k validator")),
        ("fit", ("test_features.py -k 'nothing_is_won or says'", *PLANS)),
        ("explain", ("test_planner_figures.py -k 'said or told'", "test_plots.py")),
        ("", PLANS),
    ),
    "autodiff": (
        ("cost", ("test_small_parts.py", "test_planner_figures.py")),
        ("strategy", ("test_small_parts.py", "test_emit.py -k strategy")),
        (
            "",
            (
                "test_autodiff.py",
                "test_emit.py -k strategy",
                "test_gradients.py",
                "test_planner_figures.py -k mibminet",
            ),
        ),
    ),
    "emit": (
        ("batch", ("test_batch.py",)),
        ("live", ("test_emitted_text.py", "test_live.py -k 'plain or cannot or counts'")),
        ("slice", ("test_emitted_text.py", "test_slices.py")),
        ("schedule", ("test_emitted_text.py", "test_stream.py", "test_device.py")),
        ("spmd", ("test_workers.py",)),
        ("team", ("test_workers.py",)),
        ("trim", ("test_trim.py", "test_emulator.py")),
        ("routines", ("test_small_parts.py", "test_code_modes.py")),
        ("source", ("test_workers.py", "test_two_memories.py", "test_emit.py")),
        ("__init__", ("test_prefix.py", "test_device.py", "test_emit.py")),
        ("", ("test_device.py", "test_emit.py", "test_gradients.py", "test_stream.py")),
    ),
    "kernels": (
        ("int16", ("test_int16.py", "test_conv_small.py")),
        (
            "bt_conv",
            (
                "test_conv_ring.py",
                "test_ops.py -k bt_conv",
                "test_conv_small.py",
                "test_moments.py",  # bt_one_pass.h calls bodies of bt_conv_block.h
            ),
        ),
        ("bt_fft", ("test_fft.py", "test_ops.py -k bt_fft")),
        ("bt_fir", ("test_fir.py", "test_ops.py -k bt_fir")),
        ("bt_half", ("test_half.py",)),
        ("bt_one_pass", ("test_moments.py",)),
        ("bt_pair", ("test_moments.py",)),
        ("bt_norm_pool", ("test_moments.py", "test_autodiff.py", "test_stream.py")),
        ("bt_optim", ("test_gradients.py", "test_verify.py -k 'other or optimizers'")),
        ("bt_batch", ("test_batch.py", "test_adabn.py")),
        ("bt_vector", ("test_ops.py -k 'equals or tiles'", "test_conv_small.py -k avx")),
        ("", ("test_ops.py -k {stem}", "test_ops.py", "test_autodiff.py", "test_moments.py")),
    ),
}
"""The tests of an area, the first line whose word is in the file's name; `{stem}` is that name."""

SAMPLE, WHOLE = (
    "not ci and not full and not exhaustive",
    ("test_planner_figures.py", "test_moments.py"),
)
"""The cases that judge are those of `make test`, and in some files every one."""

EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("score.py", "UNBOUNDED = 1 << 62", "1 -> 2"): "everything fits into the one and the other",
    ("score.py", "UNBOUNDED = 1 << 62", "62 -> 63"): "everything fits into the one and the other",
    ("schedule.py", 'name, i = f"k_{base}", 1', "1 -> 2"): "any name that is not taken will do",
    ("schedule.py", "i += 1", "1 -> 2"): "any name that is not taken will do",
    (
        "realise.py",
        "while name in outside or name in names.values() or (number > 1 and name in taken):",
        "1 -> 2",
    ): "any name that is not taken will do",
    (
        "slices.py",
        "elif cut.rows >= rows:",
        ">= -> >",
    ): "with all rows in a block, b / across is 0 and b % across is b in every block",
    (
        "place.py",
        "size = max(aligned(groups.bytes[n]) for n in members)",
        "max -> min",
    ): "members of a group have the same bytes: views, and what `may_join` lets join",
    (
        "sliced.py",
        "_WINDOW, _STEP, _LOOK = 1, 2, 3",
        "2 -> 3",
    ): "a prediction has a `bt_slice` of its own: open or not is all that is asked",
    (
        "batch_norm.py",
        'buffers.append(Buffer(name, members, "shared", 0, 0, at, at))',
        "0 -> 1",
    ): "of a shared one only the name and its members are read",
    (
        "stream.py",
        (
            "waits = [self.maker.get(v.name, 0) for v in self.nodes[update].inputs "
            'if v.kind == "temp"]'
        ),
        "0 -> 1",
    ): "the default is for tensors without a maker, and every temp that a node reads has one",
    ("slices.py", "self.longest = 0", "0 -> 1"): "a maximum over numbers that are never below 1",
    (
        "loops.py",
        "change = [0] * (len(order) + 1)",
        "1 -> 2",
    ): "one more zero at the end changes no maximum of partial sums",
    (
        "autodiff.py",
        "outputs, parts = list(node.outputs), list(node.inputs[:1])",
        "1 -> 2",
    ): "the one input of `accumulate`; of other nodes the parts are set anew",
}
"""Mutants that compute the same, by file, line and change, and why."""


@dataclass(frozen=True)
class Mutant:
    """One change of one line."""

    area: str
    path: str
    """Below the root."""
    line: int
    start: int
    end: int
    """Columns [start, end) are replaced."""
    new: str
    rule: str
    source: str
    """The line as it stands, without indentation."""

    @property
    def key(self) -> tuple[str, str, str]:
        """How `EQUIVALENT` names it: line numbers move, texts stay."""
        return Path(self.path).name, self.source, self.rule

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.source}"

    def apply(self, original: Path, tree: Path) -> None:
        file = tree / self.path
        lines = (original / self.path).read_text(encoding="utf-8").split("\n")
        text = lines[self.line - 1]
        lines[self.line - 1] = text[: self.start] + self.new + text[self.end :]
        file.write_text("\n".join(lines), encoding="utf-8")

    def undo(self, original: Path, tree: Path) -> None:
        shutil.copyfile(original / self.path, tree / self.path)


Change = tuple[int, int, int, str, str]
"""Line, columns [start, end), the new text, the rule."""

ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.FloorDiv: ("//", "*")}
COMPARED = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}


def python_changes(text: str) -> Iterator[Change]:
    """Swapped operators, moved borders, dropped negations and calls, constants off by one."""
    lines = text.split("\n")

    def between(left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Change]:
        if left.end_lineno == right.lineno and left.end_col_offset is not None:
            at = lines[right.lineno - 1].find(f" {old} ", left.end_col_offset, right.col_offset)
            if at >= 0:
                yield right.lineno, at + 1, at + 1 + len(old), new, f"{old} -> {new}"

    def replaced(node: ast.expr, new: str, rule: str) -> Iterator[Change]:
        if node.end_lineno == node.lineno and node.end_col_offset is not None:
            yield node.lineno, node.col_offset, node.end_col_offset, new, rule

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            yield from between(node.left, node.right, *ARITHMETIC[type(node.op)])
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
            yield from between(node.left, node.comparators[0], *COMPARED[type(node.ops[0])])
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield from between(node.values[0], node.values[1], old, new)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield from replaced(node, ast.unparse(node.operand), "drop not")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CALLED:
            old = ast.unparse(node.func)
            yield from replaced(node.func, CALLED[old], f"{old} -> {CALLED[old]}")
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield from replaced(node, str(node.value + 1), f"{node.value} -> {node.value + 1}")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from replaced(node.value, "None", "drop the call")


C_RULES: tuple[tuple[str, str], ...] = (
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" > ", " >= "),
    (r" >= ", " > "),
    (r" == ", " != "),
    (r" && ", " || "),
    (r" \|\| ", " && "),
    (r" \+= ", " -= "),
    (r"\bbt_min\(", "bt_max("),
    (r"\bbt_max\(", "bt_min("),
    (r"(?<= )1(?=[;,) ])", "2"),
    (r"(?<= )0(?=[;,) ])", "1"),
    (r"(?<=^)( *)bt_\w+\(.*\);$", ";"),
)


def c_changes(text: str) -> Iterator[Change]:
    """The same for C, by text: what stands in comments and preprocessor lines is left alone."""
    bare = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m[0]), text, flags=re.DOTALL)
    continued = False
    for number, line in enumerate(bare.split("\n"), 1):
        skip = continued or line.lstrip().startswith("#")
        continued = skip and line.endswith("\\")
        if skip or not line.startswith(" "):
            continue
        for pattern, new in C_RULES:
            for found in re.finditer(pattern, line):
                dropped = new == ";"
                rule = "drop the call" if dropped else f"{found[0].strip()} -> {new.strip()}"
                yield number, found.start(), found.end(), new, rule


def mutants(area: str) -> list[Mutant]:
    """Every change that the rules allow in an area, in order."""
    found = []
    for pattern in AREAS[area]:
        for file in sorted((ROOT / PACKAGE).glob(pattern)):
            text = file.read_text(encoding="utf-8")
            lines, path = text.split("\n"), str(file.relative_to(ROOT))
            changes = python_changes(text) if file.suffix == ".py" else c_changes(text)
            for line, start, end, new, rule in sorted(changes):
                if lines[line - 1].isascii():  # columns of ast count bytes
                    source = lines[line - 1].strip()
                    found.append(Mutant(area, path, line, start, end, new, rule, source))
    return found


def drawn(count: int, seed: int) -> list[Mutant]:
    """`count` mutants, as many of each area as of the others, no line twice.

    They come in the order of a hash of what they change, so that a commit brings in only mutants of
    lines that it has written.
    """

    def rank(mutant: Mutant) -> bytes:
        told = f"{seed}/{mutant.path}/{mutant.source}/{mutant.rule}/{mutant.start}"
        return hashlib.sha256(told.encode()).digest()

    chosen: list[Mutant] = []
    for i, area in enumerate(AREAS):
        share = count // len(AREAS) + (i < count % len(AREAS))
        every = sorted(mutants(area), key=rank)
        unique = {(m.path, m.line): m for m in reversed(every)}
        chosen += [m for m in every if unique[m.path, m.line] is m][:share]
    return chosen


def judges(mutant: Mutant) -> tuple[str, ...]:
    """The test commands of a mutant, in order."""
    name = Path(mutant.path).stem
    tests = next(tests for word, tests in JUDGES[mutant.area] if word in name)
    return tuple(t.replace("{stem}", name) for t in tests)


def copied(folder: Path) -> Path:
    """A copy of the tree, to be changed."""
    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    return folder


def _limited() -> None:
    """Bounds the memory of this process."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))


def outcome(tree: Path, tests: Sequence[str], timeout: float) -> str:
    """The first test that failed, "timeout", or "" where all pass."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree / "src"), str(tree / "tests")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BIOTRAIN_CACHE": str(tree.parent / "cache"),
        "BIOTRAIN_SEED": os.environ.get("BIOTRAIN_SEED", "1"),
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    for test in tests:
        name, _, words = test.partition(" -k ")
        asked = [*command, f"tests/{name}", *([] if name in WHOLE else ["-m", SAMPLE])]
        asked += ["-k", words.strip("'")] if words else []
        if not (tree / "tests" / name.split("::")[0]).exists():
            raise SystemExit(f"mutants: there is no tests/{name}")
        try:
            done = subprocess.run(
                asked,
                cwd=tree,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout,
                preexec_fn=_limited,
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        if done.returncode == 5 and "bt_" not in words:  # a kernel may have no samples of its own
            raise SystemExit(f"mutants: no test runs for {test}")
        if done.returncode not in (0, 5):
            failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
            return failed[1] if failed else f"pytest ended with {done.returncode}"
    return ""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="mutants that are drawn")
    parser.add_argument("--seed", type=int, default=15, help="of the draw")
    parser.add_argument("--areas", nargs="*", default=list(AREAS), help="only those of some areas")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--timeout", type=float, default=600, help="seconds of one test command")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "mutants.json")
    parser.add_argument("--list", action="store_true", help="print the draw and end")
    parser.add_argument("--clean", action="store_true", help="run the judges on the tree as it is")
    return parser.parse_args()


def main() -> int:
    """Draw, judge, print the score."""
    asked = arguments()
    chosen = [m for m in drawn(asked.count, asked.seed) if m.area in asked.areas]
    if asked.list:
        print(*chosen, sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="biotrain-mutants-") as folder:
        original = copied(Path(folder) / "original")  # what is edited meanwhile changes nothing
        trees: Queue[Path] = Queue()
        for i in range(asked.workers):
            trees.put(copied(Path(folder) / f"tree{i}"))
        if asked.clean:
            every = dict.fromkeys(test for m in chosen for test in judges(m))
            failed = outcome(trees.get(), list(every), 10 * asked.timeout)
            print(f"failed without a mutant: {failed}" if failed else "the judges pass")
            return bool(failed)

        def judge(mutant: Mutant) -> dict[str, object]:
            tree, begun = trees.get(), time.monotonic()
            try:
                mutant.apply(original, tree)
                by = (
                    "" if mutant.key in EQUIVALENT else outcome(tree, judges(mutant), asked.timeout)
                )
            finally:
                mutant.undo(original, tree)
                trees.put(tree)
            state = "equivalent" if mutant.key in EQUIVALENT else "noticed" if by else "SURVIVED"
            seconds = round(time.monotonic() - begun)
            print(f"{state:10} {seconds:4} s  {mutant}  {by}", flush=True)
            return {**asdict(mutant), "state": state, "by": by, "seconds": seconds}

        with ThreadPoolExecutor(asked.workers) as pool:
            rows = list(pool.map(judge, chosen))
    return summary(rows, asked.json)


def summary(rows: Sequence[dict[str, object]], file: Path) -> int:
    """Print the score by area and write everything to a file; 1 where it is too low."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for area in (*AREAS, ""):
        counted = [
            r["state"] for r in rows if area in ("", r["area"]) and r["state"] != "equivalent"
        ]
        if counted:
            noticed, total = counted.count("noticed"), len(counted)
            print(f"{area or 'all':10} {noticed} of {total} noticed: {100 * noticed / total:.0f} %")
    return noticed < LEAST_SCORE * total


if __name__ == "__main__":
    sys.exit(main())

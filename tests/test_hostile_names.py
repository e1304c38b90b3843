# SPDX-License-Identifier: Apache-2.0
"""Names that somebody else chose stay text: in C, in build files, in pages, on a terminal.

A recording, a module or a `.pt2` file names things as it likes. Nothing of that may run, end a
comment, open a tag or colour a terminal, and the object code is that of plain names.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

import biotrain as bt
from biotrain.cli import console
from biotrain.cli import main as biotrain
from biotrain.ir.op import Builder
from biotrain.run.project import project_files
from biotrain.writing import drawing, text

HOSTILE = (
    "",
    "a\nb",
    "*/ int evil(void) { return system(0); } /*",
    "/*/",
    "// end",
    "back\\",
    "??/",
    'quo"te',
    "$(shell touch pwned)",
    "${X} @Y@ `id` %s",
    "\u2028#error split\u2029",
    "\u202eright to left",
    "nul\0",
    "half \ud800 pair",
    "\x1b[31mred\x1b]0;title\x07",
    "<script>alert(1)</script> & [x](y) | *",
    "x" * 5000,
    "$\\frac{1}{0$ and $",
    "größe",
    "a-b",
    "a.b",
    "a_b",
    "a_b_2",
    "9lives",
    "int",
    "class",
    "linux",
    "size_t",
    "do_mul",
    "features",
    "=cmd",
    "---",
)
TITLES = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40))
NAMES = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=12)),
    min_size=4,
    max_size=4,
    unique=True,
)


class Net(nn.Module):
    """A convolution, a parameter and a head, with the names that a test gives them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        conv, scale, head, inner = (name or "empty" for name in names)
        self.names = conv, scale, head, inner
        self._modules[conv] = nn.Conv1d(2, 3, 3)
        self._parameters[scale] = nn.Parameter(torch.ones(3, 1))
        self._modules[head] = nn.Sequential()
        self._modules[head]._modules[inner] = nn.Linear(3, 2)  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv, scale, head, inner = self.names
        y = self.get_submodule(conv)(x) * self.get_parameter(scale)
        last = self.get_submodule(f"{head}.{inner}")
        found: torch.Tensor = last(torch.relu(y).mean(2))
        return found


def package(names: Sequence[str], title: str, **options: Any) -> bt.Package:
    torch.manual_seed(0)
    return bt.compile(
        Net(names), torch.zeros(1, 2, 16), title=title, **{"accumulate": 1, **options}
    )


Sections = list[tuple[str, bytes]]
STRICT = "-O1 -std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
PLAIN = ("conv", "scale", "head", "inner")


def compiled(files: Mapping[str, str], folder: Path) -> Sections:
    """What the compiler makes of model.c and of the weights, without the names of symbols."""
    for name, content in files.items():
        if name.endswith((".c", ".h")):
            (folder / name).write_text(content, encoding="utf-8")
    flags = STRICT.split()
    found: Sections = []
    for name in ("model.c", "model_weights.c"):
        command = ["gcc", *flags, "-ffp-contract=off", "-march=native", "-c", name, "-o", "out.o"]
        subprocess.run(command, cwd=folder, check=True, timeout=120)
        elf = ELFFile(io.BytesIO((folder / "out.o").read_bytes()))
        found += [
            (f"{name} {section.name}", section.data())
            for section in elf.iter_sections()
            if section["sh_type"] == "SHT_PROGBITS" and section["sh_flags"] & 2
        ]
    return found


def without_fingerprint(files: Mapping[str, str]) -> dict[str, str]:
    """The number that a checkpoint compares stems from the names: they are part of the model."""
    weights = re.sub(r"(bt_fingerprint = )0x\w+", r"\g<1>0", files["model_weights.c"])
    return {**files, "model_weights.c": weights}


@pytest.fixture(scope="module")
def plain() -> bt.Package:
    return package(PLAIN, "title", target="nrf52840")


@pytest.fixture(scope="module")
def plain_object(plain: bt.Package, tmp_path_factory: pytest.TempPathFactory) -> Sections:
    if not shutil.which("gcc"):
        pytest.skip("wants gcc")
    return compiled(without_fingerprint(plain.files), tmp_path_factory.mktemp("plain"))


def check(names: Sequence[str], title: str, plain: bt.Package, expected: Sections) -> None:
    """The C of a model with these names is that of the plain one, and so are the other files but
    for one line."""
    found = package(names, title, target="nrf52840")
    with tempfile.TemporaryDirectory() as folder:
        assert compiled(without_fingerprint(found.files), Path(folder)) == expected
    around, usual = project_files(found), project_files(plain)
    assert around.keys() == usual.keys()
    for name, content in {**found.files, **around}.items():
        content.encode()  # no half of a surrogate pair
        assert re.sub(r"[\n\t]", "", content).isprintable(), name
        if name in usual:
            assert len(content.splitlines()) == len(usual[name].splitlines()), name
            pairs = zip(content.splitlines(), usual[name].splitlines(), strict=True)
            assert sum(a != b for a, b in pairs) <= 1, name
    assert json.loads(around["library.json"])["name"] == "biotrain_model"


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (HOSTILE[1:5], "*/ int evil; /* ??/"),
        (HOSTILE[5:9], "\n#error line\n$(shell false)"),
        (HOSTILE[10:14], "\ud800\0\u202e\u2028" + "x" * 5000),
        (("a-b", "a_b", "a b", "a_b_2"), ""),
    ],
)
def test_the_same_object(
    names: Sequence[str], title: str, plain: bt.Package, plain_object: Sections
) -> None:
    check(names, title, plain, plain_object)


@pytest.mark.ci
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(names=NAMES, title=TITLES)
def test_the_same_object_for_any_name(
    names: list[str], title: str, plain: bt.Package, plain_object: Sections
) -> None:
    names = [name.replace(".", "-") or "none" for name in names]  # paths of torch have dots
    assume(len({*names}) == 4 and not {*names} & {*dir(nn.Module())})
    check(names, title, plain, plain_object)


def test_names_that_the_c_uses_itself(tmp_path: Path) -> None:
    """Every word of the emitted C, as the name of a parameter, gives C that compiles."""
    pkg = package(PLAIN, "words", strategy="last", target="cortex-m7")
    words: dict[str, None] = {}
    for name in ("model.c", "model.h"):
        code = re.sub(r"/\*.*?\*/", "", pkg.files[name], flags=re.S)
        words |= dict.fromkeys(re.findall(r"(?<![\w.>])[a-z]\w*", code))
    assert {"do_conv_forward", "features_in", "uint32_t", "memcpy"} <= words.keys()
    for word in words:
        made = Builder().name(word)
        assert re.fullmatch(r"[A-Za-z]\w*", made)
        assert made != word or not word.startswith(("bt_", "do_", "k_"))

    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 3, 3)
            self.head = nn.Linear(3, 2)
            self.used = [w for w in words if not hasattr(self, w)]
            for word in self.used:  # a tensor is called like the module that it comes from
                self._modules[word] = nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(torch.relu(self.conv(x)).mean(2))
            for word in self.used:
                y = self.get_submodule(word)(y)
            return y

    net = Words()
    assert len(net.used) > 60
    found = bt.compile(
        net, torch.zeros(1, 2, 16), target="cortex-m7", strategy="head.*", accumulate=1
    )
    for name, content in found.files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    flags = [
        "-Wall",
        "-Wextra",
        "-Wpedantic",
        "-Wshadow",
        "-Werror",
        "-fsyntax-only",
        "-march=native",
    ]
    header = tmp_path / "header.cpp"
    header.write_text('#include "model.h"\nbt_model m;\n', encoding="utf-8")
    for *command, file in (
        ("gcc", "-std=c99", "model.c"),
        ("clang", "-std=c99", "model.c"),
        ("g++", "header.cpp"),
    ):
        if shutil.which(command[0]):
            subprocess.run([*command, *flags, file], cwd=tmp_path, check=True, timeout=120)


def test_no_name_is_a_macro_of_a_compiler() -> None:
    """`linux` is 1 where gcc compiles as gnu17."""
    for compiler in ("gcc", "clang", "arm-none-eabi-gcc", "riscv64-unknown-elf-gcc"):
        if not shutil.which(compiler):
            continue
        for standard in ("gnu11", "gnu17"):
            command = [compiler, "-dM", "-E", f"-std={standard}", "-x", "c", "/dev/null"]
            defined = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            for word in re.findall(r"^#define (\w+) ", defined, re.M):
                assert Builder().name(word) != word, (compiler, word)


def test_two_names_that_become_one_identifier() -> None:
    b = Builder()
    names = ["a.b", "a_b", "a-b", "a b", "a_b_2", "x" * 60 + "1", "x" * 60 + "2", "", "\0", "v"]
    made = [b.name(name) for name in names]
    assert len({*made}) == len(made)
    assert all(re.fullmatch(r"[A-Za-z]\w{0,62}", one, re.A) for one in made)


def test_a_prefix_that_makes_the_name_of_a_tensor() -> None:
    with pytest.raises(bt.BioTrainError, match="conv_init"):
        print(package(("conv", "conv_init", "head", "inner"), "t", prefix="conv_").files)


@given(st.one_of(st.sampled_from(HOSTILE), st.text()))
def test_text(given_text: str) -> None:
    for function in (text.visible, text.comment, text.build_line, text.markdown):
        line = function(given_text)
        assert line.isprintable()
        line.encode()
    comment = f"/* {text.comment(given_text)}: x */"
    assert (comment.count("*/"), comment.count("/*"), comment.count("??")) == (1, 1, 0)
    assert not re.search(r"[$`\\\"#;@{}]", text.build_line(given_text))
    unescaped = re.sub(r"\\.", "", text.markdown(given_text))
    assert not re.search(r"[`*<>\[\]|&]", unescaped)
    assert re.fullmatch(r"\w*", text.identifier(given_text), re.A)
    shown = text.terminal(given_text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    name = text.file_name(given_text)
    assert name not in ("", ".", "..")
    assert not {"/", "\0"} & {*name}


def test_text_of_people_stays() -> None:
    for function in (text.visible, text.comment, text.build_line, text.terminal, text.markdown):
        assert function("Müller, subject 12 (left hand)") == "Müller, subject 12 (left hand)"
    assert text.markdown("last_layer, head.*") == "last_layer, head.\\*"
    assert text.file_name("last+adabn") == "last+adabn"
    assert text.file_name("head.*") == "head._"


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_figures(kind: str, tmp_path: Path) -> None:
    fig = Figure(layout="constrained")
    axes = fig.subplots()
    shown = [name for name in HOSTILE if len(name) < 100]
    axes.plot(range(len(shown)), range(len(shown)), label="$\\frac{$")
    axes.set_xticks(range(len(shown)), shown)
    axes.set_title("$\\bad$ \x1b[31m <b> & \ud800")
    axes.legend()
    path = drawing.save(fig, tmp_path / f"f.{kind}")
    if kind == "svg":
        found = "".join(ET.fromstring(path.read_text(encoding="utf-8")).itertext())
        assert "$\\bad$ <U+001B>[31m <b> & <U+D800>" in found
        assert "$\\frac{1}{0$ and $" in found


def test_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    out = console.Out(None)
    shown = console.table("a\x1b[31m", title="t\x1b]0;x\x07")
    shown.add_row("\x1b[2Jcell\u202e")
    out.show(shown, "line \x1b[31m")
    out.say("said \x1b[31m\ud800")
    out.text("text \x1b[31m\n")
    with console.Busy("busy \x1b[31m"):
        pass
    console.Work().line("work \x1b[31m")
    found = capsys.readouterr()
    assert not {"\x1b", "\u202e"} & {*found.out, *found.err}
    assert [one.count("<U+001B>") for one in found] == [6, 2]


def test_a_name_within_a_recording(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that it was found: `name` ends the comment of the emitted C and runs on the host."""
    name = "*/\n#include <stdlib.h>\nstatic void __attribute__((constructor)) e(void){exit(9);}\n/*"
    name += "\x1b[31m$(shell touch pwned)"
    rng = np.random.default_rng(0)
    data = {
        "x": rng.integers(-99, 99, (8, 2, 128)).astype(np.int16),
        "y": np.arange(8) % 2,
        "subject": np.repeat([1, 2], 4),
        "session": np.ones(8, int),
        "fs": np.float64(100.0),
        "scale": np.float64(1.0),
        "channels": np.array(["\x1b[31ma", "b"]),
        "classes": np.array(["\x1b[2Jleft", "right\u202e"]),
        "unit": np.array("uV"),
        "name": np.array(name),
    }
    file = tmp_path / "evil.npz"
    np.savez(file, **data)
    monkeypatch.chdir(tmp_path)
    strategy = ("--strategy", "last", "--optimize", "size")
    assert biotrain(["compile", "epidenet", "--data", str(file), *strategy, "-o", "out"]) == 0
    assert biotrain(["data", "info", str(file), "--figure", "f.svg"]) == 0
    found = capfd.readouterr()
    assert "\x1b" not in found.out + found.err
    make = shutil.which("make")
    if make and shutil.which("cc"):
        subprocess.run([make, "-C", "out/example"], check=True, stdout=subprocess.DEVNULL)
        assert subprocess.run(["out/example/main"], timeout=60, check=False).returncode == 0
    assert not list(tmp_path.rglob("pwned"))

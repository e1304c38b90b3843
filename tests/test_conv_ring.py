# SPDX-License-Identifier: Apache-2.0
"""Samples that slide through a ring of twelve registers: every rest of taps behind the last twelve.

The ring takes four taps at a time, so what is left after twelve, eight or four has a path of its
own: 24 to 35 taps meet each of them, against one output at a time (test_conv_small.py).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import test_conv_small as conv
from _cc import kernel_texts, write_kernels

from biotrain.run.compiler import NUMERICS, STRICT, find_compiler

SHAPES = tuple(
    (2, 1, 100, 2, 2, 1, taps, 1, 1, 1, 1, 0, 0, taps // 2, taps // 2)
    for taps in (5, 6, 7, *range(24, 36))
)
"""As in `test_conv_small.SHAPES`; also taps that never fill the ring."""


@pytest.mark.parametrize("kind", ["ring", "wide blocks"])
def test_every_rest_of_a_ring(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, _ = conv.BUILDS[kind]
    texts = "".join(kernel_texts("bt_conv.h").values())
    switches = [f.removeprefix("-D").partition("=")[0] for f in flags]
    assert all(s in texts for s in switches), "the kernels do not read these switches any more"
    monkeypatch.setattr(conv, "SHAPES", SHAPES)
    write_kernels(tmp_path, "bt_conv.h")
    (tmp_path / "main.c").write_text(conv.program(), encoding="utf-8")
    command = [*find_compiler(), "-O0", "-Dalways_inline=unused", *STRICT, *NUMERICS]
    command += ["-DBT_FUSED=0", *flags, "-Wno-unused-function"]
    subprocess.run([*command, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    done = subprocess.run(["./main"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

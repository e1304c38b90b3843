# SPDX-License-Identifier: Apache-2.0
"""No kernel forms a pointer before an array or beyond one past its end (tests/_pointers.py).

A padded convolution has results whose first tap lies before the row: an index may say so, a pointer
may not, even where nothing is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _cc import fused_flags, has_fma, write_kernels
from _ops import VARIANTS, cases, draw, program
from _pointers import build, outside
from test_conv_small import BUILDS
from test_conv_small import program as convolutions

import biotrain as bt
from biotrain.graph.rewrite import DEFAULT
from biotrain.ir.op import OPS

pytestmark = [
    pytest.mark.skipif(not shutil.which("clang"), reason="clang is not installed"),
    pytest.mark.skipif(not has_fma(), reason="no fused multiply-add here"),
]

CASES = cases()
STEMS = sorted({OPS[c.op].source for c in CASES})
FLAGS = ["-std=c99", "-Dalways_inline=unused", "-ffp-contract=off", "-w", *fused_flags()]
SMALL_CORE = ("-DBT_SCALAR_TILES=1", "-DBT_FIR_LANES=1")
"""The bodies for cores without vectors."""

WRONG = """
#include <stddef.h>
void *grab(size_t n);
static float sum(const float *x, int padding)
{
  const float *from = x - padding; /* line 6 */
  return from[padding] + *(x + 4 - 1);
}
int main(void)
{
  float few[4] = {0}, *many = grab(sizeof *many * 4);
  const float *end = many + 4;
  return sum(few, 1) + sum(many, 0) + (end - many) == 0.0f;
}
"""


def test_what_c_does_not_allow_is_found(tmp_path: Path) -> None:
    """Before an array on the stack; one past the end of one on the heap is allowed."""
    (tmp_path / "wrong.c").write_text(WRONG)
    places = build(tmp_path, "wrong.c", FLAGS)
    assert outside(tmp_path, places, []) == ["wrong.c:6"]
    (tmp_path / "wrong.c").write_text(WRONG.replace("many + 4", "many + 5"))
    assert len(outside(tmp_path, build(tmp_path, "wrong.c", FLAGS), [])) == 2


@pytest.mark.sample(test=2, ci=5)
@pytest.mark.parametrize(
    ("stem", "flags"),
    [pytest.param(stem, SMALL_CORE, id=f"{stem}-small") for stem in STEMS]
    + [pytest.param(stem, (), id=stem) for stem in ("bt_conv.h", "bt_fir.h", "bt_fft.h")],
)
def test_samples_of_an_op(stem: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    """In rooms of exact size, whole and cut."""
    some = [(i, c) for i, c in enumerate(CASES) if OPS[c.op].source == stem]
    for name, text in program([c for _, c in some], fused=True, workers=False).items():
        (tmp_path / name).write_text(text)
    arrays = [a for i, c in some for a in draw(c, np.random.default_rng(i)) * len(VARIANTS)]
    (tmp_path / "in.bin").write_bytes(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
    places = build(tmp_path, "samples.c", [*FLAGS, *flags])
    assert outside(tmp_path, places, ["in.bin", "out.bin"]) == []


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("blocks", marks=pytest.mark.ci),
        *[
            pytest.param(kind, marks=pytest.mark.full)
            for kind in ("small", "loops", "ring", "wide blocks")
        ],
    ],
)
def test_convolutions_of_odd_shapes(kind: str, tmp_path: Path) -> None:
    write_kernels(tmp_path, "bt_conv.h")
    (tmp_path / "main.c").write_text(convolutions(("1000", "2 * BT_LEAF")))
    flags = [*FLAGS, "-Dmalloc=grab", *BUILDS[kind][0]]
    places = build(tmp_path, "main.c", flags, leave="naive_")
    assert outside(tmp_path, places, []) == []


MAIN = """
#include "model.c"
#include "model_weights.c"
void *grab(size_t n);

int main(void)
{
  bt_model *const m = grab(sizeof *m);
  int16_t *const x = grab(sizeof *x * BT_INPUT_ROWS * BT_INPUT_TIMES);
  float *const logits = grab(sizeof *logits * BT_OUTPUTS), loss;
  int status = (bt_init(m), 0);
  for (int i = 0; i < 2; i++) {
    for (int j = 0; j < BT_INPUT_ROWS * BT_INPUT_TIMES; j++)
      x[j] = (int16_t)((j * 37 + i * 11) % 64 - 32);
    status |= (int)bt_train_sample(m, x, i % 2, &loss) | (int)bt_predict(m, x, logits);
  }
  return status | (int)bt_step(m);
}
"""


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize(
    ("network", "shape", "options"),
    [
        ("epidenet", (2, 400, 3), {}),
        ("mibminet", (4, 160, 2), {"optimize": "size", "target": "nrf52840"}),
        ("eegnet", (4, 128, 2), {"memory": "36KiB", "target": "nrf52840"}),
        ("mibminet", (4, 160, 2), {"rewrites": (*DEFAULT, "fastconv")}),
    ],
    ids=["epidenet", "size", "streamed", "fastconv"],
)
def test_a_package_that_reads_integers(
    network: str, shape: tuple[int, int, int], options: dict[str, Any], tmp_path: Path
) -> None:
    """Kernels that no sample of an op calls: of rewrites, and of the converter's integers."""
    torch.manual_seed(0)
    net = bt.prepare(bt.models.build(network, *shape, 200.0), norm="group")
    options = {"optimizer": bt.SGD(lr=1e-2), "input_type": "int16", "input_scale": 0.01, **options}
    pkg = bt.compile(net, torch.zeros(1, *shape[:2]), **{"accumulate": 1, **options})
    for name, text in pkg.files.items():
        if name.endswith((".c", ".h")):
            (tmp_path / name).write_text(text)
    (tmp_path / "main.c").write_text(MAIN)
    places = build(tmp_path, "main.c", [*FLAGS, *SMALL_CORE])
    assert outside(tmp_path, places, []) == []

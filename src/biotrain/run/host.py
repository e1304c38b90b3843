# SPDX-License-Identifier: Apache-2.0
"""The device's C on this machine, as a shared library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError, CheckpointError, DeviceError
from biotrain.run.compiler import NUMERICS, find_compiler, shared_library
from biotrain.run.device import Array, Device, layout

if TYPE_CHECKING:
    from biotrain.package import Package

OPTIMISED = ("-O3", "-march=native", "-fPIC", "-std=c99", *NUMERICS)
"""Flags of the host build. The bits do not depend on them, the speed does."""

_GLUE = """/* SPDX-License-Identifier: Apache-2.0 */
/* Loops over samples for the host; not part of the device's package. */
#include "model.h"

size_t bt_host_bytes(void);
const char *bt_host_status(int status);
int bt_host_train(bt_model *m, const {sample} *x, const {target} *y, int n, int drop_last,
                  float *losses, int *at);
int bt_host_predict(bt_model *m, const {sample} *x, int n, float *logits, int *at);

size_t bt_host_bytes(void)
{{
  return sizeof(bt_model);
}}

const char *bt_host_status(int status)
{{
  return bt_status_text((bt_status)status);
}}

int bt_host_train(bt_model *m, const {sample} *x, const {target} *y, int n, int drop_last,
                  float *losses, int *at)
{{
  int i = 0;
  for (; i < n; i++) {{
    *at = i;{announce}
    const bt_status status = bt_train_sample(
        m, x + (size_t)i * BT_INPUT_ROWS * BT_INPUT_TIMES, {label}, &losses[i]);
    if (status != BT_OK) {{
      bt_drop(m);
      return (int)status;
    }}
    if ({trains} && (m->samples >= {group} || (i == n - 1 && !drop_last))) {{
      const bt_status step = bt_step(m);
      if (step != BT_OK)
        return (int)step;
    }}
  }}
  *at = i;
  if (drop_last)
    bt_drop(m);
  return BT_OK;
}}

int bt_host_predict(bt_model *m, const {sample} *x, int n, float *logits, int *at)
{{
  for (int i = 0; i < n; i++) {{
    *at = i;
    const bt_status status = bt_predict(m, x + (size_t)i * BT_INPUT_ROWS * BT_INPUT_TIMES,
                                        logits + (size_t)i * BT_OUTPUTS);
    if (status != BT_OK)
      return (int)status;
  }}
  return BT_OK;
}}
"""


_BATCHES = """
typedef struct bt_host_batch {{
  const float *x;
  const {target} *y;
}} bt_host_batch;

static bt_status bt_host_window(void *context, uint32_t index, const float **x, {given})
{{
  const bt_host_batch *from = context;
  *x = from->x + (size_t)index * BT_INPUT_ROWS * BT_INPUT_TIMES;
  {give};
  return BT_OK;
}}

int bt_host_batch_gradients(bt_model *m, const float *x, const {target} *y, int n, float *loss);

int bt_host_batch_gradients(bt_model *m, const float *x, const {target} *y, int n, float *loss)
{{
  bt_host_batch from = {{x, y}};
  const bt_source source = {{bt_host_window, &from}};
  return (int)bt_train_batch(m, &source, (uint32_t)n, loss);
}}

int bt_host_train(bt_model *m, const float *x, const {target} *y, int n, int drop_last,
                  float *losses, int *at)
{{
  int i = 0;
  for (; i < n; i += BT_BATCH) {{
    const int count = n - i < BT_BATCH ? n - i : BT_BATCH;
    *at = i;
    if (count < BT_BATCH && drop_last)
      break;
    float loss;
    int status = bt_host_batch_gradients(m, x + (size_t)i * BT_INPUT_ROWS * BT_INPUT_TIMES,
                                         y + (size_t)i * {stride}, count, &loss);
    if (status == BT_OK && {trains})
      status = (int)bt_step(m);
    if (status != BT_OK)
      return status;
    for (int k = 0; k < count; k++)
      losses[i + k] = loss;
    *at = i + count;
  }}
  return BT_OK;
}}
"""

_FEATURES = """
int bt_host_features(bt_model *m, const {sample} *x, int n, float *features, int *at);

int bt_host_features(bt_model *m, const {sample} *x, int n, float *features, int *at)
{{
  for (int i = 0; i < n; i++) {{
    *at = i;
    const bt_status status = bt_features(m, x + (size_t)i * BT_INPUT_ROWS * BT_INPUT_TIMES,
                                         features + (size_t)i * BT_FEATURES);
    if (status != BT_OK)
      return (int)status;
  }}
  return BT_OK;
}}
"""

_ANNOUNCE = """
    if (m->samples == 0 && (uint32_t)(n - i) < m->group) {
      if (drop_last)
        break;
      bt_group(m, (uint32_t)(n - i));
    }"""


def library_files(package: Package) -> dict[str, str]:
    """The package and the host's loops."""
    integer = package.source.loss == "cross_entropy"
    announced = package.source.gradients == "momentum"
    text = _GLUE
    if package.source.batch:
        end = text.index("int bt_host_predict(")
        body = text.index("int bt_host_train(bt_model *m", end)
        text = (
            text[:body]
            + _BATCHES.lstrip()
            + "\n"
            + text[text.index("int bt_host_predict(", body) :]
        )
    if package.source.features:
        text += _FEATURES + _on_features(text)
    glue = text.format(
        given="int32_t *label" if integer else "const float **target",
        give="*label = from->y[index]"
        if integer
        else "*target = from->y + (size_t)index * BT_OUTPUTS",
        stride="1" if integer else "BT_OUTPUTS",
        announce=_ANNOUNCE if announced else "",
        group="m->group" if announced else "BT_GROUP",
        sample=package.source.sample_type,
        target="int32_t" if integer else "float",
        label="y[i]" if integer else "y + (size_t)i * BT_OUTPUTS",
        trains=int(bool(package.source.trained)),
    )
    return {**package.files, "host.c": glue}


def _on_features(text: str) -> str:
    """The loop of `bt_host_train` over features in place of windows, with its prototype."""
    name = "int bt_host_train(bt_model *m"
    start = text.index(name)
    end = text.index("int bt_host_predict(bt_model *m", text.index("bt_train_sample"))
    prototype = text[start : text.index(";", start) + 1]
    loop = prototype + "\n\n" + text[text.index(name, start + 1) : end].rstrip() + "\n"
    for old, new in (
        ("bt_host_train(", "bt_host_train_features("),
        ("bt_train_sample(", "bt_train_features("),
        ("const {sample} *x", "const float *x"),
        ("BT_INPUT_ROWS * BT_INPUT_TIMES", "BT_FEATURES"),
    ):
        loop = loop.replace(old, new)
    return "\n" + loop


class HostDevice(Device):
    """Runs the generated C in this process."""

    on = "host"

    def __init__(
        self,
        package: Package,
        *,
        flags: Sequence[str] = OPTIMISED,
        compiler: Sequence[str] | None = None,
    ) -> None:
        super().__init__(package)
        self.library = build(package, flags, compiler)
        self._c = ctypes.CDLL(str(self.library))
        self._c.bt_host_bytes.restype = ctypes.c_size_t
        self._c.bt_save_bytes.restype = ctypes.c_size_t
        self._c.bt_weights_crc32.restype = ctypes.c_uint32
        self._c.bt_host_status.restype = ctypes.c_char_p
        size = self._c.bt_host_bytes()
        if size != package.plan.context_bytes:
            raise BioTrainError(
                f"the context has {size} bytes, the plan says {package.plan.context_bytes}"
            )
        memory = np.zeros(size + 64, np.uint8)
        start = -memory.ctypes.data % 64
        self._context = memory[start : start + size]
        self._m = ctypes.c_void_p(self._context.ctypes.data)
        self._layout = layout(package)
        self.reset()

    def reset(self) -> None:
        """Back to the factory weights."""
        self._c.bt_init(self._m)
        self.samples = 0

    def begin(self, total_steps: int = 0, lr: float | None = None) -> None:
        rate = self.package.source.optimizer.lr if lr is None else lr
        self._c.bt_begin(self._m, ctypes.c_uint32(total_steps), ctypes.c_float(rate))

    def _train(self, x: npt.NDArray[Any], y: npt.NDArray[Any], drop_last: bool) -> Array:
        return self._run("bt_host_train", x, y, drop_last)

    def _train_features(self, f: Array, y: npt.NDArray[Any], drop_last: bool) -> Array:
        return self._run("bt_host_train_features", f, y, drop_last)

    def _features(self, x: npt.NDArray[Any]) -> Array:
        features = np.zeros((len(x), self.package.plan.feature_bytes // 4), np.float32)
        at = ctypes.c_int(0)
        status = self._c.bt_host_features(
            self._m, _pointer(x), len(x), _pointer(features), ctypes.byref(at)
        )
        self._check(status, at.value)
        return features

    def _run(
        self, function: str, x: npt.NDArray[Any], y: npt.NDArray[Any], drop_last: bool
    ) -> Array:
        losses = np.zeros(len(x), np.float32)
        at = ctypes.c_int(0)
        if len(x):
            status = self._c[function](
                self._m,
                _pointer(x),
                _pointer(y),
                len(x),
                int(drop_last),
                _pointer(losses),
                ctypes.byref(at),
            )
            self._check(status, at.value)
        return losses[: at.value]

    def predict(self, x: npt.ArrayLike) -> Array:
        windows = self._windows(x)
        logits = np.zeros((len(windows), self.package.source.train.outputs[0].size), np.float32)
        at = ctypes.c_int(0)
        status = self._c.bt_host_predict(
            self._m, _pointer(windows), len(windows), _pointer(logits), ctypes.byref(at)
        )
        self._check(status, at.value)
        return logits

    def group(self, windows: int) -> None:
        if windows < 1:
            raise BioTrainError(f"a group has at least one window, not {windows}")
        if self.package.source.gradients == "momentum":
            self._check(self._c.bt_group(self._m, ctypes.c_uint32(windows)), -1)

    def step(self) -> None:
        """One optimizer step with what is accumulated."""
        self._check(self._c.bt_step(self._m), -1)

    def accumulate(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Array:
        """Gradients of a batch without a step; returns the losses."""
        windows = self._windows(x)
        targets = self._targets(y, len(windows))
        if self.package.source.batch:
            mean = ctypes.c_float(0.0)
            status = self._c.bt_host_batch_gradients(
                self._m, _pointer(windows), _pointer(targets), len(windows), ctypes.byref(mean)
            )
            self._check(status, -1)
            return np.asarray([mean.value], np.float32)
        losses = np.zeros(len(windows), np.float32)
        for i, window in enumerate(windows):
            loss = ctypes.c_float(0.0)
            if self.package.source.loss == "cross_entropy":
                target: Any = ctypes.c_int32(int(targets[i]))
            else:
                row = np.ascontiguousarray(targets[i], np.float32)
                target = _pointer(row)
            status = self._c.bt_train_sample(self._m, _pointer(window), target, ctypes.byref(loss))
            self._check(status, i)
            losses[i] = loss.value
        return losses

    def crc32(self) -> int:
        return int(self._c.bt_weights_crc32(self._m))

    def read(self, name: str) -> Array:
        offset, size = self._layout[name]
        return self._context[offset : offset + size].view(np.float32).copy()

    def write(self, name: str, values: Array) -> None:
        offset, size = self._layout[name]
        self._context[offset : offset + size] = (
            np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint8)
        )

    def save_state(self) -> bytes:
        slot = np.zeros(self._c.bt_save_bytes(), np.uint8)
        self._check(self._c.bt_save(self._m, _pointer(slot), ctypes.c_size_t(slot.size)), -1)
        return slot.tobytes()

    def load_state(self, checkpoint: bytes) -> None:
        if not isinstance(checkpoint, (bytes, bytearray, memoryview)):
            raise CheckpointError(f"a checkpoint is bytes, not {type(checkpoint).__name__}")
        slot = np.frombuffer(checkpoint, np.uint8)
        if not slot.size:
            raise CheckpointError("the checkpoint is empty")
        status = self._c.bt_load(self._m, _pointer(slot), ctypes.c_size_t(slot.size))
        if status:
            raise CheckpointError(self._text(status))

    @property
    def rejected(self) -> int:
        """Windows and groups refused since the start."""
        return int(self._field(-self.package.plan.peak_bytes - 8))

    def check_flat(self, on: bool = True) -> None:
        """Refuse windows that hold a constant channel."""
        at = len(self._context) - self.package.plan.peak_bytes - 12
        self._context[at : at + 4].view(np.uint32)[0] = int(on)

    def _field(self, offset: int) -> int:
        at = len(self._context) + offset
        return int(self._context[at : at + 4].view(np.uint32)[0])

    def _text(self, status: int) -> str:
        return bytes(self._c.bt_host_status(status)).decode()

    def _check(self, status: int, at: int) -> None:
        if status:
            where = f"sample {at}: " if at >= 0 else ""
            raise DeviceError(f"{where}{self._text(status)}", status)


def build(
    package: Package, flags: Sequence[str] = OPTIMISED, compiler: Sequence[str] | None = None
) -> Path:
    """The shared library of a package, built or from the cache."""
    command = tuple(compiler or find_compiler())
    return shared_library(library_files(package), flags, command)


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)

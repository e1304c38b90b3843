# SPDX-License-Identifier: Apache-2.0
"""The device's C on this machine, as a shared library."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.emit import RUNTIME, Source, in_words_of, kernel_sources, prefixed
from biotrain.emit.build import Build
from biotrain.emit.context import tensor_layout
from biotrain.errors import BioTrainError, CheckpointError, DeviceError
from biotrain.ops import SOURCES
from biotrain.run.compiler import NUMERICS, find_compiler, further_flags, shared_library
from biotrain.run.device import Array, Device
from biotrain.run.status import refusal

OPTIMISED = ("-O3", "-march=native", "-fPIC", "-std=c99", *NUMERICS)
"""Flags of the host build. The bits do not depend on them, the speed does."""


VECTORS = ("bt_conv_vector.h", "bt_norm.h", "bt_pair_moments.h")
"""Headers whose vector code is the same for every model."""


def library_files(package: Build) -> dict[str, str]:
    """The package, the host's loops, and the vector code, which is compiled once for all models."""
    kernels = {name: text for name, text in package.files.items() if (SOURCES / name).is_file()}
    if package.target.core != "host":  # a board's are trimmed; whole ones serve all models
        whole = kernel_sources(kernels)
        kernels = {name: (SOURCES / name).read_text(encoding="utf-8") for name in whole}
    included = [f'#include "{name}"' for name in VECTORS if name in kernels]
    lines = [
        f"#define BT_FUSED {int(package.fused)}",
        "#undef BT_VECTOR_LINKAGE",
        "#define BT_VECTOR_LINKAGE 2",
        *included,
        "typedef int bt_vectors; /* C99 wants something here */",
    ]
    host = {"host.c": (RUNTIME / "host.c").read_text(encoding="utf-8")}
    return {
        **package.files,
        **kernels,
        **in_words_of(package.source, host),
        "vectors.c": "\n".join([*lines, ""]),
    }


class _Symbols:
    """The functions of a library by their names in C, without the package's prefix."""

    def __init__(self, library: ctypes.CDLL, source: Source) -> None:
        self._library, self._source = library, source

    def __getitem__(self, name: str) -> Any:
        own = name if name.startswith("bt_host_") else prefixed(name, self._source)
        return getattr(self._library, own)

    def __getattr__(self, name: str) -> Any:
        return self[name]


class HostDevice(Device):
    """Runs the generated C in this process."""

    on = "host"

    def __init__(
        self,
        package: Build,
        *,
        flags: Sequence[str] | None = None,
        compiler: Sequence[str] | None = None,
    ) -> None:
        """Build and load the C. `flags`: instead of `OPTIMISED` and `BIOTRAIN_CFLAGS`."""
        super().__init__(package)
        self.library = build(package, flags, compiler)
        self._c = _Symbols(ctypes.CDLL(str(self.library)), package.source)
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
        self._layout = tensor_layout(package.source)
        self.reset()

    def reset(self) -> None:
        """Back to the factory weights."""
        self._c.bt_init(self._m)
        self.samples = 0

    def begin(self, total_steps: int = 0, lr: float | None = None) -> None:
        rate = self.package.source.optimizer.lr if lr is None else lr
        status = self._c.bt_begin(self._m, ctypes.c_uint32(total_steps), ctypes.c_float(rate))
        self._check(status, -1)

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

    def _adabn(self, x: npt.NDArray[Any]) -> None:
        self._check(self._c.bt_host_adabn(self._m, _pointer(x), ctypes.c_uint32(len(x))), -1)

    def predict(self, x: npt.ArrayLike) -> Any:
        windows = self._windows(x)
        logits = np.zeros((len(windows), self.package.source.train.outputs[0].size), np.float32)
        at = ctypes.c_int(0)
        status = self._c.bt_host_predict(
            self._m, _pointer(windows), len(windows), _pointer(logits), ctypes.byref(at)
        )
        self._check(status, at.value)
        return self.package.source.heads.split(logits)

    def group(self, windows: int) -> None:
        if windows < 1:
            raise BioTrainError(f"a group has at least one window, not {windows}")
        if self.package.source.gradients == "momentum":
            self._check(self._c.bt_group(self._m, ctypes.c_uint32(windows)), -1)

    def step(self) -> None:
        """One optimizer step with what is accumulated."""
        self._check(self._c.bt_step(self._m), -1)

    def accumulate(
        self, x: npt.ArrayLike, y: Any, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """Gradients of a batch without a step; returns the losses."""
        windows = self._windows(x)
        targets = self._targets(y, len(windows), sample_weight)
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
            if targets.dtype == np.int32:
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
        return int(self._field("rejected")[0])

    def check_flat(self, on: bool = True) -> None:
        """Refuse windows that hold a constant channel."""
        self._field("check_flat")[0] = int(on)

    def _field(self, name: str) -> npt.NDArray[np.uint32]:
        """A number of the context, as a view of one element."""
        at = self.package.context.offset(name, ctypes.sizeof(ctypes.c_void_p))
        return self._context[at : at + 4].view(np.uint32)

    def _text(self, status: int) -> str:
        return bytes(self._c.bt_host_status(status)).decode()

    def _check(self, status: int, at: int) -> None:
        if status:
            where = f"sample {at}: " if at >= 0 else ""
            raise DeviceError(f"{where}{refusal(status, self._text(status))}", status)


def build(
    package: Build, flags: Sequence[str] | None = None, compiler: Sequence[str] | None = None
) -> Path:
    """The shared library of a package, built or from the cache."""
    command = tuple(compiler or find_compiler())
    chosen = (*OPTIMISED, *further_flags()) if flags is None else flags
    return shared_library(library_files(package), (*chosen, "-DBT_VECTOR_LINKAGE=0"), command)


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)

# SPDX-License-Identifier: Apache-2.0
"""A front end on this machine: the same C that the device runs."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.errors import BioTrainError
from biotrain.frontend.design import FrontEnd
from biotrain.frontend.emit import emit
from biotrain.run.compiler import NUMERICS, STRICT, further_flags, shared_library

HOST_LOOPS = """\
#include "front.h"
typedef unsigned long bt_count;
bt_count front_bytes(void);
void front_init(bt_front *f);
bt_count front_push(bt_front *f, const int32_t *samples, bt_count n, bt_front_sample *x);
bt_count front_push16(bt_front *f, const int16_t *samples, bt_count n, bt_front_sample *x);
bt_count front_frames(bt_front *f, const int32_t *samples, bt_count n, bt_front_sample *x);
bt_count front_bytes(void) { return sizeof(bt_front); }
void front_init(bt_front *f) { bt_front_init(f); }
bt_count front_push(bt_front *f, const int32_t *samples, bt_count n, bt_front_sample *x)
{
    bt_count windows = 0;
    for (bt_count t = 0; t < n; t++)
        if (bt_front_push(f, samples + t * BT_FRONT_CHANS))
            bt_front_window(f, x + windows++ * BT_FRONT_CHANS * BT_FRONT_TIMES);
    return windows;
}
bt_count front_push16(bt_front *f, const int16_t *samples, bt_count n, bt_front_sample *x)
{
    bt_count windows = 0;
    for (bt_count t = 0; t < n; t++)
        if (bt_front_push16(f, samples + t * BT_FRONT_CHANS))
            bt_front_window(f, x + windows++ * BT_FRONT_CHANS * BT_FRONT_TIMES);
    return windows;
}
bt_count front_frames(bt_front *f, const int32_t *samples, bt_count n, bt_front_sample *x)
{
    bt_count kept = 0;
    for (bt_count t = 0; t < n; t++)
        if (bt_front_frame(f, samples + t * BT_FRONT_CHANS, x + kept * BT_FRONT_CHANS))
            kept++;
    return kept;
}
"""


class FrontStream:
    """A front end on this machine that keeps its state from one `push` to the next. `fused` is the
    numeric mode of the package."""

    def __init__(self, front: FrontEnd, fused: bool = False) -> None:
        flags = [*STRICT, *NUMERICS, "-O2", "-fPIC"]
        if fused:
            flags += ["-march=native", "-DBT_FUSED=1"]
        self.front = front
        flags += further_flags()
        path = shared_library({**emit(front), "front_host.c": HOST_LOOPS}, flags)
        self._c = ctypes.CDLL(str(path))
        for name in ("front_bytes", "front_push", "front_push16", "front_frames"):
            getattr(self._c, name).restype = ctypes.c_ulong
        size = int(self._c.front_bytes())
        self._memory = np.zeros(size // 8 + 1, np.int64)
        self.reset()

    def reset(self) -> None:
        """Back to the state before the first sample."""
        self._c.front_init(ctypes.c_void_p(self._memory.ctypes.data))

    def push(self, samples: npt.ArrayLike) -> npt.NDArray[Any]:
        """Take converter integers [n_chans, n]; return the windows that they complete."""
        front = self.front
        data = self._frames(samples)
        most = len(data) // (front.hop * front.decimate) + 2
        windows = np.empty((most, front.n_chans, front.window), front.dtype)
        push = self._c.front_push16 if data.dtype == np.int16 else self._c.front_push
        return windows[: self._call(push, data, windows)]

    def frames(self, samples: npt.ArrayLike) -> npt.NDArray[Any]:
        """Take converter integers [n_chans, n]; return what decimation keeps, [n_chans, kept], for
        whoever has a ring of its own. Not to be mixed with `push`, which these do not reach."""
        data = self._frames(samples).astype(np.int32)
        kept = np.empty((len(data), self.front.n_chans), self.front.dtype)
        return kept[: self._call(self._c.front_frames, data, kept)].T

    def _call(self, function: Any, data: npt.NDArray[Any], out: npt.NDArray[Any]) -> int:
        pointers = (ctypes.c_void_p(a.ctypes.data) for a in (self._memory, data, out))
        state, given, made = pointers
        return int(function(state, given, ctypes.c_ulong(len(data)), made))

    def _frames(self, samples: npt.ArrayLike) -> npt.NDArray[Any]:
        """[n, n_chans], int16 where that holds them, else int32."""
        front = self.front
        x = np.asarray(samples)
        if x.ndim != 2 or x.shape[0] != front.n_chans:
            raise BioTrainError(
                f"front end: samples must be [{front.n_chans}, n], not {list(x.shape)}"
            )
        narrow = x.dtype in (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int16))
        if not (narrow or x.dtype in (np.dtype(np.uint16), np.dtype(np.int32))):
            raise BioTrainError(
                "front end: samples must be the converter's integers (int16 or int32), "
                f"not {x.dtype}"
            )
        return np.ascontiguousarray(x.T, np.int16 if narrow else np.int32)


def windows_of(front: FrontEnd, samples: npt.ArrayLike, *, fused: bool = False) -> npt.NDArray[Any]:
    """All windows of a recording: int [n_chans, n_samples] to float32 (or int16, with `unit`)
    [n, n_chans, window]."""
    return FrontStream(front, fused).push(samples)

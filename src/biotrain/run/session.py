# SPDX-License-Identifier: Apache-2.0
"""A device behind the mailbox of `rt/session.h`, whatever machine runs it."""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from biotrain.emit import window_offset
from biotrain.emit.build import Build
from biotrain.emit.context import tensor_layout
from biotrain.errors import BioTrainError, CheckpointError, DeviceError
from biotrain.run.device import Array, Device
from biotrain.run.elf import Elf
from biotrain.run.machine import Machine
from biotrain.run.mailbox import COMMANDS, FIELDS, POINTER_BYTES, session
from biotrain.run.status import refusal

SLOT_BYTES = 1 << 20
"""Memory for a checkpoint or for features, outside the firmware's own."""


class SessionDevice(Device):
    """Firmware with the mailbox on a machine."""

    def __init__(self, package: Build, machine: Machine, elf: Path, slot: int) -> None:
        """`slot`: an address outside the firmware's memories, for checkpoints and features."""
        super().__init__(package)
        self.machine = machine
        self.elf = Elf(elf)
        self._slot = slot
        self._at, size = self.elf.symbol("session")
        self._outputs = package.source.train.outputs[0].size
        self._model = self._at + session(self._outputs, 4).offset("model", POINTER_BYTES)
        held = size - (self._model - self._at)
        if held != package.plan.context_bytes:
            raise BioTrainError(
                f"the context has {held} bytes, the plan says {package.plan.context_bytes}"
            )
        self._window = self._field("arena") + window_offset(package.source)
        self._layout = tensor_layout(package.source)
        machine.run()

    def close(self) -> None:
        """Stop the machine."""
        self.machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------ what a device does

    def reset(self) -> None:
        self._do("init")
        self.samples = 0

    def begin(self, total_steps: int = 0, lr: float | None = None) -> None:
        rate = self.package.source.optimizer.lr if lr is None else lr
        self._put("count", total_steps)
        self._put("value", rate)
        self._do("begin")

    def group(self, windows: int) -> None:
        if windows < 1:
            raise BioTrainError(f"a group has at least one window, not {windows}")
        if self.package.source.gradients == "momentum":
            self._announce(windows)

    def step(self) -> None:
        self._do("step")

    def accumulate(
        self, x: npt.ArrayLike, y: Any, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        windows = self._windows(x)
        targets = self._targets(y, len(windows), sample_weight)
        if self.package.source.batch:
            return np.asarray([self._batch(windows, targets)], np.float32)
        losses = [self._sample(windows[i], targets[i], i) for i in range(len(windows))]
        return np.asarray(losses, np.float32)

    def predict(self, x: npt.ArrayLike) -> Any:
        windows = self._windows(x)
        logits = np.zeros((len(windows), self._outputs), np.float32)
        for i, window in enumerate(windows):
            self.machine.write(self._window, window.tobytes())
            self._do("predict", i)
            logits[i] = np.frombuffer(
                self.machine.read(
                    self._at + FIELDS.offset("values", POINTER_BYTES), 4 * self._outputs
                ),
                "<f4",
            )
        return self.package.source.heads.split(logits)

    def crc32(self) -> int:
        self._do("crc32")
        return int(self._get("count"))

    def read(self, name: str) -> Array:
        offset, size = self._layout[name]
        return np.frombuffer(self.machine.read(self._model + offset, size), "<f4").copy()

    def write(self, name: str, values: Array) -> None:
        offset, _ = self._layout[name]
        data = np.ascontiguousarray(values, "<f4").tobytes()
        self.machine.write(self._model + offset, data)

    def save_state(self) -> bytes:
        self._put("slot", self._slot)
        self._put("count", SLOT_BYTES)
        self._do("save")
        return self.machine.read(self._slot, self._get("count"))

    def load_state(self, checkpoint: bytes) -> None:
        if not isinstance(checkpoint, (bytes, bytearray, memoryview)):
            raise CheckpointError(f"a checkpoint is bytes, not {type(checkpoint).__name__}")
        if not checkpoint:
            raise CheckpointError("the checkpoint is empty")
        self.machine.write(self._slot, bytes(checkpoint))
        self._put("slot", self._slot)
        self._put("count", len(checkpoint))
        try:
            self._do("load")
        except DeviceError as error:
            raise CheckpointError(str(error)) from None

    @property
    def rejected(self) -> int:
        """Windows and groups refused since the start."""
        return int.from_bytes(self.machine.read(self._field("rejected"), 4), "little")

    def check_flat(self, on: bool = True) -> None:
        """Refuse windows that hold a constant channel."""
        self.machine.write(self._field("check_flat"), struct.pack("<I", on))

    # ------------------------------------------------------------ training

    def _train(self, x: npt.NDArray[Any], y: npt.NDArray[Any], drop_last: bool) -> Array:
        if self.package.source.batch:
            return self._train_batches(x, y, drop_last)
        return self._train_each(x, y, drop_last, self._sample)

    def _train_features(self, f: Array, y: npt.NDArray[Any], drop_last: bool) -> Array:
        return self._train_each(f, y, drop_last, self._from_features)

    def _train_each(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any], drop_last: bool, sample: Any
    ) -> Array:
        source = self.package.source
        losses: list[float] = []
        announced, size = source.gradients == "momentum", source.accumulate
        in_group = int.from_bytes(self.machine.read(self._field("samples"), 4), "little")
        group = size
        for i in range(len(x)):
            rest = len(x) - i
            if announced and in_group == 0:
                group = min(size, rest)
                if group < size:
                    if drop_last:
                        break
                    self._announce(group)
            try:
                losses.append(sample(x[i], y[i], i))
            except DeviceError:
                self._do("drop")
                raise
            in_group += 1
            if source.trained and (in_group >= group or (rest == 1 and not drop_last)):
                self._do("step")
                in_group = 0
        if drop_last and len(x):
            self._do("drop")
        return np.asarray(losses, np.float32)

    def _train_batches(self, x: npt.NDArray[Any], y: npt.NDArray[Any], drop_last: bool) -> Array:
        batch = self.package.source.batch
        assert batch is not None
        losses: list[float] = []
        for i in range(0, len(x), batch.size):
            windows, targets = x[i : i + batch.size], y[i : i + batch.size]
            if len(windows) < batch.size and drop_last:
                break
            loss = self._batch(windows, targets)
            if self.package.source.trained:
                self._do("step")
            losses += [loss] * len(windows)
        return np.asarray(losses, np.float32)

    def _sample(self, window: npt.NDArray[Any], target: Any, at: int) -> float:
        self.machine.write(self._window, window.tobytes())
        self._target(target)
        self._do("train", at)
        return float(self._get("value"))

    def _batch(self, windows: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
        self._ask("train_batch", windows, targets)
        return float(self._get("value"))

    def _adabn(self, x: npt.NDArray[Any]) -> None:
        self._ask("adabn", x, None)

    def _ask(
        self, command: str, windows: npt.NDArray[Any], targets: npt.NDArray[Any] | None
    ) -> None:
        """A command that asks for windows, each several times."""
        self._put("count", len(windows))
        self._put("command", COMMANDS.number(command))
        self.machine.run()
        while self._get("asked"):
            at = self._get("index")
            if place := self._get("slot"):  # else only the label is needed
                self.machine.write(place, windows[at].tobytes())
            if targets is not None:
                self._target(targets[at])
            self._put("command", COMMANDS.number("window"))
            self.machine.run()
        self._check(-1)

    def _features(self, x: npt.NDArray[Any]) -> Array:
        features = np.zeros((len(x), self.package.plan.feature_bytes // 4), np.float32)
        self._put("slot", self._slot)
        for i, window in enumerate(x):
            self.machine.write(self._window, window.tobytes())
            self._do("features", i)
            features[i] = np.frombuffer(self.machine.read(self._slot, features[i].nbytes), "<f4")
        return features

    def _from_features(self, features: Array, target: Any, at: int) -> float:
        self.machine.write(self._slot, features.tobytes())
        self._put("slot", self._slot)
        self._target(target)
        self._do("train_features", at)
        return float(self._get("value"))

    # ------------------------------------------------------------ the mailbox

    def _announce(self, windows: int) -> None:
        self._put("count", windows)
        self._do("group")

    def _target(self, target: Any) -> None:
        if np.ndim(target):
            self.machine.write(
                self._at + FIELDS.offset("values", POINTER_BYTES),
                np.ascontiguousarray(target, "<f4").tobytes(),
            )
        else:
            self._put("label", int(target))

    def _do(self, command: str, at: int = -1) -> None:
        self._put("command", COMMANDS.number(command))
        self.machine.run()
        self._check(at)

    def _check(self, at: int) -> None:
        if status := self._get("status"):
            where = f"sample {at}: " if at >= 0 else ""
            raise DeviceError(f"{where}{refusal(status)}", status)

    def _put(self, name: str, value: float) -> None:
        kind = FIELDS.member(name).kind.dtype(POINTER_BYTES)
        at = self._at + FIELDS.offset(name, POINTER_BYTES)
        self.machine.write(at, np.asarray(value, kind).tobytes())

    def _get(self, name: str) -> Any:
        kind = FIELDS.member(name).kind.dtype(POINTER_BYTES)
        at = self._at + FIELDS.offset(name, POINTER_BYTES)
        return np.frombuffer(self.machine.read(at, kind.itemsize), kind)[0].item()

    def _field(self, name: str) -> int:
        """Address of a member of the context."""
        return self._model + self.package.context.offset(name, POINTER_BYTES)

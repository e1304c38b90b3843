# SPDX-License-Identifier: Apache-2.0
"""What every device can do, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from biotrain.emit import running_values
from biotrain.emit.build import Build
from biotrain.errors import BioTrainError, CheckpointError
from biotrain.planner.adabn import adabn_windows
from biotrain.run.targets import encoded
from biotrain.writing.files import write_file

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Executed:
    """What a device has executed."""

    instructions: int
    cycles: int
    cycles_source: str
    estimate: bool
    """Whether the cycles are an estimate (core tables), not counted by the core."""


class Device(ABC):
    """A running package: its weights change with `train` and answer `predict`."""

    on: str

    def __init__(self, package: Build) -> None:
        self.package = package
        self.samples = 0

    # ------------------------------------------------------------ what a place provides

    @abstractmethod
    def begin(self, total_steps: int = 0, lr: float | None = None) -> None:
        """Start a calibration: momentum and step count from zero.

        The cosine schedule spans `total_steps`; 0 keeps the rate constant.
        """

    @abstractmethod
    def reset(self) -> None:
        """Back to the factory weights."""

    @abstractmethod
    def accumulate(
        self, x: npt.ArrayLike, y: Any, sample_weight: npt.ArrayLike | None = None
    ) -> Array:
        """Add the gradients of a batch to the group without a step; returns the losses.

        With `gradients="update"` every window is a step.
        """

    @abstractmethod
    def step(self) -> None:
        """One optimizer step with what is accumulated."""

    @abstractmethod
    def group(self, windows: int) -> None:
        """Announce how many windows the next group has, where it has not `accumulate` of them.

        Only `gradients="momentum"` must know before the first of them, and only where `accumulate`
        and `step` are called by hand.
        """

    @abstractmethod
    def _train(self, x: npt.NDArray[Any], y: npt.NDArray[Any], drop_last: bool) -> Array:
        """Losses of the samples that were run, one per sample."""

    @abstractmethod
    def _features(self, x: npt.NDArray[Any]) -> Array:
        """Features of windows."""

    @abstractmethod
    def _train_features(self, f: Array, y: npt.NDArray[Any], drop_last: bool) -> Array:
        """`_train`, from features."""

    @abstractmethod
    def _adabn(self, x: npt.NDArray[Any]) -> None:
        """The statistics of batch norms become those of windows."""

    @abstractmethod
    def predict(self, x: npt.ArrayLike) -> Any:
        """Logits `[batch, n_outputs]` of windows `[batch, n_chans, n_times]`; where the network
        returns a tuple or dict, one of arrays in torch's shapes."""

    @abstractmethod
    def crc32(self) -> int:
        """CRC-32 of the trained parameters and running statistics."""

    @abstractmethod
    def read(self, name: str) -> Array:
        """A tensor of the context by value name (`spatial_weight`, `g_spatial_weight`)."""

    @abstractmethod
    def write(self, name: str, values: Array) -> None:
        """Overwrite a trained parameter or running statistic."""

    @abstractmethod
    def save_state(self) -> bytes:
        """Checkpoint: weights, optimizer, schedule; what `bt_save` writes into a slot."""

    @abstractmethod
    def load_state(self, checkpoint: bytes) -> None:
        """Continue from a checkpoint; one that is foreign or corrupt changes nothing."""

    def executed(self) -> Executed | None:
        """Instructions and cycles since the start, or since `restart_count`; None where nobody
        counts them."""
        return None

    def restart_count(self) -> None:
        """Count instructions and cycles from here."""
        return

    def close(self) -> None:
        """Release what the device holds."""
        return

    # ------------------------------------------------------------ what they share

    def train(
        self,
        x: npt.ArrayLike,
        y: Any,
        drop_last: bool = False,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Train on a batch, sample by sample; returns the mean loss.

        Parameters
        ----------
        x : float `[batch, n_chans, n_times]`, or the converter's integers; a package with an
            int16 input takes floats too and rounds them to the nearest of its integers
        y : integer `[batch]` for cross-entropy (`[batch, steps]` where each step has a class), or
            float `[batch, n_outputs]`; a tuple or dict of these where there are several outputs
        sample_weight : a weight for each window, of a package with `sample_weights`
        drop_last : leave out the step over the rest that does not fill `accumulate` samples
            (with `gradients="momentum"` the rest itself, for its gradients could not be dropped)

        Raises
        ------
        DeviceError
            with the status of the first sample that was refused; what its group had
            accumulated is dropped (with `gradients="momentum"` the momentum too), the steps before
            it stay done.
        """
        windows = self._windows(x)
        targets = self._targets(y, len(windows), sample_weight)
        losses = self._train(windows, targets, drop_last)
        self.samples += len(losses)
        return float(np.mean(losses, dtype=np.float64)) if len(losses) else 0.0

    def features(self, x: npt.ArrayLike) -> Array:
        """What the frozen layers make of windows: float32 `[batch, n_features]`.

        It never changes, so that later epochs can start from it (`train_features`). There are
        features where a part of the network is frozen in front of all that trains, and what comes
        out of it is smaller than the window (`plan.feature_bytes` is not 0).
        """
        self._needs_features()
        return self._features(self._windows(x))

    def train_features(
        self,
        f: npt.ArrayLike,
        y: Any,
        drop_last: bool = False,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """`train`, to the bit, from the `features` of a batch."""
        width = self._needs_features()
        features = np.asarray(f)
        if features.ndim != 2 or features.shape[1] != width:
            raise BioTrainError(
                f"f has shape {list(features.shape)}, the model takes [batch, {width}]"
            )
        if not np.issubdtype(features.dtype, np.floating):
            raise BioTrainError(f"f must be floats, not {features.dtype}")
        with np.errstate(over="ignore"):
            features = np.ascontiguousarray(features, np.float32)
        targets = self._targets(y, len(features), sample_weight)
        losses = self._train_features(features, targets, drop_last)
        self.samples += len(losses)
        return float(np.mean(losses, dtype=np.float64)) if len(losses) else 0.0

    def adabn(self, x: npt.ArrayLike) -> None:
        """BatchNorm's running statistics become those of the windows, without labels (AdaBN).

        As if the windows were one batch: mean and unbiased variance of each layer in turn, of what
        the layers before it make with their new statistics. The package is compiled with
        `adabn=True`. What `features` were made before is stale.

        Raises
        ------
        DeviceError
            where a window holds NaN or infinity, the statistics overflow, or a group is open
            (`accumulate` without `step`): the statistics stay as they were.
        """
        if self.package.source.adabn is None:
            raise BioTrainError("to re-estimate statistics, compile the package with adabn=True")
        windows = self._windows(x)
        least, most = adabn_windows(self.package.source.adabn)
        if not least <= len(windows) <= most:
            raise BioTrainError(
                f"statistics are taken of {least} to {most:,} windows, not of {len(windows)}"
            )
        self._adabn(windows)

    def _needs_features(self) -> int:
        """How many features a window has."""
        if not self.package.plan.feature_bytes:
            raise BioTrainError(
                f"a package of strategy '{self.package.strategy}' has no features here: nothing is "
                "frozen in front of what trains, or too much comes out of it (plan.choices)"
            )
        return self.package.plan.feature_bytes // 4

    def parameters(self) -> dict[str, Array]:
        """All parameters and running statistics by torch name, in torch's shapes."""
        source = self.package.source
        result: dict[str, Array] = {}
        for value in (*source.train.params, *running_values(source)):
            held = value.name in source.trained or value.kind == "state"
            data = self.read(value.name) if held else source.tensors[value.name].copy()
            result[source.torch_names[value.name]] = data.reshape(source.tensors[value.name].shape)
        return result

    def gradients(self) -> dict[str, Array]:
        """Accumulated gradients (sums over the group) by torch name."""
        source = self.package.source
        if source.gradients != "separate":
            raise BioTrainError(
                f"with gradients='{source.gradients}' there are no tensors of gradients to read"
            )
        return {
            source.torch_names[v.name]: self.read(f"g_{v.name}").reshape(
                source.tensors[v.name].shape
            )
            for v in source.train.params
            if v.name in source.trained
        }

    def save(self, path: str | Path) -> None:
        """Write the weights as safetensors, torch's names and shapes."""
        from safetensors.numpy import save

        write_file(path, save(self.parameters()))

    def load(self, path: str | Path) -> None:
        """Read weights from safetensors; all of them or, on any mismatch, none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(str(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise CheckpointError(f"cannot read '{path}': {error}") from error
        self.load_parameters(tensors, str(path))

    def load_parameters(self, tensors: Mapping[str, Array], where: str = "weights") -> None:
        """Set trained parameters and running statistics; all or none."""
        source = self.package.source
        wanted = self.parameters()
        for name, now in wanted.items():
            if name not in tensors:
                raise CheckpointError(f"'{where}' has no tensor '{name}': it is of another model")
            if tensors[name].shape != now.shape:
                raise CheckpointError(
                    f"'{where}': '{name}' has shape {tensors[name].shape}, "
                    f"this model's is {now.shape}"
                )
            if not np.issubdtype(tensors[name].dtype, np.floating):
                raise CheckpointError(
                    f"'{where}': '{name}' holds {tensors[name].dtype}, not floats"
                )
            with np.errstate(over="ignore"):
                values = tensors[name].astype(np.float32)
            if not np.all(np.isfinite(values)):
                raise CheckpointError(f"'{where}': '{name}' holds NaN or infinity")
        by_torch = {t: v for v, t in source.torch_names.items()}
        held = [*source.trained, *(v.name for v in running_values(source))]
        frozen = [
            n
            for n, now in wanted.items()
            if by_torch[n] not in held
            and not np.array_equal(now, np.asarray(tensors[n], np.float32))
        ]
        if frozen:
            raise CheckpointError(
                f"'{where}' changes '{frozen[0]}', which strategy '{self.package.strategy}' keeps "
                "in flash; compile the model with these weights instead"
            )
        for name in wanted:
            if by_torch[name] in held:
                self.write(by_torch[name], np.ascontiguousarray(tensors[name], np.float32))

    def _targets(
        self, y: Any, count: int, sample_weight: npt.ArrayLike | None = None
    ) -> npt.NDArray[Any]:
        """Labels int32 `[count]`, or float32 `[count, numbers of a target]`."""
        return encoded(self.package.source, y, count, sample_weight)

    def _windows(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """float32, or int16 where the package keeps the converter's integers."""
        windows = np.asarray(x)
        shape = self.package.source.train.inputs[0].shape[1:]
        if windows.ndim != len(shape) + 1 or windows.shape[1:] != shape:
            raise BioTrainError(
                f"x has shape {list(windows.shape)}, the model takes [batch, "
                f"{', '.join(map(str, shape))}]"
            )
        if not (
            np.issubdtype(windows.dtype, np.floating) or np.issubdtype(windows.dtype, np.integer)
        ):
            raise BioTrainError(f"x must be numbers, not {windows.dtype}")
        scale = self.package.source.input_scale
        if scale is not None:
            return _as_int16(windows, scale)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(windows, np.float32)


def _as_int16(windows: npt.NDArray[Any], scale: float) -> npt.NDArray[np.int16]:
    """Integers as they are; floats divided by the scale and rounded, halves to even."""
    if np.issubdtype(windows.dtype, np.floating):
        if not np.all(np.isfinite(windows)):
            raise BioTrainError("x holds NaN or infinity, which no int16 stands for")
        windows = np.rint(windows.astype(np.float64) / scale)
    limits = np.iinfo(np.int16)
    if windows.size and not (limits.min <= windows.min() and windows.max() <= limits.max):
        raise BioTrainError(
            f"x reaches from {windows.min():g} to {windows.max():g} units of the converter "
            f"(one is {scale:g}); int16 holds {limits.min} to {limits.max}"
        )
    return np.ascontiguousarray(windows, np.int16)

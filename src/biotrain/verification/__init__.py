# SPDX-License-Identifier: Apache-2.0
"""The same optimizer steps in torch (float64 and float32) and in the generated C, compared.

The error of a tensor is max|a - ref| / max|ref|, with ref from torch in float64 (against the
largest tensor of its kind where ref is zero, a running mean against the standard deviation). The
bar is four times the largest error of torch in float32 over the seeds, and not below 16 eps:
losses and gradients of every tensor at step 1, weights and running statistics after every step,
logits of a prediction after the last.

Where a tensor exceeds that bar, torch was perhaps lucky, or an activation lies at a kink: the same
steps run in torch in float64 with random rounding, eight times per draw, and with what lies within
rounding of a kink on its other side. The bar is then four times the largest of these errors too.

A package that stores activations in 16 bits has a bar of its own: four times the largest error of
torch in float32 with the results of the same modules rounded to that format, and not below four of
its roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from biotrain.emit import Source
from biotrain.errors import BioTrainError
from biotrain.graph.rewrite.precision import modules_of, parse_store
from biotrain.ir.optimizer import SGD
from biotrain.ops.half import EPS as HALF_EPS
from biotrain.ops.half import torch_dtype
from biotrain.package import Package
from biotrain.run.device import Device
from biotrain.run.targets import encoded
from biotrain.verification.losses import draw_targets, drawn, flat
from biotrain.verification.reference import Array, Reference
from biotrain.verification.rounding import FLOOR, OtherSide, RandomRounding

FACTOR = 4.0
"""The bar of a tensor, in multiples of torch's float32 error."""
HALF_FLOOR = 4.0
"""The lowest bar of a package that stores 16 bits, in roundings of that format."""
ROUNDINGS = 8
"""Runs with random rounding per draw, where a tensor exceeds the bar of torch's float32 error."""

Errors = dict[str, float]
"""The largest relative error of each tensor so far."""


@dataclass(frozen=True, slots=True)
class TensorError:
    """Largest relative errors of one tensor; `<name>.grad` is its gradient at step 1."""

    name: str
    max_rel_error: float
    """Error of the generated C."""
    torch_fp32_error: float
    torch_stored_error: float | None = None
    """Error of torch with the same tensors rounded to 16 bits, where the package stores them so."""
    floor: float = FLOOR
    """The lowest bar."""
    rounding_error: float = 0.0
    """Error of torch in float64 with random rounding, and on the other side of kinks: measured only
    where the C exceeds the bar without it."""

    @property
    def bar(self) -> float:
        """What `max_rel_error` must not exceed."""
        stored = self.torch_stored_error
        error = self.torch_fp32_error if stored is None else stored
        return max(FACTOR * max(error, self.rounding_error), self.floor)

    @property
    def ok(self) -> bool:
        """Within the bar (NaN is not)."""
        return self.max_rel_error <= self.bar


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `verify` found."""

    steps: int
    seeds: int
    tensors: tuple[TensorError, ...]
    crc32: int
    """CRC-32 of the weights that the C holds after the steps of the first seed."""
    kinks: int
    """Activations of the reference within 16 eps of a kink (ReLU at 0, ties in max pooling) that no
    other draw avoided: on the other side of it, an error above the bar says nothing."""
    store: str = "float32"
    """In which format the package stores activations for the backward pass."""

    @property
    def ok(self) -> bool:
        """Every tensor is within its bar."""
        return all(t.ok for t in self.tensors)

    @property
    def worst(self) -> TensorError | None:
        """The tensor that comes closest to its bar, or exceeds it most."""
        return max(self.tensors, key=lambda t: t.max_rel_error / t.bar, default=None)

    def to_json(self) -> dict[str, Any]:
        """The contract's keys."""
        rounded = self.store != "float32"
        return {
            "ok": self.ok,
            "steps": self.steps,
            "seeds": self.seeds,
            "tensors": [_tensor_json(t, rounded) for t in self.tensors],
            "crc32": self.crc32,
            "kinks": self.kinks,
            **({"store": self.store} if rounded else {}),
        }


def _tensor_json(t: TensorError, rounded: bool) -> dict[str, Any]:
    extra = {"torch_stored_error": t.torch_stored_error} if rounded else {}
    return {
        "name": t.name,
        "max_rel_error": t.max_rel_error,
        "torch_fp32_error": t.torch_fp32_error,
        **extra,
        **({"rounding_error": t.rounding_error} if t.rounding_error else {}),
        "bar": t.bar,
        "ok": t.ok,
    }


def verify(
    pkg: Package,
    steps: int = 10,
    seeds: int = 5,
    *,
    on: str = "host",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> VerifyReport:
    """Train in torch and on a device with the same random samples, and compare.

    Parameters
    ----------
    pkg : a compiled package that knows its torch module.
    steps : optimizer steps, of `accumulate` samples each.
    seeds : draws of the samples; the bar is the largest float32 error of torch over them.
    on : where the C runs.
    progress : called with (done, total) in units of steps.
    """
    if pkg.module is None:
        raise BioTrainError("verify needs the torch module; this package came from a .pt2 file")
    device = pkg.run(on, **options)
    c_errors: Errors = {}
    torch_errors: Errors = {}
    stored_errors: Errors = {}
    half = parse_store(pkg.source.store)
    kinks = crc = 0
    for draw in range(seeds):
        samples = _Samples(pkg, seed + draw)
        reference = Reference(pkg, torch.float64, steps, every_gradient=True)
        others = [(Reference(pkg, torch.float32, steps), torch_errors)]
        if half:
            stored = Reference(pkg, torch.float32, steps)
            stored.round_results(modules_of(pkg.graph), torch_dtype(half.half))
            others.append((stored, stored_errors))
        device.reset()
        device.begin(steps)
        for step in range(steps):
            x, y, weights, near = samples.group(reference)
            kinks += near
            values = _values(pkg, x)
            targets = encoded(pkg.source, y, len(x), weights)
            want_grad = _torch_step(step, reference, others, values, targets)
            losses = device.accumulate(x, y, weights)
            if step == 0:
                _compare({"loss": reference.losses}, {"loss": losses}, c_errors)
                c_grad = _gradients(pkg, device)
                want_grad = {n: g for n, g in want_grad.items() if n in c_grad}
                _compare(want_grad, c_grad, c_errors, ".grad", reference.largest)
            if pkg.source.trained:
                device.step()
            _compare(reference.tensors(), device.parameters(), c_errors)
            if progress:
                progress(draw * steps + step + 1, seeds * steps)
        _torch_logits(reference, others, values)
        have = flat(device.predict(x))
        _compare({"logits": reference.predict(values)}, {"logits": have}, c_errors)
        if draw == 0:
            crc = device.crc32()
    floor = HALF_FLOOR * HALF_EPS[half.half] if half else FLOOR
    tensors = tuple(
        TensorError(n, error, torch_errors[n], stored_errors.get(n), floor)
        for n, error in c_errors.items()
    )
    if not all(t.ok for t in tensors):
        errors = _rounding_errors(pkg, steps, range(seed, seed + seeds))
        tensors = tuple(replace(t, rounding_error=errors[t.name]) for t in tensors)
    return VerifyReport(steps, seeds, tensors, crc, kinks, pkg.source.store)


def _torch_step(
    step: int,
    reference: Reference,
    others: Sequence[tuple[Reference, Errors]],
    values: Array,
    y: Array,
) -> dict[str, Array]:
    """One optimizer step of the reference and of others, with their errors; the reference's mean
    gradients."""
    want = reference.step(values, y)
    for other, errors in others:
        have = other.step(values, y)
        if step == 0:
            _compare({"loss": reference.losses}, {"loss": other.losses}, errors)
            _compare(want, have, errors, ".grad", reference.largest)
        _compare(reference.tensors(), other.tensors(), errors)
    return want


def _torch_logits(
    reference: Reference, others: Sequence[tuple[Reference, Errors]], values: Array
) -> None:
    """The errors of others in a prediction after the last step."""
    want = {"logits": reference.predict(values)}
    for other, errors in others:
        _compare(want, {"logits": other.predict(values)}, errors)


def _rounding_errors(pkg: Package, steps: int, seeds: Sequence[int]) -> Errors:
    """What random rounding and the other side of kinks do to the tensors of the same draws."""
    worst: Errors = {}
    for seed in seeds:
        samples = _Samples(pkg, seed)
        reference = Reference(pkg, torch.float64, steps, every_gradient=True)
        modes = [RandomRounding(torch.Generator().manual_seed(i)) for i in range(ROUNDINGS)]
        others = [(Reference(pkg, torch.float64, steps, m), worst) for m in (*modes, OtherSide())]
        for step in range(steps):
            x, y, weights, _ = samples.group(reference)
            targets = encoded(pkg.source, y, len(x), weights)
            _torch_step(step, reference, others, _values(pkg, x), targets)
        _torch_logits(reference, others, _values(pkg, x))
    return worst


def _group(source: Source) -> int:
    """Windows of one optimizer step."""
    return source.batch.size if source.batch else source.accumulate


def _gradients(pkg: Package, device: Device) -> dict[str, Array]:
    """Mean gradients of the first step; those without tensors of their own as they reached the
    optimizer's state, weight decay included. Plain SGD has none, and the weights must do."""
    source = pkg.source
    if source.gradients == "separate":
        count = np.float32(_group(source))
        return {k: g / count for k, g in device.gradients().items()}
    if not source.slots:
        return {}
    optimizer = source.optimizer
    share = np.float32(1.0 if isinstance(optimizer, SGD) else 1.0 - optimizer.betas[0])
    return {
        source.torch_names[v.name]: device.read(f"{source.slots[0]}_{v.name}").reshape(v.shape)
        / share
        for v in source.train.params
        if v.name in source.trained
    }


def _values(pkg: Package, x: Array) -> Array:
    """What the samples stand for, in float32."""
    scale = pkg.source.input_scale
    return x if scale is None else x.astype(np.float32) * np.float32(scale)


class _Samples:
    """Random windows with structure over time, and targets that do not cancel.

    A window that puts an activation of the reference within rounding of a kink is drawn again (up
    to `TRIES` times): on the other side of the kink the gradient is another one, in any float32.
    All windows of a draw have one label: the gradient of an output bias is a sum of (p - label),
    and the relative error of a sum that cancels says nothing.
    """

    TRIES = 25

    def __init__(self, pkg: Package, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 20240613])
        self._pkg, self._source = pkg, pkg.source
        self._fixed = draw_targets(pkg.source, self._rng)

    def group(self, reference: Reference) -> tuple[Array, Any, Array | None, int]:
        """Windows, targets and weights of one step, and the kinks that could not be avoided."""
        count = _group(self._source)
        windows, kinks = [], 0
        for _ in range(count):
            best: tuple[int, Array] | None = None
            for _ in range(self.TRIES):
                x = self._window()
                near = reference.kinks(_values(self._pkg, x))
                if best is None or near < best[0]:
                    best = (near, x)
                if near == 0:
                    break
            assert best is not None
            kinks += best[0]
            windows.append(best[1])
        y, weights = drawn(self._source, self._fixed, count, self._rng)
        return np.stack(windows), y, weights, kinks

    def _window(self) -> Array:
        shape = self._source.train.inputs[0].shape[1:]
        noise = self._rng.standard_normal(shape)
        drift = np.cumsum(self._rng.standard_normal(shape), axis=-1)
        window, scale = noise + 0.05 * drift, self._source.input_scale
        if scale is None:
            return window.astype(np.float32)
        units = np.rint(window * min(max(1.0 / scale, 256.0), 4096.0))
        return np.clip(units, -(2**15), 2**15 - 1).astype(np.int16)


def _compare(
    want: Mapping[str, Array],
    have: Mapping[str, Array],
    worst: Errors,
    suffix: str = "",
    largest: float = 0.0,
) -> None:
    """Fold the relative errors of one step into the worst ones.

    A tensor that is 0 is measured against the largest of its kind, or `largest` if that is more.
    """
    largest = max([largest, *(float(np.abs(w).max()) for w in want.values())]) or 1.0
    for name, w in want.items():
        scale = float(np.abs(w).max())
        if scale <= 1e-9 * largest:
            scale = largest
        if name.endswith("running_mean") and (variance := want.get(f"{name[:-4]}var")) is not None:
            scale = max(scale, float(np.sqrt(variance.max())))  # what the mean was taken of
        error = float(np.abs(have[name].astype(np.float64).reshape(w.shape) - w).max()) / scale
        key = name + suffix
        worst[key] = max(worst.get(key, 0.0), error) if np.isfinite(error) else float("nan")

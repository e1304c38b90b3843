# SPDX-License-Identifier: Apache-2.0
"""The same optimizer steps in torch (float64 and float32) and in the generated C, compared.

The error of a tensor is max|a - ref| / max|ref|, with ref from torch in float64 (against the
largest tensor of its kind where ref is zero, a running mean against the standard deviation). The
bar is four times the largest error of torch in float32 over the seeds, and not below 16 eps:
losses and gradients of every tensor at step 1, weights and running statistics after every step,
logits of a prediction after the last.

A package that stores activations in 16 bits has a bar of its own: four times the largest error of
torch in float32 with the results of the same modules rounded to that format, and not below four of
its roundings.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from biotrain.emit import Source
from biotrain.errors import BioTrainError
from biotrain.graph.rewrite.precision import modules_of, parse_store
from biotrain.ir.optimizer import SGD
from biotrain.ops.half import EPS as HALF_EPS
from biotrain.ops.half import torch_dtype
from biotrain.package import Package
from biotrain.run.device import Device

Array = npt.NDArray[Any]
EPS = float(np.finfo(np.float32).eps)
FLOOR = 16 * EPS
"""The lowest bar: a lower one would ask more than float32 can give."""
FACTOR = 4.0
"""The bar of a tensor, in multiples of torch's float32 error."""
HALF_FLOOR = 4.0
"""The lowest bar of a package that stores 16 bits, in roundings of that format."""


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

    @property
    def bar(self) -> float:
        """What `max_rel_error` must not exceed."""
        stored = self.torch_stored_error
        return max(FACTOR * (self.torch_fp32_error if stored is None else stored), self.floor)

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
        "bar": t.bar,
        "ok": t.ok,
    }


class _Kinks(TorchDispatchMode):
    """Counts activations that lie within rounding of a point where the function has no gradient."""

    AT_ZERO = ("relu", "relu_", "leaky_relu", "leaky_relu_", "abs", "threshold")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in self.AT_ZERO:
            self._near(args[0], 0.0)
        elif name in ("hardtanh", "clamp", "clamp_min", "clamp_max"):
            for limit in args[1:]:
                if isinstance(limit, (int, float)):
                    self._near(args[0], float(limit))
        elif name == "max_pool2d_with_indices":
            self._ties(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _near(self, x: torch.Tensor, kink: float) -> None:
        distance = (x - kink).abs()
        self.count += int((distance < FLOOR * x.abs().max()).sum())

    def _ties(self, x: torch.Tensor, kernel: Any) -> None:
        sizes = list(kernel) * (1 if len(kernel) == 2 else 2)
        windows = x.unfold(-2, sizes[0], sizes[0]).unfold(-2, sizes[1], sizes[1])
        top = windows.flatten(-2).topk(min(2, sizes[0] * sizes[1]), -1).values
        if top.shape[-1] == 2:
            gap = top[..., 0] - top[..., 1]
            near = (gap > 0) & (gap < FLOOR * x.abs().max())  # equal zeros of a ReLU do not matter
            self.count += int(near.sum())


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
    worst_c: dict[str, float] = {}
    worst_t: dict[str, float] = {}
    worst_s: dict[str, float] = {}
    half = parse_store(pkg.source.store)
    rounded = modules_of(pkg.graph) if half else ()
    kinks = crc = 0
    total = seeds * steps
    for draw in range(seeds):
        samples = _Samples(pkg, seed + draw)
        reference = _Torch(pkg, torch.float64, steps)
        others = [(_Torch(pkg, torch.float32, steps), worst_t)]
        if half:
            stored = _Torch(pkg, torch.float32, steps)
            stored.round_results(rounded, torch_dtype(half.half))
            others.append((stored, worst_s))
        device.reset()
        device.begin(steps)
        for step in range(steps):
            x, y, near = samples.group(reference)
            kinks += near
            values = _values(pkg, x)
            want_grad = reference.step(values, y)
            have_grads = [other.step(values, y) for other, _ in others]
            losses = device.accumulate(x, y)
            if step == 0:
                _compare({"loss": reference.losses}, {"loss": losses}, worst_c, "")
                c_grad = _gradients(pkg, device)
                want_grad = {n: g for n, g in want_grad.items() if n in c_grad}
                _compare(want_grad, c_grad, worst_c, ".grad")
                for (other, errors), have_grad in zip(others, have_grads, strict=True):
                    _compare({"loss": reference.losses}, {"loss": other.losses}, errors, "")
                    _compare(want_grad, have_grad, errors, ".grad")
            if pkg.source.trained:
                device.step()
            want = reference.tensors()
            _compare(want, {k: v for k, v in device.parameters().items() if k in want}, worst_c, "")
            for other, errors in others:
                _compare(want, other.tensors(), errors, "")
            if progress:
                progress(draw * steps + step + 1, total)
        logits = {"logits": reference.predict(values)}
        _compare(logits, {"logits": device.predict(x)}, worst_c, "")
        for other, errors in others:
            _compare(logits, {"logits": other.predict(values)}, errors, "")
        if draw == 0:
            crc = device.crc32()
    floor = HALF_FLOOR * HALF_EPS[half.half] if half else FLOOR
    tensors = tuple(TensorError(n, worst_c[n], worst_t[n], worst_s.get(n), floor) for n in worst_c)
    return VerifyReport(steps, seeds, tensors, crc, kinks, pkg.source.store)


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
        self._label = self._rng.integers(0, pkg.source.train.outputs[0].shape[-1])

    def group(self, reference: _Torch) -> tuple[Array, Array, int]:
        """Windows and targets of one step, and the kinks that could not be avoided."""
        count, outputs = _group(self._source), self._source.train.outputs[0].shape
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
        if self._source.loss == "mse":
            y: Array = self._rng.standard_normal((count, *outputs[1:])).astype(np.float32)
        else:
            y = np.full(count, self._label)
        return np.stack(windows), y, kinks

    def _window(self) -> Array:
        shape = self._source.train.inputs[0].shape[1:]
        noise = self._rng.standard_normal(shape)
        drift = np.cumsum(self._rng.standard_normal(shape), axis=-1)
        window, scale = noise + 0.05 * drift, self._source.input_scale
        if scale is None:
            return window.astype(np.float32)
        units = np.rint(window * min(max(1.0 / scale, 256.0), 4096.0))
        return np.clip(units, -(2**15), 2**15 - 1).astype(np.int16)


class _Torch:
    """The reference: the package's module, optimizer and schedule in torch."""

    def __init__(self, pkg: Package, dtype: torch.dtype, steps: int) -> None:
        assert pkg.module is not None
        self.module = copy.deepcopy(pkg.module).to(dtype)
        self.dtype, self.source = dtype, pkg.source
        names = pkg.source.torch_names
        self.trained = [names[v] for v in pkg.source.trained]
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self.trained)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer, self.schedule = _optimizer(pkg, self.parameters, steps)

    def step(self, x: Array, y: Array) -> dict[str, Array]:
        """One group sample by sample; returns the mean gradients (see `_gradients`)."""
        self.optimizer.zero_grad()
        losses = []
        targets = torch.as_tensor(y)
        if targets.is_floating_point():
            targets = targets.to(self.dtype)
        size = len(x) if self.source.batch else 1
        for i in range(0, len(x), size):
            logits = self.module(torch.as_tensor(x[i : i + size]).to(self.dtype))
            if self.source.loss == "mse":
                loss = torch.nn.functional.mse_loss(logits, targets[i : i + size])
            else:
                loss = torch.nn.functional.cross_entropy(logits, targets[i : i + size])
            losses.append(loss.item())
            if self.parameters:
                (loss * size).backward()
        self.losses = np.asarray(losses)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= len(x)
        chosen = self.source.optimizer
        decay = 0.0 if getattr(chosen, "decoupled", False) else chosen.weight_decay
        if self.source.gradients == "separate":
            decay = 0.0
        grads = {
            n: (p.grad.detach() + decay * p.detach()).numpy()
            for n, p in self.module.named_parameters()
            if p.grad is not None and p.requires_grad
        }
        if self.source.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.source.optimizer.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        return grads

    def round_results(self, modules: Sequence[str], to: torch.dtype) -> None:
        """Round what these modules return to a format; gradients pass as they are.

        What a module computes between its parts is no module's result: there it is its parts' (a
        ReLU of them has the same rounding), and its own unless that is the logits.
        """

        def rounded(module: torch.nn.Module, inputs: Any, y: torch.Tensor) -> torch.Tensor:
            return y + (y.detach().to(to).to(y.dtype) - y.detach()) if module.training else y

        for name, module in self.module.named_modules():
            parts = name.rpartition(".")[0] in modules and name
            if (name and name in modules) or parts:
                module.register_forward_hook(rounded)

    def kinks(self, x: Array) -> int:
        """Activations of one window that lie within rounding of a kink."""
        module = copy.deepcopy(self.module)  # running statistics stay as they are
        with torch.no_grad(), _Kinks() as counter:
            module(torch.as_tensor(x[None]).to(self.dtype))
        return int(counter.count)

    def predict(self, x: Array) -> Array:
        """Logits in evaluation mode, sample by sample."""
        module = copy.deepcopy(self.module).eval()
        with torch.no_grad():
            rows = [module(torch.as_tensor(x[i : i + 1]).to(self.dtype)) for i in range(len(x))]
        return torch.cat(rows).numpy()

    def tensors(self) -> dict[str, Array]:
        """Trained parameters and running statistics."""
        names = self.source.torch_names
        kept = [names[v.name] for v in self.source.train.states if v.name in names]
        result = {
            n: p.detach().clone().numpy()
            for n, p in self.module.named_parameters()
            if n in self.trained
        }
        result |= {
            n: b.detach().clone().numpy() for n, b in self.module.named_buffers() if n in kept
        }
        return result


def _optimizer(
    pkg: Package, parameters: list[torch.nn.Parameter], steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    chosen = pkg.source.optimizer
    params = parameters or [torch.nn.Parameter(torch.zeros(1))]
    optimizer: torch.optim.Optimizer
    if isinstance(chosen, SGD):
        optimizer = torch.optim.SGD(
            params,
            lr=chosen.lr,
            momentum=chosen.momentum,
            weight_decay=chosen.weight_decay,
            nesterov=chosen.nesterov,
        )
    else:
        family = torch.optim.AdamW if chosen.decoupled else torch.optim.Adam
        optimizer = family(
            params,
            lr=chosen.lr,
            betas=chosen.betas,
            eps=chosen.eps,
            weight_decay=chosen.weight_decay,
        )
    schedule: torch.optim.lr_scheduler.LRScheduler
    if chosen.schedule == "cosine":
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    else:
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return optimizer, schedule


def _compare(
    want: Mapping[str, Array], have: Mapping[str, Array], worst: dict[str, float], suffix: str
) -> None:
    """Fold the relative errors of one step into the worst ones."""
    largest = max((float(np.abs(w).max()) for w in want.values()), default=0.0) or 1.0
    for name, w in want.items():
        scale = float(np.abs(w).max())
        if scale <= 1e-9 * largest:
            scale = largest
        if name.endswith("running_mean") and (variance := want.get(f"{name[:-4]}var")) is not None:
            scale = max(scale, float(np.sqrt(variance.max())))  # what the mean was taken of
        error = float(np.abs(have[name].astype(np.float64) - w).max()) / scale
        key = name + suffix
        worst[key] = max(worst.get(key, 0.0), error) if np.isfinite(error) else float("nan")

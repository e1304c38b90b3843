# SPDX-License-Identifier: Apache-2.0
"""The reference of `verify`: a package's module, optimizer and schedule in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.overrides import TorchFunctionMode

from biotrain.graph.bounds import bounds_in, within
from biotrain.ir.optimizer import SGD
from biotrain.package import Package
from biotrain.topology.copies import copied
from biotrain.verification.losses import joined, objective
from biotrain.verification.rounding import Kinks

Array = npt.NDArray[Any]


class DropoutOff(TorchFunctionMode):
    """Calls of dropout pass their input on, as the device does, and a module that was turned to
    float64 stays there where its forward pass asks for `.float()`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "").rstrip("123d_").endswith("dropout"):
            return args[0] if args else (kwargs or {})["input"]
        if func is torch.Tensor.float and args[0].is_floating_point():
            return args[0]
        given = dict(kwargs or {})
        if given.get("dropout_p"):  # of attention weights
            given["dropout_p"] = 0.0
        if getattr(func, "__name__", "") == "scaled_dot_product_attention" and len(args) > 4:
            args = (*args[:4], 0.0, *args[5:])
        return func(*args, **given)


class Reference:
    """The package's module, optimizer and schedule in torch.

    `mode`: a dispatch mode under which gradients are computed and predictions made.
    `every_gradient`: `largest` is that of all parameters, those that are not trained included.
    """

    def __init__(
        self,
        pkg: Package,
        dtype: torch.dtype,
        steps: int,
        mode: AbstractContextManager[Any] | None = None,
        every_gradient: bool = False,
    ) -> None:
        assert pkg.module is not None
        self.module = copied(pkg.module).to(dtype)
        self.dtype, self.source = dtype, pkg.source
        names = pkg.source.torch_names
        self.trained = [names[v] for v in pkg.source.trained]
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(every_gradient or name in self.trained)
        self.parameters = [p for n, p in self.module.named_parameters() if n in self.trained]
        self.mode = mode if mode is not None else nullcontext()
        self.largest = 0.0
        """The largest mean gradient of the last step."""
        self.optimizer, self.schedule = _optimizer(pkg, self.parameters, steps)
        self.bounds = {names[v]: kept for v, kept in bounds_in(pkg.source.train).items()}
        self._bound()

    def _bound(self) -> None:
        """Keep the parameters to what the network's forward pass bounds them to."""
        with torch.no_grad():
            for name, kept in self.bounds.items():
                parameter = self.module.get_parameter(name)
                parameter.copy_(within(parameter, kept))

    @contextmanager
    def _as_on_the_device(self) -> Iterator[None]:
        """The module draws nothing at random, and runs under the mode."""
        with ExitStack() as stack:
            stack.enter_context(self.mode)
            stack.enter_context(DropoutOff())
            yield

    def step(self, x: Array, y: Array) -> dict[str, Array]:
        """One group sample by sample; returns the mean gradients (see `_gradients`).

        `y`: targets as the C takes them (`biotrain.run.targets`).
        """
        self.module.zero_grad()
        losses = []
        size = len(x) if self.source.batch else 1
        for i in range(0, len(x), size):
            with self._as_on_the_device():
                returned = self.module(torch.as_tensor(x[i : i + size]).to(self.dtype))
                loss = objective(self.source, returned, y[i : i + size])
                if self.parameters:
                    (loss * size).backward()
            losses.append(loss.item())
        self.losses = np.asarray(losses)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        found = [p.grad for p in self.module.parameters() if p.grad is not None]
        for grad in found:
            grad /= len(x)
        self.largest = max((float(g.abs().max()) for g in found), default=0.0)
        chosen = self.source.optimizer
        decay = 0.0 if getattr(chosen, "decoupled", False) else chosen.weight_decay
        if self.source.gradients == "separate":
            decay = 0.0
        grads = {
            n: (p.grad.detach() + decay * p.detach()).numpy()
            for n, p in self.module.named_parameters()
            if n in self.trained and p.grad is not None
        }
        if self.source.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.source.optimizer.clip_norm)
        self.optimizer.step()
        self._bound()
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
        module = copied(self.module)  # running statistics stay as they are
        window = torch.as_tensor(x[None]).to(self.dtype)
        with torch.no_grad(), DropoutOff(), Kinks() as counter:
            try:
                module(window)
            except ValueError:  # a batch norm of one number per window needs more windows
                module.eval()(window)
        return int(counter.count)

    def predict(self, x: Array) -> Array:
        """Logits in evaluation mode, sample by sample."""
        module = copied(self.module).eval()
        with torch.no_grad(), self._as_on_the_device():
            rows = [
                joined(self.source, module(torch.as_tensor(x[i : i + 1]).to(self.dtype)))
                for i in range(len(x))
            ]
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

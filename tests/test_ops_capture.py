# SPDX-License-Identifier: Apache-2.0
"""Small torch modules, captured, differentiated and run as C on the host: gradients against torch
in float64, the kinks included, and what capture refuses."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biotrain.errors import CaptureError, DeviceError
from biotrain.package import compile_model
from biotrain.run.compiler import find_compiler
from biotrain.verification import verify

BAR = 64 * np.finfo(np.float32).eps
"""Of the largest gradient of a tensor: these networks are a few layers deep."""

CHANNELS, TIMES = 3, 150


class Net(nn.Module):
    """A function of a window and of some layers."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self._function = forward
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, nn.Parameter(part))

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self, x)


def conv(inputs: int = CHANNELS, outputs: int = 4, taps: int = 5) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, taps, padding="same")


def head(y: Tensor, layer: nn.Linear) -> Tensor:
    return layer(y.flatten(1))


def residual(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    z = F.elu(y + m.b(y))
    z += y
    return m.out(z.mean(-1))


def squeeze_excite(m: Any, x: Tensor) -> Tensor:
    y = F.silu(m.a(x))
    gate = torch.sigmoid(m.up(F.leaky_relu(m.down(y.mean(2)), 0.1)))
    return m.out((y * gate.unsqueeze(-1)).mean(dim=2))


def shallow(m: Any, x: Tensor) -> Tensor:
    y = m.b(m.a(x.unsqueeze(1)))
    y = F.avg_pool2d(y**2, (1, 30), (1, 15))
    return head(torch.log(torch.clamp(y, min=1e-6)), m.out)


def scaled(m: Any, x: Tensor) -> Tensor:
    y = m.scale * torch.tanh(m.a(x)) + m.shift
    y = F.gelu(y - m.offset) * 0.5 + 1.0
    return m.out((2.0 - y / m.unit).sum(-1) / TIMES)


def relative(m: Any, x: Tensor) -> Tensor:
    y = F.softplus(m.a(x))
    share = y / y.sum(dim=1, keepdim=True)
    centred = share - share.mean(-1, True)
    power = (centred.square().mean(-1) + 1e-3).sqrt()
    return m.out(power + 1.0 / (1.0 + torch.exp(-y)).mean(-1))


def column_and_row(m: Any, x: Tensor) -> Tensor:
    y = F.gelu(m.a(x), approximate="tanh")
    return m.out((m.column - m.row) * y.abs()).mean(1) - y.mean() + m.row.sum()


NETS: dict[str, Callable[[], Net]] = {
    "residual": lambda: Net(residual, a=conv(), b=conv(4), out=nn.Linear(4, 2)),
    "squeeze_excite": lambda: Net(
        squeeze_excite, a=conv(), down=nn.Linear(4, 3), up=nn.Linear(3, 4), out=nn.Linear(4, 2)
    ),
    "shallow": lambda: Net(
        shallow,
        a=nn.Conv2d(1, 4, (1, 7)),
        b=nn.Conv2d(4, 4, (CHANNELS, 1), bias=False),
        out=nn.Linear(32, 3),
    ),
    "scaled": lambda: Net(
        scaled,
        a=conv(),
        scale=torch.randn(1, 4, 1),
        shift=torch.randn(4, 1),
        offset=torch.randn(4, TIMES),
        unit=torch.rand(1, 4, 1) + 1.0,
        out=nn.Linear(4, 2),
    ),
    "relative": lambda: Net(relative, a=conv(), out=nn.Linear(4, 2)),
    "column_and_row": lambda: Net(
        column_and_row,
        a=conv(),
        column=torch.randn(4, 1),
        row=torch.randn(1, TIMES),
        out=nn.Linear(TIMES, 2),
    ),
}


@pytest.mark.sample(test=6)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("name", NETS)
def test_gradients_equal_torch(name: str, loss: str) -> None:
    torch.manual_seed(3)
    net = NETS[name]()
    x = torch.randn(2, CHANNELS, TIMES)
    outputs = net(x[:1]).shape[1]
    y: Tensor = torch.randn(2, outputs) if loss == "mse" else torch.tensor([1, 0])
    package = compile_model(net, x, accumulate=4, loss=loss)  # type: ignore[arg-type]
    device = package.run("host")

    exact = copy.deepcopy(net).double()
    logits = exact(x[:1].double())
    expected = logits.detach().numpy()
    error = float(np.abs(device.predict(x[:1].numpy()) - expected).max())
    assert error <= BAR * float(np.abs(expected).max())

    function = F.mse_loss if loss == "mse" else F.cross_entropy
    value = function(exact(x[:1].double()), y[:1].double() if loss == "mse" else y[:1])
    value.backward()
    got = accumulated(device, x[:1].numpy(), y[:1].numpy())
    for key, parameter in exact.named_parameters():
        assert parameter.grad is not None
        want = parameter.grad.numpy()
        scale = max(float(np.abs(want).max()), 1e-6)
        error = float(np.abs(got[key] - want).max()) / scale
        assert error <= BAR, f"{name} {key}: {error:.2e}"


def accumulated(device: Any, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of one sample, no step taken."""
    device.accumulate(x, y)
    gradients: dict[str, np.ndarray] = device.gradients()
    return gradients


AT_ZERO = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 6.0, 7.0)

KINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.25),
    "leaky_relu_negative": lambda x: F.leaky_relu(x, -0.25),
    "leaky_relu_zero": lambda x: F.leaky_relu(x, 0.0),
    "elu": lambda x: F.elu(x, 2.0),
    "elu_in_place": lambda x: F.elu_(x * 1.0),
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-1.0, 2.0),
    "clamp_min": lambda x: x.clamp_min(-1.0),
    "clamp_max": lambda x: x.clamp_max(2.0),
    "clamp_crossed": lambda x: x.clamp(1.0, -1.0),
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "softplus": lambda x: F.softplus(x, 2.0, 4.0),
    "square": lambda x: x**2.0,
    "reciprocal": lambda x: (x + 9.0) ** -1,
    "hardsigmoid": F.hardsigmoid,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.5),
    "mish": F.mish,
    "logsigmoid": F.logsigmoid,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.5, -1.0),
    "sign": lambda x: x * x.sign(),
    "cube": lambda x: x**3,
    "maximum": lambda x: torch.maximum(x + 0.25, -x),
    "where": lambda x: torch.where(x > 0.5, x, 0.3 * x),
    "where_numbers": lambda x: x * torch.where(x <= 0.5, 2.0, -1.0) + torch.where(x < 1, 1.0, x),
    "masked_fill": lambda x: x.masked_fill((x != 2.0) & ~(x >= 0.5) | (x > 6.5), 3.0),
    "mask": lambda x: x * (x == 6.0).float() + torch.where(x.abs() > x, x * x, x),
}


@pytest.fixture(scope="module")
def kinks() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Gradients at the kinks in C and in torch, all functions in one program."""

    def forward(m: Any, x: Tensor) -> Tensor:
        total = x.sum(-1) * 0.0
        for name, function in KINKS.items():
            total = total + function(getattr(m, name)).sum()
        return total

    net = Net(forward, **{name: torch.tensor([AT_ZERO]) for name in KINKS})
    x = torch.zeros(1, 2, 8)
    y = np.ones((1, 2), np.float32)
    device = compile_model(net, x, accumulate=2, loss="mse").run("host")
    got = accumulated(device, x.numpy(), y)
    exact = copy.deepcopy(net).double()
    F.mse_loss(exact(x.double()), torch.ones(1, 2, dtype=torch.float64)).backward()
    want = {k: p.grad.numpy() for k, p in exact.named_parameters() if p.grad is not None}
    return got, want


@pytest.mark.parametrize("name", KINKS)
def test_gradients_at_the_kinks_are_those_of_torch(
    name: str, kinks: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> None:
    got, want = kinks
    np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.clamp(x, min=x.mean()), "min must be a number"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "rounds to integers"),
        (lambda x: x / 0, "division by zero"),
        (lambda x: x - x.sum(-1, True, dtype=torch.float64), "dtype torch.float64"),
        (lambda x: F.elu(x, -1.0), "alpha must be at least 0"),
        (lambda x: torch.erfinv(x), "'erfinv' is not supported"),
    ],
)
def test_capture_refuses_with_the_users_line(
    function: Callable[[Tensor], Tensor], message: str
) -> None:
    net = Net(lambda m, x: m.out(function(x)), out=nn.Linear(4, 2))
    with pytest.raises(CaptureError, match=message) as error:
        compile_model(net, torch.randn(1, 2, 4), accumulate=1)
    assert "test_ops_capture.py" in str(error.value)


def test_a_function_of_its_output_works_in_place() -> None:
    net = Net(lambda m, x: m.out(F.elu(m.a(x)).mean(-1)), a=conv(), out=nn.Linear(4, 2))
    package = compile_model(net, torch.randn(1, CHANNELS, TIMES), accumulate=1)
    shared = [b.members for b in package.plan.buffers if "elu" in " ".join(b.members)]
    assert any(len(members) > 1 for members in shared), package.plan.buffers


def test_a_broadcast_operand_is_not_overwritten() -> None:
    """Four bytes and sixteen take the same room in the arena; the result must not lie on either."""

    def forward(m: Any, x: Tensor) -> Tensor:
        mean = (x * m.unit).mean((1, 2), keepdim=True).flatten(1)
        return mean * m.weight.exp() - m.column.exp().sum() * mean

    torch.manual_seed(1)
    net = Net(forward, unit=torch.ones(1), weight=torch.randn(1, 4), column=torch.randn(2, 1))
    x = torch.randn(1, CHANNELS, TIMES)
    device = compile_model(net, x, loss="mse", accumulate=1).run("host")
    want = net.double()(x.double()).detach().numpy()
    np.testing.assert_allclose(device.predict(x.numpy()), want, rtol=1e-5)


@pytest.mark.parametrize("wave", [torch.sin, torch.cos])
def test_angles_too_large_to_reduce_are_refused(wave: Callable[[Tensor], Tensor]) -> None:
    """Up to 8192 the function is torch's; beyond it nothing is predicted and nothing learned."""
    net = Net(lambda m, x: head(wave(x), m.out), out=nn.Linear(CHANNELS * TIMES, 2))
    device = compile_model(net, torch.zeros(1, CHANNELS, TIMES), accumulate=1).run("host")
    x = np.full((1, CHANNELS, TIMES), 8192.0, np.float32)
    expected = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(device.predict(x), expected, rtol=1e-4, atol=1e-4)
    x[0, 1, 7] = 8193.0
    before = device.crc32()
    with pytest.raises(DeviceError, match="NaN"):
        device.predict(x)
    with pytest.raises(DeviceError, match="loss"):
        device.train(x, np.array([1]))
    assert device.crc32() == before


@pytest.mark.parametrize("extreme", [torch.maximum, torch.minimum])
def test_the_larger_of_two_is_one_of_them(extreme: Callable[[Tensor, Tensor], Tensor]) -> None:
    """However far apart they are: a difference would swallow the smaller one."""
    with torch.no_grad():
        out = nn.Linear(CHANNELS * TIMES, 2)
        out.weight.zero_()
        out.weight[0, 7] = out.weight[1, TIMES + 3] = 1.0
        out.bias.zero_()
    net = Net(lambda m, x: head(extreme(x, m.w), m.out), w=torch.full((1, 1), 1.25), out=out)
    x = np.zeros((1, CHANNELS, TIMES), np.float32)
    x[0, 0, 7], x[0, 1, 3] = -3e30, 3e30
    got = compile_model(net, torch.zeros(1, CHANNELS, TIMES), accumulate=1).run("host").predict(x)
    np.testing.assert_array_equal(got, net(torch.from_numpy(x)).detach().numpy())


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_power_average_pools(p: float) -> None:
    """LPPool is made of powers, an average pool, a sign and a root."""
    torch.manual_seed(0)
    net = nn.Sequential(conv(), nn.LPPool1d(p, 4, stride=2), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.rand(1, CHANNELS, TIMES)
    net(x)
    report = verify(compile_model(net, x, accumulate=1), steps=2, seeds=1)
    assert report.ok, report


VECTORISED = {
    **dict.fromkeys(
        [
            "relu",
            "gelu",
            "gelu_tanh",
            "sigmoid",
            "tanh",
            "silu",
            "square",
            "log",
            "sqrt",
            "exp",
            "abs",
        ],
        "",
    ),
    "leaky_relu": ", 0.1f",
    "elu": ", 1.0f",
    "softplus": ", 1.0f, 20.0f",
    "clamp": ", -1.0f, 1.0f",
    "affine": ", 2.0f, 1.0f",
}
"""Kernels and the constants that they take."""


def test_loops_are_vectorised() -> None:
    """gcc turns the loops of the costly functions into vector code."""
    command = find_compiler()
    if command != ("gcc",):
        pytest.skip("the notes of gcc are read")
    from _cc import compiler_notes

    text = """
#include "../ops/bt_pointwise.h"
void f(float *a, float *b);
void f(float *a, float *b)
{
  bt_CALL((bt_plane){8, 500}, (bt_box){0, 8, 0, 500}, (bt_in){a, 500, 0, 0},
          (bt_out){b, 500, 0, 0}EXTRA);
}
"""
    # 256-bit vectors have no masks of their own: what is vectorised there is so on any machine.
    cores = ["native", *(["x86-64-v3"] if platform.machine() == "x86_64" else [])]
    for name, extra in VECTORISED.items():
        code = text.replace("CALL", name).replace("EXTRA", extra)
        for core in cores:
            notes = compiler_notes(code, ["-O3", f"-march={core}", "-fopt-info-vec-optimized"])
            assert "loop vectorized" in notes, (name, core)

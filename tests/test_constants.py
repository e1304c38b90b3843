# SPDX-License-Identifier: Apache-2.0
"""What depends on no input becomes a constant; what is not supported is told all at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import biotrain as bt
from biotrain.errors import CaptureError
from biotrain.graph.capture import capture
from biotrain.graph.missing import NotSupported
from biotrain.package import compile_model

CHANS, TIMES = 4, 24
EPS = float(np.finfo(np.float32).eps)


class Net(nn.Module):
    """A function of a window and of buffers, and a linear layer on what it returns."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], outputs: int) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("window", torch.hamming_window(TIMES))
        self.register_buffer("order", torch.arange(CHANS))
        self.taps = nn.Parameter(torch.rand(5), requires_grad=False)
        self.out = nn.Linear(outputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.function(self, x).flatten(1))


def positions(m: nn.Module, x: Tensor) -> Tensor:
    """Sines and cosines written into a table of zeros by halves."""
    table = torch.zeros(CHANS, TIMES)
    at = torch.arange(TIMES // 2, dtype=torch.float32)
    table[:, 0::2] = torch.sin(at / 7)
    table[:, 1::2] = torch.cos(at / 7)
    return x + table


def fixed_filter(m: nn.Module, x: Tensor) -> Tensor:
    taps = (m.taps / m.taps.sum()).flip(0).repeat(CHANS, 1).unsqueeze(1)
    return F.conv1d(x, taps, padding=2, groups=CHANS)


FOLDED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "window": lambda m, x: x * (m.window / m.window.square().sum().sqrt()),
    "positions": positions,
    "eye": lambda m, x: x * torch.eye(CHANS)[2].unsqueeze(-1) + torch.ones(CHANS, 1) / 3,
    "outer": lambda m, x: x * torch.outer(torch.linspace(0, 1, CHANS), torch.full((TIMES,), 2.0)),
    "integers": lambda m, x: x * (m.order.unsqueeze(-1) + 1),
    "number": lambda m, x: x * torch.tensor(3.0).exp() + m.window.max(),
    "fixed_filter": fixed_filter,
    "spectrum": lambda m, x: x * torch.fft.rfft(torch.arange(2.0 * TIMES - 1)).abs(),
}


@pytest.mark.parametrize("name", FOLDED)
def test_what_depends_on_no_input_is_a_constant(name: str) -> None:
    net = Net(FOLDED[name], CHANS * TIMES)
    found = capture(net, torch.zeros(1, CHANS, TIMES))
    ops = {node.op for node in found.train.nodes}
    assert ops <= {"mul", "mul_broadcast", "add", "add_broadcast", "affine", "conv", "reshape"} | {
        "linear"
    }
    assert found.train.consts == found.predict.consts
    x = torch.randn(1, CHANS, TIMES)
    pkg = compile_model(net, x, accumulate=1)
    want = copy.deepcopy(net).double()(x.double()).detach().numpy()
    error = np.abs(pkg.run("host").predict(x.numpy()) - want).max() / np.abs(want).max()
    assert error <= 32 * EPS
    assert bt.verify(pkg, steps=2, seeds=1).ok


def test_a_tensor_of_which_only_constants_are_computed_is_not_carried() -> None:
    found = capture(Net(fixed_filter, CHANS * TIMES), torch.zeros(1, CHANS, TIMES))
    assert [found.torch_names[v.name] for v in found.train.params] == ["out.weight", "out.bias"]
    assert [v.shape for v in found.train.consts if v.name.startswith("const_")] == [(CHANS, 1, 5)]


def test_a_double_or_half_module_is_compiled_in_float32() -> None:
    for dtype in (torch.float64, torch.float16):
        net = Net(FOLDED["window"], CHANS * TIMES).to(dtype)
        pkg = compile_model(net, torch.zeros(1, CHANS, TIMES, dtype=dtype), accumulate=1)
        assert {v.dtype for v in pkg.graph.params} == {"f32"}
        assert bt.verify(pkg, steps=2, seeds=1).ok


class Many(nn.Module):
    """Three things that are not there, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.LSTMCell(CHANS, 6) for _ in range(2))
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, c = torch.zeros(1, 6), torch.zeros(1, 6)
        for cell in self.cells:
            h, c = cell(x[:, :, 0], (h, c))
        h = torch.erfinv(h)
        return self.out(torch.cumsum(h, 1) + c)


def test_all_that_is_missing_is_told_at_once() -> None:
    with pytest.raises(NotSupported) as error:
        compile_model(Many(), torch.zeros(1, CHANS, TIMES), accumulate=1)
    head, *lines = str(error.value).splitlines()
    assert head.startswith("3 places")
    assert "`h, c = cell(x[:, :, 0], (h, c))` in 'cells.0', 'cells.1'" in lines[0]
    assert "nn.LSTM" in lines[0]
    assert "loop" in lines[0]
    assert "`h = torch.erfinv(h)`" in lines[1]
    assert "`return self.out(" in lines[2]
    assert all(f"{Path(__file__).name}:" in line and len(line) < 400 for line in lines)
    assert len(error.value.missing) == 4


class Decides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1) if x.sum() > 0 else x.amax(-1)


def test_control_flow_that_depends_on_data_has_its_sentence(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CaptureError, match=r"torch\.where") as error:
        compile_model(Decides(), torch.zeros(1, CHANS, TIMES), accumulate=1)
    assert "if x.sum() > 0" in str(error.value)


class Estimator:
    """What skorch's estimators have."""

    def __init__(self, net: nn.Module | None) -> None:
        self.module = nn.Linear
        if net is not None:
            self.module_ = net

    def get_params(self) -> dict[str, object]:
        return {}

    def initialize(self) -> None:
        pass


def test_an_estimator_stands_for_its_network() -> None:
    net = Net(FOLDED["eye"], CHANS * TIMES)
    x = torch.zeros(1, CHANS, TIMES)
    pkg = bt.compile(Estimator(net), x, accumulate=1)
    assert pkg.module is net
    assert isinstance(bt.prepare(Estimator(net)), Net)
    with pytest.raises(bt.BioTrainError, match="initialize"):
        bt.compile(Estimator(None), x, accumulate=1)


class DropPath(nn.Module):
    """Leaves out whole windows at random in training, as deep residual networks do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(0.8)
        return x * keep / 0.8


class Scale(nn.Module):
    """No noise: it is not the identity in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * x


def test_a_layer_that_only_drops_at_random_is_taken_out() -> None:
    net = nn.Sequential(nn.Conv1d(CHANS, 4, 3), DropPath(), Scale(), nn.Flatten(), nn.Linear(88, 2))
    prepared = bt.prepare(net.train())
    assert [type(layer) for layer in prepared][1:3] == [nn.Identity, Scale]
    assert [r.path for r in bt.report(prepared)] == ["1"]


def filtered(m: nn.Module, x: Tensor) -> Tensor:
    """A filter by transforms, as torchaudio's fftconvolve computes it."""
    n = x.shape[-1] + 4
    taps = m.taps.unsqueeze(0).repeat(CHANS, 1)
    if m.apart:
        taps = taps * (m.order.unsqueeze(-1) + 1)
    return torch.fft.irfft(torch.fft.rfft(x, n) * torch.fft.rfft(taps, n), n)[..., 2:-2]


@pytest.mark.parametrize("apart", [False, True])
def test_a_fixed_filter_by_transforms_is_a_convolution(apart: bool) -> None:
    net = Net(filtered, CHANS * TIMES)
    net.apart = apart  # type: ignore[assignment]
    x = torch.randn(1, CHANS, TIMES)
    pkg = compile_model(net, x, accumulate=1)
    assert "conv" in {node.op for node in capture(net, x).train.nodes}
    want = copy.deepcopy(net).double()(x.double()).detach().numpy()
    error = np.abs(pkg.run("host").predict(x.numpy()) - want).max() / np.abs(want).max()
    assert error <= 32 * EPS


def test_a_filter_that_wraps_around_is_told() -> None:
    net = Net(lambda m, x: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(m.window)), 96)
    with pytest.raises(CaptureError, match="wraps around"):
        compile_model(net, torch.zeros(1, CHANS, TIMES), accumulate=1)

# SPDX-License-Identifier: Apache-2.0
"""What a network keeps its parameters to by writing to their data in its forward pass: the device
keeps it behind every step, and trains to torch's weights."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import biotrain as bt
from biotrain.errors import BioTrainError, CaptureError
from biotrain.graph.archive import load_program, save_program
from biotrain.graph.bounds import Bound, from_json, to_json
from biotrain.graph.capture import export
from biotrain.topology.copies import copied

CHANS, TIMES, CLASSES = 3, 60, 4
X = torch.zeros(1, CHANS, TIMES)


class Kept(nn.Module):
    """A network whose forward pass bounds its filters, their gains and its prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANS, 6, 9, padding=4)
        self.gain = nn.Parameter(torch.linspace(-0.5, 1.5, 6)[:, None])
        self.prototypes = nn.Parameter(torch.randn(CLASSES, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.conv.weight
        w.data = torch.renorm(w.data, p=2, dim=1, maxnorm=0.4)
        self.gain.data.clamp_(min=0.0).clamp_(max=0.9)
        self.prototypes.data = self.prototypes.data.renorm(2, 0, 0.7)
        y = torch.tanh(self.conv(x) * self.gain).mean(-1)
        return y @ self.prototypes.T


class Doubled(nn.Module):
    """Writes to a parameter what is no bound."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(CHANS * TIMES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.head.weight.data = self.head.weight.data * 2
        y: torch.Tensor = self.head(x.flatten(1))
        return y


class Looked(nn.Module):
    """Leaves a map of attention in an attribute, as networks for figures do."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.head = nn.Linear(TIMES, 1), nn.Linear(TIMES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.map = torch.softmax(self.score(x), 1)
        y: torch.Tensor = self.head((self.map * x).sum(1))
        return y


def kept() -> Kept:
    torch.manual_seed(2)
    return Kept()


@pytest.mark.parametrize("gradients", ["separate", "momentum"])
def test_bounded_weights_are_those_of_torch(gradients: str) -> None:
    rate = bt.SGD(lr=0.2, momentum=0.9, weight_decay=0.0)  # so that bounds are met
    pkg = bt.compile(kept(), X, optimizer=rate, gradients=gradients, accumulate=2)
    report = bt.verify(pkg, steps=8, seeds=2)
    assert report.ok, report.worst


def test_a_step_ends_within_the_bounds_and_meets_them() -> None:
    pkg = bt.compile(kept(), X, optimizer=bt.SGD(lr=0.2, momentum=0.9), accumulate=1)
    device = pkg.run("host")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, CHANS, TIMES)).astype(np.float32)
    device.begin(12)
    device.train(x, np.arange(12) % CLASSES)
    found = {name: torch.from_numpy(w) for name, w in device.parameters().items()}
    parts = found["conv.weight"].transpose(0, 1).reshape(CHANS, -1).norm(dim=1)
    rows = found["prototypes"].norm(dim=1)
    assert parts.max() <= 0.4 + 1e-6
    assert (parts > 0.39).any()
    assert rows.max() <= 0.7 + 1e-6
    assert (rows > 0.69).any()
    assert found["gain"].min() >= 0.0
    assert found["gain"].max() <= np.float32(0.9)


def test_the_first_weights_are_within_the_bounds() -> None:
    pkg = bt.compile(kept(), X, accumulate=1)
    assert pkg.source.tensors["gain"].min() == 0.0
    assert np.linalg.norm(pkg.source.tensors["prototypes"], axis=1).max() <= 0.7 + 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gradients": "update"}, "bounds gain in its forward pass, which does not go with"),
        ({"workers": 2}, "workers=2, use one"),
    ],
)
def test_what_cannot_keep_bounds_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BioTrainError, match=said):
        bt.compile(kept(), X, **{"accumulate": 1, **options})


class Backwards(nn.Module):
    """Counts the axis of its bound from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(TIMES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.head.weight
        w.data = torch.renorm(w.data, 2, -1, 0.1)
        y: torch.Tensor = self.head(x.mean(1))
        return y


def test_an_axis_may_count_from_the_end() -> None:
    torch.manual_seed(4)
    pkg = bt.compile(Backwards(), X, optimizer=bt.SGD(lr=0.5, momentum=0.9), accumulate=1)
    assert bt.verify(pkg, steps=4, seeds=1).ok
    (bound,) = [n for n in pkg.graph.updates if n.op == "renorm"]
    assert [bound[key] for key in ("outer", "parts", "inner")] == [CLASSES, TIMES, 1]


def test_a_file_whose_bound_is_along_no_axis_is_refused(tmp_path: Path) -> None:
    exported = export(kept(), X)
    path = tmp_path / "Kept.pt2"
    path.write_bytes(save_program(exported.program, {"gain": (Bound(axis=7, most=1.0),)}))
    with pytest.raises(CaptureError, match="'gain' has 2 axes"):
        bt.compile(path, X, accumulate=1)


def test_what_is_no_bound_is_refused_in_one_line() -> None:
    with pytest.raises(CaptureError, match=r"by 'mul'; what a device can keep to .*renorm") as told:
        bt.compile(Doubled(), X, accumulate=1)
    assert "\n" not in str(told.value)


def test_a_file_keeps_the_bounds(tmp_path: Path) -> None:
    exported = export(kept(), X)
    path = tmp_path / "Kept.pt2"
    path.write_bytes(save_program(exported.program, exported.bounds))
    assert load_program(path)[1] == exported.bounds
    options: dict[str, Any] = {"optimizer": bt.SGD(lr=0.2), "gradients": "separate"}
    a, b = (
        bt.compile(path, X, **{"accumulate": 1, **options}),
        bt.compile(kept(), X, **{"accumulate": 1, **options}),
    )
    assert a.files["model.c"] == b.files["model.c"]
    assert "bt_renorm" in a.files["model.c"]
    assert "bt_clamp_parameter" in a.files["model.c"]


limits = st.one_of(st.none(), st.floats(-5, 5))


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.lists(
            st.builds(Bound, st.integers(0, 7), st.none(), st.floats(-9, 0), st.floats(0, 9))
            | st.builds(Bound, st.integers(0, 7), st.floats(1e-3, 9)),
            max_size=3,
        ).map(tuple),
        max_size=3,
    )
)
def test_bounds_are_read_as_they_were_written(bounds: dict[str, tuple[Bound, ...]]) -> None:
    assert from_json(to_json(bounds)) == bounds


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.recursive(limits, st.lists).map(lambda v: str(v).encode()))
def test_other_text_is_refused(text: bytes) -> None:
    with suppress(CaptureError):
        assert isinstance(from_json(text), dict)


def test_a_module_that_has_run_is_copied() -> None:
    torch.manual_seed(3)
    net = Looked()
    net(torch.randn(1, CHANS, TIMES))
    assert not net.map.is_leaf  # which torch does not copy
    pkg = bt.compile(bt.prepare(net, example_input=X), X, accumulate=1)
    assert bt.verify(pkg, steps=3, seeds=1).ok


def test_a_buffer_that_a_forward_pass_has_computed_is_copied() -> None:
    class Filtered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = nn.Parameter(torch.rand(CHANS, 1) + 0.5)
            self.register_buffer("filters", self.width * torch.ones(TIMES), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.filters = self.width * torch.ones(TIMES)
            return x * self.filters

    net = Filtered()
    assert not net.filters.is_leaf
    copy = copied(net)
    assert copy.filters.is_leaf
    assert torch.equal(copy.filters, net.filters)
    copy.width.data.zero_()
    assert torch.equal(copy(X + 1), torch.zeros_like(X))  # computed anew, from weights of its own
    assert net.width.all()

# SPDX-License-Identifier: Apache-2.0
"""Networks of the field train as in torch, with one CRC-32 in every plan and on two other cores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from _field import Causal, Conformer, EmgTransformer, PpgRate, SleepLstm, UNet
from _field_more import (
    EcgLstm,
    EcgResidual,
    SleepSequence,
    Spectrogram,
    SqueezeExcite,
    SubjectEmbedding,
    Tcn,
    TwoHeads,
)
from _plans import smallest_plan
from torch import nn

import biotrain as bt
from biotrain.graph.capture import capture
from biotrain.graph.rewrite.columns import columns
from biotrain.package import Package

NETWORKS: Mapping[str, type[nn.Module]] = {
    "emg_transformer": EmgTransformer,
    "conformer": Conformer,
    "causal": Causal,
    "sleep_lstm": SleepLstm,
    "ppg_rate": PpgRate,
    "unet": UNet,
    "ecg_residual": EcgResidual,
    "ecg_lstm": EcgLstm,
    "sleep_sequence": SleepSequence,
    "tcn": Tcn,
    "spectrogram": Spectrogram,
    "two_heads": TwoHeads,
    "subject_embedding": SubjectEmbedding,
    "squeeze_excite": SqueezeExcite,
}
SHAPES = {
    "emg_transformer": (4, 200),
    "conformer": (4, 180),
    "causal": (6, 70),
    "sleep_lstm": (2, 240),
    "ppg_rate": (3, 160),
    "unet": (2, 160),
    "ecg_residual": (3, 200),
    "ecg_lstm": (1, 240),
    "sleep_sequence": (2, 320),
    "tcn": (4, 150),
    "spectrogram": (2, 256),
    "two_heads": (3, 160),
    "subject_embedding": (3, 120),
    "squeeze_excite": (4, 128),
}
LOSSES: Mapping[str, Any] = {
    "ppg_rate": bt.losses.Huber(2.0),
    "unet": bt.losses.CrossEntropy((1.0, 2.0, 3.0)),
    "ecg_residual": bt.losses.BCEWithLogits(),
    "sleep_sequence": bt.losses.CrossEntropy(),
    "two_heads": {"stage": "cross_entropy", "rate": bt.losses.Huber(1.0)},
}
STRATEGIES = ("full", "last")
CORES = ("cortex-m4f", "cv32e40p")


@cache
def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    net = NETWORKS[name]().train()
    return net, torch.randn(1, *SHAPES[name])


def compiled(name: str, **options: Any) -> Package:
    net, x = network(name)
    loss = {"loss": LOSSES[name]} if name in LOSSES else {}
    return bt.compile(
        net, x, optimizer=bt.SGD(lr=0.01, momentum=0.9), **loss, **{"accumulate": 1, **options}
    )


@cache
def stored(name: str, strategy: str) -> Package:
    """The package with everything stored, which `verify` and the other plans are held against."""
    return compiled(name, strategy=strategy, memory="8MiB")


def data(pkg: Package, count: int = 2) -> tuple[np.ndarray, Any]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((count, *pkg.source.train.inputs[0].shape[1:]), np.float32)
    if "label" in [v.name for v in pkg.source.train.inputs]:
        return x, np.arange(count)
    y: list[np.ndarray] = []
    for loss, logits in zip(pkg.source.loss.heads, pkg.source.heads.shapes, strict=True):
        size = (count, *loss.target(logits))
        numbers = loss.labels
        y.append(rng.integers(0, 3, size) if numbers else rng.standard_normal(size, np.float32))
    names = pkg.source.heads.names
    return x, dict(zip(names, y, strict=True)) if names else y[0]


def trained(pkg: Package, on: str = "host") -> int:
    """CRC-32 of the weights after two steps."""
    device = pkg.run(on)
    device.train(*data(pkg))
    return device.crc32()


@pytest.mark.sample(test=1, ci=3)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_trains_as_torch_does(name: str, strategy: str) -> None:
    report = bt.verify(stored(name, strategy), steps=3, seeds=2)
    assert report.ok, [t for t in report.tensors if not t.ok]


@pytest.mark.sample(test=0, ci=2)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_plan_has_one_crc(name: str) -> None:
    small = smallest_plan(lambda *, memory: compiled(name, strategy="full", memory=memory))
    assert small.plan.peak_bytes <= stored(name, "full").plan.peak_bytes
    assert trained(small) == trained(stored(name, "full"))


@pytest.mark.sample(test=0, ci=1)
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_core_has_the_bits_of_the_host(name: str, core: str) -> None:
    if not find_spec("unicorn"):
        pytest.skip("the emulator (unicorn) is not installed")
    pkg = compiled(name, strategy="full", target=core, memory="4MiB")
    assert trained(pkg, "emulator") == trained(pkg)


@pytest.mark.parametrize(("name", "count"), [("conformer", 1), ("causal", 2)])
def test_attention_by_hand_has_its_queries_along_time(name: str, count: int) -> None:
    """`columns` turns every softmax, with a mask and unread weights of `MultiheadAttention` too."""
    net, x = network(name)
    graph = capture(net, x).train
    turned = columns(graph, ())
    axes = [n.int("axis") - len(n.inputs[0].shape) for n in turned.nodes if n.op == "softmax"]
    assert axes == [-2] * count
    assert [v.shape for v in turned.outputs] == [v.shape for v in graph.outputs]
    assert -1 in [n.int("axis") - len(n.inputs[0].shape) for n in graph.nodes if n.op == "softmax"]

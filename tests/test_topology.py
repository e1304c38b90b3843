# SPDX-License-Identifier: Apache-2.0
"""Topology rewrites on networks of ours and on whatever else people write."""

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biotrain.models import MODELS, PAPER, build
from biotrain.topology import Report, Rewrite, prepare, report


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def kinds(net: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in net.modules() if not list(layer.children())]


def trained(norm: nn.modules.batchnorm._BatchNorm, spread: float = 1.0) -> nn.Module:
    """A BatchNorm as pretraining leaves it."""
    with torch.no_grad():
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-1, 1)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.uniform_(-spread, spread)
        norm.running_var.uniform_(0.2, 4)
    return norm


# -- the whole -------------------------------------------------------------------------------------


@pytest.mark.sample(test=8)
@pytest.mark.parametrize("norm", ["group", "frozen", "batch", "keep"])
@pytest.mark.parametrize("name", MODELS)
def test_our_networks(name: str, norm: str) -> None:
    net = build(name, **PAPER[name]).train()
    x = torch.randn(2, PAPER[name]["n_chans"], PAPER[name]["n_times"])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    layers = kinds(net)

    ready = prepare(net, norm=norm, pool="avg", example_input=x)

    assert kinds(net) == layers  # the user's module is as it was
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert len(report(net)) == 0
    assert not {"Dropout", "MaxPool2d"} & set(kinds(ready))
    assert ("GroupNorm" in kinds(ready)) == (norm == "group")
    names = [n for n, _ in net.named_parameters()]
    assert [n for n, _ in ready.named_parameters()] == names
    assert ready(x).shape == (2, PAPER[name]["n_outputs"])
    single = norm in ("batch", "keep") and "covariance" in name  # one number per window and norm
    for training in (False, True):
        window = x if training and single else x[:1]
        program = torch.export.export(ready.train(training), (window,), strict=False)
        assert "dropout" not in str(program.graph)


def test_prepared_network_trains_one_sample_like_eight() -> None:
    net = prepare(build("epidenet", 2, 300, 3, 100.0), pool="avg").train()
    x, y = torch.randn(8, 2, 300), torch.arange(8) % 3
    F.cross_entropy(net(x), y).backward()
    batch = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    for i in range(8):
        (F.cross_entropy(net(x[i : i + 1]), y[i : i + 1]) / 8).backward()
    single = [p.grad for p in net.parameters()]
    for a, b in zip(batch, single, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_report_counts_bytes_per_sample() -> None:
    net = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1),
        nn.BatchNorm1d(4),
        nn.MaxPool1d(5),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 20, 2),
    )
    for batch in (1, 3):
        ready = prepare(net, pool="avg", example_input=torch.randn(batch, 2, 100))
        saved = {r.path: r.bytes_saved for r in report(ready)}
        assert saved == {
            "1": 7 * 4 * 100 * 4,  # 7 samples less of a float32 [4, 100]
            "2": 4 * 20 * 4,  # an int32 index per output
            "3": 4 * 20,  # a byte per value
        }
        assert report(ready).bytes_saved == sum(saved.values())  # type: ignore[arg-type]
    assert report(prepare(net)).bytes_saved is None


def test_report_reads_as_text_and_as_json() -> None:
    x = torch.randn(1, 2, 300)
    got = report(prepare(build("epidenet", 2, 300, 3, 100.0), example_input=x))
    text = str(got)
    assert text.isascii()
    assert "norm1  BatchNorm2d(4)" in text
    assert "GroupNorm(1, 4)" in text
    assert "saved per training sample: " in text
    data = json.loads(got.to_json())
    assert len(data["rewrites"]) == len(got) == 6
    assert data["rewrites"][0]["path"] == "norm1"
    assert data["rewrites"][0]["changed"] is True
    assert data["bytes_saved"] == got.bytes_saved
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.rewrites[0].path = "other"  # type: ignore[misc]
    assert isinstance(got.rewrites[0], Rewrite)


def test_report_of_a_module_never_seen_is_empty() -> None:
    assert report(nn.Linear(2, 2)) == Report()
    assert str(Report()) == "no rewrites"
    assert json.loads(Report().to_json()) == {"rewrites": [], "bytes_saved": None}


def test_report_survives_copies_and_adds_up() -> None:
    net = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.MaxPool1d(2), nn.Dropout(0.1))
    first = prepare(net)
    assert report(copy.deepcopy(first)) == report(first)
    second = prepare(first, pool="avg")
    assert [r.path for r in report(second)] == ["1", "3", "2"]
    assert [r.path for r in report(first)] == ["1", "3"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, 'norm must be one of group, batch, frozen, keep, not "layer"'),
        ({"pool": "max"}, 'pool must be one of keep, avg, not "max"'),
        ({"groups": 0}, "groups must be at least 1"),
        ({"groups": 3}, "0: 4 channels cannot be divided into groups=3"),
        ({"example_input": torch.zeros(1, 5, 9)}, "does not run on the example input"),
        ({"example_input": torch.zeros(0, 4, 9)}, "at least one sample"),
    ],
)
def test_what_cannot_be_prepared_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(nn.Sequential(nn.BatchNorm1d(4)), **options)


def test_a_forward_that_reads_a_lost_attribute_is_named() -> None:
    class Nosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: Tensor) -> Tensor:
            assert self.norm.running_mean is not None
            return self.norm(x) + self.norm.running_mean.sum()

    with pytest.raises(ValueError, match="Nosy no longer runs"):
        prepare(Nosy(), example_input=torch.randn(2, 4, 9))


# -- norms -----------------------------------------------------------------------------------------


def test_a_fresh_batch_norm_keeps_its_weights_bit_for_bit() -> None:
    norm = nn.BatchNorm2d(6, eps=0.01)
    with torch.no_grad():
        norm.weight.uniform_()
        norm.bias.uniform_()
    norm.weight.requires_grad_(False)
    group = prepare(norm, groups=3)
    assert isinstance(group, nn.GroupNorm)
    assert (group.num_groups, group.eps) == (3, 0.01)
    assert torch.equal(group.weight, norm.weight)
    assert torch.equal(group.bias, norm.bias)
    assert not group.weight.requires_grad
    assert group.bias.requires_grad


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("affine", [True, False])
def test_running_statistics_are_folded(groups: int, affine: bool) -> None:
    """A sample that has exactly the running statistics passes as BatchNorm let it pass."""
    norm = nn.BatchNorm1d(4, eps=1e-3, affine=affine)
    trained(norm, spread=3.0).eval()
    z = torch.randn(1, 4, 500)
    z = (z - z.mean(-1, keepdim=True)) / z.std(-1, keepdim=True, unbiased=False)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    x = z * norm.running_var.sqrt()[:, None] + norm.running_mean[:, None]

    group = prepare(norm, groups=groups)
    torch.testing.assert_close(group(x), norm(x), rtol=1e-4, atol=1e-4)
    assert sum(p.requires_grad for p in group.parameters()) == (2 if affine else 0)
    assert "folded" in report(group).rewrites[0].lost
    if groups == 4:
        return
    copied = nn.GroupNorm(groups, 4, eps=1e-3)  # what plainly copied weights would do
    if affine:
        copied.load_state_dict({"weight": norm.weight, "bias": norm.bias})
    assert (copied(x) - norm(x)).abs().max() > 0.1


def test_folding_keeps_a_pretrained_network_close() -> None:
    """Many channels with like samples: decisions of the network survive the change of norm."""
    net = build("mibminet", 8, 500, 4, 125.0, drop_prob=0.0).train()
    net.norm1.momentum = net.norm2.momentum = net.norm3.momentum = 0.3  # type: ignore[union-attr]
    x = torch.randn(64, 8, 500) * torch.rand(1, 8, 1) * 5
    with torch.no_grad():
        for _ in range(20):
            net(x)
        wanted = net.eval()(x)
        error = (prepare(net)(x) - wanted).square().mean() / wanted.var()
        plain = prepare(net)
        for name in ("norm1", "norm2", "norm3"):
            for key in ("weight", "bias"):
                source = getattr(getattr(net, name), key)
                getattr(getattr(plain, name), key).copy_(source)
        copied = (plain(x) - wanted).square().mean() / wanted.var()
    assert error < 0.1
    assert copied > 3 * error


def test_norms_without_weights_or_statistics() -> None:
    fresh = prepare(nn.BatchNorm1d(4, affine=False))
    assert isinstance(fresh, nn.GroupNorm)
    assert not list(fresh.parameters())
    bare = nn.BatchNorm1d(4, track_running_stats=False)
    with torch.no_grad():
        bare.weight.uniform_()
    group = prepare(bare)
    assert torch.equal(group.weight, bare.weight)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without running statistics cannot be frozen"):
        prepare(bare, norm="frozen")
    with pytest.raises(ValueError, match="run the module once"):
        prepare(nn.Sequential(nn.LazyBatchNorm1d()))


def test_group_norm_of_single_values_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = torch.randn(5, 3)
    assert prepare(net, groups=2, example_input=x)(x).shape == (5, 4)
    with pytest.raises(ValueError, match="1: GroupNorm with groups=4 would normalise single"):
        prepare(net, groups=4, example_input=x)


def test_frozen_statistics_stay_frozen() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), trained(nn.BatchNorm2d(4)), nn.ReLU()).train()
    ready = prepare(net, norm="frozen")
    x = torch.randn(6, 1, 9, 9)
    expected = net.eval()(x)
    for _ in range(2):
        ready.train()
        assert torch.equal(ready(x), expected)
    assert isinstance(ready[1], nn.BatchNorm2d)  # type: ignore[index]
    assert torch.equal(ready[1].running_mean, net[1].running_mean)  # type: ignore[index,arg-type]
    ready(x).sum().backward()
    assert all(p.grad is not None for p in ready.parameters())
    again = copy.deepcopy(ready).train()
    assert torch.equal(again(x), expected)
    program = torch.export.export(ready, (x,), strict=False)
    assert torch.equal(program.module()(x), expected)
    assert kinds(prepare(ready, norm="group"))[1] == "GroupNorm"
    assert len(report(prepare(ready, norm="frozen"))) == 1


def test_batch_norm_kept_says_its_price() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4))
    [line] = report(prepare(net, norm="batch", example_input=torch.randn(1, 4, 10)))
    assert not line.changed
    assert "1120 bytes more" in line.effect  # 7 samples of 4 x 10 float32
    assert len(report(prepare(net, norm="keep"))) == 0


def test_a_batch_norm_that_does_more_is_left() -> None:
    class NormAct(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(super().forward(x))

    ready = prepare(nn.Sequential(NormAct(3)))
    assert kinds(ready) == ["NormAct"]
    assert "forward of its own" in report(ready).rewrites[0].effect


# -- pools and dropout -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "x"),
    [
        (nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True), torch.ones(1, 2, 10)),
        (nn.MaxPool2d((1, 4)), torch.ones(2, 3, 2, 17)),
        (nn.MaxPool2d(3, 2, 1), torch.ones(2, 3, 8, 8)),
        (nn.MaxPool3d(2), torch.ones(1, 1, 4, 4, 4)),
        (nn.AdaptiveMaxPool1d(3), torch.ones(1, 2, 10)),
        (nn.AdaptiveMaxPool2d((1, None)), torch.ones(1, 2, 4, 5)),
    ],
)
def test_average_pools_have_the_geometry_of_max_pools(pool: nn.Module, x: Tensor) -> None:
    ready = prepare(pool, pool="avg", example_input=x)
    assert type(ready).__name__ == type(pool).__name__.replace("Max", "Avg")
    assert torch.equal(ready(x), pool(x))  # ones: the padding must not count
    assert prepare(pool) is not pool
    assert isinstance(prepare(pool), type(pool))


def test_max_pools_that_no_average_replaces_are_left() -> None:
    net = nn.Sequential(nn.MaxPool1d(2, dilation=2), nn.MaxPool1d(2, return_indices=True))
    ready = prepare(net, pool="avg")
    assert kinds(ready) == kinds(net)
    assert [r.changed for r in report(ready)] == [False, False]


@pytest.mark.parametrize(
    "dropout",
    [nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.Dropout(0.0)],
)
def test_dropout_is_gone_in_training(dropout: nn.Module) -> None:
    x = torch.randn(2, 3, 4)
    ready = prepare(dropout, example_input=x).train()
    assert torch.equal(ready(x), x)
    [line] = report(ready)
    assert line.bytes_saved == (12 if dropout.p else 0)
    assert line.path == ""


def test_dropout_inside_attention_and_recurrent_layers() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    x = torch.randn(1, 5, 8)
    expected = net.eval()(x)
    ready = prepare(net.train()).train()
    torch.testing.assert_close(ready(x), expected)
    assert {r.path for r in report(ready)} == {"self_attn", "dropout", "dropout1", "dropout2"}
    lstm = prepare(nn.LSTM(3, 4, num_layers=2, dropout=0.5)).train()
    y = torch.randn(6, 1, 3)
    assert torch.equal(lstm(y)[0], lstm(y)[0])


# -- zero padding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pad", "conv", "padding"),
    [
        (nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(2, 3, (3, 5)), (1, 2)),
        (nn.ZeroPad2d((2, 2, 0, 0)), nn.Conv2d(2, 3, 3, stride=2, padding=(1, 1)), (1, 3)),
        (nn.ZeroPad2d((7, 8, 0, 0)), nn.Conv2d(2, 3, (1, 16)), "same"),
        (nn.ZeroPad2d((1, 2, 0, 0)), nn.Conv2d(2, 2, (1, 4), groups=2, padding="valid"), "same"),
        (nn.ConstantPad2d(1, 0.0), nn.Conv2d(2, 3, 3), (1, 1)),
        (nn.ConstantPad1d((3, 3), 0), nn.Conv2d(2, 3, 3), (0, 3)),
        (nn.ZeroPad2d((1, 1, 0, 0)), nn.Conv2d(2, 3, (1, 3), padding="same"), (0, 2)),
    ],
)
def test_zero_padding_moves_into_the_convolution(
    pad: nn.Module, conv: nn.Conv2d, padding: Any
) -> None:
    net = nn.Sequential(pad, nn.Dropout(0.1), conv).eval()
    x = torch.randn(2, 2, 6, 30)
    ready = prepare(net, example_input=x)
    assert kinds(ready) == ["Identity", "Identity", "Conv2d"]
    assert ready[2].padding == padding  # type: ignore[index]
    torch.testing.assert_close(ready(x), net(x))
    saved = {r.path: r.bytes_saved for r in report(ready)}
    assert saved["0"] == pad(x)[0].numel() * 4


@pytest.mark.parametrize(
    ("pad", "conv", "why"),
    [
        (nn.ZeroPad2d((3, 5, 0, 0)), nn.Conv2d(2, 3, (1, 3)), "asymmetric"),
        (nn.ZeroPad2d((1, 2, 0, 0)), nn.Conv2d(2, 3, (1, 4), stride=2), "asymmetric"),
        (nn.ZeroPad2d((-1, -1, 0, 0)), nn.Conv2d(2, 3, (1, 4)), "crops"),
        (nn.ConstantPad2d(1, 1.0), nn.Conv2d(2, 3, 3), "not pad with zeros"),
        (nn.ZeroPad2d(1), nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), "circular"),
        (nn.ZeroPad2d(1), nn.AvgPool2d(3), "only reader"),
    ],
)
def test_padding_that_cannot_move_stays(pad: nn.Module, conv: nn.Module, why: str) -> None:
    net = nn.Sequential(pad, conv).eval()
    x = torch.randn(1, 2, 6, 30)
    ready = prepare(net, example_input=x)
    assert torch.equal(ready(x), net(x))
    [line] = report(ready)
    assert not line.changed
    assert why in line.effect
    assert "as is" in str(report(ready))


def test_padding_of_channels_stays() -> None:
    net = nn.Sequential(nn.ZeroPad2d((1, 1, 1, 0)), nn.Conv1d(3, 2, 3))
    [line] = report(prepare(net))
    assert "channels" in line.effect


class Skip(nn.Module):
    """The padded signal is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((1, 1, 0, 0))
        self.conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(x)
        return x + self.conv(x)


class Straight(Skip):
    """The same layers in a forward that is no Sequential."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pad(x))


class Branching(nn.Module):
    """A forward that cannot be traced and reads the middle of a Sequential."""

    def __init__(self, peeks: bool) -> None:
        super().__init__()
        self.peeks = peeks
        self.body = nn.Sequential(nn.ZeroPad2d((1, 1, 0, 0)), nn.Conv2d(1, 1, (1, 3)))

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            raise ValueError("too loud")
        return self.body(x) + (self.body[0](x).mean() if self.peeks else 0)


def test_padding_in_custom_forwards() -> None:
    x = torch.rand(1, 1, 2, 20)
    for net, folds in [
        (Skip(), False),
        (Straight(), True),
        (Branching(peeks=False), True),
        (Branching(peeks=True), False),
    ]:
        ready = prepare(net, example_input=x)
        assert [r.changed for r in report(ready)] == [folds]
        torch.testing.assert_close(ready(x), net(x))


def test_padding_used_twice_stays() -> None:
    pad = nn.ZeroPad2d((1, 1, 0, 0))
    net = nn.Sequential(pad, nn.Conv2d(1, 1, (1, 3)), pad, nn.Conv2d(1, 1, (1, 3)))
    x = torch.rand(1, 1, 2, 20)
    ready = prepare(net)
    assert [r.changed for r in report(ready)] == [False]
    assert torch.equal(ready(x), net(x))


# -- what people bring -----------------------------------------------------------------------------


def test_a_layer_used_twice_is_replaced_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.also = self.norm
            self.blocks = nn.ModuleList([nn.Sequential(self.norm, nn.ReLU()), nn.Dropout()])

        def forward(self, x: Tensor) -> Tensor:
            return self.also(self.blocks[1](self.blocks[0](self.norm(x))))

    x = torch.randn(2, 4, 10)
    ready = prepare(Twice(), example_input=x)
    assert isinstance(ready.norm, nn.GroupNorm)
    assert ready.norm is ready.also
    assert ready.norm is ready.blocks[0][0]  # type: ignore[index]
    lines = report(ready).rewrites
    assert [r.path for r in lines] == ["norm", "blocks.1"]
    assert lines[0].bytes_saved == 3 * 7 * 4 * 10 * 4  # three calls


def test_parametrized_and_hooked_layers_survive() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 4, 3))
    net = nn.Sequential(nn.ZeroPad1d(1), conv, nn.BatchNorm1d(4)).eval()
    x = torch.randn(1, 2, 9)
    ready = prepare(net, norm="keep", example_input=x)
    torch.testing.assert_close(ready(x), net(x))
    assert [r.path for r in report(ready)] == ["1.weight", "0"]
    assert all(r.changed for r in report(ready))
    hooked = nn.Sequential(nn.ZeroPad1d(1), nn.Conv1d(2, 4, 3))
    hooked[0].register_forward_hook(lambda *_: None)
    assert not report(prepare(hooked)).rewrites[0].changed


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return self.norm(a), self.norm(b)

    ready = prepare(Two(), example_input=(torch.randn(1, 3, 5), torch.randn(1, 3, 6)))
    assert report(ready).bytes_saved == 7 * 3 * 11 * 4


def test_double_precision_and_mode_are_kept() -> None:
    net = nn.Sequential(trained(nn.BatchNorm1d(3)), nn.MaxPool1d(2)).double().eval()
    ready = prepare(net, pool="avg")
    assert {p.dtype for p in ready.parameters()} == {torch.float64}
    assert not any(layer.training for layer in ready.modules())


# -- weights that are computed ---------------------------------------------------------------------


class Merged(nn.Module):
    """Two convolutions run as one, as braindecode's CombinedConv does; the second has no bias."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.time, self.space = nn.Conv2d(1, 4, (1, 5)), nn.Conv2d(4, 6, (3, 1), bias=False)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        space = self.space.weight.squeeze(3)
        kernel = torch.einsum("oir,ik->ork", space, self.time.weight.flatten(1)).unsqueeze(1)
        bias = torch.einsum("oir,i->o", space, self.time.bias)
        return F.conv2d(x, self.factor * kernel, bias)


def test_two_convolutions_that_run_as_one_come_apart() -> None:
    net = nn.Sequential(Merged(), nn.BatchNorm2d(6), nn.Flatten()).eval()
    x = torch.randn(2, 1, 3, 20)
    ready = prepare(net, norm="keep", example_input=x)
    assert isinstance(ready[0], nn.Sequential)  # type: ignore[index]
    torch.testing.assert_close(ready(x), net(x))
    assert list(ready.state_dict()) == list(net.state_dict())
    assert [(r.path, r.before, r.after) for r in report(ready)] == [
        ("0", "Merged", "Conv2d, Conv2d")
    ]
    other = prepare(nn.Sequential(Merged(factor=2.0)))
    assert isinstance(other[0], Merged), "it does something else"  # type: ignore[index]


def test_a_parametrised_weight_becomes_its_value() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    layer = nn.Linear(4, 3)
    nn.utils.parametrize.register_parametrization(layer, "weight", Half())
    net = nn.Sequential(layer, nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2))).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    value = layer.weight.detach().clone()
    ready = prepare(net)
    assert all((v == before[k]).all() for k, v in net.state_dict().items())
    assert sorted(ready.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert (ready.get_parameter("0.weight") == value).all()
    x = torch.randn(2, 4)
    torch.testing.assert_close(ready.eval()(x), net.eval()(x))
    assert [r.before for r in report(ready)] == [
        "parametrised by Half",
        "parametrised by _SpectralNorm",
    ]

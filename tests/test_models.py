# SPDX-License-Identifier: Apache-2.0
"""The built-in networks against what their papers publish."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from biotrain.models import (
    MODELS,
    PAPER,
    CovarianceNet,
    EEGNet,
    MIBMInet,
    ResNet,
    ShallowFBCSPNet,
    Standardize,
    averaging,
    build,
    standardized,
)

NORMS = ["batch", "group"]
RECORDINGS = {  # n_chans, n_times, n_outputs, sfreq: short windows and low rates
    "emg": (8, 200, 7, 200.0),
    "eog": (2, 1280, 6, 128.0),
    "eeg": (3, 500, 2, 125.0),
    "workload": (8, 512, 2, 128.0),
    "raw": (3, 1000, 2, 250.0),
    "fast": (1, 4000, 2, 2000.0),
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def example(name: str, batch: int = 1) -> Tensor:
    paper = PAPER[name]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, paper["n_chans"], paper["n_times"], generator=generator)


def forward_macs(module: nn.Module, x: Tensor) -> dict[str, int]:
    """Multiply-accumulates per layer of one sample, from the shapes that pass."""
    macs: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, _: Any, output: Tensor) -> None:
            weights = layer.weight[0].numel()  # type: ignore[index]
            macs[name] = output[0].numel() * weights

        return hook

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note(name))
    with torch.no_grad():
        module.eval()(x)
    return macs


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("name", "total", "last"),
    [("mibminet", 7938, 1858), ("epidenet", 4179, 187)],
)
def test_parameter_counts_are_the_published_ones(
    name: str, total: int, last: int, norm: str
) -> None:
    net = build(name, **PAPER[name], norm=norm)
    assert parameters(net) == total
    assert parameters(net.classifier) == last  # type: ignore[arg-type]


def test_eegnet_has_the_parameters_of_its_table() -> None:
    f1, d, f2, chans, times, classes, kernel = 8, 2, 16, 22, 256, 4, 64
    convs = kernel * f1 + chans * d * f1 + 16 * d * f1 + f2 * (d * f1)
    norms = 2 * f1 + 2 * d * f1 + 2 * f2
    dense = classes * (f2 * (times // 32)) + classes
    assert parameters(build("eegnet", **PAPER["eegnet"])) == convs + norms + dense


def test_shallow_has_the_parameters_of_its_table() -> None:
    assert parameters(build("shallow", **PAPER["shallow"])) == 47364
    # What braindecode states for 1000 samples.
    assert parameters(build("shallow", **{**PAPER["shallow"], "n_times": 1000})) == 46084


def test_shallow_is_the_log_of_band_power() -> None:
    torch.manual_seed(0)
    net = ShallowFBCSPNet(**PAPER["shallow"], norm="group").eval()
    x = example("shallow", batch=2)
    filtered = nn.functional.conv2d(x[:, None], net.temporal.weight, net.temporal.bias)
    spatial = nn.functional.conv2d(filtered, net.spatial.weight)
    power = nn.functional.group_norm(spatial, 1, eps=1e-5).square()[:, :, 0]
    starts = range(0, power.shape[-1] - 74, 15)
    means = torch.stack([power[..., a : a + 75].mean(-1) for a in starts], dim=-1)
    expected = means.clamp(min=1e-6).log().flatten(1) @ net.classifier.weight.T
    torch.testing.assert_close(net(x), expected + net.classifier.bias)
    assert torch.isfinite(net(torch.zeros_like(x))).all(), "no power at all has a logarithm too"


def test_resnet_has_the_parameters_of_its_stages() -> None:
    chans, classes = PAPER["resnet"]["n_chans"], PAPER["resnet"]["n_outputs"]
    total = classes * 32 + classes
    for inputs, outputs in ((chans, 16), (16, 32), (32, 32)):
        total += 8 * inputs * outputs + (5 + 3) * outputs**2 + 4 * 2 * outputs
        total += inputs * outputs * (inputs != outputs)
    assert parameters(build("resnet", **PAPER["resnet"])) == total


def test_resnet_goes_around_its_stages() -> None:
    """Convolutions that give nothing leave the way around."""
    torch.manual_seed(0)
    net = ResNet(**PAPER["resnet"]).eval()
    for stage in (net.stage1, net.stage2, net.stage3):
        nn.init.zeros_(stage.conv3.weight)
    x = example("resnet").unsqueeze(2)
    expected = (net.stage1.skip(x) / math.sqrt(1 + 1e-3)).relu()
    torch.testing.assert_close(net.stage1(x), expected)
    assert isinstance(net.stage3.skip, nn.Identity)
    y = torch.randn(1, 32, 1, 62)
    torch.testing.assert_close(net.stage3(y), y.relu() / math.sqrt(1 + 1e-3))


def test_macs_are_the_published_ones() -> None:
    macs = forward_macs(build("mibminet", **PAPER["mibminet"]), example("mibminet"))
    forward = sum(macs.values())
    assert forward == pytest.approx(8.635e6, rel=0.01)
    assert forward - macs["spatial"] == pytest.approx(8.148e6, rel=0.01)  # input gradients
    assert 3 * forward - macs["spatial"] == pytest.approx(25.42e6, rel=0.01)
    assert macs["temporal"] / (3 * forward - macs["spatial"]) * 3 == pytest.approx(0.92, abs=0.01)

    macs = forward_macs(build("epidenet", **PAPER["epidenet"]), example("epidenet"))
    assert 3 * sum(macs.values()) - macs["temporal1"] == pytest.approx(1.23e6, rel=0.01)


def test_norms_are_those_of_the_papers() -> None:
    for name in PAPER:
        keras = name != "shallow"  # the others were published in Keras, with its values
        eps, momentum = (1e-3, 0.01) if keras else (1e-5, 0.1)
        for part, layer in build(name, **PAPER[name], norm="batch").named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                ours = "covariance" in (name, part.partition(".")[0])
                assert (layer.eps, layer.momentum) == ((1e-5, 0.1) if ours else (eps, momentum))
        group = build(name, **PAPER[name], norm="group")
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in group.modules())
        for part, layer in group.named_modules():
            assert not isinstance(layer, nn.MaxPool2d)
            if isinstance(layer, nn.GroupNorm):
                ours = "covariance" in (name, part.partition(".")[0])
                assert (layer.eps, layer.num_groups) == (1e-5 if ours else eps, 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_network_is_asked_for_averages_where_it_has_the_choice(name: str) -> None:
    """What pretraining, a classifier and a live device build with GroupNorm."""
    asked = averaging(name)
    assert (asked == {"pool": "avg"}) == (name not in ("shallow", "covariance"))
    net = build(name, **PAPER[name], norm="group", **asked)
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in net.modules())


def test_epidenet_pools_by_norm_unless_told() -> None:
    def kinds(**kw: Any) -> set[type[nn.Module]]:
        net = build("epidenet", **PAPER["epidenet"], **kw)
        return {type(getattr(net, f"pool{i}")) for i in (1, 2, 3)}

    assert kinds(norm="batch") == {nn.MaxPool2d}
    assert kinds(norm="group") == {nn.AvgPool2d}
    assert kinds(norm="group", pool="max") == {nn.MaxPool2d}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("recording", RECORDINGS)
def test_every_recording_has_a_network(name: str, norm: str, recording: str) -> None:
    chans, times, classes, rate = RECORDINGS[recording]
    torch.manual_seed(0)
    net = build(name, chans, times, classes, rate, norm, drop_prob=0.0)
    logits = net(torch.randn(3, chans, times))
    assert logits.shape == (3, classes)
    logits.square().sum().backward()
    for parameter_name, p in net.named_parameters():
        assert p.grad is not None, parameter_name
        assert torch.isfinite(p.grad).all(), parameter_name


def test_filters_span_the_same_time_at_every_rate() -> None:
    net = MIBMInet(n_chans=3, n_times=1000, n_outputs=2, sfreq=250)
    assert net.temporal.kernel_size == (1, 64)
    assert net.separable_depth.kernel_size == (1, 8)
    given = MIBMInet(
        n_chans=3, n_times=1000, n_outputs=2, sfreq=250, temporal_taps=9, pool_sizes=(4, 1)
    )
    assert given.temporal.kernel_size == (1, 9)
    assert given.separable_depth.kernel_size == (1, 16)
    assert given.classifier.in_features == 32 * 250
    eegnet = EEGNet(n_chans=3, n_times=500, n_outputs=2, sfreq=250)
    assert eegnet.temporal.kernel_size == (1, 125)
    shallow = ShallowFBCSPNet(n_chans=3, n_times=500, n_outputs=2, sfreq=125)
    assert shallow.temporal.kernel_size == (1, 13)
    assert (shallow.pool.kernel_size, shallow.pool.stride) == ((1, 38), (1, 8))
    resnet = ResNet(n_chans=3, n_times=1000, n_outputs=2, sfreq=500)
    assert [getattr(resnet.stage2, f"conv{i}").kernel_size[1] for i in (1, 2, 3)] == [16, 10, 6]
    for options, lengths in [({}, [4, 6, 4]), ({"taps": (3, 5, 7)}, [3, 5, 7])]:
        epidenet = build("epidenet", 8, 200, 7, 200.0, **options)  # type: ignore[arg-type]
        assert [getattr(epidenet, f"temporal{i}").kernel_size[1] for i in (1, 2, 3)] == lengths


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("mibminet", {"n_times": 63}, "n_times=63 is too short.*n_times >= 64"),
        ("epidenet", {"n_times": 100}, "n_times=100 is too short.*n_times >= 128"),
        ("eegnet", {"n_times": 31}, "n_times=31 is too short.*n_times >= 32"),
        ("shallow", {"n_times": 198}, "n_times=198 is too short.*50.*150 samples.*n_times >= 199"),
        ("shallow", {"pool_stride": 0}, "pool_stride must be at least 1, not 0"),
        ("resnet", {"n_times": 15}, "n_times=15 is too short.*n_times >= 16"),
        ("mibminet", {"pool_sizes": (8, 0)}, "a pool must span at least 1 sample, not 0"),
        ("mibminet", {"n_chans": 0}, "n_chans must be at least 1"),
        ("mibminet", {"sfreq": 0.0}, "sfreq must be a positive"),
        ("epidenet", {"norm": "layer"}, 'norm must be "batch" or "group"'),
        ("epidenet", {"pool": "median"}, 'pool must be "max" or "avg"'),
        ("epidenet", {"norm": "group", "groups": 3}, "4 channels cannot be divided"),
        ("lenet", {}, "no built-in model.*mibminet, epidenet, eegnet, shallow, resnet"),
    ],
)
def test_what_cannot_be_built_says_so(name: str, arguments: dict[str, Any], message: str) -> None:
    shape = {"n_chans": 2, "n_times": 1000, "n_outputs": 2, "sfreq": 500.0}
    with pytest.raises(ValueError, match=message) as caught:
        build(name, **(shape | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_a_wrong_input_says_what_is_right(name: str) -> None:
    net = build(name, 2, 300, 2, 100.0)
    with pytest.raises(ValueError, match=r"takes \[batch, 2, 300\], not \[1, 3, 300\]"):
        net(torch.zeros(1, 3, 300))
    with pytest.raises(ValueError, match="not \\[2, 300\\]"):
        net(torch.zeros(2, 300))


def test_weights_start_as_in_keras() -> None:
    torch.manual_seed(0)
    net = EEGNet(**PAPER["eegnet"])
    fans = {  # layer: Keras' fan_in + fan_out
        "temporal": 64 * (1 + 8),
        "spatial": 22 * (8 + 2),  # depthwise: inputs and depth multiplier
        "separable_depth": 16 * (16 + 1),
        "separable_point": 16 + 16,
        "classifier": 128 + 4,
    }
    for name, fan in fans.items():
        weight = getattr(net, name).weight.detach()
        limit = math.sqrt(6 / fan)
        assert weight.abs().max() <= limit, name
        assert weight.abs().max() > 0.9 * limit, name
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.15), name
    assert (net.classifier.bias == 0).all()
    assert torch.equal(net.norm1.weight, torch.ones(8))  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_network() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build("epidenet", **PAPER["epidenet"]).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_same_padding_puts_the_extra_zero_at_the_end() -> None:
    net = MIBMInet(n_chans=1, n_times=64, n_outputs=2, sfreq=500, temporal_taps=4)
    x = torch.randn(1, 32, 1, 64, generator=torch.Generator().manual_seed(1))
    padded = nn.functional.pad(x, (1, 2))
    expected = nn.functional.conv2d(padded, net.temporal.weight, groups=32)
    torch.testing.assert_close(net.temporal(x), expected)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MODELS)
def test_torch_export_keeps_the_layers(name: str, norm: str, train: bool) -> None:
    torch.manual_seed(0)
    net = build(name, **PAPER[name], norm=norm, drop_prob=0.0).train(train)
    x = example(name).repeat(2, 1, 1)  # batch norm of features has one number per window
    program = torch.export.export(net, (x,), strict=False)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    convs = sum(isinstance(layer, nn.Conv2d | CovarianceNet) for layer in net.modules())
    norms = sum(isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) for layer in net.modules())
    assert sum(".conv2d." in target for target in called) == convs
    assert sum("_norm." in target for target in called) == norms
    assert not any("constant_pad" in target or "aten.pad." in target for target in called)
    if not train:
        torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.parametrize("name", MODELS)
def test_the_batch_may_be_dynamic(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, 2, 300, 3, 100.0, "group").eval()
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(
        net, (torch.randn(2, 2, 300),), dynamic_shapes=dynamic, strict=False
    )
    x = torch.randn(5, 2, 300)
    torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)


def test_standardize_is_the_arithmetic_that_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 1000 + 50 * torch.randn(4, 3, 200, generator=generator)
    mean, std = [990.0, 1000.0, 1010.0], torch.tensor([50.0, 40.0, 3.0])
    scale = (1 / std.double()).float()[:, None]

    layer = Standardize(mean, std)
    assert torch.equal(layer(x), (x - x.mean(-1, keepdim=True)) * scale)
    assert layer(x).mean(-1).abs().max() < 1e-4
    stored = Standardize(mean, std, center=False)
    assert torch.equal(stored(x), (x - torch.tensor(mean)[:, None]) * scale)
    assert list(layer.state_dict()) == ["mean", "std", "scale"]
    assert [tuple(b.shape) for b in layer.buffers()] == [(3, 1)] * 3
    assert not list(layer.parameters())


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 1e-60])
def test_standardize_refuses_a_flat_channel(bad: float) -> None:
    with pytest.raises(ValueError, match="channel 1 is"):
        Standardize([0.0, 0.0], [1.0, bad])


def test_standardize_refuses_other_nonsense() -> None:
    with pytest.raises(ValueError, match="3 means, 2 standard deviations"):
        Standardize([0.0] * 3, [1.0] * 2)
    with pytest.raises(ValueError, match="not finite"):
        Standardize([math.nan], [1.0])


def test_standardized_network_exports() -> None:
    torch.manual_seed(0)
    inner = build("epidenet", 2, 300, 3, 100.0, "group").eval()
    net = standardized(inner, [5.0, -5.0], [2.0, 3.0]).eval()
    x = 5 + torch.randn(1, 2, 300)
    expected = inner((x - x.mean(-1, keepdim=True)) * torch.tensor([[0.5], [1 / 3]]))
    torch.testing.assert_close(net(x), expected)
    program = torch.export.export(net, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), net(x))
    assert all(name.startswith("network.") for name, _ in net.named_parameters())

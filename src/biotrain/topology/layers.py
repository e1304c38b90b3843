# SPDX-License-Identifier: Apache-2.0
"""Rewrites of one layer: BatchNorm, max pool, dropout."""

from collections.abc import Callable
from typing import Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from biotrain.topology.copies import copied
from biotrain.topology.report import Rewrite, left_alone
from biotrain.topology.walk import Size, as_tuple, extent, is_custom, short_name

REFERENCE_BATCH = 8
"""Samples that a BatchNorm keeps resident: the batch and the accumulation of arXiv 2604.13359."""

MASK_BYTES = 1
"""Bytes per value of a stored dropout mask (torch.bool)."""

INDEX_BYTES = 4
"""Bytes per output of a max pool's stored index (int32 on a device; torch itself stores int64)."""


def rewrite_layer(
    path: str, layer: nn.Module, norm: str, groups: int, pool: str, size: Size | None
) -> tuple[nn.Module, Rewrite | None]:
    """The layer in its new form, and the line for the report; (layer, None) if nothing applies."""
    if isinstance(layer, _DropoutNd):
        return _dropout(path, layer, size)
    if _only_noise(layer):
        effect = "passes its input on; on a device nothing is dropped at random"
        return nn.Identity(), Rewrite(path, short_name(layer), "Identity", effect, None, _LOST)
    if isinstance(layer, (nn.MultiheadAttention, nn.RNNBase)) and layer.dropout > 0:
        before = f"{short_name(layer)}(dropout={layer.dropout:g})"
        layer.dropout = 0.0
        after = f"{short_name(layer)}(dropout=0)"
        effect = "dropout inside the layer switched off"
        return layer, Rewrite(path, before, after, effect, None, _DROPOUT_LOST)
    if isinstance(layer, _BatchNorm) and norm != "keep":
        return _batch_norm(path, layer, norm, groups, size)
    if pool == "avg" and isinstance(layer, _MAX_POOLS):
        return _max_pool(path, layer, size)
    return layer, None


_DROPOUT_LOST = _LOST = "its regularisation in training; in eval mode nothing"


def _only_noise(layer: nn.Module) -> bool:
    """Whether a layer without tensors passes its input on in eval mode and changes it at random in
    training (a drop path). Recognised by what it computes, not by its name."""
    plain = not any((layer._modules, layer._parameters, layer._buffers))
    if not plain or not is_custom(layer):
        return False
    probe = copied(layer)
    x = torch.ones(64, 3, 4)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            same = torch.equal(probe.eval()(x.clone()), x)
            torch.manual_seed(0)
            first, second = (probe.train()(x.clone()) for _ in range(2))
        except Exception:  # whatever a forward of the user's own objects to
            return False
    if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
        return False
    return same and not torch.equal(first, second)


def _dropout(path: str, layer: _DropoutNd, size: Size | None) -> tuple[nn.Module, Rewrite | None]:
    before = f"{short_name(layer)}(p={layer.p:g})"
    if is_custom(layer):
        return layer, left_alone(path, before, "a subclass with a forward of its own")
    saved = None if size is None else MASK_BYTES * size.out_values * (layer.p > 0)
    effect = "no random mask is drawn or stored; one byte per value less"
    return nn.Identity(), Rewrite(path, before, "Identity", effect, saved, _DROPOUT_LOST)


_MAX_POOLS = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_AVG_POOLS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.MaxPool1d: nn.AvgPool1d,
    nn.MaxPool2d: nn.AvgPool2d,
    nn.MaxPool3d: nn.AvgPool3d,
    nn.AdaptiveMaxPool1d: nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool2d: nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool3d: nn.AdaptiveAvgPool3d,
}


def _max_pool(path: str, layer: nn.Module, size: Size | None) -> tuple[nn.Module, Rewrite | None]:
    base = next(c for c in _MAX_POOLS if isinstance(layer, c))
    before = short_name(layer)
    if is_custom(layer):
        return layer, left_alone(path, before, "a subclass with a forward of its own")
    if layer.return_indices:
        return layer, left_alone(path, before, "its indices are used, an average has none")
    if isinstance(layer, (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)):
        new = _AVG_POOLS[base](layer.output_size)
        before = f"{before}({extent(layer.output_size)})"
    else:
        assert isinstance(layer, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d))
        before = f"{before}({extent(layer.kernel_size)})"
        if any(d != 1 for d in as_tuple(layer.dilation)):
            return layer, left_alone(path, before, "torch has no dilated average pool")
        new = _AVG_POOLS[base](
            layer.kernel_size,
            layer.stride,
            layer.padding,
            ceil_mode=layer.ceil_mode,
            count_include_pad=False,
        )
    after = f"{short_name(new)}({before.partition('(')[2]}"
    new.training = layer.training
    saved = None if size is None else INDEX_BYTES * size.out_values
    effect = "no index map is stored for the backward pass"
    lost = "the maximum itself: outputs change, so rewrite before pretraining or fine-tune after"
    return new, Rewrite(path, before, after, effect, saved, lost)


class _Frozen(nn.Module):
    """Running statistics are used and kept, under `.train()` too; weight and bias still train."""

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever `mode` is."""
        return super().train(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):
    """BatchNorm1d with constant statistics."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """BatchNorm2d with constant statistics."""


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d):
    """BatchNorm3d with constant statistics."""


_FROZEN: dict[type[_BatchNorm], type[_BatchNorm]] = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
}


def _batch_norm(
    path: str, layer: _BatchNorm, norm: str, groups: int, size: Size | None
) -> tuple[nn.Module, Rewrite | None]:
    if isinstance(layer, tuple(_FROZEN.values())) and norm == "frozen":
        return layer, None
    before = f"{short_name(layer)}({layer.num_features})"
    base = next((c for c in _FROZEN if isinstance(layer, c)), None)
    across_devices = isinstance(layer, nn.SyncBatchNorm)
    if is_custom(layer) or (base is None and not across_devices):
        return layer, left_alone(path, before, "a subclass with a forward of its own")
    named = path or "the module"
    resident = None if size is None else (REFERENCE_BATCH - 1) * size.in_bytes
    if norm == "batch":
        cost = "" if resident is None else f" ({resident} bytes more than one sample here)"
        why = f"kept on request; it needs the whole batch resident, {REFERENCE_BATCH} samples{cost}"
        return layer, left_alone(path, before, why)
    if norm == "frozen":
        if base is None:
            return layer, left_alone(path, before, "no frozen form; convert it to BatchNorm first")
        if layer.running_mean is None:
            raise ValueError(
                f"{named}: a BatchNorm without running statistics cannot be frozen; "
                'use norm="group"'
            )
        frozen = _FROZEN[base].__new__(_FROZEN[base])
        frozen.__dict__.update(layer.__dict__)
        frozen.training = False
        after = f"{short_name(frozen)}({layer.num_features})"
        effect = f"statistics are constants: 1 sample resident instead of {REFERENCE_BATCH}"
        lost = (
            "statistics of new data: they do not follow a new subject or drift, and a learning rate"
            " that suits batch statistics may diverge"
        )
        return frozen, Rewrite(path, before, after, effect, resident, lost)
    if size is not None and size.smallest_in == groups:
        raise ValueError(
            f"{named}: GroupNorm with groups={groups} would normalise single values of the example "
            "input to zero; use fewer groups"
        )
    new, lost = _group_norm(path, layer, groups)
    after = f"GroupNorm({groups}, {layer.num_features})"
    effect = f"statistics of one sample: 1 sample resident instead of {REFERENCE_BATCH}"
    return new, Rewrite(path, before, after, effect, resident, lost)


def _group_norm(path: str, layer: _BatchNorm, groups: int) -> tuple[nn.GroupNorm, str]:
    """GroupNorm with the running statistics folded in (see `prepare`), and what was lost."""
    channels = layer.num_features
    if channels % groups:
        raise ValueError(
            f"{path or 'the module'}: {channels} channels cannot be divided into groups={groups}; "
            "choose a divisor (1 always works)"
        )
    mean, var = layer.running_mean, layer.running_var
    fresh = mean is None or var is None or bool(((mean == 0) & (var == 1)).all())
    folded = not fresh and groups < channels  # a group of one channel takes weight and bias as is
    affine = layer.affine or folded
    tensor = next((t for t in (layer.weight, mean) if t is not None), torch.empty(0))
    new = nn.GroupNorm(
        groups, channels, layer.eps, affine, device=tensor.device, dtype=tensor.dtype
    )
    new.training = layer.training
    lost = (
        "the statistics of the batch"
        if fresh
        else "fixed running statistics: each sample is normalised by its own, so that its level "
        "and scale pass no more; folded into weight and bias, right for the average sample"
    )
    if not affine:
        return new, lost
    with torch.no_grad():
        if layer.affine:
            new.weight.copy_(layer.weight)
            new.bias.copy_(layer.bias)
            new.weight.requires_grad_(layer.weight.requires_grad)
            new.bias.requires_grad_(layer.bias.requires_grad)
        else:  # holds the folded statistics only: as constant as they were
            new.weight.requires_grad_(False)
            new.bias.requires_grad_(False)
        if folded and mean is not None and var is not None:
            m = mean.double().reshape(groups, -1)
            v = var.double().reshape(groups, -1)
            group_mean = m.mean(1, keepdim=True)
            group_var = (v + (m - group_mean) ** 2).mean(1, keepdim=True)
            per_channel = torch.sqrt(v + layer.eps)
            weight = new.weight.double().reshape(groups, -1)
            bias = new.bias.double().reshape(groups, -1) + weight * (group_mean - m) / per_channel
            weight = weight * torch.sqrt(group_var + layer.eps) / per_channel
            new.weight.copy_(weight.flatten())
            new.bias.copy_(bias.flatten())
    return new, lost

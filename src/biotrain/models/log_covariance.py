# SPDX-License-Identifier: Apache-2.0
"""The matrix logarithm of covariances as a function of torch, with its gradient."""

import torch
from torch import Tensor

NAME = "biotrain::log_covariance"
"""Under which torch, and so an exported program, knows the function."""


def _spectrum(x: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues [..., n] and eigenvectors [..., n, n] of the covariance of x [..., n, times]."""
    cov = x @ x.mT / x.shape[-1]
    level = cov.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    values, vectors = torch.linalg.eigh(cov + shrinkage * level * eye)
    return values, vectors


@torch.library.custom_op(NAME, mutates_args=())
def log_covariance(x: Tensor, shrinkage: float) -> Tensor:
    """The logarithm of c + shrinkage (trace(c) / n) I, with c = x x' / times.

    Args:
        x: [..., n, times], any unit; the mean of each channel is not taken off.
        shrinkage: share of the mean power that each channel gets in addition, so that a channel
            that is a sum of others has a logarithm.

    Returns [..., n, n], symmetric. Its gradient is defined where eigenvalues coincide, too (that of
    `torch.linalg.eigh` is not).
    """
    values, vectors = _spectrum(x, shrinkage)
    return (vectors * values.log()[..., None, :]) @ vectors.mT


@log_covariance.register_fake
def _(x: Tensor, shrinkage: float) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-2]))


def _keep(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, float], output: Tensor
) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.shrinkage = inputs[1]  # type: ignore[attr-defined]


def _gradient(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> tuple[Tensor, None]:
    """That of Daleckii and Krein: divided differences of the logarithm between eigenvalues."""
    (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
    shrinkage: float = ctx.shrinkage  # type: ignore[attr-defined]
    values, vectors = _spectrum(x, shrinkage)
    a, b = values[..., :, None], values[..., None, :]
    ratio = (a - b) / (a + b)
    far = torch.where(ratio.abs() < 1e-4, 1.0, ratio)
    slopes = 2 * torch.where(ratio.abs() < 1e-4, 1 + ratio**2 / 3, far.atanh() / far) / (a + b)
    inner = vectors.mT @ (0.5 * (dy + dy.mT)) @ vectors
    da = vectors @ (slopes * inner) @ vectors.mT
    n = x.shape[-2]
    eye = torch.eye(n, dtype=x.dtype, device=x.device)
    level = da.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    dc = da + shrinkage / n * level * eye
    return (dc + dc.mT) @ x / x.shape[-1], None


log_covariance.register_autograd(_gradient, setup_context=_keep)

# SPDX-License-Identifier: Apache-2.0
"""The built-in networks, as plain torch modules: [batch, n_chans, n_times] -> [batch, n_outputs].

This package imports torch and nothing else of BioTrain.
"""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from types import MappingProxyType
from typing import Any, TypedDict

from torch import nn

from biotrain.models.covariance import CovarianceNet, WithCovariance
from biotrain.models.eegnet import EEGNet
from biotrain.models.epidenet import EpiDeNet
from biotrain.models.log_covariance import log_covariance
from biotrain.models.mibminet import MIBMInet
from biotrain.models.resnet import ResNet
from biotrain.models.shallow import ShallowFBCSPNet
from biotrain.models.standardize import Standardize, standardized

__all__ = [
    "MODELS",
    "PAPER",
    "CovarianceNet",
    "EEGNet",
    "EpiDeNet",
    "MIBMInet",
    "ResNet",
    "ShallowFBCSPNet",
    "Shape",
    "Standardize",
    "WithCovariance",
    "averaging",
    "build",
    "log_covariance",
    "standardized",
]


class Shape(TypedDict):
    """What a network must know of its recording."""

    n_chans: int
    n_times: int  # samples per window
    n_outputs: int
    sfreq: float  # Hz


MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "mibminet": MIBMInet,
        "epidenet": EpiDeNet,
        "eegnet": EEGNet,
        "shallow": ShallowFBCSPNet,
        "resnet": ResNet,
        "covariance": CovarianceNet,
        "mibminet+covariance": partial(WithCovariance, MIBMInet),
        "epidenet+covariance": partial(WithCovariance, EpiDeNet),
        "eegnet+covariance": partial(WithCovariance, EEGNet),
    }
)

PAPER: Mapping[str, Shape] = MappingProxyType(
    {
        # arXiv 2604.13359: tongue movement against rest, 3.8 s of EEG
        "mibminet": Shape(n_chans=8, n_times=1900, n_outputs=2, sfreq=500.0),
        # arXiv 2604.13359: 11 eye movements, 2 s of EOG
        "epidenet": Shape(n_chans=2, n_times=1000, n_outputs=11, sfreq=500.0),
        # Lawhern et al. 2018: BCI Competition IV 2a, 4 classes, 2 s of EEG
        "eegnet": Shape(n_chans=22, n_times=256, n_outputs=4, sfreq=128.0),
        # Schirrmeister et al. 2017: the same recordings at 250 Hz, 4.5 s of each trial
        "shallow": Shape(n_chans=22, n_times=1125, n_outputs=4, sfreq=250.0),
        # no paper's: the montage of arXiv 2604.13359's EEG, 4 s at 250 Hz, 4 classes
        "resnet": Shape(n_chans=8, n_times=1000, n_outputs=4, sfreq=250.0),
        "covariance": Shape(n_chans=8, n_times=1000, n_outputs=4, sfreq=250.0),
        # beside a network: the shapes of the public sets that it is studied on (docs/study.md)
        "mibminet+covariance": Shape(n_chans=8, n_times=512, n_outputs=2, sfreq=128.0),
        "epidenet+covariance": Shape(n_chans=2, n_times=1280, n_outputs=6, sfreq=128.0),
        "eegnet+covariance": Shape(n_chans=3, n_times=500, n_outputs=2, sfreq=125.0),
    }
)


def averaging(name: str) -> dict[str, str]:
    """Keywords for `build` with which the network averages where it could take maxima instead:
    `{"pool": "avg"}`, or nothing where it has no such choice or no such name."""
    made: Any = MODELS.get(name, nn.Module)
    made = made.args[0] if isinstance(made, partial) else made
    return {"pool": "avg"} if "pool" in signature(made).parameters else {}


def build(
    name: str,
    n_chans: int,
    n_times: int,
    n_outputs: int,
    sfreq: float,
    norm: str = "batch",
    **kw: Any,
) -> nn.Module:
    """The network called `name`; `build(name, **PAPER[name])` is the published one (`resnet` and
    `covariance`: none is published at this size, the shapes are ours).

    `sfreq` is in Hz; `kw` goes to the class (F1, pool, groups, drop_prob, ...).
    Raises ValueError for an unknown name, and what the class raises.
    """
    if name not in MODELS:
        raise ValueError(f'no built-in model "{name}"; there are: {", ".join(MODELS)}')
    return MODELS[name](
        n_chans=n_chans, n_times=n_times, n_outputs=n_outputs, sfreq=sfreq, norm=norm, **kw
    )

# SPDX-License-Identifier: Apache-2.0
"""What a user gives as network and example input, as torch has them."""

from __future__ import annotations

from typing import Any

import torch

from biotrain.errors import BioTrainError
from biotrain.topology.given import network_of


def network_given(given: Any) -> Any:
    """The torch module that stands in a skorch estimator; anything else as it is."""
    try:
        return network_of(given)
    except ValueError as error:
        raise BioTrainError(str(error)) from error


def example_given(given: object) -> torch.Tensor:
    """The example input as a tensor of floats, apart from any graph of gradients."""
    try:
        example = torch.as_tensor(given).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BioTrainError(f"the example input is no array of numbers: {error}") from error
    if example.is_complex():
        raise BioTrainError("the example input is complex; a window is float32")
    return example if example.is_floating_point() else example.to(torch.float32)

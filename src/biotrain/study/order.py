# SPDX-License-Identifier: Apache-2.0
"""The order in which windows are learned."""

import numpy as np
from numpy.typing import NDArray


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of `count` samples in `epoch`: the same for the C and for torch."""
    stream = np.random.SeedSequence(seed, spawn_key=(epoch,))
    return np.random.Generator(np.random.Philox(stream)).permutation(count)

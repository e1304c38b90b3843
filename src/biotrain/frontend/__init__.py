# SPDX-License-Identifier: Apache-2.0
"""The signal chain from the converter to the network: one description, the same C everywhere.

A `FrontEnd` is designed with scipy.signal (extra `study`) and becomes causal fixed-rate C for the
device (`emit`). `biotrain.run.front_stream` runs exactly that C on this machine, so that
pretraining and a study see what the device will see. `read_front` reads a description from TOML.
"""

from biotrain.frontend.design import ANTI_ALIAS, FrontEnd, Section
from biotrain.frontend.emit import describe, emit
from biotrain.frontend.spec import FrontSpec, read_front

__all__ = [
    "ANTI_ALIAS",
    "FrontEnd",
    "FrontSpec",
    "Section",
    "describe",
    "emit",
    "read_front",
]

# SPDX-License-Identifier: Apache-2.0
"""The signal chain from the converter to the network: one description, the same C everywhere.

A `FrontEnd` is designed with scipy.signal (extra `study`) and becomes causal fixed-rate C for the
device (`emit`). `FrontEnd.run` and `FrontEnd.start` run exactly that C on this machine, so that
pretraining and a study see what the device will see. `read_front` reads a description from TOML.
"""

from biotrain.frontend.design import ANTI_ALIAS, FrontEnd, Section
from biotrain.frontend.emit import describe, emit
from biotrain.frontend.spec import FrontSpec, read_front
from biotrain.frontend.stream import HOST, Stream

__all__ = [
    "ANTI_ALIAS",
    "HOST",
    "FrontEnd",
    "FrontSpec",
    "Section",
    "Stream",
    "describe",
    "emit",
    "read_front",
]

# SPDX-License-Identifier: Apache-2.0
"""A stream (a recording, LSL, a board of BrainFlow) into the live firmware, which predicts and
learns in time."""

from biotrain.live.boards import BrainFlow
from biotrain.live.device import DeviceEvent, PacedDevice
from biotrain.live.feeds import Chunk, Cued, Feed, Played, paced
from biotrain.live.figure import figure
from biotrain.live.lsl import Lsl
from biotrain.live.session import (
    Note,
    Prediction,
    Session,
    SessionDevice,
    SessionSettings,
    live,
)

__all__ = [
    "BrainFlow",
    "Chunk",
    "Cued",
    "DeviceEvent",
    "Feed",
    "Lsl",
    "Note",
    "PacedDevice",
    "Played",
    "Prediction",
    "Session",
    "SessionDevice",
    "SessionSettings",
    "figure",
    "live",
    "paced",
]

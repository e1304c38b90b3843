# SPDX-License-Identifier: Apache-2.0
"""A stream (a recording, LSL, a board of BrainFlow) into a device that predicts and learns, in
time."""

from biotrain.live.body import Living, Seen
from biotrain.live.feeds import BrainFlow, Chunk, Cued, Feed, Lsl, Played, paced
from biotrain.live.figure import figure
from biotrain.live.life import Body, Life, Note, Prediction, live

__all__ = [
    "Body",
    "BrainFlow",
    "Chunk",
    "Cued",
    "Feed",
    "Life",
    "Living",
    "Lsl",
    "Note",
    "Played",
    "Prediction",
    "Seen",
    "figure",
    "live",
    "paced",
]

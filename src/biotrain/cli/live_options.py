# SPDX-License-Identifier: Apache-2.0
"""The options of `live`: where samples come from, what learns, and how the session is played."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from biotrain.cli.options import RecipeName, option

FEED, DEVICE, SESSION = "Where samples come from", "The device and what it learns", "The session"
"""Panels of the help."""


@dataclass(frozen=True)
class FeedOptions:
    """Where samples come from."""

    data: Annotated[
        str | None,
        option(
            "--data",
            "Recordings: the subject's is played, the others' pretrain (biotrain list data).",
            FEED,
            metavar="DATA",
        ),
    ] = None
    subject: Annotated[
        str | None,
        option("--subject", "Who wears the device; else the last.", FEED, metavar="NAME"),
    ] = None
    sessions: Annotated[
        str | None, option("--sessions", "Which are played; else all.", FEED, metavar="N,N")
    ] = None
    front: Annotated[
        Path | None,
        option(
            "--front",
            "Continuous recordings go through this front end, in the device's C.",
            FEED,
            metavar="FILE.toml",
        ),
    ] = None
    lsl: Annotated[
        str | None,
        option("--lsl", "Listen to this LSL stream (name or type).", FEED, metavar="NAME"),
    ] = None
    markers: Annotated[
        str | None,
        option("--markers", "LSL stream of markers: classes by name.", FEED, metavar="NAME"),
    ] = None
    board: Annotated[
        str | None,
        option("--board", "A board of BrainFlow: synthetic, cyton, ...", FEED, metavar="NAME"),
    ] = None
    port: Annotated[str | None, option("--port", "Serial port of the board.", FEED)] = None
    kind: Annotated[str, option("--kind", "Which channels of a board.", FEED)] = "eeg"
    channels: Annotated[
        int | None, option("--chans", "The first so many of a board.", FEED, min=1)
    ] = None
    classes: Annotated[
        str | None,
        option("--classes", "Without --data: the classes to tell apart.", FEED, metavar="NAME,..."),
    ] = None
    scale: Annotated[
        float | None,
        option("--scale", "Physical units per converter step, of LSL or a board.", FEED),
    ] = None
    bits: Annotated[int, option("--bits", "Bits of that converter.", FEED)] = 24
    cue: Annotated[
        float | None,
        option("--cue", "Ask for one class after the other, S seconds.", FEED, metavar="S"),
    ] = None
    hop: Annotated[
        int | None, option("--hop", "Samples between windows, without --front.", FEED, min=1)
    ] = None

    @property
    def streams(self) -> bool:
        """Whether samples come from an LSL stream or a board, not from a recording."""
        return self.lsl is not None or self.board is not None


@dataclass(frozen=True)
class DeviceOptions:
    """What the firmware is compiled for, and how it learns."""

    on: Annotated[
        str, option("--on", "host, or the target's emulator.", DEVICE, metavar="PLACE")
    ] = "host"
    target: Annotated[str, option("--target", "Whose time and memory the device has.", DEVICE)] = (
        "nrf52840"
    )
    recipe: RecipeName = None
    strategy: Annotated[str | None, option("--strategy", "What trains; full.", DEVICE)] = None
    epochs: Annotated[
        int | None, option("--epochs", "At most so many in a calibration; 30.", DEVICE, min=1)
    ] = None
    lr: Annotated[
        float | None, option("--lr", "Of the calibration; what did best for it.", DEVICE)
    ] = None
    accumulate: Annotated[
        int | None,
        option("--accumulate", "Samples whose mean gradient makes a step; 8.", DEVICE, min=1),
    ] = None
    store: Annotated[
        int, option("--store", "Labelled windows that the flash holds.", DEVICE, min=4, max=512)
    ] = 150
    pretrain_epochs: Annotated[
        int, option("--pretrain-epochs", "On the other subjects.", DEVICE, min=0)
    ] = 15
    seed: Annotated[int, option("--seed", "Of weights, order and cues.", DEVICE)] = 0


@dataclass(frozen=True)
class SessionOptions:
    """How the session is played."""

    calibrate: Annotated[
        str,
        option(
            "--calibrate",
            "Begin to learn when so many windows are stored.",
            SESSION,
            metavar="N,N",
        ),
    ] = "100"
    told: Annotated[
        float | None,
        option("--told", "Tell the device labels for S seconds only.", SESSION, metavar="S"),
    ] = None
    speed: Annotated[
        float,
        option("--speed", "Of a recording, times real time; 0: no wait.", SESSION, min=0.0),
    ] = 1.0
    seconds: Annotated[float | None, option("--seconds", "End after so much signal.", SESSION)] = (
        None
    )
    figure: Annotated[
        Path | None,
        option("--figure", "Draw what happened.", SESSION, metavar="FILE.png|svg"),
    ] = None

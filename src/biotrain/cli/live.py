# SPDX-License-Identifier: Apache-2.0
"""`live`: a stream into the live firmware, which predicts and learns, watched while it happens."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biotrain.cli.console import Out, writable_figure
from biotrain.cli.live_options import DeviceOptions, FeedOptions, SessionOptions
from biotrain.cli.live_setup import (
    Stream,
    build_network,
    build_package,
    load_source,
    open_stream,
)
from biotrain.cli.live_view import SessionView, show_session
from biotrain.cli.options import Json, integers, options
from biotrain.errors import BioTrainError
from biotrain.recipe import recipe_of

if TYPE_CHECKING:
    from biotrain.live import Session, SessionSettings
    from biotrain.package import Package


@options
def live_verb(
    given: FeedOptions,
    device: DeviceOptions,
    play: SessionOptions,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A built-in network or module:factory.", show_default=False
        ),
    ] = "epidenet",
    to: Json = None,
) -> None:
    """Play a stream into a device that predicts, stores and learns, and watch it."""
    out = Out(to)
    if play.figure is not None:
        writable_figure(play.figure)
    if given.lsl is not None and given.board is not None:
        raise BioTrainError("--lsl and --board are two sources: give one of them")
    if not given.streams and given.data is None:
        raise BioTrainError("live needs --data, --lsl or --board")
    from biotrain.frontend import describe, read_front
    from biotrain.live import PacedDevice
    from biotrain.run import check_place
    from biotrain.targets.target import load_target

    if device.on not in ("host", "emulator"):
        raise BioTrainError(f"a live session runs on host or emulator, not on '{device.on}'")
    check_place(device.on, load_target(device.target))
    _calibrate_after(play)  # what is wrong with it is said before anything is compiled
    spec = None if given.front is None else read_front(given.front)
    source = load_source(given, spec, out)
    stream = open_stream(given, source, spec, device.seed)
    network = build_network(model, source, stream, device)
    pkg = build_package(network, source, stream, device)
    for line in (*pkg.notes, *_norm_left_out(device)):
        out.say(line)
    runner = PacedDevice.start(pkg, device.on, stream.feed.fs)
    out.say(f"{stream.feed.name} into {pkg.source.title} on {device.on} ({pkg.target.name})")
    speed = 0.0 if given.streams else play.speed
    session, took = _played(stream, runner, _settings(pkg, stream, play), play.seconds, speed)
    show_session(out, session, took)
    if play.figure is not None:
        from biotrain.live import figure as draw
        from biotrain.writing.drawing import save

        save(draw(session, f"{stream.feed.name}: {pkg.source.title}, {device.on}"), play.figure)
        out.say(f"wrote {play.figure}")
    out.result(
        {
            "feed": stream.feed.name,
            "on": device.on,
            "target": pkg.target.name,
            "title": pkg.source.title,
            "recipe": None if pkg.recipe is None else pkg.recipe.to_json(),
            "front": None if stream.chain is None else describe(stream.chain),
            "ram_bytes": pkg.plan.ram_bytes,
            "flash_bytes": pkg.plan.flash_bytes,
            "wall_s": took,
            **session.to_json(),
        }
    )


def _norm_left_out(device: DeviceOptions) -> list[str]:
    """A line where the recipe names a norm that `live` does not pretrain with."""
    recipe = recipe_of(device.recipe)
    if recipe.norm in (None, "group"):
        return []
    return [f"recipe '{recipe.name}': live leaves out norm {recipe.norm}, it trains GroupNorm"]


def _calibrate_after(play: SessionOptions) -> list[int]:
    """Numbers of stored windows at which a calibration begins; BioTrainError where it could not."""
    from biotrain.frontend.live import Live

    found = [n for n in integers("--calibrate", play.calibrate) if n > 0]
    if found and min(found) < Live.least:
        raise BioTrainError(
            f"--calibrate {min(found)}: a calibration wants {Live.least} stored windows at least"
        )
    return found


def _settings(pkg: "Package", stream: Stream, play: SessionOptions) -> "SessionSettings":
    """The session that the options describe, in samples of the converter."""
    from biotrain.live import SessionSettings

    size = pkg.graph.inputs[0].shape[-1]
    chain = stream.chain
    decimate = chain.decimate if chain else 1
    hop = chain.hop if chain else stream.hop or size
    return SessionSettings(
        fs=stream.feed.fs,
        span=size * decimate,
        hop=hop * decimate,
        classes=stream.classes,
        calibrate_after=_calibrate_after(play),
        told_s=play.told,
    )


def _played(
    stream: Stream, runner: Any, settings: "SessionSettings", limit_s: float | None, speed: float
) -> "tuple[Session, float]":
    """The session, watched while it happens, and the seconds that it took on the clock."""
    from biotrain.live import live, paced

    feed = stream.feed
    lasts = limit_s if feed.seconds is None else min(limit_s or feed.seconds, feed.seconds)
    with SessionView(feed, lasts, stream.classes) as view:
        begun = time.monotonic()
        session, _ = live(paced(feed, speed, limit_s), runner, settings, watch=view)
        return session, time.monotonic() - begun

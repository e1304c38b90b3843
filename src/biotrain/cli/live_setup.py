# SPDX-License-Identifier: Apache-2.0
"""What `live` needs before it starts: the recordings, the feed, the network and its package."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from biotrain.cli.console import Busy, Out, Work
from biotrain.cli.live_options import DeviceOptions, FeedOptions
from biotrain.cli.options import integers, names, people
from biotrain.errors import BioTrainError
from biotrain.recipe import recipe_of

if TYPE_CHECKING:
    from biotrain.frontend import FrontEnd, FrontSpec
    from biotrain.live import Feed
    from biotrain.package import Package
    from biotrain.study.data.continuous import Continuous
    from biotrain.study.data.recordings import Recordings

RING_S = 0.75
"""Seconds of frames that may wait while flash is erased, which stops the core of many chips."""
PAGE_BYTES, RECORD_BYTES, SPARE_PAGES = 4096, 64, 4
"""The sample store: bytes of an erase unit of flash, bytes (at most) that a window takes on top of
its samples, and pages for checkpoints and for the one that is being erased."""


@dataclass(frozen=True)
class Source:
    """The recordings of `--data`, as windows to pretrain on, and continuous; `front` turns the one
    into the other, None where they were cut upstream. `subject` wears the device."""

    rec: "Recordings"
    subject: int
    continuous: "Continuous"
    front: "FrontEnd | None"


@dataclass(frozen=True)
class Stream:
    """Samples, and how the firmware makes windows of them.

    bits: of the converter. chain: the front end; None where windows are the samples as they are,
    one every `hop` samples (None: a window).
    """

    feed: "Feed"
    classes: tuple[str, ...]
    bits: int
    chain: "FrontEnd | None"
    hop: int | None


def load_source(given: FeedOptions, spec: "FrontSpec | None", out: Out) -> Source | None:
    """The recordings of `--data`; None without."""
    if given.data is None:
        return None
    from biotrain.study.data.continuous import end_to_end
    from biotrain.study.data.sources import load_continuous, recordings

    raw = load_continuous(given.data) if spec is not None else None
    rec, note = recordings(given.data, None, spec)
    if note:
        out.say(note)
    subject = rec.subjects[-1] if given.subject is None else rec.people(people(given.subject))[0]
    if raw is not None and spec is not None:
        front = raw.front(spec)
        cue = (front.window + front.hop) * front.decimate  # one window fits in wherever it begins
        return Source(rec, subject, raw.with_cues_of(cue), front)
    joined = end_to_end(rec, subject)
    out.say(f"{joined.name}: windows joined end to end, as if they had not been cut")
    return Source(rec, subject, joined, None)


def open_stream(
    given: FeedOptions, source: Source | None, spec: "FrontSpec | None", seed: int
) -> Stream:
    """The feed that the options name, with its front end."""
    from biotrain.live import Cued, Played

    classes = source.rec.classes if source else tuple(names(given.classes or ""))
    if len(classes) < 2:
        raise BioTrainError("without --data, name at least two classes: --classes left,right")
    feed: Feed
    bits = given.bits
    if given.streams:
        feed = _outside(given, source, classes)
    else:
        assert source is not None
        chosen = None if given.sessions is None else integers("--sessions", given.sessions)
        feed, bits = Played(source.continuous, source.subject, chosen), source.continuous.bits
    if given.cue is not None:
        feed = Cued(feed, len(classes), given.cue, seed)
    return Stream(feed, classes, bits, _chain(feed, source, spec), given.hop)


def _outside(given: FeedOptions, source: Source | None, classes: tuple[str, ...]) -> "Feed":
    """An LSL stream or a board of BrainFlow."""
    from biotrain.live import BrainFlow, Lsl

    step = given.scale
    if step is None and source is not None:
        step = source.continuous.scale
    named = given.board is not None and not given.board.lstrip("-").isdigit()
    if step is None and not named:
        raise BioTrainError(
            "an LSL stream, or a board by its number, needs --scale: units per converter step"
        )
    if given.lsl is not None:
        assert step is not None
        return Lsl(given.lsl, step, classes, given.markers)
    assert given.board is not None
    more: dict[str, Any] = {} if given.port is None else {"serial_port": given.port}
    return BrainFlow(
        given.board, step, len(classes), kind=given.kind, channels=given.channels, **more
    )


def _chain(feed: "Feed", source: Source | None, spec: "FrontSpec | None") -> "FrontEnd | None":
    """The front end of a feed; BioTrainError where the feed does not fit the recordings."""
    if source is None:
        if spec is None:
            raise BioTrainError("without --data, --front says what a window is")
        return spec.front(fs_in=feed.fs, n_chans=feed.n_chans, scale=feed.scale)
    if (feed.fs, feed.n_chans) != (source.continuous.fs, source.continuous.n_chans):
        raise BioTrainError(
            f"{feed.name} has {feed.n_chans} channels at {feed.fs:g} Hz, the recordings "
            f"{source.continuous.n_chans} at {source.continuous.fs:g} Hz"
        )
    return source.front


def build_network(model: str, source: Source | None, stream: Stream, given: DeviceOptions) -> Any:
    """The network that the firmware starts with: pretrained on the others, or untrained."""
    import numpy as np
    import torch

    from biotrain import models
    from biotrain.cli.model import factory
    from biotrain.study.pretrain import pretrain

    torch.set_num_threads(1)
    if source is None:
        chain = stream.chain
        assert chain is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(given.seed)
            more = models.averaging(model) if model in models.MODELS else {}
            net = factory(model)(
                n_chans=chain.n_chans,
                n_times=chain.window,
                n_outputs=len(stream.classes),
                sfreq=chain.fs_out,
                norm="group",
                **more,
            )
            ones = np.ones(chain.n_chans)
            return models.standardized(net, 0 * ones, ones).eval()
    known: Any = model if model in models.MODELS else factory(model)
    rec = source.rec
    others = np.flatnonzero(rec.subject != source.subject)
    with Work() as work:
        report = work.on(f"pretraining on {len(rec.subjects) - 1} other subjects")
        return pretrain(
            rec, known, others, epochs=given.pretrain_epochs, seed=given.seed, on_epoch=report
        )


def build_package(
    network: Any, source: Source | None, stream: Stream, given: DeviceOptions
) -> "Package":
    """The live firmware's package."""
    import numpy as np

    from biotrain.frontend.live import Live
    from biotrain.package import compile_model
    from biotrain.topology import prepare

    chain = stream.chain
    if chain is None:
        assert source is not None
        rec = source.rec
        shape, unit = (1, rec.n_chans, rec.n_times), rec.scale
    else:
        if chain.unit is None:
            raise BioTrainError('the device keeps integers: standardise = "running", not "window"')
        shape, unit = (1, chain.n_chans, chain.window), chain.unit
    named = recipe_of(given.recipe).changed(
        strategy=given.strategy, lr=given.lr, accumulate=given.accumulate, epochs=given.epochs
    )
    window_bytes = 2 * shape[1] * shape[2] + RECORD_BYTES
    with Busy(f"compiling for {given.target}"):
        return compile_model(
            prepare(network, pool="avg"),
            np.zeros(shape, np.float32),
            target=given.target,
            recipe=named,
            input_type="int16",
            input_scale=unit,
            live=Live(
                hop=0 if chain else stream.hop or 0,
                front=chain,
                converter_bits=stream.bits,
                ring=max(2, round(RING_S * stream.feed.fs)),
                seed=given.seed,
                store_pages=-(-given.store * window_bytes // PAGE_BYTES) + SPARE_PAGES,
            ),
            title=f"strategy {named.strategy}",
        )

# SPDX-License-Identifier: Apache-2.0
"""`live`: a stream into a device that predicts and learns, watched while it happens."""

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live as Screen
from rich.text import Text

from biotrain.cli.console import Busy, Out, Work, console, table, writable_figure
from biotrain.cli.options import Front, Json, integers, options
from biotrain.errors import BioTrainError

if TYPE_CHECKING:
    from biotrain.frontend import FrontEnd, FrontSpec
    from biotrain.live import Feed, Life
    from biotrain.package import Package
    from biotrain.study.data.continuous import Continuous
    from biotrain.study.data.recordings import Recordings

RING_S = 0.75
"""Seconds of frames that may wait while flash is erased, which stops the core of many chips."""
BARS = " ▁▂▃▄▅▆▇█"
SHOWN = 60
"""Windows and characters of the picture on a terminal."""
NEWEST = 6
"""Notes that it shows."""


@options
def live_verb(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A built-in network or module:factory.", show_default=False
        ),
    ] = "epidenet",
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Recordings: the subject's is played, the others' pretrain (biotrain list data).",
        ),
    ] = None,
    subject: Annotated[
        int | None, typer.Option("--subject", help="Who wears the device; else the last.")
    ] = None,
    sessions: Annotated[
        str | None, typer.Option("--sessions", metavar="N,N", help="Which are played; else all.")
    ] = None,
    front: Front = None,
    lsl: Annotated[
        str | None,
        typer.Option("--lsl", metavar="NAME", help="Listen to this LSL stream (name or type)."),
    ] = None,
    markers: Annotated[
        str | None,
        typer.Option("--markers", metavar="NAME", help="LSL stream of markers: classes by name."),
    ] = None,
    board: Annotated[
        str | None,
        typer.Option("--board", metavar="NAME", help="A board of BrainFlow: synthetic, cyton, ..."),
    ] = None,
    port: Annotated[str | None, typer.Option("--port", help="Serial port of the board.")] = None,
    kind: Annotated[str, typer.Option("--kind", help="Which channels of a board.")] = "eeg",
    channels: Annotated[
        int | None, typer.Option("--chans", min=1, help="The first so many of a board.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option("--classes", metavar="NAME,...", help="Without --data: what is told apart."),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option("--scale", help="Physical units per converter step, of LSL or a board."),
    ] = None,
    bits: Annotated[int, typer.Option("--bits", help="Of that converter.")] = 24,
    cue: Annotated[
        float | None,
        typer.Option("--cue", metavar="S", help="Ask for one class after the other, S seconds."),
    ] = None,
    hop: Annotated[
        int | None, typer.Option("--hop", min=1, help="Samples between windows, without --front.")
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="PLACE", help="host, or the target's emulator.")
    ] = "host",
    target: Annotated[
        str, typer.Option("--target", help="Whose time and memory the device has.")
    ] = "nrf52840",
    strategy: Annotated[str, typer.Option("--strategy", help="What trains.")] = "full",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Most of a calibration.")] = 10,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate of the calibration.")] = 5e-3,
    accumulate: Annotated[
        int, typer.Option("--accumulate", min=1, help="Samples whose mean gradient makes a step.")
    ] = 8,
    store: Annotated[
        int,
        typer.Option("--store", min=4, max=512, help="Labelled windows that the flash holds."),
    ] = 150,
    calibrate: Annotated[
        str,
        typer.Option(
            "--calibrate", metavar="N,N", help="Begin to learn when so many windows are stored."
        ),
    ] = "100",
    told: Annotated[
        float | None,
        typer.Option("--told", metavar="S", help="Tell the device labels for S seconds only."),
    ] = None,
    pretrain_epochs: Annotated[
        int, typer.Option("--pretrain-epochs", min=0, help="On the other subjects.")
    ] = 15,
    speed: Annotated[
        float, typer.Option("--speed", min=0.0, help="Of a recording, times real time; 0: no wait.")
    ] = 1.0,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="End after so much signal.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, order and cues.")] = 0,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", metavar="FILE.png|svg", help="Draw what happened."),
    ] = None,
    to: Json = None,
) -> None:
    """Play a stream into a device that predicts, stores and learns, and watch it."""
    out = Out(to)
    if figure is not None:
        writable_figure(figure)
    if sum(given is not None for given in (lsl, board)) > 1:
        raise BioTrainError("--lsl and --board are two sources: give one of them")
    if lsl is None and board is None and data is None:
        raise BioTrainError("live needs --data, --lsl or --board")
    from biotrain.frontend import read_front
    from biotrain.live import BrainFlow, Cued, Living, Lsl, Played, live, paced

    spec = None if front is None else read_front(front)
    source = _Source(data, subject, spec, hop, out) if data is not None else None
    names = source.rec.classes if source else tuple(_names(classes))
    if len(names) < 2:
        raise BioTrainError("without --data, name at least two classes: --classes left,right")
    feed: Feed
    if lsl is not None or board is not None:
        step = scale if scale is not None else source.continuous.scale if source else None
        named = board is not None and not board.lstrip("-").isdigit()
        if step is None and not named:
            raise BioTrainError(
                "an LSL stream, or a board by its number, needs --scale: units per converter step"
            )
        if lsl is not None:
            assert step is not None
            feed = Lsl(lsl, step, names, markers)
        else:
            assert board is not None
            given: dict[str, Any] = {} if port is None else {"serial_port": port}
            feed = BrainFlow(board, step, len(names), kind=kind, channels=channels, **given)
    else:
        assert source is not None
        chosen = None if sessions is None else integers("--sessions", sessions)
        feed, bits = Played(source.continuous, source.subject, chosen), source.continuous.bits
    if cue is not None:
        feed = Cued(feed, len(names), cue, seed)
    chain = source.front if source else None
    if source is None:
        if spec is None:
            raise BioTrainError("without --data, --front says what a window is")
        chain = spec.front(fs_in=feed.fs, n_chans=feed.n_chans, scale=feed.scale)
    elif (feed.fs, feed.n_chans) != (source.continuous.fs, source.continuous.n_chans):
        raise BioTrainError(
            f"{feed.name} has {feed.n_chans} channels at {feed.fs:g} Hz, the recordings "
            f"{source.continuous.n_chans} at {source.continuous.fs:g} Hz"
        )
    network = _network(model, source, chain, names, pretrain_epochs, seed)
    pkg = _package(
        network, chain, source, hop, bits, target, strategy, epochs, lr, accumulate, seed, store,
        round(RING_S * feed.fs),
    )  # fmt: skip
    body: Any = Living.start(pkg, on, feed.fs)
    size = pkg.graph.inputs[0].shape[-1]
    factor = chain.decimate if chain else 1
    step_of_windows = chain.hop if chain else hop or size
    lasts = seconds if feed.seconds is None else min(seconds or feed.seconds, feed.seconds)
    out.say(f"{feed.name} into {pkg.source.title} on {on} ({pkg.target.name})")
    with _Watch(feed, lasts, names, out) as watch:
        begun = time.monotonic()
        found, _ = live(
            paced(feed, speed if lsl is None and board is None else 0.0, seconds),
            body,
            fs=feed.fs,
            span=size * factor,
            hop=step_of_windows * factor,
            classes=names,
            calibrate_after=[n for n in integers("--calibrate", calibrate) if n > 0],
            told_s=told,
            watch=watch,
        )
        took = time.monotonic() - begun
    _tell(out, found, took)
    if figure is not None:
        from biotrain.live import figure as draw
        from biotrain.study.results.plots import save

        save(draw(found, f"{feed.name}: {pkg.source.title}, {on}"), figure)
        out.say(f"wrote {figure}")
    plan = pkg.plan
    out.result(
        {
            "feed": feed.name,
            "on": on,
            "target": pkg.target.name,
            "title": pkg.source.title,
            "front": None if chain is None else _described(chain),
            "ram_bytes": plan.ram_bytes,
            "flash_bytes": plan.flash_bytes,
            "wall_s": took,
            **found.to_json(),
        }
    )


class _Source:
    """The recordings of `--data`, continuous, and as windows to pretrain on."""

    def __init__(
        self, data: str, subject: int | None, spec: "FrontSpec | None", hop: int | None, out: Out
    ) -> None:
        from biotrain.study.data.continuous import end_to_end
        from biotrain.study.data.sources import load_continuous, recordings

        raw = load_continuous(data) if spec is not None else None
        self.rec: Recordings
        self.rec, note = recordings(data, None, spec)
        if note:
            out.say(note)
        self.subject = self.rec.subjects[-1] if subject is None else subject
        self.rec.sessions(self.subject)  # says which subjects there are
        self.continuous: Continuous
        self.front: FrontEnd | None = None
        if raw is not None and spec is not None:
            self.continuous, self.front = raw, raw.front(spec)
        else:
            self.continuous = end_to_end(self.rec, self.subject)
            out.say(f"{self.continuous.name}: as if nobody had cut them")


def _network(
    model: str,
    source: "_Source | None",
    chain: "FrontEnd | None",
    names: tuple[str, ...],
    epochs: int,
    seed: int,
) -> Any:
    """The network that the device is made with: pretrained on the others, or fresh."""
    import numpy as np
    import torch

    from biotrain import models
    from biotrain.cli.model import factory
    from biotrain.study.pretrain import pretrain

    torch.set_num_threads(1)
    known: Any = model if model in models.MODELS else factory(model)
    if source is None:
        assert chain is not None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            more = {"pool": "avg"} if model in models.MODELS else {}
            net = factory(model)(
                n_chans=chain.n_chans, n_times=chain.window, n_outputs=len(names),
                sfreq=chain.fs_out, norm="group", **more,
            )  # fmt: skip
            ones = np.ones(chain.n_chans)
            return models.standardized(net, 0 * ones, ones).eval()
    rec = source.rec
    others = np.flatnonzero(rec.subject != source.subject)
    with Work() as work:
        report = work.on(f"pretraining on {len(rec.subjects) - 1} other subjects")
        return pretrain(rec, known, others, epochs=epochs, seed=seed, on_epoch=report)


def _package(
    network: Any,
    chain: "FrontEnd | None",
    source: "_Source | None",
    hop: int | None,
    bits: int,
    target: str,
    strategy: str,
    epochs: int,
    lr: float,
    accumulate: int,
    seed: int,
    store: int,
    ring: int,
) -> "Package":
    import numpy as np

    from biotrain.frontend.live import Live
    from biotrain.ir.optimizer import SGD
    from biotrain.package import compile_model
    from biotrain.topology import prepare

    if chain is None:
        assert source is not None
        rec = source.rec
        shape, unit = (1, rec.n_chans, rec.n_times), rec.scale
    else:
        if chain.unit is None:
            raise BioTrainError('the device keeps integers: standardise = "running", not "window"')
        shape, unit = (1, chain.n_chans, chain.window), chain.unit
    with Busy(f"compiling for {target}"):
        return compile_model(
            prepare(network, pool="avg"),
            np.zeros(shape, np.float32),
            target=target,
            strategy=strategy,
            optimizer=SGD(lr=lr, momentum=0.9, weight_decay=1e-3, schedule="cosine"),
            accumulate=accumulate,
            input_type="int16",
            input_scale=unit,
            live=Live(
                hop=0 if chain else hop or 0,
                front=chain,
                converter_bits=bits,
                ring=max(2, ring),
                epochs=epochs,
                seed=seed,
                store_pages=-(-store * (2 * shape[1] * shape[2] + 64) // 4096) + 4,
            ),
            title=f"strategy {strategy}",
        )


def _described(chain: "FrontEnd") -> str:
    from biotrain.frontend import describe

    return describe(chain)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _tell(out: Out, life: "Life", took: float) -> None:
    """What happened, as tables."""
    shown = table("from, s", "to, s", "windows with a label", "right", numbers=range(4))
    begins = [0.0, *(end for _, end in life.calibrating)]
    for begin, end in zip(begins, [*begins[1:], life.t + 1e-9], strict=True):
        known = [p for p in life.predictions if p.label >= 0 and begin <= p.t < end]
        share = life.accuracy(begin, end)
        text = "-" if share is None else f"{100 * share:.1f} %"
        shown.add_row(f"{begin:.1f}", f"{end:.1f}", f"{len(known):,}", text)
    out.show("", shown, "")
    counted = life.counters
    keys = ("windows", "predicted", "stored", "trained", "steps", "calibrations", "kept")
    text = ", ".join(f"{counted[key]:,} {key}" for key in keys if key in counted)
    out.say(f"{life.t:.1f} s of signal in {took:.1f} s: {text}; {life.missed} windows missed")
    if life.latest_s:
        out.say(f"a prediction was there at most {1e3 * life.latest_s:.0f} ms after its window")
    out.say(f"CRC-32 of the weights {life.crc32:08x}")


@dataclass
class _Line:
    """When the plain output last spoke."""

    said: float = 0.0
    notes: int = 0


class _Watch:
    """The life as it happens, on standard error: a picture on a terminal, else a line per event and
    one every `EVERY_S` seconds."""

    EVERY_S = 5.0

    def __init__(self, feed: "Feed", lasts: float | None, names: tuple[str, ...], out: Out) -> None:
        self._feed, self._lasts, self._names = feed, lasts, names
        self._console = console(stderr=True)
        self._screen: Screen | None = None
        self._line = _Line()

    def __enter__(self) -> "_Watch":
        if self._console.is_terminal:
            self._screen = Screen(console=self._console, refresh_per_second=8, transient=True)
            self._screen.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._screen:
            self._screen.stop()

    def __call__(self, life: "Life") -> None:
        if self._screen:
            self._screen.update(self.picture(life))
            return
        for note in life.notes[self._line.notes :]:
            self._say(f"{note.t:8.1f} s  {note.text}")
        self._line.notes = len(life.notes)
        now = time.monotonic()
        if now - self._line.said >= self.EVERY_S:
            self._line.said = now
            self._say(f"{life.t:8.1f} s  {self.state(life)}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def state(self, life: "Life") -> str:
        """One line."""
        share, counted = life.recent(), life.counters
        right = "no labels yet" if share is None else f"{100 * share:.0f} % right of the newest"
        return (
            f"{life.mode}: {right}; {counted.get('stored', 0)} stored, "
            f"{counted.get('trained', 0)} trained, {life.missed} missed"
        )

    def picture(self, life: "Life") -> RenderableType:
        """What a terminal shows."""
        of = "" if self._lasts is None else f" of {self._lasts:.0f}"
        head = Text(f"{self._feed.name}  {life.t:.1f}{of} s  {life.where}", style="bold")
        lines: list[RenderableType] = [head, Text(self.state(life))]
        cue = getattr(self._feed, "cue", -1)
        if cue >= 0:
            lines.append(Text(f"now: {self._names[cue]}", style="bold reverse"))
        if life.predictions:
            newest = life.predictions[-1]
            label = self._names[newest.label] if newest.label >= 0 else "?"
            style = {True: "green", False: "red", None: ""}[newest.right]
            name = self._names[newest.predicted]
            lines.append(Text.assemble("predicted ", (name, style), f", label {label}"))
            row = Text()
            for p in life.predictions[-SHOWN:]:
                row.append(
                    "#" if p.right else ".", {True: "green", False: "red", None: "dim"}[p.right]
                )
            lines += [row, Text(_bars(life))]
        lines += [Text(f"{n.t:8.1f} s  {n.text}", style="dim") for n in life.notes[-NEWEST:]]
        return Group(*lines)


def _bars(life: "Life") -> str:
    """The share that was right, over the whole time, in `SHOWN` stretches."""
    marks = []
    for k in range(SHOWN):
        share = life.accuracy(k * life.t / SHOWN, (k + 1) * life.t / SHOWN)
        marks.append(" " if share is None else BARS[round(share * (len(BARS) - 1))])
    return "".join(marks)

# SPDX-License-Identifier: Apache-2.0
"""A live session as it is watched: while it happens, and afterwards as tables."""

import time
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live as Screen
from rich.text import Text

from biotrain.cli.console import OnTerminal, Out, table

if TYPE_CHECKING:
    from biotrain.live import Feed, Session

BARS = " ▁▂▃▄▅▆▇█"
"""From 0 to 100 %."""
COLUMNS = 60
"""Windows, and characters, of the picture on a terminal."""
NOTES_SHOWN = 6
"""Newest notes below it."""


def show_session(out: Out, session: "Session", took: float) -> None:
    """Accuracy before, between and after the calibrations, and the counters; `took`: seconds on the
    clock."""
    shown = table("from, s", "to, s", "windows with a label", "right", numbers=range(4))
    begins = [0.0, *(end for _, end in session.calibrating)]
    for begin, end in zip(begins, [*begins[1:], session.t + 1e-9], strict=True):
        known = [p for p in session.predictions if p.label >= 0 and begin <= p.t < end]
        share = session.accuracy(begin, end)
        text = "-" if share is None else f"{100 * share:.1f} %"
        shown.add_row(f"{begin:.1f}", f"{end:.1f}", f"{len(known):,}", text)
    out.show("", shown, "")
    counted = session.counters
    keys = ("windows", "predicted", "stored", "trained", "steps", "calibrations", "kept")
    text = ", ".join(f"{counted[key]:,} {key}" for key in keys if key in counted)
    out.say(f"{session.t:.1f} s of signal in {took:.1f} s: {text}; {session.missed} windows missed")
    if session.gaps:
        lost = sum(count for _, count in session.gaps)
        out.say(
            f"{len(session.gaps)} gaps in the signal, {lost:,} samples lost: told to the device"
        )
    if session.latest_s:
        out.say(f"a prediction was there at most {1e3 * session.latest_s:.0f} ms after its window")
    out.say(f"CRC-32 of the weights {session.crc32:08x}")


class SessionView(OnTerminal[Screen]):
    """A live session on standard error: a picture on a terminal, else a line per note and one every
    `EVERY_S` seconds. Call it with the session after every chunk."""

    EVERY_S = 5.0

    def __init__(self, feed: "Feed", lasts: float | None, names: tuple[str, ...]) -> None:
        """lasts: seconds of signal, None where that is not known. names: of the classes."""
        super().__init__(lambda on: Screen(console=on, refresh_per_second=8, transient=True))
        self._feed, self._lasts, self._names = feed, lasts, names
        self._said = 0.0  # when the last line on the state was printed
        self._told = 0  # notes that were printed

    def __call__(self, session: "Session") -> None:
        if self._display:
            self._display.update(self.picture(session))
            return
        for note in session.notes[self._told :]:
            self.line(f"{note.t:8.1f} s  {note.text}")
        self._told = len(session.notes)
        now = time.monotonic()
        if now - self._said >= self.EVERY_S:
            self._said = now
            self.line(f"{session.t:8.1f} s  {self.state(session)}")

    def state(self, session: "Session") -> str:
        """One line on what the device does."""
        share, counted = session.recent(), session.counters
        right = "no labels yet" if share is None else f"{100 * share:.0f} % right of the newest"
        return (
            f"{session.mode}: {right}; {counted.get('stored', 0)} stored, "
            f"{counted.get('trained', 0)} trained, {session.missed} missed"
        )

    def picture(self, session: "Session") -> RenderableType:
        """What a terminal shows: the state, the newest windows, the accuracy so far, notes."""
        of = "" if self._lasts is None else f" of {self._lasts:.0f}"
        head = Text(f"{self._feed.name}  {session.t:.1f}{of} s  {session.where}", style="bold")
        lines: list[RenderableType] = [head, Text(self.state(session))]
        cue = getattr(self._feed, "cue", -1)
        if cue >= 0:
            lines.append(Text(f"now: {self._names[cue]}", style="bold reverse"))
        if session.predictions:
            newest = session.predictions[-1]
            label = self._names[newest.label] if newest.label >= 0 else "?"
            style = {True: "green", False: "red", None: ""}[newest.right]
            name = self._names[newest.predicted]
            lines.append(Text.assemble("predicted ", (name, style), f", label {label}"))
            row = Text()
            for p in session.predictions[-COLUMNS:]:
                row.append(
                    "#" if p.right else ".", {True: "green", False: "red", None: "dim"}[p.right]
                )
            lines += [row, Text(_bars(session))]
        lines += [
            Text(f"{n.t:8.1f} s  {n.text}", style="dim") for n in session.notes[-NOTES_SHOWN:]
        ]
        return Group(*lines)


def _bars(session: "Session") -> str:
    """Accuracy over the whole session, in `COLUMNS` intervals, as a row of bars."""
    marks = []
    for k in range(COLUMNS):
        share = session.accuracy(k * session.t / COLUMNS, (k + 1) * session.t / COLUMNS)
        marks.append(" " if share is None else BARS[round(share * (len(BARS) - 1))])
    return "".join(marks)

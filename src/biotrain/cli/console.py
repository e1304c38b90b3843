# SPDX-License-Identifier: Apache-2.0
"""The output of a verb: tables or JSON on standard output, progress on standard error."""

import json
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.segment import Segment
from rich.status import Status
from rich.table import Table
from rich.text import Text

from biotrain.errors import BioTrainError
from biotrain.writing.files import check_file, write_file
from biotrain.writing.text import terminal

if TYPE_CHECKING:
    from biotrain.study.run import Event

PLAIN_WIDTH = 120
"""Characters in a line of a table that goes into a file or a pipe."""


class Terminal(Console):
    """A console on which names of others stay text: their control codes are shown as numbers."""

    def render_str(self, text: str, *given: Any, **settings: Any) -> Text:
        """As rich measures and shows a string."""
        return super().render_str(terminal(text), *given, **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich renders; its own control codes stay."""
        for one in super().render(renderable, options):
            yield one if one.control else Segment(terminal(one.text), one.style)


def console(*, stderr: bool = False) -> Console:
    """A console of the stream as it is now; no colours and no control codes unless a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    for name in ("COLUMNS", "LINES"):  # rich reads them too
        if not re.fullmatch("[1-9][0-9]{0,3}", os.environ.get(name, "1")):
            del os.environ[name]
    if stream.isatty():
        return Terminal(file=stream, highlight=False)
    width = int(os.environ.get("COLUMNS") or PLAIN_WIDTH)
    return Terminal(file=stream, highlight=False, width=width, no_color=True, force_terminal=False)


def writable_figure(path: Path) -> Path:
    """`path`, if it names a picture that can be written."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise BioTrainError(f"cannot write '{path}': a figure is .png or .svg")
    return check_file(path)


def writable_folder(path: Path) -> Path:
    """`path`, made where it is missing, if files can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BioTrainError(f"cannot write into '{path}': {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise BioTrainError(f"cannot write into '{path}': permission denied")
    return path


def plain(value: Any) -> Any:
    """`value` with null for what JSON cannot say (NaN, infinity)."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Out:
    """The output of one run of a verb; `to` is what `--json` was given."""

    def __init__(self, to: str | None) -> None:
        self.to = to
        if to is not None and to != "-":
            check_file(to)

    @property
    def quiet(self) -> bool:
        """Whether standard output belongs to a program."""
        return self.to is not None

    def say(self, text: str) -> None:
        """Print one line for the person: on standard output, or on standard error where that holds
        JSON."""
        stream = sys.stderr if self.quiet else sys.stdout
        stream.write(f"{terminal(text)}\n")
        stream.flush()

    def text(self, text: str) -> None:
        """Print text as it is, for `--show`."""
        text = terminal(text)
        sys.stdout.write(text if text.endswith("\n") else f"{text}\n")

    def show(self, *things: RenderableType) -> None:
        """Print tables, unless JSON was asked for."""
        if self.quiet:
            return
        out = console()
        if out.is_terminal:
            out.print(*things, sep="\n", markup=False)
            return
        with out.capture() as held:
            out.print(*things, sep="\n", markup=False)
        for line in held.get().splitlines():
            self.text(line.rstrip())

    def result(self, data: dict[str, Any]) -> None:
        """Write the JSON, if it was asked for."""
        if self.to is None:
            return
        text = json.dumps(plain(data), indent=2, allow_nan=False) + "\n"
        if self.to == "-":
            sys.stdout.write(text)
        else:
            write_file(self.to, text)


def table(*columns: str, title: str | None = None, numbers: Sequence[int] = ()) -> Table:
    """A table; the columns whose index is in `numbers` are set to the right."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        right = index in numbers
        made.add_column(column, justify="right" if right else "left", no_wrap=right)
    return made


class Busy:
    """Long work without steps, on standard error: a spinner on a terminal, else a line every
    `Work.EVERY_S` seconds and one when it is done."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._console = console(stderr=True)
        self._status: Status | None = None
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None
        self._began = 0.0

    def __enter__(self) -> "Busy":
        self._began = time.monotonic()
        if self._console.is_terminal:
            self._status = self._console.status(self._task)
            self._status.start()
        else:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def _tick(self) -> None:
        while not self._over.wait(Work.EVERY_S):
            self._line("still running")

    def _line(self, what: str) -> None:
        elapsed = f"{time.monotonic() - self._began:.1f} s"
        self._console.print(f"{self._task}: {what}, {elapsed}", markup=False, soft_wrap=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._status:
            self._status.stop()
        if self._ticker:
            self._ticker.join()
            if kind is None:
                self._line("done")


class _Left(ProgressColumn):
    """The time left: what the work itself estimates, else what the bar's speed says."""

    def render(self, task: Task) -> Text:
        seconds = task.fields.get("left", task.time_remaining)
        return Text("" if seconds is None else f"{as_duration(seconds)} left")


def as_duration(seconds: float) -> str:
    """A duration as text: "40 s", "7 min", "3.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display(Protocol):
    """What rich shows and updates on a terminal: bars, or a screen."""

    def start(self) -> None:
        """Begin to show it."""

    def stop(self) -> None:
        """Take it away."""


D = TypeVar("D", bound=Display)


class OnTerminal(Generic[D]):
    """A display on standard error where that is a terminal, else plain lines; used with `with`."""

    def __init__(self, make: Callable[[Console], D]) -> None:
        """`make`: makes the display, on a terminal only."""
        self._console = console(stderr=True)
        self._display = make(self._console) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._display:
            self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._display:
            self._display.stop()

    def line(self, text: str) -> None:
        """Print one plain line."""
        self._console.print(text, markup=False, soft_wrap=True)


def _bars(on: Console) -> Progress:
    """Progress bars with the time that passed and the time that is left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        _Left(),
        console=on,
        transient=True,
    )


class Work(OnTerminal[Progress]):
    """Progress task by task: two bars, or a line per finished task and one every `EVERY_S` seconds.
    Calling it with (task, done, total) moves the task."""

    EVERY_S = 15.0

    def __init__(self, tasks: int | None = None) -> None:
        """`tasks`: how many there will be in all, where that is known."""
        super().__init__(_bars)
        self._tasks = tasks
        self._all: TaskID | None = None
        self._bar: TaskID | None = None
        self._task = ""
        self._started = self._said = 0.0
        self._finished = 0

    def __enter__(self) -> Self:
        super().__enter__()
        if self._display and self._tasks:
            self._all = self._display.add_task("all", total=self._tasks)
        return self

    def __call__(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if task != self._task:
            self._task, self._started, self._said = task, now, now
            if self._display:
                if self._bar is not None:
                    self._display.remove_task(self._bar)
                self._bar = self._display.add_task(task, total=total)
        if self._display and self._bar is not None:
            self._display.update(self._bar, completed=done, total=total)
        complete = done >= total
        if complete:
            self._finished += 1
            if self._display and self._all is not None:
                self._display.update(self._all, completed=self._finished)
        if not self._display and (complete or now - self._said > self.EVERY_S):
            self._said = now
            count = f"[{self._finished}/{self._tasks}] " if self._tasks and complete else ""
            self.line(f"{count}{task}: {done}/{total}, {now - self._started:.1f} s")

    def on(self, task: str) -> Callable[[int, int], None]:
        """A callback (done, total) for one task."""
        return lambda done, total: self(task, done, total)


class StudyProgress(OnTerminal[Progress]):
    """Progress of a study, job by job: one bar, or a line every `EVERY_S` seconds, with the study's
    own estimate of the time left."""

    EVERY_S = 5.0

    def __init__(self) -> None:
        super().__init__(_bars)
        self._bar: TaskID | None = None
        self._said = time.monotonic()

    def __call__(self, event: "Event") -> None:
        seconds = event.seconds_left if event.done < event.total else None
        if self._display:
            if self._bar is None:
                self._bar = self._display.add_task("study", total=event.total, left=None)
            self._display.update(
                self._bar, description=event.text, completed=event.done, left=seconds
            )
            return
        now = time.monotonic()
        if 0 < event.done < event.total and now - self._said < self.EVERY_S:
            return
        self._said = now
        got = "" if event.row is None else f", {100 * event.row.accuracy:.1f} %"
        left = "" if seconds is None else f", {as_duration(seconds)} left"
        self.line(f"[{event.done}/{event.total}] {event.text}{got}{left}")

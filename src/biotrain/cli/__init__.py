# SPDX-License-Identifier: Apache-2.0
"""The command line. Torch is loaded by the verbs that need it, so that help comes at once.

Exit codes: 0 done; 1 a check failed; 2 it does not fit, or the input is wrong; 70 an error of
BioTrain itself; 130 interrupted.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from biotrain import __version__
from biotrain.cli.build import compile_verb, list_verb, plan_verb, prepare_verb
from biotrain.cli.data import app as data_app
from biotrain.cli.device import run_verb, verify_verb
from biotrain.cli.learn import adapt_verb, demo_verb
from biotrain.cli.live import live_verb
from biotrain.cli.options import ReaderGone
from biotrain.cli.study import report_verb, study_verb
from biotrain.errors import BioTrainError
from biotrain.writing.text import terminal

INTERNAL, INTERRUPTED, PIPE_CLOSED = 70, 130, 141
"""Exit codes that are not those of an error of the user; see above."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE)
"""Errors of the operating system that tell of the machine, whatever BioTrain was doing."""

LONGEST_WORD = 400
"""Characters of one word of a message that are printed; paths are shorter."""

USAGE_ERROR = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="biotrain",
    help="Fine-tune a whole biosignal network on the microcontroller that records it.",
    epilog="Start with: biotrain demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo_verb)
app.command("list")(list_verb)
app.command("prepare")(prepare_verb)
app.command("plan")(plan_verb)
app.command("compile")(compile_verb)
app.command("run")(run_verb)
app.command("verify")(verify_verb)
app.command("adapt")(adapt_verb)
app.command("live")(live_verb)
app.command("study")(study_verb)
app.command("report")(report_verb)
app.add_typer(data_app, name="data")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"biotrain {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if sys.stderr is None:  # a caller that closed it reads the exit code alone
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        return _fail("standard output is closed; give --json FILE, or > /dev/null", 2)
    try:
        code = app(
            args=None if arguments is None else list(arguments),
            prog_name="biotrain",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except BioTrainError as error:
        return _fail(str(error), error.exit_code)
    except (BrokenPipeError, ReaderGone):
        _drop_output()
        return PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        text = _blame(error)
        if text:
            return _fail(text, 2)
        sys.stderr.write(terminal(traceback.format_exc()))
        return _fail("this is an error of BioTrain or of a package below it; see above", INTERNAL)
    if code == INTERRUPTED:  # typer turns KeyboardInterrupt into this
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _blame(error: Exception) -> str:
    """What is wrong with the input or the machine; "" where the error is BioTrain's own."""
    if isinstance(error, USAGE_ERROR):
        return str(error.format_message())  # type: ignore[attr-defined]
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "this machine has too little memory for it: take fewer or shorter windows"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"'{error.filename}': {error.strerror}"
    if isinstance(error, OSError) and error.errno in FULL:
        _drop_output()
        return f"cannot write: {error.strerror}"
    return ""


def _drop_output() -> None:
    """Let nothing that is still to be printed fail when the process ends."""
    with suppress(OSError, ValueError):  # no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(text: str, code: int) -> int:
    """Print one line on standard error; returns `code`."""
    words = (w if len(w) <= LONGEST_WORD else f"{w[:LONGEST_WORD]}..." for w in text.split())
    sys.stderr.write(f"biotrain: {terminal(' '.join(words))}\n")
    return code

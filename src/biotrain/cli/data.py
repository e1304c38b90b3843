# SPDX-License-Identifier: Apache-2.0
"""`data`: recordings that there are, what is in them, and public sets from their own files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from biotrain.cli.build import list_data
from biotrain.cli.console import Busy, Out, table, writable_figure
from biotrain.cli.options import Front, Json, options
from biotrain.errors import BioTrainError
from biotrain.writing.files import check_file

app = typer.Typer(help="Recordings: list, info, convert.", no_args_is_help=True)


@options
def _list(to: Json = None) -> None:
    """What --data takes, and the sets that `data convert` makes."""
    out = Out(to)
    from biotrain.study.data.convert import ORIGINALS

    rows = list_data(out)
    shown = table("data convert", "", "licence")
    for name, one in ORIGINALS.items():
        shown.add_row(name, one.title, one.licence)
    out.show("", shown)
    sets = [
        {"name": name, "title": one.title, "licence": one.licence, "files": one.files}
        for name, one in ORIGINALS.items()
    ]
    out.result({"data": rows, "convert": sets})


@options
def _info(
    data: Annotated[str, typer.Argument(metavar="DATA", help="As --data takes it.")],
    decimate: Annotated[
        float | None, typer.Option("--decimate", metavar="HZ", help="Resample to HZ.")
    ] = None,
    window: Annotated[
        float | None, typer.Option("--window", metavar="S", help="Seconds of a window.")
    ] = None,
    tmin: Annotated[
        float | None,
        typer.Option("--tmin", metavar="S", help="Seconds from an event to its first window."),
    ] = None,
    front: Front = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", metavar="FILE.png|svg", help="Draw some windows of every class."),
    ] = None,
    to: Json = None,
) -> None:
    """People, sessions, events and windows of recordings; what was left out and assumed."""
    out = Out(to)
    if figure is not None:
        writable_figure(figure)
    from biotrain.cli.model import recordings
    from biotrain.study.data.join import recordings_of
    from biotrain.study.data.recordings import decimate as decimated
    from biotrain.study.data.sources import files_of, load

    given = {k: v for k, v in (("window", window), ("tmin", tmin)) if v is not None}
    if front is not None and given:
        raise BioTrainError("the file of --front says what a window is: no --window, no --tmin")
    with Busy(f"reading {data}"):
        held = files_of(data, given)
        if front is not None:
            rec, note = recordings(data, decimate, front)
            out.say(note.split(f"; {rec.name}: ")[0])  # the rest is shown below
        else:
            rec = load(data) if held is None else recordings_of(held)
            rec = rec if decimate is None else decimated(rec, decimate)
    if held is None and given:
        raise BioTrainError(f"{data}: its windows are cut already; --window and --tmin cannot act")
    events = {} if held is None else held.lengths()
    facts = {
        **_facts(rec),
        "events": {k: dict(zip(LENGTHS, v, strict=True)) for k, v in events.items()},
    }
    out.show(*_shown(rec, facts))
    if figure is not None:
        from biotrain.study.data.figure import figure as draw
        from biotrain.writing.drawing import save

        save(draw(rec), figure)
        out.say(f"wrote {figure}")
    out.result(facts)


SHOWN_PEOPLE = 20
"""Rows of `data info`, which stays on one screen."""

SHOWN_CLASSES, SHOWN_NOTES = 10, 12
"""Classes and notes of `data info`; the others are in its JSON."""

LENGTHS = ("count", "shortest_s", "longest_s")
"""What `data info` says of the events of a class."""


def _shown(rec: Any, facts: dict[str, Any]) -> list[Any]:
    """The facts as tables and lines."""
    shown = table(rec.name, "")
    for key, value in facts.items():
        if key not in ("name", "subjects", "events", "left_out", "notes"):
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            shown.add_row(key, f"{text:g}" if isinstance(text, float) else str(text))
    for name, one in list(facts["events"].items())[:SHOWN_CLASSES]:
        low, high = one["shortest_s"], one["longest_s"]
        length = (
            "markers" if not high else f"{low:g} s" if low == high else f"{low:g} to {high:g} s"
        )
        shown.add_row(f"events of {name}", f"{one['count']}, {length}")
    classes = rec.classes if rec.n_classes <= SHOWN_CLASSES else ()
    columns = ("subject", "sessions", "runs", "windows", *classes, "rejected", "amplitude")
    people = table(*columns, numbers=range(1, len(columns)))
    for one in facts["subjects"][:SHOWN_PEOPLE]:
        people.add_row(
            *(str(one[key]) for key in ("subject_name", "sessions", "runs", "windows")),
            *(str(count) for count in one["of_class"][: len(classes)]),
            str(one["rejected"]),
            f"{one['amplitude']:.3g}",
        )
    more = len(facts["subjects"]) - SHOWN_PEOPLE
    lines = [f"and {more} people more, all of them with --json"] if more > 0 else []
    lines += [f"left out: {one['windows']} {reason}" for reason, one in facts["left_out"].items()]
    for key, limit in (("notes", SHOWN_NOTES), ("events", SHOWN_CLASSES)):
        more = len(facts[key]) - limit
        last = [f"and {more} {key} more, all of them with --json"] if more > 0 else []
        lines += [*(facts[key][:limit] if key == "notes" else ()), *last]
    return [shown, "", people, *lines]


def _facts(rec: Any) -> dict[str, Any]:
    from biotrain.study.data.recordings import POSITIONS
    from biotrain.study.data.splits import default_split

    left_out: dict[str, dict[str, int]] = {}
    for one in rec.left_out:
        found = left_out.setdefault(one.reason, {"windows": 0})
        found["windows"] += one.count
    return {
        "name": rec.name,
        "synthetic": rec.synthetic,
        "windows": len(rec),
        "channels": list(rec.channels),
        "samples": rec.n_times,
        "fs": rec.fs,
        "seconds": rec.duration_s,
        "unit": rec.unit,
        "scale": rec.scale,
        "bits": rec.x.dtype.itemsize * 8,
        "classes": list(rec.classes),
        "positions": [key for key in POSITIONS if getattr(rec, key) is not None],
        "split": default_split(rec),
        "subjects": [_person(rec, person) for person in rec.subjects],
        "left_out": left_out,
        "notes": list(rec.notes),
    }


def _person(rec: Any, person: int) -> dict[str, Any]:
    """A subject; `amplitude`: the median standard deviation of its windows, in the unit."""
    import numpy as np

    from biotrain.study.data.recordings import AMPLITUDE, REJECTED

    own = np.flatnonzero(rec.subject == person)
    some = own[:: max(1, len(own) // 200)]
    places = np.stack(
        [rec.session[own], np.zeros(len(own), int) if rec.run is None else rec.run[own]]
    )
    return {
        "subject": person,
        "subject_name": rec.name_of("subject", person),
        "sessions": len(rec.sessions(person)),
        "runs": len(np.unique(places, axis=1).T),
        "windows": len(own),
        "of_class": np.bincount(rec.y[own], minlength=rec.n_classes).tolist(),
        "rejected": sum(
            one.count
            for one in rec.left_out
            if one.subject == person and one.reason in (REJECTED, AMPLITUDE)
        ),
        "amplitude": float(np.median(rec.signal(some).std(axis=2))),
    }


@options
def _convert(
    name: Annotated[
        str, typer.Argument(metavar="SET", help="One of those that `data list` names.")
    ],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The folder with the original files.")
    ],
    file: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.npz", help="The recordings go there.")
    ],
    to: Json = None,
) -> None:
    """Make the .npz of a public set from the files that its authors publish."""
    out = Out(to)
    check_file(file)
    from biotrain.study.data.convert import ORIGINALS, convert

    with Busy(f"converting {name}"):
        rec = convert(name, source)
        rec.save(file)
    original = ORIGINALS[name]
    out.say(
        f"{file}: {len(rec)} windows of {len(rec.subjects)} subjects, {rec.n_chans} x "
        f"{rec.n_times} at {rec.fs:g} Hz, {rec.n_classes} classes"
    )
    out.say(f"cut: {original.cut}")
    out.say(f"licence: {original.licence}")
    out.result({"file": str(file), **_facts(rec)})


app.command("list")(_list)
app.command("info")(_info)
app.command("convert")(_convert)

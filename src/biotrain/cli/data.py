# SPDX-License-Identifier: Apache-2.0
"""`data`: recordings that there are, what is in them, and public sets from their own files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from biotrain.cli.build import list_data
from biotrain.cli.console import Busy, Out, table, writable
from biotrain.cli.options import Json, options

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
    to: Json = None,
) -> None:
    """Subjects, sessions, classes and shape of recordings, and how they would be split."""
    out = Out(to)
    from biotrain.cli.model import recordings

    with Busy(f"reading {data}"):
        rec, _ = recordings(data, decimate)
    facts = _facts(rec)
    shown = table(rec.name, "")
    for key, value in facts.items():
        if key not in ("name", "subjects"):
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            shown.add_row(key, f"{text:g}" if isinstance(text, float) else str(text))
    people = table("subject", "sessions", "windows", *rec.classes, numbers=range(1, 40))
    for one in facts["subjects"]:
        people.add_row(
            *(str(one[key]) for key in ("subject", "sessions", "windows")),
            *(str(count) for count in one["of_class"]),
        )
    out.show(shown, "", people)
    out.result(facts)


def _facts(rec: Any) -> dict[str, Any]:
    import numpy as np

    from biotrain.study.data.recordings import POSITIONS
    from biotrain.study.data.splits import default_split

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
        "subjects": [
            {
                "subject": person,
                "sessions": len(rec.sessions(person)),
                "windows": int((rec.subject == person).sum()),
                "of_class": np.bincount(
                    rec.y[rec.subject == person], minlength=rec.n_classes
                ).tolist(),
            }
            for person in rec.subjects
        ],
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
    writable(file)
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

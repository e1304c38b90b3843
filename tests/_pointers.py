# SPDX-License-Identifier: Apache-2.0
"""Finds pointers that C may not form: before an array, or more than one element behind its end.

No sanitizer sees them as long as nothing is read there (C99 6.5.6 leaves them undefined all the
same). So clang's intermediate code is given a call behind every address that is computed from
another: both must lie in one object, of those that the heap and the stack have handed out.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

ADDRESS = re.compile(
    r"  %(?P<name>[\w.]+) = getelementptr (?:inbounds )?(?P<type>\S+|\[[^,]*\]), "
    r"(?P<pointer>ptr|.+?\*) (?P<base>%[\w.]+), (?P<index>\w+ \S+?)(?P<more>, \w+ \S+?)?"
    r"(?:, !dbg !(?P<place>\d+))?$"
)
OBJECT = re.compile(r"  %(?P<name>[\w.]+) = alloca (?P<type>\[[^,]*\]|%struct[\w.]+),.*$")
"""An array or a structure on the stack."""
DIMENSION = re.compile(r"\[(\d+) x (.*)\]$")
RUNTIME = """
#include <stdio.h>
#include <stdlib.h>

enum { OBJECTS = 4096, PLACES = 65536 };
static struct { const char *from, *end; } objects[OBJECTS];
static int count, last;
static char said[PLACES];

/* An object begins: whatever lay there has ended. */
void pointers_object(const char *from, long bytes)
{
  int kept = 0;
  for (int i = 0; i < count; i++)
    if (objects[i].end <= from || objects[i].from >= from + bytes)
      objects[kept++] = objects[i];
  count = kept;
  if (count == OBJECTS)
    abort();
  objects[count].from = from;
  objects[count++].end = from + bytes;
}

/* An address was computed from another one, at a place of the source. */
void pointers_formed(const char *from, const char *to, int place)
{
  int known = 0;
  if (last < count && objects[last].from < from && from < objects[last].end &&
      objects[last].from <= to && to <= objects[last].end)
    return;
  for (int i = 0; i < count; i++)
    if (objects[i].from <= from && from <= objects[i].end) {
      known = 1;
      if (objects[i].from <= to && to <= objects[i].end) {
        last = i;
        return;
      }
    }
  if (known && !said[place]) {
    said[place] = 1;
    printf("%d\\n", place);
  }
}

/* Room for a tensor, apart from every other one. */
void *grab(size_t n)
{
  enum { APART = 4096 };
  char *const room = calloc(1, n + 2 * APART), *const from = room + APART;
  pointers_object(from, (long)n);
  return from;
}

/* Gives it back. */
void ungrab(void *room)
{
  pointers_object(room, 1);
  count--; /* that object was the last */
  free((char *)room - 4096);
}
"""
"""Which addresses are in which object; `grab` is that of tests/_ops.py, and `ungrab` its free."""


def instrumented(code: str, places: list[str], leave: str) -> str:
    """Intermediate code with a call behind every address and every array on the stack, but in
    functions whose name begins with `leave`; `places` gets the number of the debug location of
    each call."""
    lines, left = [], False
    for line in code.splitlines():
        lines.append(line)
        if line.startswith("define"):
            left = bool(leave) and f"@{leave}" in line
        if left:
            continue
        made, address = OBJECT.match(line), ADDRESS.match(line)
        if made:
            name, kind = made["name"], made["type"]
            size = f"ptrtoint ({kind}* getelementptr ({kind}, {kind}* null, i32 1) to i64)"
            lines += [
                f"  %o{name}.o = bitcast {kind}* %{name} to i8*",
                f"  call void @pointers_object(i8* %o{name}.o, i64 {size})",
            ]
        elif address and not address["type"].startswith("%"):
            name, kind = address["name"], address["type"]
            inner = DIMENSION.match(kind)
            result = inner[2] if address["more"] and inner else kind
            at = f", !dbg !{address['place']}" if address["place"] else ""
            both = f"i8* %n{name}.f, i8* %n{name}.t"
            lines += [
                f"  %n{name}.f = bitcast {address['pointer']} {address['base']} to i8*{at}",
                f"  %n{name}.t = bitcast {result}* %{name} to i8*{at}",
                f"  call void @pointers_formed({both}, i32 {len(places)}){at}",
            ]
            places.append(address["place"] or "0")
    lines += [
        "declare void @pointers_object(i8*, i64)",
        "declare void @pointers_formed(i8*, i8*, i32)",
    ]
    return "\n".join(lines) + "\n"


def where(code: str, place: str) -> str:
    """File and line of a debug location."""

    def field(number: str, name: str) -> str | None:
        found = re.search(rf"^!{number} = .*?\b{name}: (!?[\w\"./-]+)", code, re.MULTILINE)
        return found[1].strip('!"') if found else None

    line, scope = field(place, "line"), field(place, "scope")
    file = field(scope, "file") if scope else None
    return f"{field(file, 'filename') if file else '?'}:{line}"


def build(folder: Path, source: str, flags: Sequence[str], leave: str = "") -> dict[str, str]:
    """Builds `source` of a folder with the calls, as ./pointers; the places of the calls.
    Functions whose name begins with `leave` get none."""
    code = ["clang", "-O0", "-g", "-S", "-emit-llvm", "-Dfree=ungrab", *flags]
    code += [source, "-o", "plain.ll"]
    subprocess.run(code, cwd=folder, check=True)
    text = (folder / "plain.ll").read_text()
    numbers: list[str] = []
    (folder / "called.ll").write_text(instrumented(text, numbers, leave))
    (folder / "pointers.c").write_text(RUNTIME)
    link = ["clang", "-O0", "-Wno-override-module", "called.ll", "pointers.c", "-o", "pointers"]
    subprocess.run([*link, "-lm"], cwd=folder, check=True)
    return {str(i): number for i, number in enumerate(numbers)}


def outside(folder: Path, places: dict[str, str], arguments: Sequence[str]) -> list[str]:
    """Runs ./pointers; the lines of the source that form a pointer outside its object."""
    done = subprocess.run(
        ["./pointers", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    code = (folder / "plain.ll").read_text()
    return sorted(dict.fromkeys(where(code, places[n]) for n in done.stdout.split()))

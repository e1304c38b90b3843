# SPDX-License-Identifier: Apache-2.0
"""Text of others on its way into a file or onto a terminal.

The name in a recording, module paths, names of parameters, classes, channels and subjects come
from files and models that somebody else wrote. Where they are printed they must stay text: each
place that they enter has one function here, and whoever writes such a place calls it.
"""

from __future__ import annotations

import re

MOST_CHARACTERS = 200
"""Characters of a name that are shown; C99 (5.2.4.1) promises lines of 4095."""
MOST_IDENTIFIER = 48
"""Characters of an identifier that stems from a name. With what the emitter puts around it
(`bt_w_`, `_depthwise`), it stays below the 63 that C99 (5.2.4.1) tells apart."""


def visible(text: str) -> str:
    """`text` as one line that shows everything in it.

    White space of any kind becomes one blank, and what cannot be seen (control codes, marks that
    change the direction of text, halves of surrogate pairs) its number, such as `<U+202E>`. At most
    `MOST_CHARACTERS` are kept.
    """
    line = " ".join(text.split())
    if len(line) > MOST_CHARACTERS:
        line = line[: MOST_CHARACTERS - 3] + "..."
    return _numbered(line)


def comment(text: str) -> str:
    """`text` within a C comment, which it can neither end nor nest; no trigraph is left in it."""
    line = visible(text)
    for first, second in (("*", "/"), ("/", "*"), ("?", "?")):
        line = re.sub(f"[{first}](?=[{second}])", f"{first} ", line)
    return line


def identifier(text: str) -> str:
    """The letters, digits and underscores of `text`, others replaced by underscores.

    It may be empty, begin with a digit, be a word of C, or equal that of another text:
    `biotrain.ir.op.Builder.name` sees to these.
    """
    clean = "".join(c if c.isascii() and c.isalnum() else "_" for c in text[:MOST_IDENTIFIER])
    return clean


def build_line(text: str) -> str:
    """`text` as free text of one line in a build file (Kconfig, `library.properties`, comments of
    Make and CMake): what one of them could expand, quote or continue is replaced."""
    return re.sub(r"[$`\\\"#;@{}]", "_", visible(text))


def markdown(text: str) -> str:
    """`text` as Markdown that shows it: no markup, no HTML, no cell of a table ends in it."""
    line = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", visible(text))
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # within a word it marks nothing
    return re.sub(r"^(\d*)([-+#=.)!:])", r"\1\\\2", line)


def cell(text: str) -> str:
    """`text` as a cell of a CSV file that a spreadsheet shows: no formula begins with it.

    An apostrophe is put before a text that begins with one of `= + - @`, a tab or a line's end
    (OWASP, "CSV Injection"); other text is left as it is.
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def terminal(text: str) -> str:
    """`text` as a terminal shows it: lines and tabs stay, other control codes are numbers."""
    return _numbered(text, keep="\n\t")


def drawn(text: str) -> str:
    """`text` in a figure, lines kept. (`biotrain.writing.drawing` keeps a dollar a dollar.)"""
    return _numbered(text, keep="\n")


def file_name(text: str) -> str:
    """`text` as the name of a file or folder in the folder where it belongs."""
    clean = re.sub(r"[^\w.+() ,=-]", "_", visible(text)).strip(" .")
    return clean or "_"


def _numbered(text: str, keep: str = "") -> str:
    """Characters that cannot be seen as their numbers."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else f"<U+{ord(c):04X}>" for c in text)

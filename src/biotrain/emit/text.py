# SPDX-License-Identifier: Apache-2.0
"""C text at 100 columns."""

from __future__ import annotations

from textwrap import fill

from biotrain.writing.text import comment


def wrap(text: str, first: str, rest: str) -> list[str]:
    """Break C text at 100 columns, between items and never inside one."""
    glued = text.replace(" = ", "\x00=\x00").replace(" */", "\x00*/")
    lines = fill(
        glued,
        width=100,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("\x00", " ").split("\n")


def titled(title: str, text: str = "") -> list[str]:
    """The begin of a comment: the title, which somebody chose, and what the file is."""
    return wrap(f"/* {comment(title)}{text}", "", " * ")

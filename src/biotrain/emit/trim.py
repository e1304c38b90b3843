# SPDX-License-Identifier: Apache-2.0
"""Kernel headers for a board: without vector code and without functions that nothing calls.

A board's core has no vectors of floats, so the branches under `#if BT_VECTOR` are dead there, and
one branch of `#if BT_CONV_SMALL` is. Of what is left, a function that neither `model.c` nor a
function in use names is left out, and then every header that defines nothing in use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_WORD = re.compile(r"\b[A-Za-z_]\w*")
_FUNCTION = re.compile(r"^BT_(?:KERNEL|OUTLINED) [^;{]*?\b(bt_\w+)\([^;{]*\)\s*\{", re.M | re.S)
_INCLUDE = re.compile(r'^#include "(bt_\w+\.h)"\n', re.M)
_COMMENT = re.compile(r"/\*.*?\*/", re.S)


def trimmed(
    headers: Mapping[str, str], users: str, macros: Mapping[str, bool], shared: bool = False
) -> dict[str, str]:
    """The headers that a package of a board needs.

    `users` is the text of what includes them; `macros` says which macros are 0 and which are not.
    shared : another package may use the same headers in one firmware, so that all of each stays.
    """
    texts = {name: _decided(text, macros) for name, text in headers.items()}
    if shared:
        return texts
    texts = _used_functions(texts, users)
    return _used_files(texts, users)


def _decided(text: str, macros: Mapping[str, bool]) -> str:
    """The text without what the macros leave out; other conditions stay as they are."""
    lines: list[str] = []
    stack: list[tuple[str, bool]] = []  # kind of the condition, whether its lines are dropped
    for line in text.split("\n"):
        directive = re.match(r"#\s*(if|ifdef|ifndef|else|elif|endif)\b(.*)", line)
        dropped = any(d for _, d in stack)
        if directive is None:
            lines += [] if dropped else [line]
            continue
        word, condition = directive[1], directive[2].strip()
        if word in ("if", "ifdef", "ifndef"):
            ours = re.fullmatch(r"(\w+)(?: == (?:8|16))?", condition) if word == "if" else None
            if ours and ours[1] in macros:
                stack.append(("ours", not macros[ours[1]]))
                continue
            stack.append(("other", False))
        elif stack and stack[-1][0] == "ours":
            if word == "endif":
                stack.pop()
            else:  # what follows an `#if` of one of the macros is its opposite
                stack[-1] = ("ours", word == "elif" or not stack[-1][1])
            continue
        elif word == "endif":
            stack.pop()
        lines += [] if dropped else [line]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _definitions(text: str) -> list[tuple[str, int, int]]:
    """Functions of a header: name, first and last character with the comment above."""
    found = []
    for match in _FUNCTION.finditer(text):
        end = text.find("\n}\n", match.end() - 1)
        line = text.find("\n", match.end())
        if text[match.end() : line].rstrip().endswith("}"):  # on one line
            end = line
        else:
            end += 2
        start = match.start()
        above = text[:start]
        comment = re.search(r"/\*(?:(?!\*/).)*\*/\n$", above, re.S)
        start = comment.start() if comment else start
        found.append((match[1], start, end + 1))
    return found


def _used_functions(texts: Mapping[str, str], users: str) -> dict[str, str]:
    texts = dict(texts)
    while True:
        everything = _words(users)
        for text in texts.values():
            everything += _words(_COMMENT.sub("", text))
        counts: dict[str, int] = {}
        for word in everything:
            counts[word] = counts.get(word, 0) + 1
        changed = False
        for name, text in texts.items():
            for function, start, end in reversed(_definitions(text)):
                own = _words(_COMMENT.sub("", text[start:end])).count(function)
                if counts.get(function, 0) == own:
                    text = text[:start].rstrip("\n") + "\n\n" + text[end:].lstrip("\n")
                    changed = True
            texts[name] = text
        if not changed:
            return texts


def _used_files(texts: Mapping[str, str], users: str) -> dict[str, str]:
    """Without headers of which nothing is in use, and without their includes."""
    texts = dict(texts)
    while True:
        empty = [n for n, t in texts.items() if _defines_nothing_used(n, texts, users)]
        if not empty:
            return texts
        name = empty[0]
        lines = "".join(f'#include "{i}"\n' for i in _INCLUDE.findall(texts[name]))
        del texts[name]
        for other, text in texts.items():
            texts[other] = text.replace(f'#include "{name}"\n', lines)


def _defines_nothing_used(name: str, texts: Mapping[str, str], users: str) -> bool:
    others = _words(users)
    for other, body in texts.items():
        if other != name:
            others += _words(_COMMENT.sub("", body))
    used = set(others)
    own = _own(_COMMENT.sub("", texts[name]))
    return not any(word.lower().startswith("bt_") and word in used for word in own)


def _own(text: str) -> list[str]:
    """The words that a header defines: functions, types, tables and macros."""
    made = set(re.findall(r"\b(bt_\w+)\(", text)) | set(re.findall(r"}\s*(bt_\w+);", text))
    made |= set(re.findall(r"^#define (\w+)", text, re.M)) - set(
        re.findall(r"^#ifndef (\w+_H)$", text, re.M)
    )
    made |= set(re.findall(r"^typedef \w+ (bt_\w+);", text, re.M))
    made |= set(re.findall(r"^static const [\w ]*?(bt_\w+)\[", text, re.M))
    return sorted(made)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)

# SPDX-License-Identifier: Apache-2.0
"""A prefix in place of `bt_` on what `model.*` defines, so that two models fit one firmware.

Kernels and runtime are static functions in headers: both models share the files. Only names that
`model.h`, `model_layout.h` and `model_weights.c` define are renamed, everywhere in the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from biotrain.emit.source import Source
from biotrain.errors import BioTrainError

FILES = ("model.h", "model.c", "model_weights.c", "model_layout.h")
"""The files of one model; all others are the same for every model."""
_DEFINED = re.compile(
    r"^#define (BT_\w+)|^#ifndef (BT_\w+_H)$|^typedef struct (bt_\w+)|^} (bt_\w+);"
    r"|^typedef \w+ (bt_\w+);|^extern const .*?\b(bt_\w+)[;\[]|^[\w ]+\*? ?\*?\b(bt_\w+)\(",
    re.M,
)


_COMMENT = re.compile(r"/\*.*?\*/", re.S)
_WORD = re.compile(r"\b[A-Za-z_]\w*")


def public_names(files: Mapping[str, str]) -> list[str]:
    """What `model.h`, `model_layout.h` and `model_weights.c` define."""
    found: dict[str, None] = {}
    for name in ("model.h", "model_layout.h", "model_weights.c"):
        for match in _DEFINED.finditer(files[name]):
            found.update(dict.fromkeys(filter(None, match.groups())))
    return sorted(found)


def prefixed(text: str, source: Source) -> str:
    """A name or a file's name with the package's prefix."""
    if not source.prefix:
        return text
    if text.startswith("BT_"):
        return source.prefix.upper() + text.removeprefix("BT_")
    return source.prefix + text.removeprefix("bt_")


def renamed(files: Mapping[str, str], source: Source) -> dict[str, str]:
    """Files with the package's prefix in names, inside and outside."""
    if not source.prefix:
        return dict(files)
    names = public_names(files)
    code = [_COMMENT.sub("", text) for text in files.values()]
    words = {word: None for text in code for word in _WORD.findall(text)}
    for name in names:
        if prefixed(name, source) in words:
            raise BioTrainError(
                f"with the prefix '{source.prefix}', {name} gets the name "
                f"{prefixed(name, source)}, which a tensor of the model has: choose another"
            )
    made = {name: with_prefix(text, names, source) for name, text in files.items()}
    return {prefixed(n, source) if n in FILES else n: text for n, text in made.items()}


def with_prefix(text: str, names: list[str], source: Source) -> str:
    """A text that speaks of a model, with the package's names."""
    if not source.prefix:
        return text
    words = re.compile(rf"\b(?:{'|'.join(names)})\b")
    text = words.sub(lambda found: prefixed(found[0], source), text)
    objects = [name.replace(".c", ".o") for name in FILES if name.endswith(".c")]
    files = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, [*FILES, *objects]))})(?!\w)")
    return files.sub(lambda found: prefixed(found[0], source), text)

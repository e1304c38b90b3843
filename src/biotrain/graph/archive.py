# SPDX-License-Identifier: Apache-2.0
"""Exported programs (`.pt2`) from files that nobody vouches for.

`torch.export.load` runs code that a file brings: it unpickles weights, constants and sample inputs
where the file asks for it, evaluates symbolic shapes as Python, imports modules that a tree
specification names, and resolves operators by any dotted path below `torch`. So no file reaches it.
`load_program` reads the index of the archive, refuses everything that is not plain tensors and a
graph of aten operators of fixed shape, and hands torch a new archive of just that.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from biotrain.errors import CaptureError
from biotrain.graph.bounds import Bounds, from_json, to_json

MODEL = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_\d+"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_\d+"),
}
"""Index of the tensors of a folder, and how the files of that folder are called."""

PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|data/(weights/weight|constants/tensor)_\d+|extra/[^/]*"
)
"""Entries that are text of no consequence or raw tensors."""

OPERATORS = re.compile(
    r"torch\.ops\.aten\.[A-Za-z]\w*\.[A-Za-z]\w*|_operator\.getitem"
    r"|torch\.ops\.biotrain\.log_covariance\.default"  # of biotrain.models, known to torch by then
)
CODE_KEYS = (
    *("as_expr", "expr_str", "as_operator", "as_custom_obj", "custom_obj", "as_graph"),
    *("as_string_to_argument", "as_complex", "token", "as_token", "as_opaque", "opaque"),
)
"""Keys of a graph behind which torch evaluates, imports or resolves something."""

TREE_TYPES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
LONGEST_JSON = 64 * 2**20
"""Bytes of the graph's description that are read."""


BOUNDS = "biotrain_bounds.json"
"""The extra file with the bounds of parameters."""


def save_program(program: ExportedProgram, bounds: Bounds) -> bytes:
    """A `.pt2` file of a program and the bounds of its parameters. (In memory: on a full disk,
    torch's writer ends the process.)"""
    data = io.BytesIO()
    extra = {BOUNDS: to_json(bounds)} if bounds else {}
    torch.export.save(program, data, extra_files=extra)
    return data.getvalue()


def load_program(path: str | Path) -> tuple[ExportedProgram, Bounds]:
    """The exported program of a `.pt2` file, of which nothing is unpickled or evaluated, and the
    bounds of its parameters.

    Raises
    ------
    CaptureError
        where the file cannot be read, is not an archive of `torch.export.save`, or holds anything
        but tensors and a graph of aten operators of fixed shape.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CaptureError(f"cannot read '{path}': {error.strerror}") from error
    try:
        entries = _entries(data)
        clean = _cleaned(entries)
        bounds = from_json(entries.get(f"extra/{BOUNDS}", b"{}"))
        return torch.export.load(io.BytesIO(clean)), bounds  # noqa: TID251  (of what was checked)
    except CaptureError as error:
        raise CaptureError(f"'{path}' is refused: {error}") from error
    except Exception as error:  # torch raises whatever a damaged graph makes of it
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CaptureError(f"cannot read '{path}' as an exported program: {text}") from error


def _entries(data: bytes) -> dict[str, bytes]:
    """The entries of the archive by their path below its one folder."""
    entries: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            _, _, name = info.filename.partition("/")
            if name in entries:
                raise CaptureError(f"it holds '{name}' twice")
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise CaptureError(
                    f"its entry '{name or info.filename}' is compressed or encrypted"
                )
            entries[name] = archive.read(info)
    if MODEL not in entries:
        raise CaptureError(
            "it is not an archive of torch.export.save, or one of a torch before 2.9; save it anew"
        )
    return entries


def _cleaned(entries: Mapping[str, bytes]) -> bytes:
    """A new archive of what was checked; sample inputs, which are pickled, are left out."""
    for name in entries:
        known = name in CONFIGS or name in (MODEL, SAMPLE_INPUTS) or PLAIN.fullmatch(name)
        if not known:
            raise CaptureError(f"it holds '{name}', which is not a tensor and may bring code")
    for name, pattern in CONFIGS.items():
        _check_config(_json(entries, name), name, pattern, entries)
    graph = _json(entries, MODEL)
    _check_graph(graph)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            kept = b"" if name == SAMPLE_INPUTS else content
            archive.writestr(zipfile.ZipInfo(f"model/{name}"), kept)
        if SAMPLE_INPUTS not in entries:
            archive.writestr(zipfile.ZipInfo(f"model/{SAMPLE_INPUTS}"), b"")
    return out.getvalue()


def _json(entries: Mapping[str, bytes], name: str) -> Any:
    if name not in entries:
        raise CaptureError(f"'{name}' is missing in it")
    if len(entries[name]) > LONGEST_JSON:
        raise CaptureError(f"its '{name}' is longer than {LONGEST_JSON:,} B")
    try:
        return json.loads(entries[name])
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"its '{name}' is not JSON: {error}") from error


def _check_config(
    config: Any, name: str, pattern: re.Pattern[str], entries: Mapping[str, bytes]
) -> None:
    """Every payload is the raw bytes of a tensor that lies in the archive."""
    tensors = config.get("config") if isinstance(config, dict) else None
    if not isinstance(tensors, dict):
        raise CaptureError(f"its '{name}' does not say which tensors there are")
    for tensor, meta in tensors.items():
        if not isinstance(meta, dict) or meta.get("use_pickle") is not False:
            raise CaptureError(f"its tensor '{tensor}' is pickled")
        file = meta.get("path_name")
        if not isinstance(file, str) or not pattern.fullmatch(file):
            raise CaptureError(f"its tensor '{tensor}' is not a plain one")
        if f"{name.rpartition('/')[0]}/{file}" not in entries:
            raise CaptureError(f"the bytes of its tensor '{tensor}' are missing")
        _check_values(meta)


def _check_graph(graph: Any) -> None:
    """A graph of aten operators on tensors of fixed shape."""
    if not isinstance(graph, dict) or not isinstance(graph.get("graph_module"), dict):
        raise CaptureError(f"its '{MODEL}' describes no graph")
    if graph.get("guards_code"):
        raise CaptureError("it brings guards, which are Python; export it with fixed shapes")
    if graph.get("range_constraints"):
        raise CaptureError("its shapes are symbolic; export it with fixed shapes")
    if graph["graph_module"].get("treespec_namedtuple_fields"):
        raise CaptureError("it takes or returns named tuples")
    _check_values(graph)


def _check_values(root: Any) -> None:
    for key, value in _items(root):
        if key in CODE_KEYS and value is not None:
            raise CaptureError(f"its graph holds '{key}', which is neither a tensor nor a number")
        if key == "target" and not (isinstance(value, str) and OPERATORS.fullmatch(value)):
            raise CaptureError(f"its graph calls '{value}'; only operators of aten are taken")
        if key in ("in_spec", "out_spec") and value:
            _check_tree(value)


def _check_tree(text: Any) -> None:
    """A tree specification (JSON as text) of tuples, lists and dictionaries."""
    try:
        tree = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise CaptureError("its inputs or outputs are not described by JSON") from error
    for key, value in _items(tree):
        if key == "type" and value not in TREE_TYPES:
            raise CaptureError(f"it takes or returns a '{value}'; tuples, lists and dicts go")
        if key == "context" and value not in (None, "null"):
            names = json.loads(value) if isinstance(value, str) else None
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise CaptureError("its inputs or outputs have names that are not text")


def _items(root: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of the dictionaries below a JSON value, without recursion."""
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value

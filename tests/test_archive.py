# SPDX-License-Identifier: Apache-2.0
"""No `.pt2` file runs code: whatever torch would unpickle, evaluate or import is refused unread."""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251  (what an attacker writes)
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from _small import tiny
from hypothesis import given, settings

import biotrain as bt
from biotrain.cli import main
from biotrain.errors import CaptureError
from biotrain.graph.archive import CONFIGS, MODEL, SAMPLE_INPUTS, load_program

CHANS, TIMES, CLASSES = 3, 120, 3
WEIGHTS, CONSTANTS = CONFIGS
Entries = dict[str, bytes]


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> Entries:
    """What torch writes of a small network, by path below the archive's folder."""
    path = tmp_path_factory.mktemp("archive") / "net.pt2"
    net = tiny(CHANS, TIMES, CLASSES)
    torch.export.save(torch.export.export(net, (torch.zeros(1, CHANS, TIMES),)), path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(path: Path, entries: Entries) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"net/{name}", content)
    return path


class Evil:
    """Pickled, it leaves a file behind when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def changed(entries: Entries, name: str, change: Callable[[Any], None]) -> Entries:
    """The entries with one JSON file changed."""
    value = json.loads(entries[name])
    change(value)
    return {**entries, name: json.dumps(value).encode()}


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def first_weight(config: Any) -> Any:
    return next(iter(config["config"].values()))


def signature(graph: Any) -> Any:
    return graph["graph_module"]["module_call_graph"][0]["signature"]


def evil(entries: Entries, how: str, mark: Path) -> Entries:
    """The archive with a payload that torch.export.load would run."""
    payload = saved(Evil(mark))
    expression = f"__import__('os').mkdir({str(mark)!r})"
    nodes = json.loads(entries[MODEL])["graph_module"]["graph"]["nodes"]
    assert nodes

    def node(graph: Any) -> Any:
        return graph["graph_module"]["graph"]["nodes"][0]

    def tree(kind: str, context: str) -> Callable[[Any], None]:
        def change(graph: Any) -> None:
            spec = [1, {"type": kind, "context": context, "children_spec": []}]
            signature(graph)["in_spec"] = json.dumps(spec)

        return change

    def sized(graph: Any) -> None:
        values = graph["graph_module"]["graph"]["tensor_values"]
        first = next(iter(values.values()))
        first["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": None}}

    match how:
        case "pickled weight":
            pickled = changed(
                entries, WEIGHTS, lambda c: first_weight(c).__setitem__("use_pickle", True)
            )
            return {**pickled, "data/weights/weight_0": payload}
        case "weights of old":
            return {**entries, "data/weights/model.pt": payload}
        case "constants of old":
            return {**entries, "data/constants/model.pt": payload}
        case "script object" | "opaque object":
            name = {"script object": "custom_obj_0", "opaque object": "opaque_obj_0"}[how]
            meta = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
            made = changed(entries, CONSTANTS, lambda c: c["config"].update(thing=meta))
            return {**made, f"data/constants/{name}": pickle.dumps(Evil(mark))}
        case "symbolic size":
            return changed(entries, MODEL, sized)
        case "guards":
            return changed(entries, MODEL, lambda g: g.update(guards_code=[expression]))
        case "ranges":
            ranges = {"s0": {"min_val": 0, "max_val": 9}}
            return changed(entries, MODEL, lambda g: g.update(range_constraints=ranges))
        case "operator":
            return changed(entries, MODEL, lambda g: node(g).update(target="torch.os.system"))
        case "default factory":
            context = json.dumps(
                {
                    "default_factory_module": "antigravity",
                    "default_factory_name": "fly",
                    "dict_context": [],
                }
            )
            return changed(entries, MODEL, tree("collections.defaultdict", context))
        case "enumeration":
            context = json.dumps({"__enum__": True, "fqn": "antigravity:fly", "name": "x"})
            return changed(entries, MODEL, tree("builtins.dict", context))
        case "compiled code":
            return {**entries, "data/aotinductor/model/model.so": b"\x7fELF"}
        case "file of 2.6":
            return {
                "version": b"8.4",
                "serialized_exported_program.json": entries[MODEL],
                "serialized_state_dict.pt": payload,
                "serialized_constants.pt": payload,
                "serialized_example_inputs.pt": payload,
            }
    raise AssertionError(how)


WAYS = (
    *("pickled weight", "weights of old", "constants of old", "script object", "opaque object"),
    *("symbolic size", "guards", "ranges", "operator", "default factory", "enumeration"),
    *("compiled code", "file of 2.6"),
)


@pytest.mark.parametrize("how", WAYS)
def test_what_would_run_is_refused_unread(entries: Entries, how: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = written(tmp_path / "evil.pt2", evil(entries, how, mark))
    with pytest.raises(CaptureError, match="is refused") as caught:
        load_program(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_sample_inputs_are_never_read(entries: Entries, tmp_path: Path) -> None:
    """They are a pickle in every archive; torch reads it without limits where it must."""
    mark = tmp_path / "ran"
    path = written(tmp_path / "evil.pt2", {**entries, SAMPLE_INPUTS: saved(Evil(mark))})
    program, _ = load_program(path)
    assert not mark.exists()
    assert program.example_inputs is None


def test_the_command_line_refuses_too(
    entries: Entries, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the file is the `model.pt2` in a package's folder."""
    mark = tmp_path / "ran"
    good = written(tmp_path / "good.pt2", entries)
    folder = tmp_path / "package"
    assert main(["compile", str(good), "-o", str(folder)]) == 0
    hostile = written(tmp_path / "evil.pt2", evil(entries, "pickled weight", mark))
    (folder / "model.pt2").write_bytes(hostile.read_bytes())
    capsys.readouterr()
    asked: list[list[str]] = [
        ["plan", str(hostile)],
        ["compile", str(hostile), "-o", str(tmp_path / "out")],
        ["run", str(folder)],
    ]
    for words in asked:
        assert main(words) == 2
        assert "is refused" in capsys.readouterr().err
    assert not mark.exists()


def test_what_torch_saves_is_read_to_the_bit(entries: Entries, tmp_path: Path) -> None:
    path = written(tmp_path / "net.pt2", entries)
    x = torch.randn(1, CHANS, TIMES)
    want = torch.export.load(path).module()(x)  # noqa: TID251  (the reference)
    torch.testing.assert_close(load_program(path)[0].module()(x), want, rtol=0, atol=0)
    assert bt.compile(path, torch.zeros(1, CHANS, TIMES), accumulate=1).plan.params


def test_entries_that_stand_twice_are_refused(entries: Entries, tmp_path: Path) -> None:
    """Two readers of an archive may take either of them."""
    path = written(tmp_path / "net.pt2", entries)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr(f"net/{MODEL}", entries[MODEL])
    with pytest.raises(CaptureError, match="twice"):
        load_program(path)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_get_one_line(
    entries: Entries, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A byte flipped, cut or repeated anywhere: read or refused, never anything else."""
    path = written(tmp_path_factory.getbasetemp() / "damaged.pt2", entries)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(("flip", "cut", "graph"))):
        case "flip":
            raw[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del raw[at:]
        case "graph":
            text = bytearray(entries[MODEL])
            text[at % len(text)] = data.draw(st.integers(0, 255))
            path = written(path, {**entries, MODEL: bytes(text)})
            raw = bytearray(path.read_bytes())
    path.write_bytes(raw)
    said = ""
    try:
        load_program(path)
    except CaptureError as error:
        said = str(error)
    assert "\n" not in said

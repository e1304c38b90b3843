# SPDX-License-Identifier: Apache-2.0
"""A torch module becomes a graph: `torch.export` before decomposition, so that layers stay layers.

Shapes keep the batch axis of one sample. What each torch function means is said by the op that
stands for it (`Op.captures`, `Op.capture`); `walk.py` goes over the exported program.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.modules.batchnorm import _BatchNorm

from biotrain.errors import CaptureError
from biotrain.graph.archive import load_program
from biotrain.graph.bounds import Bounds, Lifted, bounded
from biotrain.graph.heads import Heads
from biotrain.graph.missing import refused_export
from biotrain.graph.walk import Array, Walk
from biotrain.ir.graph import Graph, Value
from biotrain.ir.op import Builder
from biotrain.topology.copies import copied


@dataclass(frozen=True)
class Exported:
    """An exported program, and what the module keeps its parameters to beside it."""

    program: ExportedProgram
    bounds: Bounds


@dataclass(frozen=True)
class Captured:
    """A model as graphs, with the values of its tensors.

    `train` is the forward pass as the module computes it while training, `predict` as it does in
    evaluation (running statistics in place of the sample's own). They share their params.
    """

    train: Graph
    predict: Graph
    tensors: Mapping[str, Array]
    """Initial values of params, states and consts by value name."""
    torch_names: Mapping[str, str]
    """Value name -> name in the module's state dict."""
    heads: Heads
    """The outputs of the module; the graphs have them one after another."""
    adabn: Graph | None = None
    """The graph that re-estimates the running statistics of every batch norm from a batch of
    windows; None where that was not asked for."""
    notes: tuple[str, ...] = ()
    """What the graphs leave out, with its place in the user's source: calls of dropout."""
    bounds: Bounds = field(default_factory=dict)
    """What params are kept to behind every step, by value name."""


def export(module: torch.nn.Module | str | Path, example: torch.Tensor, batch: int = 1) -> Exported:
    """The exported program of a module (or of a `.pt2` file) for one sample, of a `batch`."""
    if isinstance(module, (str, Path)):
        return Exported(*load_program(module))
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError(
            "TorchScript cannot be exported: give the torch module that it is made of"
        )
    if not isinstance(module, torch.nn.Module):
        raise CaptureError(f"the model is a torch module or a .pt2 file, not {_named(module)}")
    if example.dim() < 2:
        raise CaptureError(
            f"the example input has shape {list(example.shape)}: give [batch, n_chans, n_times]"
        )
    module, example = _as_float32(module), example.float()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    norms = {
        name: layer
        for name, layer in module.named_modules()
        if batch > 1
        and isinstance(layer, _BatchNorm)
        and layer.training
        and layer.track_running_stats
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # torch refuses to trace one sample where a norm has a single value per channel of it.
            with _frozen(norms):
                program, bounds = _traced(module, example[:1].to(device))
        except CaptureError:
            raise
        except Exception as error:
            raise refused_export(error) from error
    _thaw(program, norms)
    return Exported(program, bounds)


def _traced(module: torch.nn.Module, example: torch.Tensor) -> tuple[ExportedProgram, Bounds]:
    """The program of a module, and the bounds that its forward pass keeps by itself."""
    try:
        return torch.export.export(module, (example,), strict=False), {}
    except Exception:
        with Lifted(module) as lifted:
            program = torch.export.export(module, (example,), strict=False)
        if not lifted.found:
            raise
        return program, lifted.found


def _as_float32(module: torch.nn.Module) -> torch.nn.Module:
    """The module in float32: itself, or a copy where it holds half or double tensors."""
    tensors = (*module.parameters(), *module.buffers())
    if all(t.dtype == torch.float32 for t in tensors if t.dtype.is_floating_point):
        return module
    return copied(module).float()


def _named(value: object) -> str:
    """The kind of a value that should be something else."""
    return f"a {type(value).__name__}"


@contextmanager
def _frozen(norms: Mapping[str, torch.nn.Module]) -> Iterator[None]:
    """The batch norms `norms` in eval mode for a while."""
    for norm in norms.values():
        norm.training = False
    try:
        yield
    finally:
        for norm in norms.values():
            norm.training = True


def _thaw(program: ExportedProgram, norms: Mapping[str, torch.nn.Module]) -> None:
    """Let the batch norms `norms` of an exported program take statistics of their own."""
    buffers = program.graph_signature.inputs_to_buffers
    for node in program.graph.nodes:
        if getattr(getattr(node.target, "_schema", None), "name", "") == "aten::batch_norm":
            mean = getattr(node.args[3], "name", "")  # None without running statistics
            owner = buffers.get(mean, "").removesuffix(".running_mean")
            if owner in norms:
                node.update_arg(5, True)


def capture(
    module: torch.nn.Module | str | Path,
    example: torch.Tensor,
    batch: int = 1,
    adabn: bool = False,
) -> Captured:
    """Turn a module into graphs.

    Parameters
    ----------
    module : a torch module, or the path of a `.pt2` file. Its layers are taken in the mode they
        are in (`train()` or `eval()`); a batch norm in eval mode has frozen statistics.
    example : float tensor [batch, n_chans, n_times]; only its first sample is used.
    batch : windows that share the statistics of a batch norm.
    adabn : running statistics of batch norms are states, whatever mode these are in, and there is
        the graph that re-estimates them.

    Raises
    ------
    CaptureError
        naming the user's source line where an op is not supported, or where there is nothing to
        adabn.
    """
    exported = export(module, example, batch)
    program = exported.program
    tensors: dict[str, Array] = {}
    names: dict[str, str] = {}
    states = _moving(program, adabn)

    def walked(b: Builder, windows: int) -> tuple[Graph, Walk]:
        b.prefix, b.batch = _common_prefix(program), windows
        walk = Walk(program, b, states, tensors, names)
        return walk.graph(), walk

    train, walk = walked(Builder(), batch)
    graphs = [train, walked(_evaluation(), batch)[0]]
    if adabn:
        if not states:
            raise CaptureError(
                "adabn takes the statistics of BatchNorm again; this network has none (prepare it "
                "with norm='frozen')"
            )
        again = _evaluation()
        again.adabn = True
        # How many windows there will be is not known: more than one.
        graphs.append(walked(again, 2)[0])
    train, predict, *others = _sharing_constants(graphs)
    again_graph = others[0] if others else None
    bounds = bounded(exported.bounds, tensors, names)
    notes = tuple(walk.notes)
    return Captured(train, predict, tensors, names, walk.heads, again_graph, notes, bounds)


def _sharing_constants(graphs: list[Graph]) -> list[Graph]:
    """The graphs with all constants of all of them, so that the C has one table for each."""
    found: dict[str, Value] = {}
    for graph in graphs:
        found |= {v.name: v for v in graph.consts}
    return [replace(graph, consts=tuple(found.values())) for graph in graphs]


def _evaluation() -> Builder:
    """The builder of a graph of evaluation."""
    b = Builder()
    b.predict = True
    return b


def _common_prefix(program: ExportedProgram) -> str:
    """The module that holds all parameters (`network.`), which names can do without."""
    kinds = program.graph_signature.input_specs
    names = [str(s.target) for s in kinds if s.kind == InputKind.PARAMETER]
    heads = list(dict.fromkeys(n.partition(".")[0] for n in names))
    return f"{heads[0]}." if len(heads) == 1 and all(n.count(".") > 1 for n in names) else ""


def _moving(program: ExportedProgram, adabn: bool) -> dict[str, None]:
    """State-dict names of the buffers that the module changes in its forward pass; with `adabn`
    the running statistics of every batch norm too."""
    found: dict[str, None] = {}
    targets = {s.arg.name: str(s.target) for s in program.graph_signature.input_specs if s.target}
    for node in program.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        name, changes = node.target._schema.name.removeprefix("aten::"), node.args[5:6] == (True,)
        if (name == "batch_norm" and (changes or adabn)) or (name == "instance_norm" and changes):
            for arg in node.args[3:5]:
                if arg is not None and arg.name in targets:
                    found[targets[arg.name]] = None
    return found

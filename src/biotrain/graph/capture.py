# SPDX-License-Identifier: Apache-2.0
"""A torch module becomes a graph: `torch.export` before decomposition, so that layers stay layers.

Shapes keep the batch axis of one sample. What each torch function means is said by the op that
stands for it (`Op.captures`, `Op.capture`); this module only walks the exported program.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_unflatten

import biotrain.ops  # noqa: F401  (fills OPS)
from biotrain.errors import BioTrainError, CaptureError
from biotrain.graph.archive import load_program
from biotrain.graph.heads import Heads, heads_of, joined
from biotrain.ir.graph import Graph, Value, verify
from biotrain.ir.op import OPS, Builder, Op

Array = npt.NDArray[np.float32]

_DROPOUT = ("dropout", "dropout_", "feature_dropout", "alpha_dropout")
_PASS = (*_DROPOUT, "clone", "alias", "lift_fresh_copy")
_IGNORED = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size")


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


def export(
    module: torch.nn.Module | str | Path, example: torch.Tensor, batch: int = 1
) -> ExportedProgram:
    """The exported program of a module (or of a `.pt2` file) for one sample, of a `batch`."""
    if isinstance(module, (str, Path)):
        return load_program(module)
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
                program = torch.export.export(module, (example[:1].to(device),), strict=False)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CaptureError(f"torch.export refuses the model: {first}") from error
    _thaw(program, norms)
    return program


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
    program = export(module, example, batch)
    tensors: dict[str, Array] = {}
    names: dict[str, str] = {}
    states = _moving(program, adabn)
    heads: list[Heads] = []
    train = _graph(program, Builder(), states, tensors, names, batch, heads)
    predict = _graph(program, _evaluation(), states, tensors, names, batch, heads)
    if not adabn:
        return Captured(train, predict, tensors, names, heads[0])
    if not states:
        raise CaptureError(
            "adabn takes the statistics of BatchNorm again; this network has none (prepare it with "
            "norm='frozen')"
        )
    again = _evaluation()
    again.adabn = True
    # How many windows there will be is not known: more than one.
    statistics = _graph(program, again, states, {}, {}, 2, heads)
    return Captured(train, predict, tensors, names, heads[0], statistics)


def _evaluation() -> Builder:
    """The builder of a graph of evaluation."""
    b = Builder()
    b.predict = True
    return b


def _graph(
    program: ExportedProgram,
    b: Builder,
    moving: Mapping[str, None],
    tensors: dict[str, Array],
    names: dict[str, str],
    batch: int,
    heads: list[Heads],
) -> Graph:
    b.batch = batch
    env: dict[str, Any] = {}
    params: list[Value] = []
    buffers: list[Value] = []
    inputs: list[Value] = []
    state_dict = {**program.state_dict, **program.constants}
    held: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Value] = {}
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    b.prefix = _common_prefix(program)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT:
                meta = node.meta.get("val")
                if not isinstance(meta, torch.Tensor):
                    raise CaptureError("the model must take one tensor and nothing else")
                value = b.value("x", tuple(meta.shape), kind="input")
                inputs.append(value)
            else:
                target = str(spec.target)
                tensor = state_dict[target].detach().cpu()
                if not tensor.dtype.is_floating_point:
                    env[node.name] = tensor
                    continue
                key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
                if tensor.numel() and key in held:
                    env[node.name] = held[key]  # one tensor under two names: tied
                    continue
                is_param = spec.kind == InputKind.PARAMETER
                kind = "param" if is_param else "state" if target in moving else "const"
                short = target.removeprefix(b.prefix)
                shape = tuple(tensor.shape)
                value = b.value(short, shape, kind=kind)  # type: ignore[arg-type]
                (params if is_param else buffers).append(value)
                held[key] = value
                tensors[value.name] = _finite(tensor, target, masks=kind == "const")
                names[value.name] = target
            env[node.name] = value
        elif node.op == "call_function":
            env[node.name] = _call(node, b, env)
        elif node.op == "output":
            outputs = [_output(a, env) for a in node.args[0] if a is not None]
        elif node.op == "get_attr":
            raise CaptureError(
                f"control flow or a submodule call ('{node.target}') is not supported"
            )
    if len(inputs) != 1:
        raise CaptureError(f"the model must take one tensor, it takes {len(inputs)}")
    outputs = [v for v in outputs if isinstance(v, Value) and v not in buffers]
    if not outputs:
        raise CaptureError("the model must return a tensor, the logits; it returns none")
    heads.append(heads_of(_returned(program), outputs))
    output = joined(b, outputs)
    graph = Graph(
        nodes=tuple(b.nodes),
        inputs=(inputs[0],),
        outputs=(output,),
        params=tuple(params),
        states=tuple(v for v in buffers if v.kind == "state"),
        consts=tuple(v for v in buffers if v.kind == "const"),
    )
    _check_sizes(graph)
    verify(graph)
    return graph


def _returned(program: ExportedProgram) -> object:
    """The structure of what the program returns, with numbers in place of tensors."""
    spec = program.call_spec.out_spec
    assert spec is not None
    return tree_unflatten(range(spec.num_leaves), spec)


def _output(returned: object, env: Mapping[str, Any]) -> Any:
    """What the program returns at one place; CaptureError where that is no tensor."""
    if not isinstance(returned, torch.fx.Node):
        raise CaptureError(
            f"the model must return one tensor, the logits; it returns a {type(returned).__name__}"
        )
    return env[returned.name]


def _finite(tensor: torch.Tensor, name: str, masks: bool = False) -> Array:
    """The values of a tensor of the state dict as float32; CaptureError where one is no number.

    `masks`: it is a constant, which may hold minus infinity where it is no running statistic (a
    mask of attention). The lowest float32 takes its place, whose exponential is 0 too.
    """
    with np.errstate(over="ignore"):
        values = tensor.float().numpy().astype(np.float32)
    masks = masks and not name.rpartition(".")[2].startswith("running_")
    if masks:
        values[np.isneginf(values)] = np.finfo(np.float32).min
    if not np.isfinite(values).all():
        raise CaptureError(
            f"'{name}' holds values that are NaN or infinite in float32: the network that was "
            "given is broken"
        )
    return values


LARGEST_BYTES = 2**31 - 1
"""Bytes of a tensor: offsets in the C are `int`."""


def _check_sizes(graph: Graph) -> None:
    for value in graph.values():
        if value.nbytes > LARGEST_BYTES:
            where = f"tensor {value.name} {list(value.shape)} takes {value.nbytes:,} B"
            raise CaptureError(f"{where}; the C counts to {LARGEST_BYTES:,}: take shorter windows")


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


def _call(node: torch.fx.Node, b: Builder, env: dict[str, Any]) -> Any:
    def known(arg: Any) -> Any:
        if isinstance(arg, torch.fx.Node):
            return env[arg.name]
        if isinstance(arg, (list, tuple)):
            return [known(a) for a in arg]
        return arg

    if node.target is operator.getitem:
        return known(node.args[0])[node.args[1]]
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        raise _unknown(node, str(node.target))
    name = schema.name.removeprefix("aten::")
    if name in _IGNORED:
        return None
    args: dict[str, Any] = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            args[argument.name] = known(node.args[i])
        elif argument.name in node.kwargs:
            args[argument.name] = known(node.kwargs[argument.name])
        else:
            args[argument.name] = argument.default_value
    first = next(iter(args.values()), None)
    if isinstance(first, torch.Tensor) and name == "add_":
        return first  # bookkeeping on an integer buffer (num_batches_tracked)
    if any(isinstance(a, torch.Tensor) for a in args.values()):
        raise CaptureError(
            f"{_where(node)}: a buffer of integers takes part; register it as a float buffer"
        )
    if name in _PASS:
        if name in _DROPOUT and args.get("p", 0.0) > 0.0 and args.get("train", False):
            raise CaptureError(
                f"{_where(node)}: dropout would run on the device; bt.prepare(model) removes "
                "nn.Dropout layers, a call of F.dropout needs training=False"
            )
        return first
    meta = node.meta.get("val")
    if name == "to" and isinstance(meta, torch.Tensor) and meta.dtype != torch.float32:
        raise CaptureError(f"{_where(node)}: a cast to {meta.dtype} is not supported, only float32")
    if name == "to":
        return first
    if isinstance(meta, torch.Tensor):
        args["_output_shape"] = tuple(int(n) for n in meta.shape)
    rules = _rules()
    rule = rules.get(name) or rules.get(name.removesuffix("_"))
    if rule is None:
        raise _unknown(node, name)
    b.origin = _origin(node)
    try:
        result = rule.capture(b, args)
    except BioTrainError as error:
        raise CaptureError(f"{_where(node)}: {error}") from error
    if name.endswith("_") and isinstance(node.args[0], torch.fx.Node):
        _refuse_shared(node)
        env[node.args[0].name] = result  # in place: later readers of the argument see the result
    return result


def _is_view(node: torch.fx.Node) -> bool:
    """Whether the node's result shares memory with its first argument."""
    schema = getattr(node.target, "_schema", None)
    info = schema.returns[0].alias_info if schema and schema.returns else None
    return info is not None and not info.is_write


def _refuse_shared(node: torch.fx.Node) -> None:
    """An in-place op must not change what another view of the tensor is read for later."""
    base = node.args[0]
    assert isinstance(base, torch.fx.Node)
    family = [base]
    while _is_view(family[0]) and isinstance(family[0].args[0], torch.fx.Node):
        family.insert(0, family[0].args[0])
    for member in family:  # grows while it is walked
        family += [
            u for u in member.users if _is_view(u) and u.args[0] is member and u not in family
        ]
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    for member in family:
        if member is not base and any(
            order[u] > order[node] and u not in family for u in member.users
        ):
            raise CaptureError(
                f"{_where(node)}: an in-place op on a tensor of which another view is read later; "
                "use the form without the underscore"
            )


@cache
def _rules() -> dict[str, Op]:
    """The op that stands for each aten function."""
    return {name: op for op in OPS.values() for name in op.captures}


def _unknown(node: torch.fx.Node, name: str) -> CaptureError:
    supported = sorted(_rules())
    return CaptureError(
        f"{_where(node)}: torch function '{name}' is not supported. "
        f"Supported: {', '.join(supported)}. docs/add-an-op.md shows how to add one."
    )


def _where(node: torch.fx.Node) -> str:
    """The user's source line: file, number and text."""
    lines = [s.strip() for s in (node.meta.get("stack_trace") or "").strip().splitlines()]
    frames = [
        (lines[i], lines[i + 1] if i + 1 < len(lines) else "")
        for i, s in enumerate(lines)
        if s.startswith("File ")
    ]
    user = [f for f in frames if "/torch/" not in f[0]] or frames
    if not user:
        return f"node '{node.name}'"
    place, code = user[-1]
    parts = place.removeprefix("File ").split(", ")
    return f"{parts[0].strip(chr(34))}:{parts[1].removeprefix('line ')} `{code}`"


def _origin(node: torch.fx.Node) -> str:
    """Path of the innermost module that the node stems from."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""

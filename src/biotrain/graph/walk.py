# SPDX-License-Identifier: Apache-2.0
"""An exported program, node by node, into a graph.

What each torch function means is said by the op that stands for it (`Op.captures`, `Op.capture`).
What depends neither on the input nor on parameters is evaluated by torch (`constants.py`). What is
not supported is collected, so that all of it is told at once (`missing.py`).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec
from torch.utils._pytree import tree_unflatten

import biotrain.ops  # noqa: F401  (fills OPS)
from biotrain.errors import BioTrainError, CaptureError
from biotrain.graph.constants import RANDOM, Constants
from biotrain.graph.heads import Heads, heads_of, joined
from biotrain.graph.missing import Missing, missing_function, origin, refusal, where
from biotrain.graph.spectrum import Spectrum
from biotrain.ir.graph import Graph, Kind, Value, verify
from biotrain.ir.op import OPS, Builder, Op
from biotrain.ops.shape import reshaped

Array = npt.NDArray[np.float32]

DROPOUT = (
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "native_dropout",
)
_PASS = ("clone", "alias", "lift_fresh_copy", "to", "_to_copy", "type_as")
_IGNORED = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size")
_SHAPED = (
    *("zeros_like", "ones_like", "full_like", "empty_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)
"""Functions of which the first argument says no more than shape and type."""
_NUMBERS = ("add", "sub", "rsub", "mul", "div", "pow", "maximum", "minimum")
"""Functions of which an operand may be a number: a constant of no axes becomes one."""


class Walk:
    """The nodes of an exported program as those of a graph.

    program : what `torch.export` gave.
    b : the builder; `b.predict` and `b.adabn` say which graph is built, `b.batch` how many windows
        share the statistics of a batch norm.
    moving : names in the state dict of the buffers that the forward pass changes.
    tensors, names : initial values, and names in the state dict, by value name; filled here.
    """

    def __init__(
        self,
        program: ExportedProgram,
        b: Builder,
        moving: Mapping[str, None],
        tensors: dict[str, Array],
        names: dict[str, str],
    ) -> None:
        self._program, self._b, self._moving = program, b, moving
        self._tensors, self._names = tensors, names
        self._state = {**program.state_dict, **program.constants}
        self._env: dict[str, Any] = {}
        """What each node of the program gave: a value, a constant, or a list of those."""
        self._held: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Any] = {}
        self._direct: dict[int, Value] = {}
        """The value of a constant that stands in the state dict, by its `id`."""
        self._computed: dict[tuple[int, int], Value] = {}
        """The value of a computed constant, by its `id` and version."""
        self._constants = Constants()
        self._missing: list[Missing] = []
        self._holes: dict[str, None] = {}
        """Nodes whose result is not known, because something is missing."""
        self._inputs: list[Value] = []
        self._params: list[Value] = []
        self._buffers: list[Value] = []
        self.heads = Heads(())
        """The outputs of the program, which the graph has one after another."""
        self.notes: dict[str, None] = {}
        """What the graph leaves out, with its place in the source: calls of dropout."""

    def graph(self) -> Graph:
        """The graph of the whole program; CaptureError with all that is not supported."""
        specs = {spec.arg.name: spec for spec in self._program.graph_signature.input_specs}
        outputs: list[Any] = []
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._env[node.name] = self._placeholder(node, specs[node.name])
            elif node.op == "call_function":
                self._env[node.name] = self._call(node)
            elif node.op == "output":
                outputs = [self._output(a) for a in node.args[0] if a is not None]
            elif node.op == "get_attr":
                raise CaptureError(
                    f"control flow or a submodule call ('{node.target}') is not supported"
                )
        if self._missing:
            raise refusal(self._missing)
        if len(self._inputs) != 1:
            raise CaptureError(f"the model must take one tensor, it takes {len(self._inputs)}")
        own = [v for v in outputs if isinstance(v, Value) and v not in self._buffers]
        if not own:
            raise CaptureError("the model must return a tensor, the logits; it returns none")
        self.heads = heads_of(_returned(self._program), own)
        output = joined(self._b, own)
        graph = Graph(
            nodes=tuple(self._b.nodes),
            inputs=(self._inputs[0],),
            outputs=(output,),
            params=tuple(self._params),
            states=tuple(v for v in self._buffers if v.kind == "state"),
            consts=tuple(v for v in self._buffers if v.kind == "const"),
        )
        graph = self._without_folded(graph)
        check_sizes(graph)
        verify(graph)
        return graph

    def _without_folded(self, graph: Graph) -> Graph:
        """The graph without the constants of the state dict of which only others were computed."""
        read = {v.name for node in graph.nodes for v in node.inputs} | {graph.outputs[0].name}
        gone = {
            value.name
            for key, value in self._direct.items()
            if self._constants.consumed(key) and value.name not in read
        }
        if not gone:
            return graph
        return Graph(
            nodes=graph.nodes,
            inputs=graph.inputs,
            outputs=graph.outputs,
            params=tuple(v for v in graph.params if v.name not in gone),
            states=graph.states,
            consts=tuple(v for v in graph.consts if v.name not in gone),
        )

    def _placeholder(self, node: torch.fx.Node, spec: InputSpec) -> Any:
        """The input, a parameter, a state, or a constant."""
        if spec.kind == InputKind.USER_INPUT:
            meta = node.meta.get("val")
            if not isinstance(meta, torch.Tensor):
                raise CaptureError("the model must take one tensor and nothing else")
            value = self._b.value("x", tuple(meta.shape), kind="input")
            self._inputs.append(value)
            return value
        target = str(spec.target)
        given = self._state[target]
        tensor = given.detach().cpu()
        if not tensor.dtype.is_floating_point:
            return self._constants.keep(tensor)
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in self._held:
            return self._held[key]  # one tensor under two names: tied
        is_param = spec.kind == InputKind.PARAMETER
        kind: Kind = "param" if is_param else "state" if target in self._moving else "const"
        value = self._b.value(target.removeprefix(self._b.prefix), tuple(tensor.shape), kind=kind)
        (self._params if is_param else self._buffers).append(value)
        self._tensors[value.name] = finite(tensor, target, masks=kind == "const")
        self._names[value.name] = target
        found: Any = value
        if kind == "const" or (is_param and not given.requires_grad):
            found = self._constants.keep(tensor)
            self._direct[id(found)] = value
        self._held[key] = found
        return found

    def _output(self, returned: object) -> Any:
        """What the program returns at one place; CaptureError where that is no tensor."""
        if not isinstance(returned, torch.fx.Node):
            raise CaptureError(
                "the model must return one tensor, the logits; it returns a "
                f"{type(returned).__name__}"
            )
        found = self._env[returned.name]
        return self._direct.get(id(found), found)

    def _call(self, node: torch.fx.Node) -> Any:
        """What a call gives; a hole where it is not supported."""
        try:
            result = self._called(node)
        except CaptureError as error:
            self._missing.append(Missing(where(node), origin(node), str(error)))
        else:
            if not isinstance(result, Missing):
                return result
            self._missing.append(result)
        return self._hole(node)

    def _hole(self, node: torch.fx.Node) -> Any:
        """What stands for a result that is not known: values of its shape."""
        self._holes[node.name] = None
        meta = node.meta.get("val")

        def stand_in(one: object) -> Any:
            if isinstance(one, torch.Tensor):
                return Value(f"missing_{node.name}", tuple(int(n) for n in one.shape))
            return [stand_in(v) for v in one] if isinstance(one, (list, tuple)) else None

        return stand_in(meta)

    def _known(self, arg: Any) -> Any:
        """An argument of a call with nodes replaced by what they gave."""
        if isinstance(arg, torch.fx.Node):
            return self._env[arg.name]
        if isinstance(arg, (list, tuple)):
            return [self._known(a) for a in arg]
        return arg

    def _called(self, node: torch.fx.Node) -> Any:
        """What a call gives, or what is missing for it."""
        if node.target is operator.getitem:
            return self._known(node.args[0])[node.args[1]]
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return missing_function(node, str(node.target), _rules())
        name = schema.name.removeprefix("aten::")
        if name in _IGNORED:
            return None
        if any(a.name in self._holes for a in node.all_input_nodes) and _other_type(node):
            return self._hole(node)  # follows from what was told already
        given = [self._known(a) for a in node.args]
        named = {key: self._known(a) for key, a in node.kwargs.items()}
        if name in _SHAPED and isinstance(given[0], Value):
            given[0] = torch.empty(given[0].shape, dtype=torch.float64)
        if name not in RANDOM and not _values_in([*given, *named.values()]):
            result = self._constants.evaluate(node.target, given, named)  # type: ignore[arg-type]
            return list(result) if isinstance(result, tuple) else result
        return self._op(node, name, _by_name(schema, given, named))

    def _op(self, node: torch.fx.Node, name: str, args: dict[str, Any]) -> Any:
        """What an op of the graph gives for a call with these arguments."""
        first = next(iter(args.values()), None)
        plain = name.removesuffix("_")
        if plain in DROPOUT:
            if args.get("p", 0.0) > 0.0 and args.get("train", False):
                self.notes[f"{where(node)}: dropout is off"] = None
            return first
        if args.get("dropout_p"):  # of attention weights
            self.notes[f"{where(node)}: dropout is off"] = None
            args["dropout_p"] = 0.0
        meta = node.meta.get("val")
        if name in _PASS:
            if isinstance(meta, torch.Tensor) and meta.dtype not in (torch.float32, torch.float64):
                said = f"a cast to {meta.dtype} is not supported: a device computes in float32"
                raise CaptureError(f"{where(node)}: {said}")
            return first
        if isinstance(meta, torch.Tensor):
            args["_output_shape"] = tuple(int(n) for n in meta.shape)
            if 0 in args["_output_shape"]:  # nothing: a constant without elements
                return self._constants.keep(torch.empty(args["_output_shape"]))
        self._b.origin = origin(node)
        if (filtered := self._filter(node, name, args)) is not None:
            return filtered
        rules = _rules()
        rule = rules.get(name) or rules.get(plain)
        if rule is None or any(isinstance(a, Spectrum) for a in args.values()):
            return missing_function(node, name, {} if rule else rules)
        if isinstance(mask := args.get("attn_mask"), torch.Tensor) and mask.dtype == torch.bool:
            added = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
            args["attn_mask"] = self._constants.keep(added)
        args = {
            key: value if key in rule.constants else self._read(value, f"{node.name}_{key}", plain)
            for key, value in args.items()
        }
        try:
            result = rule.capture(self._b, args)
        except BioTrainError as error:
            raise CaptureError(str(error)) from error
        if name.endswith("_") and isinstance(node.args[0], torch.fx.Node):
            refuse_shared(node)
            # In place: later readers of the argument see the result.
            self._env[node.args[0].name] = result
        return result

    def _filter(self, node: torch.fx.Node, name: str, args: Mapping[str, Any]) -> Any:
        """A transform of a real signal, its product with a constant, or the inverse, which is a
        convolution; None for anything else."""
        given, other = args.get("self"), args.get("other")
        if name == "fft_rfft" and isinstance(given, Value) and not args.get("norm"):
            if args["dim"] not in (-1, len(given.shape) - 1):
                return None
            return Spectrum(given, int(args["n"] or given.shape[-1]))
        if name == "mul":
            pair = (given, other) if isinstance(given, Spectrum) else (other, given)
            if isinstance(pair[0], Spectrum) and isinstance(pair[1], torch.Tensor):
                return pair[0].times(pair[1])
        if name != "fft_irfft" or not isinstance(given, Spectrum) or args.get("norm"):
            return None
        taps, x = given.taps(args["n"]), given.signal
        rows, times, count = prod(x.shape[:-1]), x.shape[-1], taps.shape[1]
        kernel = taps.flip(1).reshape(len(taps), 1, *(1,) * (len(taps) == 1), count)
        weight = self._read(self._constants.keep(kernel), f"{node.name}_taps", "conv")
        x = reshaped(self._b, x, (1, 1, rows, times) if len(taps) == 1 else (1, rows, times))
        after = given.n - times
        y = self._b.one(
            "conv",
            x,
            weight,
            stride=(1, 1),
            dilation=(1, 1),
            padding=(0, 0, count - 1, after),
            groups=len(taps),
        )
        return reshaped(self._b, y, args["_output_shape"])

    def _read(self, value: Any, name: str, function: str) -> Any:
        """An argument of an op: constants as values of the graph, or as a number where the function
        takes one."""
        if isinstance(value, list):
            parts = [v for v in value if not isinstance(v, torch.Tensor) or v.numel()]
            return [self._read(v, f"{name}_{i}", function) for i, v in enumerate(parts)]
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_complex():
            raise CaptureError("complex numbers are not supported")
        if id(value) in self._direct and value._version == 0:
            return self._direct[id(value)]
        if value.dim() == 0 and function in _NUMBERS:
            return float(value)
        key = (id(value), value._version)
        if key not in self._computed:
            # The name does not depend on the graph that is built: they share their constants.
            named = self._b.value(f"const_{name}", tuple(value.shape), kind="const")
            self._computed[key] = named
            self._buffers.append(named)
            self._tensors[named.name] = finite(value, named.name, masks=True)
        return self._computed[key]


def _by_name(schema: Any, given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    args: dict[str, Any] = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(given):
            args[argument.name] = given[i]
        else:
            args[argument.name] = named.get(argument.name, argument.default_value)
    return args


def _values_in(value: Any) -> bool:
    """Whether there is a value of the graph among arguments."""
    if isinstance(value, (list, tuple)):
        return any(_values_in(v) for v in value)
    return isinstance(value, (Value, Spectrum))


def _other_type(node: torch.fx.Node) -> bool:
    """Whether the call takes or gives anything but floats."""
    metas: list[object] = [n.meta.get("val") for n in (*node.all_input_nodes, node)]
    return any(isinstance(m, torch.Tensor) and m.dtype != torch.float32 for m in metas)


def _is_view(node: torch.fx.Node) -> bool:
    """Whether the node's result shares memory with its first argument."""
    schema = getattr(node.target, "_schema", None)
    info = schema.returns[0].alias_info if schema and schema.returns else None
    return info is not None and not info.is_write


def refuse_shared(node: torch.fx.Node) -> None:
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
                "an in-place op on a tensor of which another view is read later; use the form "
                "without the underscore"
            )


@cache
def _rules() -> dict[str, Op]:
    """The op that stands for each aten function."""
    return {name: op for op in OPS.values() for name in op.captures}


def _returned(program: ExportedProgram) -> object:
    """The structure of what the program returns, with numbers in place of tensors."""
    spec = program.call_spec.out_spec
    assert spec is not None
    return tree_unflatten(range(spec.num_leaves), spec)


def finite(tensor: torch.Tensor, name: str, masks: bool = False) -> Array:
    """The values of a tensor of the state dict as float32; CaptureError where one is no number.

    `masks`: it is a constant, which may hold minus infinity where it is no running statistic (a
    mask of attention). The lowest float32 takes its place, whose exponential is 0 too.
    """
    with np.errstate(over="ignore"):
        values = tensor.float().numpy().astype(np.float32)
    if masks and not name.rpartition(".")[2].startswith("running_"):
        values[np.isneginf(values)] = np.finfo(np.float32).min
    if not np.isfinite(values).all():
        raise CaptureError(
            f"'{name}' holds values that are NaN or infinite in float32: the network that was "
            "given is broken"
        )
    return values


LARGEST_BYTES = 2**31 - 1
"""Bytes of a tensor: offsets in the C are `int`."""


def check_sizes(graph: Graph) -> None:
    for value in graph.values():
        if value.nbytes > LARGEST_BYTES:
            where = f"tensor {value.name} {list(value.shape)} takes {value.nbytes:,} B"
            raise CaptureError(f"{where}; the C counts to {LARGEST_BYTES:,}: take shorter windows")

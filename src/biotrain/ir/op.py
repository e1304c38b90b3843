# SPDX-License-Identifier: Apache-2.0
"""The base class of every operation, the table of all of them, and the builder of graphs.

One op is one class and its C kernels: `ops/<stem>.py`, `ops/bt_<stem>.h` (docs/add-an-op.md).

**How a kernel sees a tensor.** As rows of samples: the last axis is time, all axes before it are
rows. A kernel gets a geometry struct of constants, a *box* (rows and times of the iteration space
that this call covers) and its operands; activations arrive as views that may be windows of a
larger tensor (see `rt/bt_kernel.h`). A box is absolute: a tile has the bits of the whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf, prod
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from biotrain.errors import GraphError
from biotrain.ir.graph import Attr, DType, Kind, Node, Shape, Span, Value
from biotrain.ir.split import Region, Split
from biotrain.writing.text import identifier

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

LEAF = 32
"""Samples that a reduction over time adds up before the partial sum joins the total (design 3)."""


def rows_times(shape: Shape) -> tuple[int, int]:
    """A tensor as kernels see it: `(rows, times)`; a scalar is one row of one sample."""
    return (prod(shape[:-1]), shape[-1]) if shape else (1, 1)


def area_ops(whole: int, area: int, size: tuple[int, int]) -> int:
    """The share of `whole` operations that `area` elements of an iteration space of `size` are."""
    full = size[0] * size[1]
    return whole if area == full else -(-whole * area // max(full, 1))


def float_literal(value: float) -> str:
    """A C expression that is exactly the float32 nearest to `value` (hex: no digit is lost)."""
    if isinf(value):
        return f"bt_from_bits({0x7F800000 if value > 0 else 0xFF800000:#x}u)"
    try:
        exact = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise GraphError(f"the constant {value} is too large for float32") from None
    return f"{float(exact).hex()}f"


def args_input(args: Mapping[str, Any]) -> Value:
    """The tensor that a captured function works on (`input` or `self` in torch's schemas)."""
    value = args["input"] if "input" in args else args["self"]
    assert isinstance(value, Value)
    return value


def per_axis(value: Any, axes: int, fill: int = 1) -> tuple[int, int]:
    """A torch argument for one or two axes as (rows, times); a missing axis gets `fill`."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(values) == 1:
        values *= axes
    rows, times = [fill] * (2 - len(values)) + values
    return int(rows), int(times)


@dataclass(frozen=True, slots=True)
class Operand:
    """One argument of a kernel: an input or output of the node, as a view or a bare pointer."""

    source: str
    """`"in"` or `"out"`, or `"null"` for an operand that is left out."""
    index: int = 0
    view: bool = True
    """True: a `bt_in`/`bt_out` view; False: a pointer to the contiguous tensor."""


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel call: `function((struct){geometry}, box, operands...)`."""

    function: str
    struct: str
    geometry: tuple[tuple[str, int | float | str], ...]
    """Fields of the struct: constants, or C expressions of run-time values."""
    operands: tuple[Operand, ...]
    box: tuple[int, int]
    """Rows and times of the iteration space; the box of an untiled call."""
    extra: tuple[str, ...] = ()
    """Run-time scalars appended as C expressions (learning rate, label)."""


def x_in(index: int) -> Operand:
    """Input `index` of the node as a view."""
    return Operand("in", index)


def p_in(index: int) -> Operand:
    """Input `index` of the node as a pointer."""
    return Operand("in", index, view=False)


def x_out(index: int = 0) -> Operand:
    """Output `index` of the node as a view."""
    return Operand("out", index)


def p_out(index: int = 0) -> Operand:
    """Output `index` of the node as a pointer."""
    return Operand("out", index, view=False)


NULL = Operand("null", 0, view=False)


@dataclass(frozen=True, slots=True)
class Sample:
    """One test case of an op: shapes of its inputs and its attributes.

    Inputs are drawn at random in tests; `low`/`high` bound them where the function needs it.
    `grad` names the inputs whose gradient is compared (all of them by default).
    """

    shapes: tuple[Shape, ...]
    attrs: Mapping[str, Attr]
    low: float | None = None
    high: float | None = None
    grad: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Swapped:
    """A node with the last two axes of its tensors swapped: its op, its attributes, and which of
    its inputs are to be swapped."""

    op: str
    attrs: Mapping[str, Attr]
    turns: tuple[bool, ...]


_Array = TypeVar("_Array", bound="npt.NDArray[Any]")


def swap_last(values: _Array) -> _Array:
    """An array with its last two axes swapped."""
    return values.swapaxes(-1, -2)


def swapped_pairs(node: Node, *keys: str) -> dict[str, Attr]:
    """The attributes of a node with those called `keys`, one number for rows and one for time,
    the other way round."""
    attrs = dict(node.attrs)
    for key in keys:
        if key in attrs:
            rows, times = node.ints(key)
            attrs[key] = (times, rows)
    return attrs


def swapped_axes(node: Node, *keys: str) -> dict[str, Attr]:
    """The attributes of a node with those called `keys`, which hold a number for each axis, with
    the last two numbers swapped."""
    attrs = dict(node.attrs)
    for key in keys:
        values = node.ints(key)
        attrs[key] = (*values[:-2], values[-1], values[-2])
    return attrs


class Op:
    """What the compiler knows about one operation. Subclasses are stateless."""

    name: ClassVar[str]
    inplace: ClassVar[tuple[tuple[int, int], ...]] = ()
    """Pairs (output, input), of every node, that may share memory: i is read, then written."""
    alias: ClassVar[bool] = False
    """True: output 0 *is* input 0 seen with another shape; no code is emitted."""
    accumulates: ClassVar[bool] = False
    """True: the kernel adds to its outputs (a reduction); a temp output is zeroed first."""
    reduces_time: ClassVar[bool] = False
    """True: the box runs over the *input's* time (tile borders on multiples of `leaf`)."""
    leaf: ClassVar[int] = LEAF
    """Where `reduces_time`: samples that the kernel adds up before they join the total."""
    captures: ClassVar[tuple[str, ...]] = ()
    """The aten functions that this op stands for (`relu` for `aten.relu.default`)."""
    constants: ClassVar[tuple[str, ...]] = ()
    """Arguments of those functions that `capture` gets as torch tensors where they are constant:
    indices and masks."""
    source: ClassVar[str] = ""
    """The C file with its kernels, filled in by `register`."""

    def capture(self, b: Builder, args: Mapping[str, Any]) -> Value:
        """Append what an aten call means; `args` are its arguments by name, tensors as values.

        The default passes every tensor on and takes no attribute.
        """
        return b.apply(self.name, *(v for v in args.values() if isinstance(v, Value)))

    def infer(self, shapes: Sequence[Shape], attrs: Mapping[str, Attr]) -> tuple[Shape, ...]:
        """Shapes of the outputs. Raise `GraphError` for shapes that do not fit."""
        raise NotImplementedError

    def dtypes(self, attrs: Mapping[str, Attr]) -> tuple[DType, ...] | None:
        """Types of the outputs where they are not all float32."""
        return None

    def vjp(
        self, b: Builder, node: Node, grads: Sequence[Value | None], wanted: Sequence[bool]
    ) -> Sequence[Value | None]:
        """Gradients of the inputs (only where `wanted`), as nodes added to `b`.

        `grads[i]` is the gradient of output `i`, or None where nothing depends on it.
        """
        raise GraphError(f"op '{self.name}' has no gradient rule: add `vjp` to its class")

    def macs(self, node: Node) -> int:
        """Nominal multiply-adds of the direct algorithm."""
        return 0

    def ops(self, node: Node) -> int:
        """Multiplies and adds that the kernel executes (2 per multiply-add)."""
        macs = self.macs(node)
        return 2 * macs if macs else sum(v.size for v in node.outputs)

    def shared_ops(self, node: Node, box: Span) -> int:
        """The share of `ops` that is not in proportion to the box of a call.

        That is work which a call does once for all rows, whatever their number, or on whole blocks.
        """
        return 0

    def box_ops(self, node: Node, box: Span) -> int:
        """The share of `ops` that a call over a box executes."""
        rows, times = self.call(node).box
        whole = Span(0, rows, 0, times)
        shared = self.shared_ops(node, whole)
        rest = area_ops(max((self.ops(node) or whole.size) - shared, 0), box.size, (rows, times))
        return rest + self.shared_ops(node, box)

    def work(self, node: Node, box: Span, wide_outputs: int) -> dict[str, float]:
        """How often a call over a box does what takes cycles, by kind (docs/performance.md).

        A core's `cycles.toml` says what one of each kind costs, fitted to measured calls. An op
        whose kernel does more than pass over rows counts what it does itself. `wide_outputs`:
        results of the widest tile that the core holds in registers.
        """
        rows = box.r1 - box.r0
        leaves = -(-box.t1 // LEAF) - box.t0 // LEAF
        return {
            "calls": 1,
            "rows": rows,
            "leaves": rows * leaves,
            "elements": box.size,
            "ops": self.box_ops(node, box),
        }

    def window(self, node: Node, index: int, t0: int, t1: int) -> tuple[int, int] | None:
        """Times `[lo, hi)` of input `index` that the box `[t0, t1)` reads; None: all of it.

        This is the receptive field in time; streaming needs nothing else. Bounds may lie outside
        the tensor (they are clipped).
        """
        return None

    def tiles(self, node: Node) -> bool:
        """Whether the call may be tiled along time."""
        return True

    def rows(self, node: Node, index: int, r0: int, r1: int) -> tuple[int, int] | None:
        """Rows `[lo, hi)` of input `index` that the box rows `[r0, r1)` read; None: all of them.

        The same for rows as `window` for times. Inputs handed over as pointers are not asked for.
        """
        return None

    def row_step(self, node: Node) -> int:
        """Rows that a box must not divide: tiles are multiples of it. 0: rows cannot be tiled."""
        return 1

    def swapped(self, node: Node) -> Swapped | None:
        """The same computation with its tensors' last two axes swapped; None: not possible."""
        return None

    def split(self, node: Node) -> Split:
        """Along what workers may share the call: along rows and along time, as far as tiles may.

        Ops whose kernels ignore the box, or write what all parts share, say so here.
        """
        times = LEAF if self.tiles(node) and not self.reduces_time else 0
        return Split(rows=self.row_step(node), times=times)

    def writes(self, node: Node, index: int, box: Span) -> Region:
        """Elements of output `index` that a call over a part of its box (see `split`) writes.

        Outputs of other shapes than the box hold equally many elements for every `row_step`.
        """
        (rows, times), size = self.call(node).box, node.outputs[index].size
        if rows_times(node.outputs[index].shape) == (rows, times):
            return Region(box.r0 * times + box.t0, box.t1 - box.t0, times, box.r1 - box.r0)
        step = self.split(node).rows
        if not step or rows % step or size % (rows // step):
            return Region(0, size)
        each = size // (rows // step)
        return Region(box.r0 // step * each, (box.r1 - box.r0) // step * each)

    def reference(self, attrs: Mapping[str, Attr], *inputs: torch.Tensor) -> Any:
        """The torch function that this op equals (its semantics, in any float type)."""
        raise NotImplementedError(self.name)

    def samples(self) -> tuple[Sample, ...]:
        """Test cases; each is run forward and backward against torch in float64."""
        return ()

    def call(self, node: Node) -> Call:
        """The kernel call of a node."""
        raise NotImplementedError(self.name)


class Composite(Op):
    """An op that only says how it lowers to others; it never reaches the emitter."""

    def lower(self, b: Builder, inputs: Sequence[Value], attrs: Mapping[str, Attr]) -> Value:
        """Append the nodes that compute this op and return its result."""
        raise NotImplementedError(self.name)


OPS: dict[str, Op] = {}


def register(source: str) -> Callable[[type[Op]], type[Op]]:
    """Class decorator: put an op with kernels in `source` (a file of `ops/`) into `OPS`."""

    def add(cls: type[Op]) -> type[Op]:
        if cls.name in OPS:
            raise GraphError(f"two ops are called '{cls.name}'")
        cls.source = source
        OPS[cls.name] = cls()
        return cls

    return add


_KEYWORDS = (
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while "
    # C23, and what compilers know without -std=c99
    "alignas alignof asm bool constexpr false linux nullptr static_assert thread_local true typeof "
    "typeof_unqual unix "
    # C++, which reads model.h
    "and and_eq bitand bitor catch char8_t char16_t char32_t class co_await co_return co_yield "
    "compl concept consteval constinit const_cast decltype delete dynamic_cast explicit export "
    "friend mutable namespace new noexcept not not_eq operator or or_eq private protected public "
    "reinterpret_cast requires static_cast template this throw try typeid typename using virtual "
    "wchar_t xor xor_eq"
)
_TYPES = (
    "int8_t int16_t int32_t int64_t intptr_t ptrdiff_t size_t uint8_t uint16_t uint32_t uint64_t "
    "uintptr_t"
)
_LOCALS = (
    "m status x_in logits loss_out target_in memcpy memmove memset NULL i finite scale lr sample n "
    "source total label_in s b at box r0 r1 t0 t1 features features_in max_cycles"
)
_PREFIXES = ("bt_", "BT_", "do_", "k_", "g_", "momentum_", "mean_", "square_", "_")
"""Starts of the names that the compiler gives itself."""
RESERVED = tuple(f"{_KEYWORDS} {_TYPES} {_LOCALS}".split())
"""Names that the emitted C uses itself, or that are no names in a compiler that reads it."""


class Builder:
    """Appends nodes, infers their shapes and names their outputs."""

    def __init__(self, prefix: str = "v", taken: Sequence[str] = ()) -> None:
        self.nodes: list[Node] = []
        self._taken: dict[str, None] = dict.fromkeys((*RESERVED, *taken))
        self._prefix = prefix
        self.origin = ""
        self.prefix = ""
        """Start of module paths that names leave out."""
        self.predict = False
        """True while the graph of evaluation is built: running statistics are not updated."""
        self.batch = 1
        """Windows that share the statistics of a batch norm."""
        self.adabn = False
        """True while the graph is built that re-estimates the statistics of batch norms: it is that
        of evaluation, but for the running statistics, which become those of the windows."""

    def name(self, hint: str) -> str:
        """A C identifier that is still free."""
        base = identifier(hint) or self._prefix
        if base[0].isdigit() or base.isupper() or base.startswith(_PREFIXES):
            base = f"{self._prefix}{base}"
        name, i = base, 1
        while name in self._taken:
            i += 1
            name = f"{base}_{i}"
        self._taken[name] = None
        return name

    def stem(self, default: str) -> str:
        """What to call a result: the torch module it stems from, or `default`."""
        return self.origin.removeprefix(self.prefix) or default

    def value(self, hint: str, shape: Shape, dtype: DType = "f32", kind: Kind = "temp") -> Value:
        """A new value with a free name."""
        return Value(self.name(hint), shape, dtype, kind)

    def emit(
        self,
        op: str,
        inputs: Sequence[Value],
        outputs: Sequence[Value] | None = None,
        hint: str = "",
        **attrs: Attr,
    ) -> tuple[Value, ...]:
        """Append a node; its outputs are new temps unless they are given."""
        try:
            rule = OPS[op]
        except KeyError:
            raise GraphError(f"no op is called '{op}'; there are: {', '.join(OPS)}") from None
        shapes = rule.infer([v.shape for v in inputs], attrs)
        if outputs is None:
            dtypes: Sequence[DType] = rule.dtypes(attrs) or ["f32"] * len(shapes)
            stem = hint or self.stem(op)
            outputs = [
                self.value(stem if i == 0 else f"{stem}_{i}", s, d)
                for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True))
            ]
        elif tuple(v.shape for v in outputs) != tuple(shapes):
            raise GraphError(f"{op} gives {shapes}, not {[v.shape for v in outputs]}")
        node = Node(op, tuple(inputs), tuple(outputs), tuple(sorted(attrs.items())), self.origin)
        self.nodes.append(node)
        return node.outputs

    def apply(self, op: str, *inputs: Value, hint: str = "", **attrs: Attr) -> Value:
        """Append an op, lowered where it is a composite, and return its result."""
        rule = OPS.get(op)
        if isinstance(rule, Composite):
            rule.infer([v.shape for v in inputs], attrs)
            return rule.lower(self, inputs, attrs)
        return self.one(op, *inputs, hint=hint, **attrs)

    def one(self, op: str, *inputs: Value, hint: str = "", **attrs: Attr) -> Value:
        """Append a node and return its first output."""
        return self.emit(op, inputs, None, hint, **attrs)[0]

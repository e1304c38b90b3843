# SPDX-License-Identifier: Apache-2.0
"""What of a network is not supported, told at once: where it stands and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch

from biotrain.errors import CaptureError

CELL = (
    "a cell that is called in a loop is unrolled over every time step: use nn.LSTM, nn.GRU or "
    "nn.RNN over the whole window"
)
LOOKUP = "the index must be known when compiling: it depends on the input or on a parameter"
DRAWN = "a device draws no random numbers: leave it out where training, or use nn.Dropout"
COMPLEX = "write it with real tensors, or as a convolution with fixed taps"

INSTEAD: dict[str, str] = {
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), CELL),
    **dict.fromkeys(("gather", "take", "take_along_dim", "scatter", "scatter_add"), LOOKUP),
    **dict.fromkeys(("argmax", "argmin", "argsort", "sort", "topk"), LOOKUP),
    **dict.fromkeys(("rand", "rand_like", "randn", "randn_like", "bernoulli"), DRAWN),
    **dict.fromkeys(("bernoulli_", "uniform_", "normal_", "rrelu_with_noise"), DRAWN),
    **dict.fromkeys(("fft_rfft", "fft_fft", "fft_irfft", "fft_ifft", "stft", "istft"), COMPLEX),
    **dict.fromkeys(("view_as_real", "view_as_complex", "complex", "polar", "angle"), COMPLEX),
    "cumsum": "multiply by a constant triangular matrix",
    "conv3d": "fold an axis into the channels and use nn.Conv2d",
    "erfinv": "use torch.erf or torch.tanh",
    "prod": "use torch.exp of a sum of logarithms",
}
"""What to write instead of a function."""

SHOWN_MODULES = 3
"""Modules that a message names where one line of source is at fault in many."""


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that is not supported."""

    where: str
    """The user's source line: file, number and text."""
    module: str
    """The path of the module that it belongs to in the user's network."""
    what: str
    """What is not supported, as a sentence without its full stop."""


def missing_function(node: torch.fx.Node, name: str, known: Iterable[str]) -> Missing:
    """A torch function that no op stands for; `known` are those that one does."""
    said = f"torch function '{name}' is not supported"
    plain = name.removesuffix("_")
    if name in INSTEAD or plain in INSTEAD:
        said += f": {INSTEAD.get(name) or INSTEAD[plain]}"
    elif any(_is_complex(source) for source in node.all_input_nodes):
        said = f"torch function '{name}' of complex numbers is not supported: {COMPLEX}"
    else:
        near = get_close_matches(plain, sorted(known), 2, 0.75)
        said += f" (supported: {' and '.join(near)})" if near else ""
    return Missing(where(node), origin(node), said)


def _is_complex(node: torch.fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_complex()


class NotSupported(CaptureError):
    """A network of which `missing` is not supported: one line for each place in its source."""

    def __init__(self, message: str, missing: tuple[Missing, ...]) -> None:
        super().__init__(message)
        self.missing = missing


def refusal(found: Sequence[Missing]) -> NotSupported:
    """The error that tells all of them."""
    modules: dict[tuple[str, str], list[str]] = {}
    for one in found:
        modules.setdefault((one.where, one.what), []).append(one.module)
    lines = []
    for (place, what), paths in modules.items():
        named = list(dict.fromkeys(f"'{path}'" for path in paths if path))
        more = len(named) - SHOWN_MODULES
        owner = ", ".join(named[:SHOWN_MODULES]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"{place}{f' in {owner}' if owner else ''}: {what}")
    if len(lines) == 1:
        return NotSupported(lines[0], tuple(found))
    head = f"{len(lines)} places of the network are not supported (docs/features.md lists what is):"
    return NotSupported("\n  ".join([head, *lines]), tuple(found))


def refused_export(error: Exception) -> CaptureError:
    """What torch.export says of a module that it cannot trace, in one line."""
    said = str(error).strip()
    first = said.splitlines()[0] if said else repr(error)
    kind = type(error).__name__
    if kind in ("GuardOnDataDependentSymNode", "DynamicOutputShapeException") or (
        "data-dependent" in said
    ):
        frame = [f for f in _frames(said) if f[1]]  # code that torch made has no text
        at = f"{_place(frame[-1])}: " if frame else ""
        return CaptureError(
            f"{at}the forward pass decides by values of the input (an `if`, a loop or an index "
            "that depends on them), and compiled code cannot: use torch.where, clamp or a product "
            f"with a mask ({first})"
        )
    return CaptureError(f"torch.export refuses the model: {first}")


def where(node: torch.fx.Node) -> str:
    """The user's source line: file, number and text. A line of the user's own comes before one of
    an installed package, and that before one of torch."""
    frames = _frames(node.meta.get("stack_trace") or "")
    if not frames:
        return f"node '{node.name}'"
    library = [f for f in frames if "/torch/" not in f[0] and "/torchaudio/" not in f[0]]
    own = [f for f in library if "/site-packages/" not in f[0]]
    return _place((own or library or frames)[-1])


def _frames(trace: str) -> list[tuple[str, str]]:
    """(place, code) of each frame of a stack trace."""
    lines = [s.strip() for s in trace.strip().splitlines()]
    return [
        (lines[i], lines[i + 1] if i + 1 < len(lines) else "")
        for i, s in enumerate(lines)
        if s.startswith("File ")
    ]


def _place(frame: tuple[str, str]) -> str:
    """A frame as file, number and text."""
    parts = frame[0].removeprefix("File ").split(", ")
    return f"{parts[0].strip(chr(34))}:{parts[1].removeprefix('line ')} `{frame[1]}`"


def origin(node: torch.fx.Node) -> str:
    """Path of the innermost module that the node stems from."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""

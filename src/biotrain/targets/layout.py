# SPDX-License-Identifier: Apache-2.0
"""C structs and enums that Python knows too, each described once.

A `Struct` prints its C declaration, the C assertions that hold the compiler to its layout, and the
numpy type that reads it; sizes and offsets are known for pointers of 4 and of 8 bytes. An
`Enumeration` prints the C enum and numbers its constants.

The rules are those of the ABIs of Arm (AAPCS), RISC-V (ILP32 and LP64) and x86-64 (System V):
every scalar is aligned to its own size, a struct to its most aligned member, and its size is a
multiple of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

POINTER_SIZES = (4, 8)
"""Bytes of a pointer, and of a `size_t`, on the cores that there are."""
LINE = 100
"""Columns of a line of C."""
COMMENT_COLUMN = 28
"""Comments line up behind declarations of up to so many characters."""


class Kind(Protocol):
    """The type of a member."""

    @property
    def name(self) -> str:
        """What C calls it."""

    def size(self, pointer: int) -> int:
        """Bytes, where a pointer has `pointer` of them."""

    def alignment(self, pointer: int) -> int:
        """The power of two that its address is a multiple of."""

    def dtype(self, pointer: int) -> np.dtype[np.generic]:
        """The numpy type with the same bytes."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A number, or a pointer where `code` is empty."""

    name: str
    """The C type; a pointer to a function has `(*)` where the name of the member stands."""
    code: str = ""
    """The numpy type, little-endian."""

    def size(self, pointer: int) -> int:
        """Bytes."""
        return self.dtype(pointer).itemsize

    def alignment(self, pointer: int) -> int:
        """A scalar is aligned to its size."""
        return self.size(pointer)

    def dtype(self, pointer: int) -> np.dtype[np.generic]:
        """The numpy type; a pointer is an unsigned integer."""
        return np.dtype(self.code or f"<u{pointer}")


@dataclass(frozen=True, slots=True)
class Opaque:
    """A struct that is described elsewhere; only its size and alignment matter here."""

    name: str
    bytes: int
    aligned: int

    def size(self, pointer: int) -> int:
        """Bytes, whatever the pointers."""
        del pointer
        return self.bytes

    def alignment(self, pointer: int) -> int:
        """Alignment, whatever the pointers."""
        del pointer
        return self.aligned

    def dtype(self, pointer: int) -> np.dtype[np.generic]:
        """Plain bytes."""
        del pointer
        return np.dtype((np.void, self.bytes))


U8, U32, I32, I64, F32 = (
    Scalar("uint8_t", "u1"),
    Scalar("uint32_t", "<u4"),
    Scalar("int32_t", "<i4"),
    Scalar("int64_t", "<i8"),
    Scalar("float", "<f4"),
)
BYTES = Scalar("size_t")
"""A `size_t` has the size of a pointer on every core that there is."""


def pointer_to(name: str) -> Scalar:
    """A pointer; `name` is the C type pointed to, `const` where that is so."""
    return Scalar(f"{name} *")


@dataclass(frozen=True, slots=True)
class Dim:
    """Length of an array: a number, and how C writes it."""

    count: int
    text: str = ""

    def __str__(self) -> str:
        return self.text or str(self.count)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a struct."""

    name: str
    kind: Kind
    comment: str = ""
    """Behind the declaration, or above it where the line would be too long."""
    dims: tuple[Dim, ...] = ()
    volatile: bool = False
    heading: str = ""
    """A comment of its own above the member: here a group of members begins."""
    only_if: str = ""
    """The preprocessor's condition under which C has the member."""
    there: bool = True
    """Whether that condition holds."""

    @property
    def count(self) -> int:
        """Elements."""
        found = 1
        for dim in self.dims:
            found *= dim.count
        return found

    @property
    def declaration(self) -> str:
        """The declaration in C, without the comment."""
        dims = "".join(f"[{dim}]" for dim in self.dims)
        words = "volatile " if self.volatile else ""
        if "(*)" in self.kind.name:
            return f"{words}{self.kind.name.replace('(*)', f'(*{self.name}{dims})')};"
        space = "" if self.kind.name.endswith("*") else " "
        return f"{words}{self.kind.name}{space}{self.name}{dims};"


@dataclass(frozen=True)
class Struct:
    """A C struct: `typedef struct name { ... } name;`"""

    name: str
    members: tuple[Member, ...]

    @cached_property
    def present(self) -> tuple[Member, ...]:
        """The members whose condition holds."""
        return tuple(m for m in self.members if m.there)

    @cached_property
    def _placed(self) -> dict[int, tuple[dict[str, int], int, int]]:
        """For pointers of so many bytes: offsets of the members, size, alignment."""
        return {pointer: _place(self, pointer) for pointer in POINTER_SIZES}

    def offsets(self, pointer: int) -> dict[str, int]:
        """Bytes from the beginning, by the member's name."""
        return self._placed[pointer][0]

    def offset(self, path: str, pointer: int) -> int:
        """Offset of a member, or of a member of members: `record.epoch`."""
        first, _, rest = path.partition(".")
        at = self.offsets(pointer)[first]
        kind = self.member(first).kind
        if not rest:
            return at
        if not isinstance(kind, Struct):
            raise KeyError(path)
        return at + kind.offset(rest, pointer)

    def member(self, path: str) -> Member:
        """A member, or a member of members: `record.epoch`."""
        first, _, rest = path.partition(".")
        for member in self.present:
            if member.name == first:
                if not rest:
                    return member
                if isinstance(member.kind, Struct):
                    return member.kind.member(rest)
        raise KeyError(path)

    def size(self, pointer: int) -> int:
        """`sizeof`."""
        return self._placed[pointer][1]

    def alignment(self, pointer: int) -> int:
        """Alignment of the most aligned member."""
        return self._placed[pointer][2]

    def dtype(self, pointer: int) -> np.dtype[np.generic]:
        """A structured numpy type with the members as fields."""
        at = self.offsets(pointer)
        formats = [
            (m.kind.dtype(pointer), tuple(d.count for d in m.dims))
            if m.dims
            else m.kind.dtype(pointer)
            for m in self.present
        ]
        return np.dtype(
            {
                "names": list(at),
                "formats": formats,
                "offsets": list(at.values()),
                "itemsize": self.size(pointer),
            }
        )

    # ------------------------------------------------------------ C

    def declaration(self, indent: str = "  ") -> str:
        """The typedef in C, with its comments."""
        declared = [m.declaration for m in self.members]
        behind = [len(text) for m, text in zip(self.members, declared, strict=True) if m.comment]
        width = max((n for n in behind if n <= COMMENT_COLUMN), default=0)
        lines = [f"typedef struct {self.name} {{"]
        condition = ""
        for member, text in zip(self.members, declared, strict=True):
            if member.only_if != condition:
                lines += ["#endif"] if condition else []
                lines += [f"#if {member.only_if}"] if member.only_if else []
                condition = member.only_if
            lines += [f"{indent}/* {member.heading} */"] if member.heading else []
            line = _line(indent, text, width, member.comment)
            if len(line) > LINE:
                lines.append(f"{indent}/* {member.comment} */")
                line = f"{indent}{text}"
            lines.append(line)
        lines += ["#endif"] if condition else []
        return "\n".join([*lines, f"}} {self.name};"])

    def assertions(self) -> list[str]:
        """Lines of C that do not compile where the struct is laid out otherwise (bt_layout.h)."""
        sizes = ", ".join(str(self.size(pointer)) for pointer in POINTER_SIZES)
        lines = [f"BT_HAS_SIZE({self.name}, {sizes});"]
        for member in self.present:
            at = ", ".join(str(self.offsets(pointer)[member.name]) for pointer in POINTER_SIZES)
            lines.append(f"BT_HAS_MEMBER({self.name}, {member.name}, {at});")
        return lines

    def nested(self) -> Iterator[Struct]:
        """The structs among its members, and this one behind them; each once."""
        yield from {struct.name: struct for struct in self._nested()}.values()

    def _nested(self) -> Iterator[Struct]:
        for member in self.present:
            if isinstance(member.kind, Struct):
                yield from member.kind._nested()
        yield self


def _line(indent: str, declaration: str, width: int, comment: str) -> str:
    return f"{indent}{declaration:{width}} /* {comment} */" if comment else f"{indent}{declaration}"


def _place(struct: Struct, pointer: int) -> tuple[dict[str, int], int, int]:
    """Offsets of the members, size, alignment."""
    found: dict[str, int] = {}
    at, most = 0, 1
    for member in struct.present:
        aligned = member.kind.alignment(pointer)
        most = max(most, aligned)
        at += -at % aligned
        found[member.name] = at
        at += member.count * member.kind.size(pointer)
    return found, at + -at % most, most


@dataclass(frozen=True, slots=True)
class Constant:
    """One constant of an enum."""

    name: str
    """The name in Python; C writes the prefix of the enumeration before it, in capitals."""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Enumeration:
    """A C enum whose constants count from 0."""

    name: str
    prefix: str
    constants: tuple[Constant, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the constants in Python, in order."""
        return tuple(c.name for c in self.constants)

    def number(self, name: str) -> int:
        """The value of a constant."""
        return self.names.index(name)

    def declaration(self, indent: str = "  ") -> str:
        """The typedef in C, with its comments."""
        names = [
            f"{self.prefix}{c.name.upper()}{' = 0' if i == 0 else ''}"
            f"{',' if i + 1 < len(self.constants) else ''}"
            for i, c in enumerate(self.constants)
        ]
        behind = [len(n) for c, n in zip(self.constants, names, strict=True) if c.comment]
        width = max(behind, default=0)
        lines = [f"typedef enum {self.name} {{"]
        for constant, name in zip(self.constants, names, strict=True):
            line = _line(indent, name, width, constant.comment)
            if len(line) > LINE:
                lines.append(f"{indent}/* {constant.comment} */")
                line = f"{indent}{name}"
            lines.append(line)
        return "\n".join([*lines, f"}} {self.name};"])

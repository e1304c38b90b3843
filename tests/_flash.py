# SPDX-License-Identifier: Apache-2.0
"""Sample store and checkpoint slots on a model of NOR flash, compiled for this machine."""

import ctypes
import re
from functools import cache
from pathlib import Path

from _cc import RUNTIME, shared_library

FUZZ = Path(__file__).parent / "fuzz"
INCLUDE = f"-I{FUZZ}"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
UBSAN = ("-O2", "-fsanitize=undefined", "-fno-sanitize-recover=all")

STATUS = re.findall(
    r"^  (BT_(?:OK|MORE|ERR_\w+))", (RUNTIME / "bt_status.h").read_text(), re.MULTILINE
)
OK, LABEL, SPACE, FLASH, INDEX, CORRUPT = (
    STATUS.index(f"BT_{name}")
    for name in (
        "OK",
        "ERR_LABEL",
        *(f"ERR_STORE_{kind}" for kind in ("SPACE", "FLASH", "INDEX", "CORRUPT")),
    )
)

# page bytes, pages, unit bytes, samples of a window
GEOMETRIES = {
    "several windows in a page": (320, 8, 4, 20),
    "units of 32 bytes": (256, 8, 32, 20),
    "a window over two pages": (256, 6, 4, 150),
    "few large sectors": (1024, 4, 4, 20),
    "blocks of five small pages": (64, 50, 8, 8),
    "units of a byte": (320, 8, 1, 90),
    "two sectors": (2048, 2, 16, 60),
}
HEADER = 16 + 16 + 4 + 12 + 12  # bytes in front of the windows of a block, units of 4
ERASE_STEPS = 24  # of the flash model's clock, for one page
ALL_CUTS = [*GEOMETRIES][:6]

NUMBERS = [
    "programmed",
    "breaches",
    "capacity",
    "count",
    "blocks",
    "per_block",
    "page_wear",
    "worn",
]


@cache
def library(compiler: str = "gcc", flags: tuple[str, ...] = UBSAN) -> ctypes.CDLL:
    c = shared_library([FUZZ / "driver.c"], (INCLUDE, *flags), compiler)
    for name in ("bench_new", "slots_new", "memory", "slots_memory"):
        getattr(c, name).restype = ctypes.c_void_p
    for name in NUMBERS:
        getattr(c, name).restype = ctypes.c_uint32
    return c


class Bench:
    """A store on a flash model; windows are known by their id."""

    def __init__(self, geometry: str, classes: int = 3, old: bool = False) -> None:
        self.c = library()
        self.at = ctypes.c_void_p(self.c.bench_new())
        self.status = self.c.init(self.at, *GEOMETRIES[geometry], classes, int(old))
        self.classes = classes

    def __del__(self) -> None:
        self.c.forget(self.at)

    def __getattr__(self, name: str):  # the driver's functions, on this bench
        function = getattr(self.c, name)
        return lambda *arguments: function(self.at, *arguments)

    def windows(self) -> list[tuple[int, int]]:
        """(id, label), the oldest first; every window must be readable."""
        rows = []
        row = (ctypes.c_uint32 * 3)()
        for index in range(self.count()):
            assert self.window(index, row) == OK
            rows.append((-row[2], row[0], row[1]))
        return [(i, label) for _, i, label in sorted(rows)]

    def wear(self) -> list[int]:
        """Erasures of each block's first page."""
        return [self.page_wear(block * self.block_pages()) for block in range(self.blocks())]


SAVE, BACK, FACTORY = range(3)
FOREIGN = STATUS.index("BT_ERR_CHECKPOINT_FOREIGN")
SHORT = STATUS.index("BT_ERR_CHECKPOINT_SHORT")


class Slots:
    """Two checkpoint slots on a flash model; states are known by their version."""

    def __init__(self, page: int = 128, pages: int = 4, unit: int = 4, old: bool = False) -> None:
        self.c = library()
        self.at = ctypes.c_void_p(self.c.slots_new())
        self.c.slots_start(self.at, page, pages, unit, int(old))

    def __del__(self) -> None:
        self.c.forget(self.at)

    def do(self, what: int, version: int = 0) -> int:
        return int(self.c.slots_call(self.at, what, version))

    @property
    def version(self) -> int:
        return int(self.c.slots_version(self.at))

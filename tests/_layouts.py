# SPDX-License-Identifier: Apache-2.0
"""The C declarations that are printed from tables in Python, and the files in rt/ they stand in.

`python tests/_layouts.py --write` prints them into these files anew, after a table has changed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from biotrain.frontend.layout import FrontNumbers, front_struct
from biotrain.planner import live_layout as live
from biotrain.run import live_box, mailbox
from biotrain.targets.layout import Enumeration, Opaque, Struct

RT = Path(__file__).resolve().parents[1] / "src" / "biotrain" / "rt"
FRONT = front_struct(FrontNumbers(2, 4, running=True, ring_times=5, sample_code="<f4"))
NUMBERS = live.LiveNumbers(
    outputs=3,
    chans=2,
    ring_frames=10,
    waiting_frames=6,
    segments=2,
    narrow=True,
    front=FRONT,
    row_times=5,
    model=Opaque("bt_model", 100, 4),
)
"""Any: C names them by macros."""
LIVE = live.live_struct(NUMBERS)

Table = Struct | Enumeration

TABLES: dict[str, tuple[Table, ...]] = {
    "bt_front.h": (FRONT,),
    "bt_flash.h": (live.FLASH, live.FLASH_WRITER),
    "bt_checkpoint.h": (live.SEGMENT,),
    "bt_slots.h": (live.SLOTS, live.SAVE_STATE),
    "bt_record.h": (live.STORE,),
    "bt_store.h": (live.READING,),
    "bt_live.h": (live.EVENT, live.MODE, live.COUNTERS, live.RECORD, live.TASK, LIVE),
    "session.h": (mailbox.COMMANDS, mailbox.FIELDS),
    "sim_flash.h": (live_box.SIM_FLASH,),
    "live_box.c": (live_box.COMMANDS, live_box.event(3), live_box.box(LIVE)),
}
"""By the file in rt/."""


def tables() -> list[tuple[str, Table]]:
    """Every table with its file."""
    return [(name, table) for name, found in TABLES.items() for table in found]


def declared(name: str, table: Table) -> str:
    """The declaration of a table as it stands in its file."""
    text = (RT / name).read_text(encoding="utf-8")
    kind = "struct" if isinstance(table, Struct) else "enum"
    found = re.search(rf"typedef {kind} {table.name} \{{.*?\}} {table.name};", text, re.S)
    assert found, f"rt/{name} declares no {table.name}"
    return found[0]


def printed(name: str, table: Table) -> str:
    """The declaration of a table as it is to stand there."""
    inner = re.search(r"\n( +)\S", declared(name, table))
    assert inner
    return table.declaration(inner[1])


def main() -> None:
    """Print every declaration into its file."""
    for name, table in tables():
        path = RT / name
        text = path.read_text(encoding="utf-8")
        new = text.replace(declared(name, table), printed(name, table))
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(f"{table.name} in rt/{name}")


if __name__ == "__main__":
    if "--write" not in sys.argv:
        sys.exit(__doc__)
    main()

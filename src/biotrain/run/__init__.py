# SPDX-License-Identifier: Apache-2.0
"""Places where a package runs, behind one interface (`Device`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.run.cluster.device import simulated
from biotrain.run.device import Device
from biotrain.run.emulator_team import emulated
from biotrain.run.host import HostDevice
from biotrain.run.qemu import QemuDevice
from biotrain.run.threads import ThreadsDevice
from biotrain.targets.target import Target, places

PLACES: dict[str, Callable[..., Device]] = {
    "host": HostDevice,
    "threads": ThreadsDevice,
    "emulator": emulated,
    "qemu": QemuDevice,
    "rtl": simulated,
}
"""Where packages run, by the name that `--on` takes."""


def check_place(on: str, target: Target) -> None:
    """Raise BioTrainError where packages for a target do not run on `on`; asked before one is
    compiled."""
    if on not in PLACES:
        raise BioTrainError(f"nothing runs on '{on}'; there is: {', '.join(PLACES)}")
    there = dict.fromkeys(("host", "threads", *places(target)))
    if on not in there:
        raise BioTrainError(
            f"packages for {target.name} run on {', '.join(there)}, not on '{on}' (biotrain list "
            "targets)"
        )


def start(package: Build, on: str, **options: Any) -> Device:
    """Build the package for a place and start it there."""
    if on not in PLACES:
        raise BioTrainError(f"nothing runs on '{on}'; there is: {', '.join(PLACES)}")
    return PLACES[on](package, **options)


__all__ = ["PLACES", "Device", "check_place", "start"]

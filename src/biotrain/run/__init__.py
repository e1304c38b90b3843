# SPDX-License-Identifier: Apache-2.0
"""Places where a package runs, behind one interface (`Device`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from biotrain.emit.build import Build
from biotrain.errors import BioTrainError
from biotrain.run.device import Device
from biotrain.run.emulator import EmulatorDevice
from biotrain.run.host import HostDevice
from biotrain.run.qemu import QemuDevice
from biotrain.run.rtl_device import RtlDevice

PLACES: dict[str, Callable[..., Device]] = {
    "host": HostDevice,
    "emulator": EmulatorDevice,
    "qemu": QemuDevice,
    "rtl": RtlDevice,
}
"""Where packages run, by the name that `--on` takes."""


def start(package: Build, on: str, **options: Any) -> Device:
    """Build the package for a place and start it there."""
    try:
        place = PLACES[on]
    except KeyError:
        raise BioTrainError(f"nothing runs on '{on}'; there is: {', '.join(PLACES)}") from None
    return place(package, **options)


__all__ = ["PLACES", "Device", "start"]

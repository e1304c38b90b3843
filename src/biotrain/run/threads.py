# SPDX-License-Identifier: Apache-2.0
"""The device's C on this machine, its workers as POSIX threads (`rt/port_threads.c`)."""

from __future__ import annotations

from collections.abc import Sequence

from biotrain.emit.build import Build
from biotrain.emit.project import THREADS
from biotrain.run.compiler import further_flags
from biotrain.run.host import OPTIMISED, HostDevice


class ThreadsDevice(HostDevice):
    """Runs the generated C in this process on as many threads as the package has workers.

    The weights have the bits of one worker. On `host` one thread runs the parts of all workers.
    """

    on = "threads"

    def __init__(
        self,
        package: Build,
        *,
        flags: Sequence[str] | None = None,
        compiler: Sequence[str] | None = None,
    ) -> None:
        """Build and load the C. `flags`: instead of `OPTIMISED` and `BIOTRAIN_CFLAGS`."""
        chosen = (*OPTIMISED, *further_flags()) if flags is None else tuple(flags)
        super().__init__(package, flags=(*chosen, *THREADS), compiler=compiler)

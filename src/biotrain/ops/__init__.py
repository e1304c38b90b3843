# SPDX-License-Identifier: Apache-2.0
"""All operations. Importing this package fills `biotrain.ir.op.OPS`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

SOURCES = Path(__file__).parent
"""Folder of the kernels."""

for _module in sorted(m.name for m in iter_modules([str(SOURCES)])):
    import_module(f"{__name__}.{_module}")

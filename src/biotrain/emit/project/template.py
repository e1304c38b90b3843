# SPDX-License-Identifier: Apache-2.0
"""Templates: real files with `@NAME@` where a package fills in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"


def filled(name: str, values: Mapping[str, str]) -> str:
    """A template with its names replaced."""
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)

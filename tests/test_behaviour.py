# SPDX-License-Identifier: Apache-2.0
"""What fourteen packages emit, plan and compute is what `behaviour.json` remembers, to the byte."""

from __future__ import annotations

import json

import pytest
from _behaviour import FILE, behaviour, cases

KEPT = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_case_is_remembered() -> None:
    assert list(KEPT) == list(cases())


@pytest.mark.sample(test=2)
@pytest.mark.parametrize("name", list(cases()))
def test_behaviour_stays(name: str) -> None:
    """If what is emitted was meant to change: `python tests/_behaviour.py --write`, and say why."""
    found, kept = behaviour(cases()[name]), KEPT[name]
    assert found["crc32"] == kept["crc32"]
    changed = {
        file
        for file in {**found["files"], **kept["files"]}
        if found["files"].get(file) != kept["files"].get(file)
    }
    assert not changed
    assert found["plan"] == kept["plan"]

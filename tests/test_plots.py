# SPDX-License-Identifier: Apache-2.0
"""The picture of a plan says what the plan says, with loops, with a batch, with a frontier."""

from pathlib import Path

import pytest
import torch

import biotrain as bt
from biotrain.ir.graph import Loop, flat_nodes
from biotrain.package import Package
from biotrain.planner.explain import computations
from biotrain.reports.figures import COLOURS, plan_figure
from biotrain.reports.published import REFERENCES, references
from biotrain.reports.timeline import timeline
from biotrain.writing.drawing import save


def package(memory: int | None = None, frontier: bool = False, norm: str = "group") -> Package:
    net = bt.prepare(bt.models.build("epidenet", 2, 256, 4, 125.0), norm=norm, pool="avg")
    batch = 4 if norm == "batch" else 1
    example = torch.zeros(1, 2, 256)
    return bt.compile(net, example, memory=memory, frontier=frontier, batch=batch)


@pytest.fixture(scope="module")
def stored() -> Package:
    return package(frontier=True)


@pytest.fixture(scope="module")
def small(stored: Package) -> Package:
    """The smallest plan: loops, and tensors made again."""
    return package(stored.plan.frontier[-1].ram_bytes)


def test_timeline_of_what_is_stored(stored: Package) -> None:
    line = timeline(stored)
    assert line.nodes == tuple(flat_nodes(stored.graph.nodes))
    forward, loss, backward = line.phases
    assert [p.name for p in line.phases] == ["forward", "loss", "backward"]
    assert line.nodes[loss.first].op == "cross_entropy"
    assert 0 < forward.stop == loss.first < backward.first < backward.stop == len(line.nodes)
    held = {b.value: line.contents(b) for b in stored.plan.buffers}
    assert held["x"] == [(0, "input")]
    assert held["temporal2"][0][1] == "activation"
    assert [kind for _, kind in held["norm1_stats"]] == ["statistics"]
    assert any(kind == "gradient" and at >= backward.first for h in held.values() for at, kind in h)


def test_timeline_of_loops(small: Package) -> None:
    line = timeline(small)
    loops = [n for n in small.graph.nodes if isinstance(n, Loop)]
    assert len(line.loops) == len(loops) > 0
    for span, loop in zip(line.loops, loops, strict=True):
        assert line.nodes[span.first : span.stop] == tuple(s.node for s in loop.body)
        assert (span.name, span.count) == (loop.axis, loop.count)
    kinds = {kind for b in small.plan.buffers for _, kind in line.contents(b)}
    assert "recomputed" in kinds
    for b in small.plan.buffers:
        times = [at for at, _ in line.contents(b)]
        assert times[0] == b.first
        assert times == sorted(times)
        assert b.last <= len(line.nodes)


def test_makings_find_what_is_computed_twice(small: Package, stored: Package) -> None:
    assert all(before == 0 for _, before in computations(flat_nodes(stored.graph.nodes)))
    twice = [name for name, before in computations(flat_nodes(small.graph.nodes)) if before]
    assert twice
    words = next(c for c in small.plan.choices if c.startswith("recomputed, "))
    assert any(name in words for name in twice)


def test_figure_says_what_the_plan_says(small: Package, tmp_path: Path) -> None:
    figure = plan_figure(small)
    assert f"{small.plan.ram_bytes:,} B" in figure.get_suptitle()
    axes = figure.axes[0]
    line = timeline(small)
    rectangles = sum(len(line.contents(b)) for b in small.plan.buffers)
    assert len(axes.patches) == rectangles + len(line.loops) + 1  # and the line of bytes in use
    save(figure, tmp_path / "plan.png")


def test_figure_with_the_frontier(stored: Package, tmp_path: Path) -> None:
    known = references("epidenet", "full")
    figure = plan_figure(stored, known)
    below = next(a for a in figure.axes if "whole RAM" in a.get_xlabel())
    texts = [t.get_text() for t in below.texts]
    assert any("published: GroupNorm" in t and "280 kB" in t for t in texts)
    drawn = next(line for line in below.lines if line.get_label() == "plans")
    assert len(drawn.get_xdata()) == len(stored.plan.points)
    low, high = below.get_xlim()
    assert all(low < r.ram_bytes / 1e3 < high for r in known)
    save(figure, tmp_path / "frontier.png")


def test_figure_of_a_batch(tmp_path: Path) -> None:
    pkg = package(norm="batch")
    line = timeline(pkg)
    assert pkg.source.batch is not None
    assert len(line.phases) == len(pkg.source.batch.phases)
    roles = {kind for b in pkg.plan.buffers for _, kind in line.contents(b)}
    assert {"input", "activation", "gradient"} <= roles <= set(COLOURS)
    save(plan_figure(pkg), tmp_path / "batch.png")


def test_references_fall() -> None:
    for known in REFERENCES.values():
        sizes = [r.ram_bytes for r in known]
        assert sizes == sorted(sizes, reverse=True)
    assert references("eegnet", "full") == ()

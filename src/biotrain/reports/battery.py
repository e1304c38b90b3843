# SPDX-License-Identifier: Apache-2.0
"""What one calibration asks of a board: windows in flash, minutes, joules, months of battery."""

from __future__ import annotations

from dataclasses import dataclass

from biotrain.emit.build import Build

EPOCHS = 30
"""Epochs of a calibration on the device (arXiv 2604.13359)."""
WINDOWS = 200
"""Windows of a calibration, as the battery figure of that paper counts them; fewer where fewer
fit."""
BATTERY_MAH, BATTERY_VOLTS = 320.0, 3.7
"""The battery of arXiv 2604.13359."""
CODE_BYTES = 128 * 1024
"""Flash left for code where no firmware has been linked: an estimate, above all that we built."""
PAGE_BYTES = 4096
"""Erase unit of flash: a window and a checkpoint start on a page of their own (nRF52840)."""
DAYS_PER_MONTH = 30.4


@dataclass(frozen=True, slots=True)
class Calibration:
    """One calibration on a board. Times and energies are estimates: see the cycles of the plan."""

    windows_that_fit: int | None
    """int16 windows that fit into the flash that code, weights and two checkpoints leave; None: no
    flash is stated."""
    windows: int
    """Windows that this calibration takes: at most those that fit."""
    epochs: int
    minutes: float
    joules: float
    """Energy of the core while it trains; 0 where the board's power is not known."""
    battery_months: float
    """Life of a battery of 320 mAh at 3.7 V with one calibration a day and nothing else; 0: not
    known."""


def calibration(
    package: Build, *, epochs: int = EPOCHS, windows: int = WINDOWS, code_bytes: int = CODE_BYTES
) -> Calibration | None:
    """One calibration; None where the target's time is not modelled."""
    plan = package.plan
    if not plan.ms_per_sample:
        return None
    fit = windows_that_fit(package, code_bytes)
    used = windows if fit is None else min(windows, fit)
    ms = used * epochs * plan.ms_per_sample
    if plan.feature_bytes and plan.ops:  # later epochs start from the features
        later = plan.head_ops / plan.ops
        ms = used * plan.ms_per_sample * (1 + (epochs - 1) * later)
    joules = ms * plan.mj_per_sample / plan.ms_per_sample * 1e-3
    days = BATTERY_MAH * 3.6 * BATTERY_VOLTS / joules if joules else 0.0
    return Calibration(fit, used, epochs, ms / 60e3, joules, days / DAYS_PER_MONTH)


def windows_that_fit(package: Build, code_bytes: int = CODE_BYTES) -> int | None:
    """int16 windows in the flash that is left, each with its label and any features."""
    plan, flash = package.plan, package.target.memory("flash").bytes
    if not flash:
        return None
    x = package.source.train.inputs[0]
    state = plan.param_bytes + plan.optimizer_bytes + plan.state_bytes
    free = flash - code_bytes - plan.flash_bytes - 2 * _pages(state + PAGE_BYTES)
    return max(0, free // _pages(2 * x.size + 4 + plan.feature_bytes))


def _pages(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES

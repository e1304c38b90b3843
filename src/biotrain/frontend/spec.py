# SPDX-License-Identifier: Apache-2.0
"""A front end as a person writes it: TOML, or the same keywords.

    # front.toml
    bandpass = [20, 90]      # Hz; or highpass = 20 alone, or lowpass = 90 alone
    notch = 50               # Hz
    reference = "average"    # none
    decimate = 1             # keep every so manieth sample
    standardise = "none"     # running, window
    window_s = 1.0           # or window = 200, in samples after decimation
    hop_s = 0.25             # or hop = 50
    unit = 0.5               # physical units of one step of the int16 windows

What belongs to a recording and not to the chain (sampling rate, channels, converter step) comes
from the recording; the file may say it too, and then the two must agree.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from biotrain.errors import BioTrainError, shown
from biotrain.frontend.design import LARGEST, FrontEnd, Reference, Standardise
from biotrain.frontend.toml import load_toml

DEVIATION = 1 / 4096
"""One step of int16 windows that are standardised: they reach to 8 deviations."""


@dataclass(frozen=True)
class FrontSpec:
    """A chain for any recording; `FrontEnd` explains the fields.

    window_s, hop_s : the same as `window` and `hop`, in seconds.
    highpass, lowpass : a band that is open on the other side.
    unit : default: the converter's step; standardised, `DEVIATION`.
    fs_in, n_chans, scale : of the recording it is meant for; None takes any.
    """

    bandpass: tuple[float, ...] | None = None
    highpass: float | None = None
    lowpass: float | None = None
    notch: float | None = None
    notch_q: float = 30.0
    order: int = 4
    reference: Reference = "none"
    decimate: int = 1
    standardise: Standardise = "none"
    memory_s: float = 30.0
    window: int | None = None
    window_s: float | None = None
    hop: int | None = None
    hop_s: float | None = None
    unit: float | None = None
    fs_in: float | None = None
    n_chans: int | None = None
    scale: float | None = None

    def front(
        self,
        fs_in: float | None = None,
        n_chans: int | None = None,
        scale: float | None = None,
        window: int | None = None,
    ) -> FrontEnd:
        """The front end for a recording of that rate (Hz), channels and converter step.

        `window` : samples where the description leaves it open.

        Raises BioTrainError where something is said twice and differs, or not at all.
        """
        fs = float(self._one("fs_in", fs_in, "the sampling rate in Hz"))
        rate = fs / max(self.decimate, 1)
        length = self._samples("window", rate, window)
        return FrontEnd(
            fs_in=fs,
            n_chans=int(self._one("n_chans", n_chans, "the number of channels")),
            window=length,
            hop=self._samples("hop", rate, length),
            bandpass=self._band(),
            notch=self.notch,
            reference=self.reference,
            decimate=self.decimate,
            standardise=self.standardise,
            order=self.order,
            scale=(step := float(self._one("scale", scale, "physical units per converter step"))),
            notch_q=self.notch_q,
            memory_s=self.memory_s,
            unit=self._unit(step),
        )

    def _unit(self, step: float) -> float | None:
        if self.standardise == "window":
            return self.unit  # FrontEnd says what is wrong with one
        if self.unit is not None:
            return self.unit
        return step if self.standardise == "none" else DEVIATION

    def _band(self) -> tuple[float | None, float | None] | None:
        edges = (self.highpass, self.lowpass)
        if self.bandpass is None:
            return None if edges == (None, None) else edges
        if edges != (None, None):
            raise BioTrainError("front end: give bandpass, or highpass and lowpass, not both")
        if len(self.bandpass) != 2:
            raise BioTrainError(
                f"front end: bandpass is [low, high] in Hz, not {list(self.bandpass)}; "
                "for one side write highpass or lowpass"
            )
        return (self.bandpass[0], self.bandpass[1])

    def _one(self, name: str, given: float | None, what: str) -> float:
        own: float | None = getattr(self, name)
        if own is None or given is None:
            found = given if own is None else own
            if found is None:
                raise BioTrainError(f"front end: {name} is missing: {what}")
            return found
        if abs(own - given) > 1e-6 * abs(given):
            raise BioTrainError(
                f"front end: it is described for {name} = {own:g}, the recording has {given:g}"
            )
        return own

    def _samples(self, name: str, rate: float, default: int | None) -> int:
        count, seconds = getattr(self, name), getattr(self, f"{name}_s")
        if count is not None and seconds is not None:
            raise BioTrainError(f"front end: give {name} (samples) or {name}_s, not both")
        if seconds is not None:
            if not abs(seconds * rate) <= LARGEST:
                raise BioTrainError(f"front end: {name}_s = {seconds:g} s is too long")
            return round(seconds * rate)
        count = default if count is None else count
        if count is None:
            raise BioTrainError(f"front end: {name} (samples) or {name}_s is missing")
        return int(count)


def read_front(source: str | Path | Mapping[str, Any]) -> FrontSpec:
    """The description in a TOML file, or in a dict of the same keys.

    Raises BioTrainError: a file that is missing or no TOML, an unknown key (with the nearest one),
    a wrong type.
    """
    if isinstance(source, Mapping):
        return _made(source, "front end")
    return _made(load_toml(source), str(source))


def _made(given: Mapping[str, Any], where: str) -> FrontSpec:
    known = {f.name: str(f.type) for f in fields(FrontSpec)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            near = get_close_matches(key, sorted(known), 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise BioTrainError(f"{where}: no setting is called {key} ({hint})")
        values[key] = _value(value, known[key], f"{where}: {key}")
    return FrontSpec(**values)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that float64 holds."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and abs(value) <= sys.float_info.max


def _value(value: Any, kind: str, where: str) -> Any:
    number = _is_number(value)
    if kind.startswith("tuple"):
        if isinstance(value, list | tuple) and all(map(_is_number, value)):
            return tuple(float(v) for v in value)
        wanted = "a list of numbers"
    elif kind.startswith("float"):
        if number:
            return float(value)
        wanted = "a number"
    elif kind.startswith("int"):
        if number and isinstance(value, int):
            return value
        wanted = "a whole number"
    else:
        if isinstance(value, str):
            return value
        wanted = "text"
    raise BioTrainError(f"{where} must be {wanted}, not {shown(value)}")

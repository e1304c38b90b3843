# SPDX-License-Identifier: Apache-2.0
"""The people of biotrain.study.data.synthetic: how muscles, eyes and brains make a window of
signal, by formulas."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LINE_HZ = 50.0


@dataclass(frozen=True)
class Design:
    """Shape of one set. `trials` counts per class and session; rates in Hz, steps in microvolts."""

    subjects: int
    sessions: int
    trials: int
    fs: float
    n_times: int
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    step_uv: float  # one converter step
    pause_s: float  # from the end of a window to the start of the next
    repetitions: int = 0  # blocks of equal trials per class; 0: classes in random order


def stream(seed: int, *key: int) -> np.random.Generator:
    """The generator that belongs to `key`; independent of those of all other keys."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def coloured(
    rng: np.random.Generator, rows: int, n_times: int, fs: float, gain: Callable[[Array], Array]
) -> Array:
    """Gaussian noise [rows, n_times] of unit power whose amplitude spectrum follows `gain(Hz)`."""
    padded = 2 * n_times  # the half that is cut off keeps the ends of a window apart
    freqs: Array = np.fft.rfftfreq(padded, 1 / fs).astype(np.float64)
    shape = gain(freqs)
    shape[0] = 0.0
    spectrum: NDArray[np.complex128] = np.fft.rfft(rng.standard_normal((rows, padded))) * shape
    level = math.sqrt(float(np.mean(shape**2)))
    out: Array = np.fft.irfft(spectrum, padded, axis=-1)[:, :n_times] / level
    return out


def bell(freqs: Array, centre_hz: float, width_hz: float) -> Array:
    """A Gaussian band."""
    out: Array = np.exp(-0.5 * ((freqs - centre_hz) / width_hz) ** 2)
    return out


def pink(freqs: Array) -> Array:
    """1/f power above 1 Hz."""
    out: Array = 1 / np.sqrt(np.maximum(freqs, 1.0))
    return out


@dataclass(frozen=True)
class Interference:
    """What every channel of a session carries besides the signal, continuous in its time."""

    line: Array  # [channels], microvolts
    drift: Array  # [channels, 3], microvolts
    rates: Array  # [3], Hz
    phases: Array  # [channels, 4]

    @staticmethod
    def draw(
        rng: np.random.Generator, channels: int, line_uv: float, drift_uv: float
    ) -> "Interference":
        """Log-normal amplitudes around the given ones."""
        return Interference(
            line=line_uv * np.exp(0.5 * rng.standard_normal(channels)),
            drift=drift_uv * np.exp(0.5 * rng.standard_normal((channels, 3))) / math.sqrt(3),
            rates=rng.uniform(0.02, 0.25, 3),
            phases=rng.uniform(0, 2 * np.pi, (channels, 4)),
        )

    def at(self, t: Array) -> Array:
        """[channels, len(t)] at the times `t` of the session."""
        out: Array = self.line[:, None] * np.sin(2 * np.pi * LINE_HZ * t + self.phases[:, 3:])
        for k in range(3):
            slow = np.sin(2 * np.pi * self.rates[k] * t + self.phases[:, k : k + 1])
            out = out + self.drift[:, k : k + 1] * slow
        return out


def blink(t: Array, begin_s: float, length_s: float) -> Array:
    """One lid movement of height 1: up within a third of its length, down more slowly."""
    u = np.clip((t - begin_s) / length_s, 0.0, 1.0)
    out: Array = 6.75 * u * (1 - u) ** 2
    return out


class Emg:
    """Eight electrodes around the forearm over six muscles; a gesture is a pattern of activation.

    electrode = gain * sum over muscles (spread over the skin * activation * band noise) + noise
    """

    MUSCLES_DEG = np.array([20.0, 75.0, 130.0, 190.0, 250.0, 315.0])
    # Activation of the muscles (flexors first, extensors last) in each gesture.
    SYNERGIES = np.array(
        [
            [0.05, 0.05, 0.05, 0.05, 0.05, 0.05],
            [0.8, 1.0, 0.9, 0.3, 0.3, 0.3],
            [0.2, 0.3, 0.2, 0.8, 1.0, 0.7],
            [1.0, 0.5, 0.6, 0.1, 0.1, 0.2],
            [0.1, 0.1, 0.2, 0.7, 0.6, 1.0],
            [0.9, 0.2, 0.1, 0.1, 0.3, 0.9],
            [0.1, 0.3, 0.9, 0.9, 0.3, 0.1],
        ]
    )

    def __init__(self, design: Design, person: np.random.Generator) -> None:
        self.design = design
        self.angles = self.MUSCLES_DEG + 18.0 * person.standard_normal(6)
        self.synergies = self.SYNERGIES * np.exp(0.45 * person.standard_normal((7, 6)))
        self.rotation = 24.0 * person.standard_normal()
        self.width = 30.0 * np.exp(0.2 * person.standard_normal())
        self.gains = np.exp(0.25 * person.standard_normal(8))
        self.strength_uv = 60.0 * np.exp(0.25 * person.standard_normal())
        self.centre_hz = 62.0 * np.exp(0.12 * person.standard_normal())

    def session(self, rng: np.random.Generator) -> None:
        """Put the armband on."""
        self.placed = self.rotation + 7.0 * rng.standard_normal()
        self.slip = 4.0 * rng.standard_normal()  # degrees over the session
        self.session_gains = self.gains * np.exp(0.12 * rng.standard_normal(8))
        self.noise = Interference.draw(rng, 8, line_uv=2.0, drift_uv=5.0)

    def trial(self, rng: np.random.Generator, label: int, t: Array, progress: float) -> Array:
        """One window [8, time] in microvolts."""
        effort = np.exp(0.2 * rng.standard_normal() + 0.4 * rng.standard_normal(6))
        activation = self.synergies[label] * effort
        electrodes = np.arange(8) * 45.0 + self.placed + self.slip * progress
        apart = (electrodes[:, None] - self.angles + 180) % 360 - 180
        mixing = np.exp(-0.5 * (apart / self.width) ** 2)
        centre = self.centre_hz * (1 - 0.12 * progress)  # fatigue

        def spectrum(f: Array) -> Array:
            return bell(f, centre, 22.0)

        muscles = coloured(rng, 6, len(t), self.design.fs, spectrum)
        tremor = 1 + 0.2 * coloured(rng, 6, len(t), self.design.fs, lambda f: bell(f, 0.0, 3.0))
        own = coloured(rng, 8, len(t), self.design.fs, spectrum)  # motor units near one electrode
        level = np.sqrt((mixing**2) @ activation**2)
        x = mixing @ (activation[:, None] * tremor * muscles) + 0.5 * level[:, None] * own
        x *= self.strength_uv * self.session_gains[:, None]
        return np.asarray(x + 1.5 * rng.standard_normal(x.shape) + self.noise.at(t))


class Eog:
    """Two derived channels see the eye as a dipole: voltage = gain * rotated gaze + lid."""

    UV_PER_DEGREE = 14.0
    # Direction of gaze (right, up) per class; rest and blink stay.
    GAZE = np.array(
        [
            [0.0, 0.0],
            [0.0, 0.0],
            [-1.0, 0.0],
            [1.0, 0.0],
            [0.0, 1.0],
            [0.0, -1.0],
            [-0.71, 0.71],
            [0.71, 0.71],
            [-0.71, -0.71],
            [0.71, -0.71],
        ]
    )

    def __init__(self, design: Design, person: np.random.Generator) -> None:
        self.design = design
        self.tilt_deg = 24.0 * person.standard_normal(2)  # of either pair of electrodes
        self.gains = np.exp(0.25 * person.standard_normal(2))
        self.reach_deg = 14.0 * np.exp(0.2 * person.standard_normal())
        self.latency_s = 0.35 + 0.12 * person.standard_normal()
        self.blinks_per_s = 0.12 * np.exp(0.6 * person.standard_normal())
        self.blink_uv = 260.0 * np.exp(0.3 * person.standard_normal())
        self.blink_s = 0.32 * np.exp(0.15 * person.standard_normal())

    def session(self, rng: np.random.Generator) -> None:
        """Stick the electrodes on."""
        angle = np.deg2rad(self.tilt_deg + 5.0 * rng.standard_normal(2))
        gains = self.gains * np.exp(0.1 * rng.standard_normal(2))
        self.axes = gains[:, None] * np.array(
            [[np.cos(angle[0]), np.sin(angle[0])], [-np.sin(angle[1]), np.cos(angle[1])]]
        )
        self.noise = Interference.draw(rng, 2, line_uv=4.0, drift_uv=30.0)

    def trial(self, rng: np.random.Generator, label: int, t: Array, progress: float) -> Array:
        """One window [2, time] in microvolts."""
        within = t - t[0]
        begin = max(0.1, self.latency_s + 0.07 * rng.standard_normal())
        direction = np.deg2rad(9.0 * rng.standard_normal())
        turn = np.array(
            [[np.cos(direction), -np.sin(direction)], [np.sin(direction), np.cos(direction)]]
        )
        aim = turn @ self.GAZE[label] * self.reach_deg * np.exp(0.2 * rng.standard_normal())
        # The main sequence of saccades: about 21 ms + 2.2 ms per degree (Carpenter, Movements of
        # the Eyes, 1988).
        length = 0.021 + 0.0022 * float(np.hypot(*aim))
        step = 1 / (1 + np.exp(-np.clip((within - begin - length / 2) * 8 / length, -50, 50)))
        small = 1.2 * np.cumsum(coloured(rng, 2, len(t), self.design.fs, pink), 1) / len(t) ** 0.5
        gaze = aim[:, None] * step + small + 2.0 * rng.standard_normal((2, 1))
        x = self.UV_PER_DEGREE * self.axes @ gaze
        times = []
        if label == 1:
            times.append(begin)
        if rng.random() < self.blinks_per_s * within[-1]:
            times.append(rng.uniform(0, within[-1]))
        for time in times:
            lid = blink(within, time, self.blink_s) * np.exp(0.2 * rng.standard_normal())
            x += self.blink_uv * np.array([[0.08], [1.0]]) * lid
        # Towards the end of a session eyes get tired and the range shrinks.
        x *= 1 - 0.1 * progress
        return np.asarray(x + 6.0 * rng.standard_normal(x.shape) + self.noise.at(t))


class Eeg:
    """Motor imagery: the rhythm over one hemisphere fades, in a band and at a place of one's own.

    Sensors (positions in units of the head's radius, x right, y front) see each source through
    cos(o) * bump + sin(o) * its slope: a radial and a tangential dipole.
    """

    SENSORS = np.array(
        [
            [-0.37, 0.2],
            [0.37, 0.2],
            [-0.4, 0.0],
            [0.0, 0.0],
            [0.4, 0.0],
            [-0.37, -0.2],
            [0.37, -0.2],
            [0.0, -0.4],
        ]
    )

    def __init__(self, design: Design, person: np.random.Generator) -> None:
        self.design = design
        hands = np.array([[-0.42, 0.0], [0.42, 0.0]])
        self.places = hands + 0.12 * person.standard_normal((2, 2))
        self.lean = 1.1 * person.standard_normal(2)  # 0 is radial, pi / 2 tangential
        self.side = person.uniform(0, 2 * np.pi, 2)
        # The rhythm that reacts, from mu to beta, and one of the same places that does not.
        self.band_hz = person.uniform(9.0, 24.0)
        self.idle_hz = self.band_hz + person.choice([-1.0, 1.0]) * person.uniform(5.0, 8.0)
        self.depth = person.uniform(0.45, 0.65)  # how far the rhythm fades
        self.latency_s = person.uniform(0.3, 0.9)
        self.alpha_hz = person.uniform(8.5, 12.0)
        self.background = person.uniform(-0.8, 0.8, (6, 2))
        self.tilt = person.uniform(0, 2 * np.pi, (6, 2))

    def session(self, rng: np.random.Generator) -> None:
        """Put the cap on."""
        shift = 0.03 * rng.standard_normal(2)
        self.gains = np.exp(0.1 * rng.standard_normal(8))
        self.hands = self._seen(self.places + shift, self.lean, self.side)
        self.occipital = self._seen(np.array([[0.0, -0.75]]) + shift, np.zeros(1), np.zeros(1))
        self.others = self._seen(self.background + shift, self.tilt[:, 0], self.tilt[:, 1])
        self.frontal = np.exp(-3.0 * (0.9 - self.SENSORS[:, 1]))[:, None]  # how far a blink reaches
        self.noise = Interference.draw(rng, 8, line_uv=1.0, drift_uv=8.0)

    def _seen(self, places: Array, lean: Array, side: Array) -> Array:
        """Topographies [sensors, sources]."""
        apart = self.SENSORS[:, None, :] - places[None]
        bump = np.exp(-0.5 * (apart**2).sum(-1) / 0.3**2)
        along = (apart[..., 0] * np.cos(side) + apart[..., 1] * np.sin(side)) / 0.3
        seen: Array = np.cos(lean) * bump + np.sin(lean) * along * bump * 1.6
        return seen

    def trial(self, rng: np.random.Generator, label: int, t: Array, progress: float) -> Array:
        """One window [8, time] in microvolts, from the cue."""
        fs, within = self.design.fs, t - t[0]
        onset = self.latency_s + 0.1 * rng.standard_normal()
        imagined = 1 / (1 + np.exp(-np.clip((within - onset) / 0.1, -50, 50)))
        change = np.ones((2, len(t)))
        change[1 - label] -= self.depth * imagined  # the left hand moves the right hemisphere
        change[label] += 0.15 * imagined

        strength = 5.0 * np.exp(0.3 * rng.standard_normal((4, 1)))
        band = coloured(rng, 2, len(t), fs, lambda f: bell(f, self.band_hz, 1.2))
        idle = coloured(rng, 2, len(t), fs, lambda f: bell(f, self.idle_hz, 1.2))
        x = self.hands @ (strength[:2] * change * band + 1.6 * strength[2:] * idle)
        alpha = coloured(rng, 1, len(t), fs, lambda f: bell(f, self.alpha_hz, 0.8))
        x += self.occipital @ (6.0 * np.exp(0.4 * rng.standard_normal()) * alpha)
        x += self.others @ (3.0 * coloured(rng, 6, len(t), fs, pink))
        if rng.random() < 0.2:
            lid = blink(within, rng.uniform(0, within[-1]), 0.35)
            x += 60.0 * self.frontal * lid
        x *= (self.gains * (1 - 0.05 * progress))[:, None]
        return np.asarray(x + 1.0 * rng.standard_normal(x.shape) + self.noise.at(t))


class Person(Protocol):
    """Somebody who was recorded; made from a design and a generator."""

    def session(self, rng: np.random.Generator) -> None:
        """Put the sensors on."""

    def trial(self, rng: np.random.Generator, label: int, t: Array, progress: float) -> Array:
        """One window [channels, time] in microvolts; `t` in seconds, `progress` from 0 to 1."""


PEOPLE: dict[str, Callable[[Design, np.random.Generator], Person]] = {
    "emg": Emg,
    "eog": Eog,
    "eeg": Eeg,
}

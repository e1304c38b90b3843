# SPDX-License-Identifier: Apache-2.0
"""The people of biotrain.study.data.synthetic as a converter sees them: continuous and raw.

Steps of a 24-bit converter, the offset of each electrode (its half-cell potential, up to some ten
millivolts), and more of the mains and of slow drift than a filtered recording has: a network that
is to read this needs a front end.
"""

import numpy as np

from biotrain.study.data.continuous import Continuous, Part
from biotrain.study.data.recordings import RecordingError
from biotrain.study.data.synthetic import DESIGNS, order_of
from biotrain.study.data.synthetic_people import PEOPLE, Interference, stream

STEP_UV = 0.02235
"""4.5 V / 24 / 2^23: an ADS1299 (TI SBAS499) at its largest gain."""
OFFSET_UV = 10_000.0
LINE_UV, DRIFT_UV = 40.0, 150.0


def continuous(
    kind: str,
    *,
    subjects: int | None = None,
    sessions: int | None = None,
    trials: int | None = None,
    seed: int = 0,
) -> Continuous:
    """Synthetic `kind` "emg", "eog" or "eeg", raw; the people of `generate` with the same seed.

    A trial lasts until the next one begins; its span ends where its window does there. Trials of
    one gesture that follow each other without a pause are one span.
    """
    if kind not in DESIGNS:
        raise RecordingError(f"synthetic recordings are of {', '.join(DESIGNS)}, not of {kind}")
    design, modality = DESIGNS[kind], list(DESIGNS).index(kind)
    length = design.n_times + round(design.pause_s * design.fs)
    per_class = design.trials if trials is None else trials
    if design.repetitions and per_class % design.repetitions:
        raise RecordingError(
            f"synthetic {kind} comes in {design.repetitions} repetitions; trials must be a "
            f"multiple of that, not {per_class}"
        )
    parts = []
    for subject in range(1, (design.subjects if subjects is None else subjects) + 1):
        person = PEOPLE[kind](design, stream(seed, modality, subject))
        for session in range(1, (design.sessions if sessions is None else sessions) + 1):
            rng = stream(seed, modality, subject, session)
            person.session(rng)
            order = order_of(design, per_class, rng)
            raw = stream(seed, modality, subject, session, 0)  # trials count from 1
            offset = OFFSET_UV * raw.standard_normal((len(design.channels), 1))
            noise = Interference.draw(raw, len(design.channels), LINE_UV, DRIFT_UV)
            x = np.empty((len(design.channels), length * len(order)), np.int32)
            for k, label in enumerate(order):
                t = (k * length + np.arange(length)) / design.fs
                own = stream(seed, modality, subject, session, k + 1)
                signal = person.trial(own, label, t, k / len(order)) + noise.at(t) + offset
                x[:, k * length : (k + 1) * length] = np.rint(signal / STEP_UV)
            parts.append(_part(subject, session, x, np.array(order), length, design.n_times))
            if design.repetitions:
                blocks = len(order) // design.repetitions * length
                parts[-1] = _repeated(parts[-1], blocks)
    return Continuous(
        tuple(parts),
        STEP_UV,
        design.fs,
        design.channels,
        design.classes,
        "uV (x*scale), synthetic",
        f"synthetic-{kind}",
        True,
    )


def _part(
    subject: int, session: int, x: np.ndarray, order: np.ndarray, length: int, labelled: int
) -> Part:
    begin = np.arange(len(order)) * length
    end = begin + labelled
    if length == labelled:  # no pause: one span as long as the label stays
        first = np.flatnonzero(np.diff(order, prepend=-1))
        begin, end, order = begin[first], np.append(begin[first[1:]], x.shape[1]), order[first]
    return Part(subject, session, x, begin, end, order)


def _repeated(part: Part, block: int) -> Part:
    return Part(
        *(part.subject, part.session, part.x, part.begin, part.end, part.label, part.begin // block)
    )

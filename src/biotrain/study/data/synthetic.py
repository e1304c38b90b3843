# SPDX-License-Identifier: Apache-2.0
"""Synthetic EEG, EOG and EMG: made by formulas, learnable, and different in every subject.

They show that the way through BioTrain works and let anyone repeat it; they say nothing about
people. Everything made here is called synthetic. What differs, as in real recordings:

| | between subjects | between sessions | within a session |
| --- | --- | --- | --- |
| EMG | muscle places, synergies, spectrum, strength | armband rotation, gains | effort, fatigue |
| EOG | axes of the electrodes, gains, latency, blinks | axes, gains | aim, first gaze, tiredness |
| EEG | places and directions of sources, bands, latency | place of the cap, gains | amplitudes |

and line noise, slow drift and sensor noise everywhere. Each trial draws from a counter-based
generator of its own (Philox, keyed by seed, modality, subject, session and trial), so a subject
is the same whatever else is generated with it, and nothing else depends on the seed's state.
"""

import numpy as np

from biotrain.study.data.recordings import RecordingError, Recordings
from biotrain.study.data.synthetic_people import PEOPLE, Design, stream

DESIGNS = {
    "emg": Design(
        subjects=6,
        sessions=2,
        trials=24,
        fs=200.0,
        n_times=200,
        channels=tuple(f"EMG{k}" for k in range(1, 9)),
        classes=("rest", "fist", "spread", "flex", "extend", "radial", "ulnar"),
        step_uv=0.25,
        pause_s=0.0,
        repetitions=4,
    ),
    "eog": Design(
        subjects=6,
        sessions=2,
        trials=20,
        fs=125.0,
        n_times=250,
        channels=("EOG_h", "EOG_v"),
        classes=(
            "rest",
            "blink",
            "left",
            "right",
            "up",
            "down",
            "up_left",
            "up_right",
            "down_left",
            "down_right",
        ),
        step_uv=0.25,
        pause_s=1.0,
    ),
    "eeg": Design(
        subjects=6,
        sessions=2,
        trials=60,
        fs=125.0,
        n_times=500,
        channels=("FC3", "FC4", "C3", "Cz", "C4", "CP3", "CP4", "Pz"),
        classes=("left_hand", "right_hand"),
        step_uv=0.02,
        pause_s=3.0,
    ),
}


def generate(
    kind: str,
    *,
    subjects: int | None = None,
    sessions: int | None = None,
    trials: int | None = None,
    seed: int = 0,
) -> Recordings:
    """Synthetic recordings of `kind` "emg", "eog" or "eeg", in the layout of real ones (int16).

    subjects, sessions: how many; `trials`: per class and session. Defaults: DESIGNS[kind].
    The numbers of a subject's session depend on `seed` and `trials` only.
    EMG: gestures in blocks, four repetitions. EOG and EEG: classes in random order, each as often
    as the others in every stretch of the session.

    Raises:
        RecordingError: an unknown kind or a count that cannot be.
    """
    if kind not in DESIGNS:
        raise RecordingError(f"synthetic recordings are of {', '.join(DESIGNS)}, not of {kind}")
    design = DESIGNS[kind]
    n_subjects = design.subjects if subjects is None else subjects
    n_sessions = design.sessions if sessions is None else sessions
    per_class = design.trials if trials is None else trials
    if n_subjects < 1 or n_sessions < 1 or per_class < max(1, design.repetitions):
        raise RecordingError(
            f"synthetic {kind} needs at least 1 subject, 1 session and "
            f"{max(1, design.repetitions)} trials per class"
        )
    if design.repetitions and per_class % design.repetitions:
        raise RecordingError(
            f"synthetic {kind} comes in {design.repetitions} repetitions; trials must be a "
            f"multiple of that, not {per_class}"
        )
    modality = list(DESIGNS).index(kind)
    classes = len(design.classes)
    per_session = per_class * classes
    hop_s = design.n_times / design.fs + design.pause_s
    x = np.empty(
        (n_subjects * n_sessions * per_session, len(design.channels), design.n_times), np.int16
    )
    labels = np.empty(len(x), np.int64)
    first = 0
    for subject in range(1, n_subjects + 1):
        person = PEOPLE[kind](design, stream(seed, modality, subject))
        for session in range(1, n_sessions + 1):
            rng = stream(seed, modality, subject, session)
            person.session(rng)
            order = order_of(design, per_class, rng)
            for k, label in enumerate(order):
                t = k * hop_s + np.arange(design.n_times) / design.fs
                signal = person.trial(
                    stream(seed, modality, subject, session, k + 1), label, t, k / len(order)
                )
                steps = np.rint(signal / design.step_uv)
                x[first + k] = np.clip(steps, -32768, 32767)
            labels[first : first + per_session] = order
            first += per_session
    place = np.arange(per_session)
    tiled = n_subjects * n_sessions
    repetition = None
    if design.repetitions:
        repetition = np.tile(place // (per_session // design.repetitions), tiled)
    return Recordings(
        x=x,
        scale=design.step_uv,
        y=labels,
        subject=np.repeat(np.arange(1, n_subjects + 1), n_sessions * per_session),
        session=np.tile(np.repeat(np.arange(1, n_sessions + 1), per_session), n_subjects),
        fs=design.fs,
        channels=design.channels,
        classes=design.classes,
        unit="uV (x*scale), synthetic",
        name=f"synthetic-{kind}",
        order=np.tile(place, tiled),
        repetition=repetition,
        time_s=np.tile(place * hop_s, tiled),
        synthetic=True,
    )


def order_of(design: Design, per_class: int, rng: np.random.Generator) -> list[int]:
    """Labels of one session: blocks per repetition, or every class once in random order, again and
    again."""
    classes = np.arange(len(design.classes))
    if design.repetitions:
        block = np.repeat(classes, per_class // design.repetitions)
        return [int(c) for c in np.tile(block, design.repetitions)]
    return [int(c) for _ in range(per_class) for c in rng.permutation(classes)]

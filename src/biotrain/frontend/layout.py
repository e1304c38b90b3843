# SPDX-License-Identifier: Apache-2.0
"""`bt_front`, the context of a front end (rt/bt_front.h): its members, printed into C from here."""

from __future__ import annotations

from dataclasses import dataclass

from biotrain.targets.layout import F32, I32, I64, U32, Dim, Member, Scalar, Struct


@dataclass(frozen=True, slots=True)
class FrontNumbers:
    """What `bt_front` of one design depends on."""

    chans: int
    states: int
    """Numbers of 64 bits that the sections of one channel hold; 0: it has no sections."""
    running: bool
    """Whether it standardises by a running mean and deviation."""
    ring_times: int
    """Samples of a window; 0: somebody else holds the newest window."""
    sample_code: str
    """The numpy type of a window's samples."""


def front_struct(n: FrontNumbers) -> Struct:
    """`bt_front` of one design."""
    chans = Dim(n.chans, "BT_FRONT_CHANS")
    members = (
        Member(
            "state",
            I64,
            dims=(chans, Dim(n.states, "BT_FRONT_STATES")),
            only_if="BT_FRONT_STATES > 0",
            there=n.states > 0,
        ),
        Member(
            "mean",
            F32,
            dims=(chans, Dim(2)),
            heading="Mean and variance so far, each with what its last addition lost to rounding.",
            only_if="BT_FRONT_RUNNING",
            there=n.running,
        ),
        Member("variance", F32, dims=(chans, Dim(2)), only_if="BT_FRONT_RUNNING", there=n.running),
        Member(
            "ring",
            Scalar("bt_front_sample", n.sample_code),
            "the newest samples",
            (chans, Dim(n.ring_times, "BT_FRONT_TIMES")),
            only_if="BT_FRONT_RING",
            there=n.ring_times > 0,
        ),
        Member("first", I32, "the first sample of all", (chans,)),
        Member("begun", U32, "1 after the first sample"),
        Member("phase", U32, "samples until the next that decimation keeps"),
        Member("at", U32, "where in the ring the next sample goes: the oldest"),
        Member("wait", U32, "samples (after decimation) until the next window"),
        Member("memory", U32, "samples in the running mean, up to BT_FRONT_MEMORY"),
        Member("clipped", U32, "values that an int16_t could not hold"),
    )
    return Struct("bt_front", members)

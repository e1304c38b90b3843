# SPDX-License-Identifier: Apache-2.0
"""The small networks of braindecode, compiled and compared with PyTorch: which train, which do not.

    python benchmarks/zoo.py                     print the table
    python benchmarks/zoo.py --only EEGNet TCN   these networks
    python benchmarks/zoo.py --stage capture     no further than this stage

Needs braindecode 1.8. Every network is built for 8 channels x 1000 samples at 250 Hz and 4 classes
and prepared by `bt.prepare`; each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NETWORKS = (
    "ATCNet",
    "AttentionBaseNet",
    "AttnSleep",
    "BDTCN",
    "CTNet",
    "DGCNN",
    "Deep4Net",
    "EEGConformer",
    "EEGITNet",
    "EEGInceptionERP",
    "EEGMiner",
    "EEGNeX",
    "EEGNet",
    "EEGSimpleConv",
    "EEGSym",
    "EEGTCNet",
    "FBCNet",
    "FBLightConvNet",
    "FBMSNet",
    "HybridNet",
    "IFNet",
    "MSVTNet",
    "PBT",
    "SCCNet",
    "SPARCNet",
    "SSTDPN",
    "ShallowFBCSPNet",
    "SignalJEPA_PostLocal",
    "SignalJEPA_PreLocal",
    "SincShallowNet",
    "SleepStagerBlanco2020",
    "SleepStagerChambon2018",
    "SyncNet",
    "TCFormer",
    "TIDNet",
    "TSception",
)
"""The classes of `braindecode.models` (1.8) that can be built for the shape below with fewer than a
million parameters."""

SHAPE = {"n_chans": 8, "n_times": 1000, "n_outputs": 4, "sfreq": 250.0}
OPTIONS: Mapping[str, Mapping[str, Any]] = {"AttnSleep": {"d_model": 28}}
"""What a network needs besides the shape: AttnSleep's width is the number of its time steps."""
PLACED = ("DGCNN", "EEGSym")
"""Networks that ask for the electrodes' places."""
ELECTRODES = ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2")

STAGES = ("build", "prepare", "capture", "compile", "verify")


@dataclass(frozen=True)
class Row:
    """What became of one network."""

    network: str
    params: int = 0
    stage: str = "build"
    """The last stage that it reached."""
    ok: bool = False
    reason: str = ""
    """Why it is not ok."""
    seconds: float = 0.0
    """Time of the compilation."""


def built(name: str) -> Any:
    """The network as braindecode makes it, with its weights drawn from seed 0."""
    import torch
    from braindecode import models

    options = dict(SHAPE) | dict(OPTIONS.get(name, {}))
    if name in PLACED:
        import mne

        info = mne.create_info(list(ELECTRODES), SHAPE["sfreq"], "eeg")
        info.set_montage("standard_1020")
        options["chs_info"] = info["chs"]
    torch.manual_seed(0)
    return getattr(models, name)(**options)


def examined(name: str, until: str, steps: int, seeds: int) -> Row:
    """Take one network through the stages up to `until`."""
    import torch

    import biotrain as bt
    from biotrain.graph.capture import capture

    row: dict[str, Any] = {"network": name}
    begin = time.perf_counter()
    try:
        net = built(name)
        row["params"] = sum(p.numel() for p in net.parameters())
        x = torch.zeros(1, SHAPE["n_chans"], SHAPE["n_times"])
        row["stage"] = "prepare"
        net = bt.prepare(net, example_input=x)
        row["stage"] = "capture"
        capture(net, x)
        if until == "capture":
            return Row(**row, ok=True)
        row["stage"] = "compile"
        begin = time.perf_counter()
        pkg = bt.compile(net, x, target="host", accumulate=2)
        row["seconds"] = time.perf_counter() - begin
        if until == "compile":
            return Row(**row, ok=True)
        row["stage"] = "verify"
        report = bt.verify(pkg, steps=steps, seeds=seeds)
        worst = report.worst
        row["ok"] = report.ok
        if not report.ok and worst is not None:
            share = worst.max_rel_error / worst.bar
            row["reason"] = f"{worst.name} errs by {share:.1f} times its bar"
    except Exception as error:  # whatever stops a network is what its row says
        kind = "" if isinstance(error, (bt.BioTrainError, ValueError)) else type(error).__name__
        row["reason"] = f"{kind} {error}".strip()
        row.setdefault("seconds", time.perf_counter() - begin)
    return Row(**row)


def _work(channel: Any, name: str, given: argparse.Namespace) -> None:
    """The process of one network."""
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    channel.send(examined(name, given.stage, given.steps, given.seeds))


def apart(name: str, given: argparse.Namespace) -> Row:
    """The row of a network, from a process of its own that may take `--timeout` seconds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, name, given))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(given.timeout) else Row(name, reason="takes too long")
    except EOFError:
        return Row(name, reason="its process ended")
    finally:
        process.kill()
        process.join()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=NETWORKS, metavar="NAME")
    parser.add_argument("--stage", choices=STAGES[2:], default="verify", help="the last stage")
    parser.add_argument("--steps", type=int, default=10, help="of verify")
    parser.add_argument("--seeds", type=int, default=5, help="of verify")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a network")
    parser.add_argument("--json", type=Path, help="write the rows there")
    given = parser.parse_args()
    rows = []
    for name in given.only:
        row = apart(name, given)
        rows.append(row)
        said = "ok" if row.ok else f"{row.stage}: {row.reason}"
        print(f"{row.network:24}{row.params:>9,}  {row.seconds:6.1f} s  {said}", flush=True)
    print(f"{sum(row.ok for row in rows)} of {len(rows)}")
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The small networks of braindecode, compiled and compared with PyTorch: which train, which do not.

    python benchmarks/zoo.py                     one line for each network
    python benchmarks/zoo.py --only EEGNet SCCNet   these networks
    python benchmarks/zoo.py --stage capture     no further than this stage
    python benchmarks/zoo.py --write             and write docs/zoo.md

Needs braindecode 1.8 in the environment that runs it. Every network is built for 8 channels (or
one, where it takes no more) x 1000 samples at 250 Hz and 4 classes and prepared by `bt.prepare`;
each runs in a process of its own.
Rows are kept in a file, so that a table can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "AttnSleep": {"n_chans": 1, "d_model": 28, "n_attn_heads": 4}
}
"""What a network needs besides the shape, or in its place: AttnSleep takes one channel, and its
width is the number of its time steps."""
PLACED = ("DGCNN", "EEGSym")
"""Networks that ask for the electrodes' places."""
ELECTRODES = ("Fp1", "Fp2", "C3", "C4", "P3", "P4", "O1", "O2")

BOARDS = ("nrf52840", "stm32h7")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "zoo.md"
KEPT = Path("build/zoo.json")
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
    """CPU time of the compilation."""
    ram_bytes: int = 0
    """The whole RAM of training with everything stored."""
    boards: tuple[tuple[str, int, float], ...] = ()
    """For each board where it fits: its name, the whole RAM, and estimated ms for a window."""


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


def on_board(net: Any, x: Any, board: str) -> tuple[str, int, float] | None:
    """Whole RAM and estimated time of a training window on a board; None where it does not fit."""
    import biotrain as bt

    try:
        plan = bt.compile(net, x, target=board, accumulate=8).plan
    except bt.BioTrainError:
        return None
    return board, plan.ram_bytes, plan.ms_per_sample


def examined(name: str, until: str, steps: int, seeds: int, boards: Sequence[str]) -> Row:
    """Take one network through the stages up to `until`."""
    import torch

    import biotrain as bt
    from biotrain.graph.capture import capture

    row: dict[str, Any] = {"network": name}
    begin = time.process_time()
    try:
        net = built(name)
        row["params"] = sum(p.numel() for p in net.parameters())
        shape = dict(SHAPE) | dict(OPTIONS.get(name, {}))
        x = torch.zeros(1, shape["n_chans"], shape["n_times"])
        row["stage"] = "prepare"
        net = bt.prepare(net, example_input=x)
        row["stage"] = "capture"
        capture(net, x)
        if until == "capture":
            return Row(**row, ok=True)
        row["stage"] = "compile"
        begin = time.process_time()
        pkg = bt.compile(net, x, target="host", accumulate=2)
        row["seconds"] = time.process_time() - begin
        row["ram_bytes"] = pkg.plan.ram_bytes
        row["boards"] = tuple(found for b in boards if (found := on_board(net, x, b)))
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
        row.setdefault("seconds", time.process_time() - begin)
    return Row(**row)


def _work(channel: Any, name: str, given: argparse.Namespace) -> None:
    """The process of one network."""
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    channel.send(examined(name, given.stage, given.steps, given.seeds, given.board))


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


def kept(file: Path) -> dict[str, Row]:
    """The rows of a file by network, in the order of the table."""
    if not file.exists():
        return {}
    rows = {r["network"]: r for r in json.loads(file.read_text(encoding="utf-8"))}
    known = {n: Row(**rows[n]) for n in NETWORKS if n in rows}
    return {n: replace(r, boards=tuple(map(tuple, r.boards))) for n, r in known.items()}  # type: ignore[arg-type]


def keep(file: Path, row: Row) -> None:
    """Put a row into a file, in place of an earlier one of the same network."""
    rows = {**kept(file), row.network: row}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(r) for r in rows.values()], indent=1) + "\n")


HEAD = """\
<!-- SPDX-License-Identifier: Apache-2.0 -->
# The zoo: small networks of braindecode

{ok} of the {all} networks of braindecode 1.8 with fewer than a million parameters at 8 channels x
1000 samples (AttnSleep: one channel, all that it takes) were seen to train in the generated C to
PyTorch's weights (`biotrain verify`, 4 classes, full training). Written by

```
python benchmarks/zoo.py --write
```

*RAM*: everything that is static, in kB of 1000 bytes: with everything stored on the host (momentum
included), and of the plan that fits the board. *ms*: estimated time of a training window there.
*Compile*: CPU seconds of `bt.compile` for the host. A dash: it does not fit, or it was not planned.

| network | parameters | ok | compile | RAM stored | RAM nRF52840 | ms | RAM STM32H7 | ms |
|---|---:|---|---:|---:|---:|---:|---:|---:|
"""


def page(rows: Iterable[Row]) -> str:
    """The page: the table, and why the others do not train."""
    lines, why = [], []
    rows = list(rows)
    for row in rows:
        found = {name: (f"{ram / 1e3:,.0f}", f"{ms:,.0f}") for name, ram, ms in row.boards}
        cells = [c for b in BOARDS for c in found.get(b, ("-", "-"))]
        stored = f"{row.ram_bytes / 1e3:,.0f}" if row.ram_bytes else "-"
        seconds = f"{row.seconds:.1f}" if row.ram_bytes else "-"
        ok = "yes" if row.ok else "no"
        figures = [f"{row.params:,}" if row.params else "-", ok, seconds, stored, *cells]
        lines.append(f"| {row.network} | {' | '.join(figures)} |")
        if not row.ok:
            why.append(f"- **{row.network}** ({row.stage}): {_short(row.reason)}")
    text = HEAD.format(ok=sum(r.ok for r in rows), all=len(NETWORKS)) + "\n".join(lines) + "\n"
    return text + ("\n## Why not\n\n" + "\n".join(why) + "\n" if why else "")


def _short(reason: str) -> str:
    """A reason without the folders of this machine, on one line."""
    first, *more = re.sub(r"/\S*/site-packages/", "", reason).splitlines()
    whole = f"{first} {'; '.join(line.strip() for line in more)}".strip()
    return whole if len(whole) <= 400 else f"{whole[:396]} ..."


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=NETWORKS, metavar="NAME")
    parser.add_argument("--stage", choices=STAGES[2:], default="verify", help="the last stage")
    parser.add_argument("--steps", type=int, default=10, help="of verify")
    parser.add_argument("--seeds", type=int, default=5, help="of verify")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a network")
    parser.add_argument("--board", nargs="*", default=BOARDS, help="boards to plan for")
    parser.add_argument("--json", type=Path, default=KEPT, help="where rows are kept")
    parser.add_argument("--write", action="store_true", help="write docs/zoo.md")
    given = parser.parse_args()
    rows = []
    for name in given.only:
        row = apart(name, given)
        rows.append(row)
        keep(given.json, row)
        said = "ok" if row.ok else f"{row.stage}: {row.reason}"
        print(f"{row.network:24}{row.params:>9,}  {row.seconds:6.1f} s  {said}", flush=True)
    print(f"{sum(row.ok for row in rows)} of {len(rows)}")
    if given.write:
        PAGE.write_text(page(kept(given.json).values()), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(PAGE.parents[1])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

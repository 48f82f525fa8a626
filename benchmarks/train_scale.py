"""Fit from shards of features: resident memory over an empty process, and two processes beside one.

    python benchmarks/train_scale.py [--rows 400000] [--width 512] [--parallel-rows 40000] [--out FILE] [--keep DIR]

The shards hold two views of `--width` float16 numbers and 24 labels, generated. CLIPMH trains one epoch on all rows,
ITQ takes its sums over all of them; each in a process of its own, whose peak of resident memory is taken less what it
was before, with torch and all else imported. Then CLIPMH trains `--parallel-rows` rows in one process with one thread,
in one with two, and in two with one thread each: rows a second of an epoch, by the difference between four epochs and
one, so that reading, start and diagnosis do not count. Rounds of the three alternate; the ratios are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LABELS, SHARD = 24, 8192


def write(folder: Path, rows: int, width: int) -> Path:
    """Shards of features around the centres of their labels."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    centres = {view: rng.standard_normal((LABELS, width), np.float32) for view in ("image", "text")}
    for first in range(0, rows, SHARD):
        n = min(SHARD, rows - first)
        kind = rng.integers(0, LABELS, n)
        table = {"id": [f"item-{first + i}" for i in range(n)], "labels": [f"kind-{k}" for k in kind]}
        for view, centre in centres.items():
            x = (centre[kind] + 2 * rng.standard_normal((n, width), np.float32)).astype(np.float16)
            table[f"view_{view}"] = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), width)
        pq.write_table(pa.table(table), folder / f"shard-{first // SHARD:06d}.parquet")
    return folder


def peak() -> float:
    """The largest resident memory of this process so far, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def fit(folder: str, method: str, parameters: str, processes: int) -> None:
    """One fit in a process of its own; prints seconds, peak memory and log."""
    import torch

    from bitfuse.hashers import _train  # noqa: F401 - not to count as memory of the fit
    from bitfuse.pipeline import training
    from bitfuse.pipeline.spool import spool

    torch.randn(64, 64) @ torch.randn(64, 64)
    empty = peak()
    started = time.perf_counter()
    with spool(folder) as samples:
        copied = time.perf_counter()
        choice = training.Choice(method, json.loads(parameters), "")
        model = training.fit(samples, choice, n_bits=64, processes=processes)
    seconds = time.perf_counter() - copied
    facts = {"empty_mb": empty, "peak_mb": peak(), "copy_seconds": copied - started, "fit_seconds": seconds}
    print(json.dumps({**facts, "at_scale": model.log["at_scale"], "rows": model.log["rows"]}))


def run(folder: Path, method: str, parameters: dict[str, object], processes: int = 1, threads: int = 2) -> dict:
    """`fit` in a process of its own."""
    command = [sys.executable, __file__, "--fit", str(folder), method, json.dumps(parameters), str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def memory(folder: Path, cases: dict[str, dict[str, object]]) -> dict[str, dict]:
    out = {}
    for method, parameters in cases.items():
        found = run(folder, method, parameters)
        found["over_empty_mb"] = found["peak_mb"] - found["empty_mb"]
        out[method] = found
        print(f"{method}: {found['over_empty_mb']:.0f} MB over {found['empty_mb']:.0f}; {found['fit_seconds']:.0f} s")
    return out


def throughput(folder: Path, rows: int, rounds: int) -> dict[str, object]:
    """Rows a second of an epoch by the difference of four epochs and one; ratios of interleaved rounds."""
    settings = {"one process, one thread": (1, 1), "one process, two threads": (1, 2), "two processes": (2, 1)}
    rates: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, (processes, threads) in settings.items():
            seconds = [
                run(folder, "clipmh", {"epochs": epochs, "validation": 0.0}, processes, threads)["fit_seconds"]
                for epochs in (1, 4)
            ]
            rates[name].append(3 * rows / (seconds[1] - seconds[0]))
        print({name: round(found[-1]) for name, found in rates.items()})
    two = rates["two processes"]
    ratios = {
        f"two processes / {name}": statistics.median(b / a for a, b in zip(rates[name], two)) for name in settings
    }
    return {"rows_per_second": {k: statistics.median(v) for k, v in rates.items()}, "ratios": ratios, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--parallel-rows", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="where the shards lie and stay")
    parser.add_argument("--out", type=Path, help="add what was measured to this JSON file")
    parser.add_argument("--part", choices=["memory", "processes", "both"], default="both")
    parser.add_argument("--fit", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit:
        fit(given.fit[0], given.fit[1], given.fit[2], int(given.fit[3]))
        return
    with tempfile.TemporaryDirectory() as name:
        base = given.keep or Path(name)
        result: dict[str, object] = json.loads(given.out.read_text()) if given.out and given.out.exists() else {}
        result["machine"] = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        if given.part != "processes":
            folder = base / f"rows-{given.rows}"
            if not folder.exists():
                write(folder, given.rows, given.width)
            views = given.rows * given.width * 2 * 2 / 1e6
            cases = {"itq": {}, "clipmh": {"epochs": 1}}
            result["memory"] = {"rows": given.rows, "width": given.width, "views_mb": views} | memory(folder, cases)
        if given.part != "memory":
            folder = base / f"rows-{given.parallel_rows}"
            if not folder.exists():
                write(folder, given.parallel_rows, given.width)
            result["processes"] = {"rows": given.parallel_rows} | throughput(folder, given.parallel_rows, given.rounds)
        if given.out:
            given.out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""What training costs: time and memory of every method at 5,000 rows, and how both grow to 50,000.

    python benchmarks/method_scaling.py [--methods NAME ...] [--sizes 5000 15000 50000] [--threads 2] [--out FILE.json]

Rows of two views of 512 numbers, 24 labels (two or three a row), 64 bits; each training in a process of its own,
whose peak of resident memory is taken. At the smallest size every method runs, at the others those whose cost is linear
in n ("n" in `bitfuse methods`); a method that trains in epochs is timed there over one epoch, and grows from one epoch
of the smallest size, because validation ends full runs after different numbers of epochs. Bars: 5,000 rows in at most
60 s and 2 GB (180 s where a method loads torch); from the smallest to the largest size processor time grows at most 1.5
times as fast as n (rounds vary). With --out the figures are written after each method, those of other methods in that
file are kept, and a plot (.png) of the methods with several sizes goes beside them. The exit code is the number of
methods run that miss a bar.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

LABELS, WIDTH, BITS = 24, 512, 64
LIMIT = {"seconds": 60.0, "seconds with torch": 180.0, "GB": 2.0, "growth": 1.5}
TIMEOUT = 1200


def train(name: str, n: int, once: bool) -> dict[str, Any]:
    """Fit one method in this process, for its default number of epochs or for one, and say what it took."""
    import numpy as np

    from bitfuse.errors import BitfuseWarning
    from bitfuse.hashers import hasher

    rng = np.random.default_rng(0)
    labels = rng.random((n, LABELS)) < 2.5 / LABELS
    labels[np.arange(n), rng.integers(0, LABELS, n)] = True
    views = {}
    for view in ("image", "text"):
        centres = rng.standard_normal((LABELS, WIDTH), np.float32)
        x = labels.astype(np.float32) @ centres + 3 * rng.standard_normal((n, WIDTH), np.float32)
        views[view] = x / np.linalg.norm(x, axis=1, keepdims=True)
    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)
        hasher(name, n_bits=BITS, **({"epochs": 1} if once else {})).fit(views, labels)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "method": name,
        "n": n,
        "one epoch": once,
        "seconds": seconds,
        "cpu seconds": cpu,
        "GB": peak(),
        "GB before": before,
        "torch": "torch" in sys.modules,
    }


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(name: str, n: int, threads: int, once: bool = False) -> dict[str, Any]:
    """`train` in a fresh process with this many threads."""
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    limits["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that spins while it waits would count as work on a busy machine
    command = [sys.executable, __file__, "--one", name, str(n), *(["--once"] if once else [])]
    try:
        done = subprocess.run(
            command, env=os.environ | limits, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return {"method": name, "n": n, "one epoch": once, "failed": f"more than {TIMEOUT} s"}
    if done.returncode:
        return {"method": name, "n": n, "one epoch": once, "failed": done.stderr.strip().splitlines()[-1]}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def verdict(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The bars of one method, given its runs from the smallest size up."""
    first = runs[0]
    failed = next((r["failed"] for r in runs if "failed" in r), None)
    if failed:
        return {"method": first["method"], "failed": failed, "missed": ["ran"]}
    allowed = LIMIT["seconds with torch" if first["torch"] else "seconds"]
    alike = [r for r in runs if r.get("one epoch")] or runs
    least, last = alike[0], alike[-1]
    growth = (last["cpu seconds"] / least["cpu seconds"]) / (last["n"] / least["n"]) if len(alike) > 1 else None
    missed = ["seconds"] if first["seconds"] > allowed else []
    missed += ["GB"] if first["GB"] > LIMIT["GB"] else []
    missed += ["growth"] if growth is not None and growth > LIMIT["growth"] else []
    return {"method": first["method"], "growth": growth, "missed": missed}


def report(rows: list[dict[str, Any]], verdicts: list[dict[str, Any]], sizes: list[int], threads: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"training, {WIDTH} + {WIDTH} columns, {LABELS} labels, {BITS} bits, {threads} thread(s)")
    table.add_column("method")
    for n in sizes:
        table.add_column(f"{n:,} rows", justify="right")
    for column in ("time / n, growth", "bars"):
        table.add_column(column, justify="right")
    for v in verdicts:
        of = {}
        for r in rows:
            if r["method"] == v["method"] and "failed" not in r:
                of.setdefault(r["n"], r)
        cells = [
            f"{of[n]['seconds']:.1f} s{', 1 epoch' if of[n].get('one epoch') else ''} {of[n]['GB']:.2f} GB"
            if n in of
            else "-"
            for n in sizes
        ]
        growth = "-" if v.get("growth") is None else f"{v['growth']:.2f}"
        table.add_row(
            v["method"], *cells, growth, "ok" if not v["missed"] else "FAIL " + v.get("failed", str(v["missed"]))
        )
    Console(width=160).print(table)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.8))
    colours, marks = plt.get_cmap("tab20").colors, "os^"
    sizes = sorted({r["n"] for r in rows})
    drawn = 0
    for name in sorted({r["method"] for r in rows}):
        every = [r for r in rows if r["method"] == name and "failed" not in r]
        of = [r for r in every if r.get("one epoch")] or every
        if len(of) < 2:
            continue
        label = f"{name}, one epoch" if of[0].get("one epoch") else name
        style = {"marker": marks[drawn % len(marks)], "color": colours[drawn % len(colours)], "markersize": 4}
        for axis, unit in zip(axes, ("cpu seconds", "GB")):
            axis.plot([r["n"] for r in of], [r[unit] for r in of], label=label, **style)
        drawn += 1
    for axis, title, at in zip(axes, ("processor seconds to train", "peak of resident memory, GB"), (0.5, 0.1)):
        axis.plot(sizes, [at * n / sizes[0] for n in sizes], "k--", linewidth=1, label="in proportion to n")
        axis.set(xscale="log", yscale="log", xlabel="training rows", title=title)
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].set_yticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", help="default: all that are registered")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 15_000, 50_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "N"), help="train one method in this process")
    parser.add_argument("--once", action="store_true", help="only the runs of one epoch; full ones in --out stay")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(args.one[0], int(args.one[1]), args.once)))
        return
    from bitfuse.bench.facts import environment
    from bitfuse.hashers import hasher_class, hashers

    sizes, names = sorted(args.sizes), args.methods or hashers()
    rows: list[dict[str, Any]] = []
    if args.out and args.out.exists():
        known = json.loads(args.out.read_text())["rows"]
        rows = [r for r in known if r["method"] not in names or (args.once and not r.get("one epoch"))]
    facts = {k: v for k, v in environment(args.threads, {}).items() if k != "seconds"}
    for name in names:
        kind = hasher_class(name)
        linear, epochs = kind.cost == "n", "epochs" in kind.__dataclass_fields__
        if not args.once:
            rows += [measure(name, n, args.threads) for n in (sizes if linear and not epochs else sizes[:1])]
        if linear and epochs:
            rows += [measure(name, n, args.threads, once=True) for n in sizes]
        print(json.dumps(rows[-1]), flush=True)
        if args.out:
            write({"bars": LIMIT, "rows": rows, "commit": commit(), **facts}, args.out)
    verdicts = [verdict([r for r in rows if r["method"] == name]) for name in sorted({r["method"] for r in rows})]
    sizes = sorted({r["n"] for r in rows})
    report(rows, verdicts, sizes, args.threads)
    if args.out:
        plot(rows, args.out.with_suffix(".png"))
    sys.exit(sum(bool(v["missed"]) for v in verdicts if v["method"] in names))


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write(result: dict[str, Any], out: Path) -> None:
    temporary = out.with_name(out.name + ".partial")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(out)


if __name__ == "__main__":
    main()

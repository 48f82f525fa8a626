"""The approximate tier of a collection: what it finds, how fast, what it costs to build; against the exact search.

    python benchmarks/search_ivf.py [--n 1000000] [--bits 64 256] [--out benchmarks/results/search_ivf.json]

No bar: the exact search is fast enough for millions, and on codes without structure every approximation fails. The
codes stand in clusters (2,000 centres, one bit in ten or in four flipped), as learned codes do more or less, and the
queries are drawn alike. Recall: share of answers at most as far as the true tenth. Both ways run in one process, on one
thread, interleaved, and are timed by the processor time that they take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np  # noqa: E402

import bitfuse as bf  # noqa: E402
from bitfuse.bench.facts import environment  # noqa: E402

K, QUERIES, ROUNDS = 10, 200, 5
PROBES = (16, 250)
FLIPPED = (0.1, 0.25)


def drawn(rng: np.random.Generator, centres: np.ndarray, n: int, share: float) -> np.ndarray:
    """Packed codes around the centres, in pieces that fit into memory."""
    parts = []
    for start in range(0, n, 100_000):
        m = min(100_000, n - start)
        flipped = rng.random((m, centres.shape[1])) < share
        parts.append(np.packbits(centres[rng.integers(0, len(centres), m)] ^ flipped, axis=1))
    return np.concatenate(parts)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def measure(n: int, n_bits: int, share: float, place: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2, (2000, n_bits), dtype=np.uint8)
    packed, asked = drawn(rng, centres, n, share), drawn(rng, centres, QUERIES, share)
    model = bf.hasher("lsh", n_bits=n_bits).fit({"image": np.eye(8, dtype=np.float32)})
    rows = []
    with bf.Collection.create(place / f"{n_bits}-{share}", model=model, store_views=False) as shop:
        shop.add({"id": str(i), "code": code.tobytes()} for i, code in enumerate(packed))
        shop.compact()
        queries = [{"code": bf.Codes(q[None], n_bits)} for q in asked]
        for probes in PROBES:
            built, facts = seconds(lambda probes=probes: shop.build_approximate(probes=probes))
            taken: dict[str, list[float]] = {name: [] for name in ("exact", "near", "exact, one", "near, one")}
            for turn in range(ROUNDS):
                first, exact = seconds(lambda: shop.search_many(queries, k=K))
                second, near = seconds(lambda: shop.search_many(queries, k=K, approximate=True))
                one = queries[turn]["code"]
                third, _ = seconds(lambda one=one: shop.search(code=one, k=K))
                fourth, _ = seconds(lambda one=one: shop.search(code=one, k=K, approximate=True))
                for name, value in zip(taken, (first, second, third, fourth)):
                    taken[name].append(value)
            reached = [np.mean([h.distance <= e[-1].distance for h in found]) for found, e in zip(near, exact)]
            median = {name: statistics.median(values) for name, values in taken.items()}
            rows.append(
                {
                    "bits": n_bits, "flipped": share, "lists": facts["lists"], "probes": probes,
                    "recall": round(float(np.mean(reached)), 4),
                    "recall_that_stats_prints": facts["recall_at_10"],
                    "times_faster_in_a_batch": round(median["exact"] / median["near"], 2),
                    "times_faster_one_query": round(median["exact, one"] / median["near, one"], 2),
                    "exact_ms_one_query": round(1e3 * median["exact, one"], 2),
                    "near_ms_one_query": round(1e3 * median["near, one"], 2),
                    "build_s": round(built, 1), "bytes": facts["bytes"],
                }
            )  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = [row for b in args.bits for share in FLIPPED for row in measure(args.n, b, share, Path(place))]
    commit = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    facts = environment(1, {})
    facts["versions"]["faiss-cpu"] = version("faiss-cpu")
    report = {
        "size": {"codes": args.n, "k": K, "queries": QUERIES},
        "rows": rows,
        "commit": subprocess.run(
            commit, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip(),
        **{k: v for k, v in facts.items() if k != "seconds"},
    }
    if args.out:
        temporary = args.out.with_name(args.out.name + ".partial")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        temporary.replace(args.out)


if __name__ == "__main__":
    main()

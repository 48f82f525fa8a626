"""One collection growing to 20,000,000 codes of 128 bits on one machine: build, memory, disk, exact latency.

    python benchmarks/collection_scale.py [--place DIR] [--to 20000000] [--out benchmarks/results/collection_scale.json]
    python benchmarks/collection_scale.py --place DIR --out FILE --again

Grows one collection by the public `add` of `{"id", "code"}` and at 1, 2, 5, 10 and 20 million items stops to compact
and, in a fresh process, to open and search it. A run goes on where the last one in the same `--place` ended, also where
it was killed, so a large curve can be made in pieces (`--to`). Without `--to` it stops at 1,000,000, in a temporary
directory. `--again` adds nothing: it opens and searches what lies in `--place` once more and puts the new figures where
those of as many items stand, for a moment when the machine is quiet.

The codes are made, not learned: 64 numbers a row, of 200,000 centres (the r-th most frequent drawn in proportion to
1/r) with noise of 0.01 to 0.7 of their length, through an `lsh` of 128 bits. So some codes repeat, as those of near
duplicates do; the share of distinct codes is a fact about this world, printed because the speed depends on it.
Queries are drawn from the same world and are not in the collection. One run, one process; times are wall times, and
building gives its processor time beside them, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bitfuse as bf
from bitfuse.bench.facts import environment

BITS, WIDTH, CENTRES, BLOCK = 128, 64, 200_000, 250_000
STOPS = (1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000)
QUERIES, BATCH, ROUNDS = 300, 256, 5
K = 10


def rows(n: int, seed: int) -> np.ndarray:
    """Rows of the world, (n, 64) float32."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, WIDTH)).astype(np.float32)
    rng = np.random.default_rng([1, seed])
    which = np.exp(rng.random(n) * np.log(CENTRES)).astype(int) - 1  # log-uniform: in proportion to 1 / rank
    noise = 10 ** rng.uniform(-2, np.log10(0.7), (n, 1))
    made: np.ndarray = centres[which] + noise.astype(np.float32) * rng.normal(size=(n, WIDTH)).astype(np.float32)
    return made


def items(model: Any, start: int, end: int) -> Iterator[dict[str, Any]]:
    for block in range(start // BLOCK, -(-end // BLOCK)):
        packed = model.encode({"image": rows(BLOCK, block)}).packed
        first = block * BLOCK
        for i in range(max(start, first), min(end, first + BLOCK)):
            yield {"id": f"item-{i:09d}", "code": packed[i - first].tobytes()}


def clocks() -> np.ndarray:
    """Wall time and processor time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grow(path: Path, to: int) -> dict[str, Any]:
    """Measured in a process of its own: add up to `to` items and compact."""
    if not path.exists():
        model = bf.hasher("lsh", n_bits=BITS).fit({"image": rows(1000, 10**6)})
        bf.Collection.create(path, model=model, store_views=False).close()
    start = time.perf_counter()
    with bf.Collection.open(path) as shop:
        before, opened = len(shop), time.perf_counter() - start
        model = shop.encoder.hasher
        start, made = clocks(), np.zeros(2)

        def counted() -> Iterator[dict[str, Any]]:
            source = items(model, before, to)
            while True:
                begin = clocks()
                item = next(source, None)
                made[:] += clocks() - begin
                if item is None:
                    return
                yield item

        added = shop.add(counted(), batch_size=8192).added
        adding = clocks() - start - made
        start = clocks()
        shop.compact()
        compacting = clocks() - start
    return {
        "added": added, "add_s": adding[0], "add_cpu_s": adding[1],
        "add_items_per_s": added / adding[0] if added else None, "compact_s": compacting[0],
        "compact_cpu_s": compacting[1], "opened_before_s": opened,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }  # fmt: skip


def measure(path: Path) -> dict[str, Any]:
    """Measured in a process of its own: open, search one by one, search a batch, count distinct codes."""
    with tempfile.TemporaryDirectory() as place:  # modules, kernels and their compilation are warm after this
        model = bf.load(path / "models" / "1")
        with bf.Collection.create(Path(place) / "tiny", model=model) as tiny:
            tiny.add(items(model, 0, 5000))
            tiny.search(code=model.encode({"image": rows(1, 10**6 + 1)}), k=K)
    queries = model.encode({"image": rows(QUERIES, 10**6 + 2)})
    before, start = resident(), time.perf_counter()
    shop = bf.Collection.open(path)
    opened = time.perf_counter() - start
    shop.search(code=queries[0], k=K)
    first, held = time.perf_counter() - start, resident() - before
    taken = []
    for i in range(QUERIES):
        begin = time.perf_counter()
        shop.search(code=queries[i], k=K)
        taken.append(1000 * (time.perf_counter() - begin))
    index = shop._session.mirror.codes._main
    batches = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        index.search(queries[:BATCH], K)
        batches.append(time.perf_counter() - begin)
    n = len(shop)
    facts = shop.stats()
    return {
        "items": n, "open_s": opened, "open_and_first_search_s": first, "resident_bytes_per_item": held / n,
        "search_ms": {f"p{p}": float(np.percentile(taken, p)) for p in (50, 90, 99)},
        "batch_queries_per_s": BATCH / float(np.median(batches)), "threads": index.threads,
        "distinct_share": facts["distinct_share"], "largest_bucket": facts["largest_bucket"],
        "disk_bytes_per_item": sum(facts["bytes"].values()) / n,
    }  # fmt: skip


def child(*arguments: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", type=Path)
    parser.add_argument("--to", type=int, default=STOPS[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--child", choices=["grow", "measure"])
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(grow(asked.place, asked.to) if asked.child == "grow" else measure(asked.place)))
        return
    if asked.again:
        facts = json.loads(asked.out.read_text())
        found = child("--child", "measure", "--place", asked.place / "scale")
        point = next(point for point in facts["curve"] if point["items"] == found["items"])
        point.update(found)
        print(json.dumps(point, indent=1))
        asked.out.write_text(json.dumps(facts, indent=1) + "\n")
        return
    with tempfile.TemporaryDirectory() as spare:
        path = (asked.place or Path(spare)) / "scale"
        known: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
        curve = [point for point in known.get("curve", []) if point["items"] < asked.to and path.exists()]
        for stop in STOPS:
            if stop > asked.to or stop <= max((point["items"] for point in curve), default=0):
                continue
            built = child("--child", "grow", "--place", path, "--to", stop)
            curve.append({**child("--child", "measure", "--place", path), "build": built})
            print(json.dumps(curve[-1], indent=1), flush=True)
            if asked.out:
                adding = {str(point["items"]): point["build"]["add_s"] for point in curve}
                facts = {
                    **environment(curve[-1]["threads"], adding), "bits": BITS, "k": K, "queries": QUERIES,
                    "batch": BATCH, "curve": curve,
                }  # fmt: skip
                asked.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Writers and readers at once, each a process. Run by `test_crowd.py`.

    python crowd.py DIRECTORY WRITERS READERS SECONDS

Every transaction writes ten items that carry its number, or takes ten away again; all writers also fight over the same
ten ids. A reader that ever sees a part of ten has seen an incomplete batch. Prints one JSON line a process.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import numpy as np

import bitfuse as bf

ROWS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
TEN = 10
LEAST = 3  # turns of each process, however busy the machine is


def write(path: Path, me: int, until: float) -> dict[str, int]:
    rng, done = random.Random(me), 0
    with bf.Collection.open(path) as shop:
        while time.monotonic() < until or done < LEAST:
            number = me * 1_000_000 + done
            rows = [ROWS[rng.randrange(64)] for _ in range(TEN)]
            own = [{"id": f"{number}-{i}", "batch": number, "views": {"image": rows[i]}} for i in range(TEN)]
            shared = [{"id": f"shared-{i}", "batch": number, "views": {"image": rows[i]}} for i in range(TEN)]
            shop.add(own)
            shop.add(shared)
            if done % 3 == 2:
                shop.delete([f"{number}-{i}" for i in range(TEN)])
            if done % 10 == 9:
                shop.compact()
            done += 1
    return {"written": done}


def read(path: Path, me: int, until: float) -> dict[str, int]:
    rng, looks, torn = random.Random(me), 0, 0
    most = 0
    with bf.Collection.open(path) as shop:
        while time.monotonic() < until or looks < LEAST:
            hits = shop.search(views={"image": ROWS[rng.randrange(64)]}, k=None, radius=16)
            by_batch: dict[int, int] = {}
            for hit in hits:
                by_batch[hit.item["batch"]] = by_batch.get(hit.item["batch"], 0) + 1
            torn += any(n % TEN for n in by_batch.values())
            torn += len({hit.item["batch"] for hit in hits if hit.id.startswith("shared")}) > 1
            torn += len(shop) % TEN != 0
            if by_batch:
                torn += shop.count(f"batch = {rng.choice(list(by_batch))}") % TEN != 0
            most = max(most, len(hits))
            looks += 1
    return {"looks": looks, "torn": torn, "most": most}


def main(path: Path, writers: int, readers: int, seconds: float) -> int:
    model = bf.hasher("lsh", n_bits=16).fit({"image": ROWS})
    bf.Collection.create(path, model=model, filterable={"batch": "int"}).close()
    with bf.Collection.create(path.with_name("warm"), model=model) as shop:  # children inherit what is loaded here
        shop.add([{"id": "a", "views": {"image": ROWS[0]}}])
        shop.search(views={"image": ROWS[0]})
    until = time.monotonic() + seconds
    children = []
    for me in range(writers + readers):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                facts = (write if me < writers else read)(path, me, until)
                os.write(1, json.dumps(facts).encode() + b"\n")
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    failed = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    with bf.Collection.open(path) as shop:
        problems = shop.verify()
    print(json.dumps({"failed": failed, "problems": problems}))
    return int(bool(failed or problems))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))

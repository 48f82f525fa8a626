"""Kill a writer at random moments, again and again, and check what it leaves. Run by `test_kills.py`.

    python writer.py DIRECTORY ROUNDS SEED [--told LOG [--synchronous-off]]

With `--told`, ROUNDS steps are written to the collection DIRECTORY and told to LOG, and nothing is killed:
`test_power.py` records it. Otherwise one process imports everything and forks: a child that writes and tells each step
in a log, before ("try") and after it was acknowledged ("done"), and after the kill another child that opens the
collection and compares it with the log.
Prints one JSON line a round; exits 1 at the first round that lost or invented something.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import bitfuse as bf

ROWS = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
LARGEST = 20


def create(path: Path) -> None:
    model = bf.hasher("lsh", n_bits=16).fit({"image": ROWS})
    bf.Collection.create(path, model=model, filterable={"version": "int"}).close()
    with bf.Collection.create(path.with_name("warm"), model=model) as shop:  # children inherit what is loaded here
        shop.add([{"id": "a", "views": {"image": ROWS[0]}}])
        shop.search(views={"image": ROWS[0]})
        shop.verify()


def tell(log: int, what: str, step: dict[str, object]) -> None:
    os.write(log, json.dumps({"what": what, **step}).encode() + b"\n")


def write(path: Path, log_path: Path, seed: int, steps: int = 1000, synchronous: bool = True) -> None:
    """Add, replace, update, delete and compact."""
    rng = random.Random(seed)
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with bf.Collection.open(path) as shop:
        if not synchronous:
            shop._session.store.execute("PRAGMA synchronous = OFF")
        tell(log, "open", {})
        for version in range(seed * 1000, seed * 1000 + steps):
            ids = [f"i{n}" for n in rng.sample(range(200), rng.randint(1, LARGEST))]
            kind = rng.choice(["add", "add", "add", "update", "delete", "compact"])
            step: dict[str, object] = {"kind": kind, "version": version, "ids": ids}
            tell(log, "try", step)
            if kind == "add":
                items = ({"id": i, "version": version, "views": {"image": ROWS[rng.randrange(64)]}} for i in ids)
                shop.add(items, on_commit=lambda names, step=step: tell(log, "done", {**step, "ids": names}))
            elif kind == "update":
                changes = ({"id": i, "version": version, "views": {"image": ROWS[rng.randrange(64)]}} for i in ids)
                shop.update(changes, on_commit=lambda names, step=step: tell(log, "done", {**step, "ids": names}))
            elif kind == "delete":
                shop.delete(ids)
                tell(log, "done", step)
            else:
                shop.compact()


def apply(held: dict[str, int], step: dict) -> dict[str, int]:
    """What the collection holds after a step: id -> version."""
    held = dict(held)
    for name in step["ids"]:
        if step["kind"] == "delete":
            held.pop(name, None)
        elif step["kind"] == "add" or (step["kind"] == "update" and name in held):
            held[name] = step["version"]
    return held


def possible(held: dict[str, int], log_path: Path) -> list[dict[str, int]]:
    """The states that the log allows: all that was acknowledged, and the last step either whole or not at all."""
    steps = []
    for line in log_path.read_bytes().split(b"\n")[:-1]:
        step = json.loads(line)
        if step["what"] == "done":
            held = apply(held, step)
            steps.clear()
        elif step["what"] == "try":
            steps = [step]
    return [held, *(apply(held, step) for step in steps)]


def check(path: Path, states: list[dict[str, int]], result: Path) -> None:
    with bf.Collection.open(path) as shop:
        problems = shop.verify()
        hits = shop.search(views={"image": ROWS[0]}, k=1000)
        held = {hit.id: hit.item["version"] for hit in hits}
        facts = {
            "problems": problems,
            "known": held in states,
            "items": len(held),
            "count": len(shop),
            "by_filter": all(
                shop.count(f"version = {v}") == sum(x == v for x in held.values()) for v in set(held.values())
            ),
            "lost": sorted(set(states[0]) - set(held))[:5],
            "held": held,
        }
    result.write_text(json.dumps(facts))


def forked(work, *arguments) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work(*arguments)
            status = 0
        finally:
            os._exit(status)
    return pid


def main(directory: Path, rounds: int, seed: int) -> int:
    shop, held = directory / "shop", {}
    create(shop)
    rng = random.Random(seed)
    for at in range(rounds):
        log, result = directory / f"log{at}", directory / f"result{at}"
        writer = forked(write, shop, log, seed * rounds + at)
        while not (log.exists() and log.stat().st_size):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        states = possible(held, log)
        _, status = os.waitpid(forked(check, shop, states, result), 0)
        facts = json.loads(result.read_text()) if result.exists() else {"known": False, "problems": ["it did not open"]}
        held = facts.pop("held", {})
        good = status == 0 and facts["known"] and not facts["problems"] and facts["count"] == facts["items"]
        good = good and facts["by_filter"]
        print(json.dumps({"round": at, "good": good, "steps": log.read_bytes().count(b"done"), **facts}), flush=True)
        if not good:
            return 1
    return 0


if __name__ == "__main__":
    directory, rounds, seed, *recorded = sys.argv[1:]
    if recorded:
        write(Path(directory), Path(recorded[1]), int(seed), int(rounds), "--synchronous-off" not in recorded)
        os._exit(0)  # as a power failure leaves it: not closed
    sys.exit(main(Path(directory), int(rounds), int(seed)))

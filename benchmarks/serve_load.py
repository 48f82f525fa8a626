"""How much the service bears: the bars of docs/service.md.

    python benchmarks/serve_load.py --seconds 600

Makes a collection of 100,000 items (pocket CLIP, 64 bits, `itq` with `aligned`, views of rendered scenes varied by
noise), starts `bitfuse serve` in a process of its own, and loads it over loopback from this one. Requests come at
random times of a given rate whether or not earlier ones are answered, and latency counts from the moment at which a
request was due, so that a stalled server is not spared. No query is asked twice (none is in the cache). To every five
searches by words comes one by a picture, and beside them 50 items a second are written, each encoded by the server.

1. the rate is raised until the 99th percentile passes 100 ms (or one request fails);
2. the highest good rate for --seconds, with the memory of the server;
3. twice that rate: how many are refused, how fast; then the good rate again at once;
4. the server is killed under load and started again: time until it is ready, and whether every acknowledged write is
   there.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

import bitfuse as bf
from bitfuse.data.shapes import generate
from bitfuse.pipeline.extract import extract

BASE = "/v1/collections/shop"
WRITES = 50
MIN_TEXT = 50
SCENES = 2000
STEPS = (50, 60, 70, 85, 100, 125, 150, 175, 200, 250, 300, 350, 400)
WORDS = (
    "large",
    "small",
    "striped",
    "dotted",
    "plain",
    "red",
    "blue",
    "lime",
    "teal",
    "star",
    "ring",
    "cross",
    "arrow",
)


def make(path: Path, n: int) -> list[bytes]:
    """The collection, if it is not there; pictures to ask with."""
    world, backbone = generate(SCENES), bf.backbone("pocket", light=True)
    pictures = [bytes(world.images[i]) for i in range(200)]
    if path.exists():
        return pictures
    samples, _ = extract(world, backbone, cache=True)
    model = bf.hasher("itq", n_bits=64, aligned=True).fit(samples.views, sources=samples.sources)
    rng = np.random.default_rng(0)

    def items():
        for i in range(n):
            at = i % SCENES
            views = {k: v[at] + rng.normal(0, 0.1 * v[at].std(), v.shape[1]) for k, v in samples.views.items()}
            yield {
                "id": f"item-{i}",
                "text": samples.texts[at],
                "price": i % 1000 / 10,
                "kind": f"k{i % 20}",
                "views": views,
            }

    with bf.Collection.create(
        path, model=model, backbone=backbone, filterable={"price": "float", "kind": "str"}
    ) as shop:
        shop.add(items())
        shop.compact()
    return pictures


class Server:
    """`bitfuse serve` in a process of its own."""

    def __init__(self, path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.path = path
        self.start()

    def start(self) -> float:
        """Start it; seconds until it is ready."""
        start = time.perf_counter()
        command = [sys.executable, "-m", "bitfuse", "serve", f"shop={self.path}", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/health/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return time.perf_counter() - start
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("the server ended") from None
            time.sleep(0.01)

    def resident(self) -> int:
        """Bytes in memory, with the process that encodes."""
        server = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in (server, *server.children()))


class Load:
    """Requests at a given rate over kept connections."""

    def __init__(self, port: int, pictures: list[bytes], seed: int) -> None:
        self.port, self.pictures, self.rng = port, pictures, random.Random(seed)
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.taken: dict[str, list[float]] = {"text": [], "image": [], "write": []}
        self.refusals: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.acknowledged: dict[str, str] = {}
        self.number = seed * 10_000_000

    def request(self, kind: str) -> tuple[bytes, str, str]:
        """One request: what is sent, and for a write the id and the text."""
        self.number += 1
        words = f"a {' '.join(self.rng.choices(WORDS, k=4))} {self.number}"
        if kind == "write":
            name = f"w{self.rng.randrange(20_000)}"
            return self.http("PUT", f"{BASE}/items/{name}", {"text": words, "attributes": {"price": 5}}), name, words
        if kind == "text":
            return self.http("POST", f"{BASE}/search", {"text": words, "k": 20}), "", ""
        picture = bytearray(self.rng.choice(self.pictures))
        # a PNG may carry bytes behind its end: another content, the same pixels to decode and encode
        content = base64.b64encode(bytes(picture) + self.number.to_bytes(8, "big")).decode()
        return self.http("POST", f"{BASE}/search", {"image": content, "k": 20}), "", ""

    def http(self, method: str, path: str, body: dict[str, object]) -> bytes:
        """A request as it goes over the wire."""
        content = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content

    async def one(self, kind: str, due: float) -> None:
        """Send one request that was due at a moment, and note its answer."""
        sent, name, words = self.request(kind)
        while self.idle and self.idle[-1][0].at_eof():  # the server ends connections that nobody uses for ten seconds
            self.idle.pop()[1].close()
        connection = self.idle.pop() if self.idle else None
        try:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = connection
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.statuses[type(error).__name__] += 1
            return
        status = head.split(b" ", 2)[1].decode()
        took = 1000 * (time.perf_counter() - due)
        self.statuses[status] += 1
        self.idle.append(connection)
        if status == "200":
            self.taken[kind].append(took)
            if kind == "write":
                self.acknowledged[name] = words
        else:
            self.refusals.append(took)

    async def run(self, text: float, seconds: float) -> dict[str, object]:
        """Load for some seconds: so many searches by words a second, a fifth by picture, 50 writes."""
        for kept in (*self.taken.values(), self.refusals):
            kept.clear()
        self.statuses.clear()
        start = time.perf_counter()
        arrivals = []
        for kind, rate in (("text", text), ("image", text / 5), ("write", WRITES)):
            at = self.rng.expovariate(rate)
            while at < seconds:
                arrivals.append((at, kind))
                at += self.rng.expovariate(rate)
        tasks = set()
        for at, kind in sorted(arrivals):
            wait = start + at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(self.one(kind, start + at))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks)
        for _, writer in self.idle:
            writer.close()
        self.idle.clear()
        return self.said(text, seconds)

    def said(self, text: float, seconds: float) -> dict[str, object]:
        """What the last run measured."""
        searches = self.taken["text"] + self.taken["image"]
        return {
            "text_per_s": text,
            "image_per_s": text / 5,
            "writes_per_s": WRITES,
            "seconds": seconds,
            "statuses": dict(self.statuses),
            "search_p50_ms": percentile(searches, 50),
            "search_p99_ms": percentile(searches, 99),
            "image_p99_ms": percentile(self.taken["image"], 99),
            "write_p99_ms": percentile(self.taken["write"], 99),
            "refusal_p99_ms": percentile(self.refusals, 99),
        }


def percentile(values: list[float], which: float) -> float | None:
    return round(float(np.percentile(values, which)), 1) if values else None


def good(said: dict[str, object], bar: float) -> bool:
    return set(said["statuses"]) == {"200"} and said["search_p99_ms"] < bar


def lost(server: Server, acknowledged: dict[str, str]) -> int:
    """How many acknowledged writes are not there; a later one of the same id counts in their place.

    All are looked up in the files, and 500 of them asked of the server too.
    """

    def number(text: str) -> int:
        return int(text.rpartition(" ")[2])

    with bf.Collection.open(server.path) as shop:
        found = {name: shop.get(name) for name in acknowledged}
    missing = {
        name for name, item in found.items() if item is None or number(item["text"]) < number(acknowledged[name])
    }
    for name in random.Random(0).sample(sorted(acknowledged), min(500, len(acknowledged))):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{BASE}/items/{name}", timeout=5) as answer:
                if number(json.load(answer)["text"]) < number(acknowledged[name]):
                    missing.add(name)
        except OSError:
            missing.add(name)
    return len(missing)


async def with_memory(load: Load, server: Server, text: float, seconds: float) -> dict[str, object]:
    sizes: list[int] = []

    async def watch() -> None:
        while True:
            sizes.append(server.resident())
            await asyncio.sleep(min(5.0, seconds / 20))

    watcher = asyncio.create_task(watch())
    said = await load.run(text, seconds)
    watcher.cancel()
    quarter = max(1, len(sizes) // 4)
    said["resident_mib"] = {
        "first quarter": round(float(np.mean(sizes[:quarter])) / 2**20, 1),
        "last quarter": round(float(np.mean(sizes[-quarter:])) / 2**20, 1),
        "most": round(max(sizes) / 2**20, 1),
    }
    return said


async def story(
    server: Server, pictures: list[bytes], seconds: float, probe: float, bar: float, steps: list[float]
) -> dict[str, object]:
    load = Load(server.port, pictures, seed=1)
    await load.run(20, 3)  # what is compiled or read at first use
    facts: dict[str, object] = {"probes": [], "written": 0}
    rate = 0.0
    for step in steps:
        said = await load.run(step, probe)
        print(said, flush=True)
        facts["probes"].append(said)
        if not good(said, bar):
            break
        rate = step
    rate = rate or steps[0]
    while True:  # what a short probe bears need not be borne for long: one step down if so
        facts["steady"] = await with_memory(load, server, rate, seconds)
        print("steady", facts["steady"], flush=True)
        if good(facts["steady"], bar) or rate <= steps[0]:
            break
        rate = steps[steps.index(rate) - 1]
    facts["held"] = good(facts["steady"], bar)
    facts["twice"] = await load.run(2 * rate, max(10.0, probe))
    print("twice", facts["twice"], flush=True)
    facts["after"] = await load.run(rate, probe)
    print("after", facts["after"], flush=True)
    facts["lost"], facts["written"] = lost(server, load.acknowledged), len(load.acknowledged)
    killer = asyncio.get_running_loop().call_later(probe / 2, server.process.send_signal, signal.SIGKILL)
    await load.run(rate, probe)
    killer.cancel()
    server.process.wait()
    facts["ready_after_kill_s"] = round(server.start(), 2)
    facts["lost_by_kill"] = lost(server, load.acknowledged)
    facts["written_before_kill"] = len(load.acknowledged)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600, help="of the steady load")
    parser.add_argument("--probe", type=float, default=10, help="seconds of each step")
    parser.add_argument("--bar", type=float, default=100, help="99th percentile in ms; raise it on a busy machine")
    parser.add_argument("--rates", type=float, nargs="+", default=list(STEPS), help="searches by words a second to try")
    parser.add_argument("--shop", type=Path, help="the collection, made if it is not there; a copy of it is served")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve_load.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        made = given.shop or Path(place) / "made"
        pictures = make(made, given.items)
        shutil.copytree(made, Path(place) / "shop")
        server = Server(Path(place) / "shop")
        try:
            facts = asyncio.run(story(server, pictures, given.seconds, given.probe, given.bar, given.rates))
        finally:
            server.process.kill()
            server.process.wait()
    facts["bar"] = f"p99 < {given.bar:g} ms at {MIN_TEXT} texts + {MIN_TEXT / 5:g} pictures + {WRITES} writes a second"
    facts["machine"] = {"processor": platform.processor() or platform.machine(), "cores": len(os.sched_getaffinity(0))}
    facts["versions"] = {"python": platform.python_version(), "bitfuse": bf.__version__, "items": given.items}
    given.out.write_text(json.dumps(facts, indent=1) + "\n")
    print({k: v for k, v in facts.items() if k != "probes"})


if __name__ == "__main__":
    main()

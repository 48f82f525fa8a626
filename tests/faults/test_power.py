"""Power loss: what was not synced is dropped or reordered, and nothing that was acknowledged is lost.

A killed process leaves its writes in the page cache, so a kill says nothing about syncing. Here every write and sync of
a writer is recorded (`record.c`); then the disk is put together as it may be found after the power failed at some
moment: whatever was synced by then, and of the rest an arbitrary part, in any order. The recording is turned into files
in this process, so hundreds of failures cost one run of the writer.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.faults import writer

import bitfuse as bf
from bitfuse.errors import BitfuseError

HERE = Path(__file__).parent
PAGE = 4096

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


@dataclass
class File:
    """A file as the disk holds it, and what the disk has been told since its last sync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: truncate to the offset

    def after(self, rng: random.Random) -> bytes:
        """What may be found after a power failure."""
        content = bytearray(self.durable)
        pages = []
        for offset, data in self.pending:
            if data is None:
                pages.append((offset, None))
            else:
                pages += [(offset + i, data[i : i + PAGE]) for i in range(0, len(data), PAGE)]
        kept = [page for page in pages if rng.random() < rng.choice([0.0, 0.5, 0.9])]
        if rng.random() < 0.5:
            rng.shuffle(kept)
        for page in kept:
            apply(content, *page)
        return bytes(content)


def apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def records(log: Path):
    data, at = log.read_bytes(), 0
    while at + 21 <= len(data):
        what, named, offset, length = struct.unpack_from("<cIQQ", data, at)
        at += 21
        path, body = data[at : at + named].decode(), data[at + named : at + named + length]
        at += named + length
        yield what.decode(), path, offset, body


class Disk:
    """A directory `shop` on a disk, which began as `start` holds it."""

    def __init__(self, shop: Path, start: Path) -> None:
        self.shop = str(shop)
        self.files = {str(shop / p.name): File(bytearray(p.read_bytes())) for p in start.iterdir() if p.is_file()}
        self.renamed: dict[str, File | None] = {}  # new name -> what had it, until the directory is synced
        self.told = b""  # the writer's own log: what it reported to the world

    def take(self, what: str, path: str, offset: int, body: bytes) -> None:
        if path.endswith("/told"):
            self.told += body
        elif what in "wt":
            self.files.setdefault(path, File()).pending.append((offset, body if what == "w" else None))
        elif what == "s" and path == self.shop:
            self.renamed.clear()
        elif what == "s":
            file = self.files[path]
            for page in file.pending:
                apply(file.durable, *page)
            file.pending.clear()
        elif what == "r":
            new = body.decode()
            self.renamed.setdefault(new, self.files.get(new))
            self.files[new] = self.files.pop(path)
        elif what == "u":
            self.files.pop(path, None)

    def lay_out(self, start: Path, target: Path, rng: random.Random) -> None:
        target.mkdir()
        shutil.copytree(start / "models", target / "models")
        for path, file in self.files.items():
            found: File | None = file
            if path in self.renamed and rng.random() < 0.5:
                found = self.renamed[path]
            if found is not None:
                (target / Path(path).name).write_bytes(found.after(rng))


def recorded(tmp_path: Path, steps: int, synchronous: bool) -> tuple[Path, list]:
    """Run a writer under the recorder; the collection as it was before, and the records."""
    library = tmp_path / "record.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "record.c", "-ldl"], check=True)
    shop, start, log = tmp_path / "shop", tmp_path / "start", tmp_path / "log"
    writer.create(shop)
    shutil.copytree(shop, start)
    environment = {**os.environ, "LD_PRELOAD": str(library), "RECORD_DIR": str(shop), "RECORD_LOG": str(log)}
    command = [sys.executable, HERE / "writer.py", shop, str(steps), "7", "--told", shop / "told"]
    command += [] if synchronous else ["--synchronous-off"]
    subprocess.run(command, env=environment, check=True, timeout=250)
    return start, list(records(log))


def survives(start: Path, everything: list, at: int, place: Path, rng: random.Random) -> str | None:
    """Whether the collection is whole after a failure at a record; what is wrong, or None."""
    disk = Disk(start.with_name("shop"), start)
    for one in everything[:at]:
        disk.take(*one)
    shutil.rmtree(place, ignore_errors=True)
    disk.lay_out(start, place, rng)
    (place / "told").write_bytes(disk.told)
    states = writer.possible({}, place / "told")
    try:
        with bf.Collection.open(place) as shop:
            problems = shop.verify()
            held = {hit.id: hit.item["version"] for hit in shop.search(views={"image": writer.ROWS[0]}, k=1000)}
    except BitfuseError as error:
        return str(error)
    if problems:
        return "; ".join(problems)
    return None if held in states else f"{len(held)} items, none of the states that were acknowledged"


def failures(tmp_path: Path, steps: int, points: int, synchronous: bool = True) -> list[str]:
    start, everything = recorded(tmp_path, steps, synchronous)
    rng = random.Random(5)
    syncs = sum(what == "s" for what, *_ in everything)
    assert (syncs > steps) == synchronous, "the recorder saw what the writer did"
    found = []
    for point in range(points):
        at = len(everything) if point == 0 else rng.randrange(1, len(everything))
        wrong = survives(start, everything, at, tmp_path / "after", rng)
        if wrong is not None:
            found.append(f"failure after record {at} of {len(everything)}: {wrong}")
    return found


def test_30_power_failures(tmp_path):
    assert failures(tmp_path, steps=25, points=30) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_200_power_failures(tmp_path):
    assert failures(tmp_path, steps=120, points=200) == []


def test_without_syncing_the_same_test_fails(tmp_path):
    """The control: `synchronous=OFF` is noticed, so the simulation can tell."""
    assert failures(tmp_path, steps=25, points=30, synchronous=False) != []

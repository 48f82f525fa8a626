"""The approximate tier of a collection: codes parted into lists of near ones, kept on disk, its recall measured.

The file is a cache, like the code file: written whole beside its place, checked when it is read. What was added or
changed after it was written is searched exactly beside it; what was deleted is left out.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import DamagedFile, InputError
from bitfuse.index.faiss import InvertedLists, check_counts
from bitfuse.search.paths import written
from bitfuse.search.resident import Allowed, Mask, Resident, Slots, merged
from bitfuse.search.session import Session
from bitfuse.search.stores.codefile import sync_directory

FILE = "approximate.faiss"
MAGIC = b"BITFIVF\x01"
FORMAT = 2
_QUERIES = 200
_K = 10

Near = tuple[NDArray[np.int32], Slots]


@dataclass(frozen=True)
class Tier:
    """What the file holds: the lists, whose ids are insertion row numbers, and what they were made of."""

    lists: InvertedLists
    facts: dict[str, Any]


class Since(NamedTuple):
    """What became of the items since the tier was made, as of one change of the collection.

    Attributes:
        tier: that one.
        codes: in memory, whose slots these are: they are counted anew when a collection is compacted.
        seq: that change.
        trusted: (slots,) whose place in the lists still holds.
        changed: what is to be searched exactly beside them; None where nothing is.
    """

    tier: Tier
    codes: Resident
    seq: int
    trusted: Mask
    changed: Allowed | None


def build(session: Session, lists: int | None, probes: int | None) -> dict[str, Any]:
    """See `Collection.build_approximate`."""
    check_counts(lists, probes)
    with session.reading():
        meta, codes = session.mirror.meta, session.mirror.codes
        slots = np.flatnonzero(codes.alive)
        if not len(slots):
            raise InputError("this collection is empty; add items before their codes are parted into lists")
        rows, packed = codes.rows[slots], codes.packed(slots)
        made = InvertedLists.of(packed, rows, lists, probes)
        measured = _measure(session, made, packed)
        facts = {
            "format": FORMAT, "uuid": meta["uuid"], "model": meta["model"], "n_bits": meta["n_bits"],
            "seq": meta["seq"], "items": len(rows), "lists": made.lists, "probes": made.probes, **measured,
        }  # fmt: skip
    body = made.to_bytes()
    facts["crc32"] = zlib.crc32(body.data)
    _write(session.directory / FILE, {**facts, "header_crc32": _sum_of(facts)}, body)
    return figures(session) or {}


def _measure(session: Session, made: InvertedLists, packed: NDArray[np.uint8]) -> dict[str, Any]:
    """How many of the ten nearest items it finds, and how much sooner, with items as queries."""
    at = np.linspace(0, len(packed) - 1, min(_QUERIES, len(packed))).astype(np.int64)
    n_bits = session.mirror.meta["n_bits"]
    queries = Codes(packed[at], n_bits)
    for _ in range(2):  # the first time may compile
        start = time.perf_counter()
        exact = session.mirror.codes.search_many(queries, _K, None, None)
        middle = time.perf_counter()
        found = list(made.search(queries.packed, _K, n_bits + 1))
        end = time.perf_counter()
    reached = [float((near <= best[-1]).sum()) / len(best) for (best, _), (near, _) in zip(exact, found)]
    return {
        "recall_at_10": round(float(np.mean(reached)), 4),
        "times_faster": round((middle - start) / (end - middle), 2),
    }


def _write(path: Path, facts: dict[str, Any], body: NDArray[np.uint8]) -> None:
    header = json.dumps(facts).encode()
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with written(path):
        try:
            with open(partial, "wb") as file:
                file.write(MAGIC + len(header).to_bytes(8, "little") + header)
                file.write(body.data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def _sum_of(facts: dict[str, Any]) -> int:
    """The checksum of what the header says."""
    said = {k: v for k, v in facts.items() if k != "header_crc32"}
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The facts and where the lists begin.

    Raises:
        DamagedFile: truncated, changed, or something else.
        InputError: written by another version.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(16)
            length = int.from_bytes(start[8:], "little")
            if start[:8] != MAGIC or length > path.stat().st_size:
                raise ValueError("it does not begin as such a file does")
            facts: dict[str, Any] = json.loads(file.read(length))
        if facts["format"] != FORMAT:
            raise InputError("the approximate tier was made by another version; build it anew")
        if _sum_of(facts) != facts["header_crc32"]:
            raise ValueError("its header changed since it was written")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({error}); delete it and build the approximate tier anew") from error
    return facts, 16 + length


def _lists(path: Path, facts: dict[str, Any], start: int) -> NDArray[np.uint8]:
    body = np.fromfile(path, np.uint8, offset=start)
    if zlib.crc32(body.data) != facts["crc32"]:
        raise DamagedFile(f"{path} changed since it was written; delete it and build the approximate tier anew")
    return body


def check(session: Session) -> None:
    """Raise `DamagedFile` if there is a tier and it is damaged."""
    path = session.directory / FILE
    if path.exists():
        with suppress(InputError):  # of another version: not damaged, only of no use
            _lists(path, *_header(path))


def figures(session: Session) -> dict[str, Any] | None:
    """What was measured when the tier was built, and how many items changed since; None where there is none."""
    path = session.directory / FILE
    if not path.exists():
        return None
    facts, _ = _header(path)
    with session.reading():
        usable = all(facts[k] == session.mirror.meta[k] for k in ("uuid", "model", "n_bits"))
        changed = session.store.value("SELECT count(*) FROM items WHERE seq > ?", (facts["seq"],))
    shown = ("items", "lists", "probes", "recall_at_10", "times_faster")
    size = {"bytes": path.stat().st_size, "changed_since": changed}
    return {**{k: facts[k] for k in shown}, **size} if usable else {"outdated": "made with another model; build anew"}


def _load(session: Session) -> Tier:
    """The tier on disk, inside a transaction; read again when the file was replaced."""
    path, meta = session.directory / FILE, session.mirror.meta
    if not path.exists():
        raise InputError("this collection has no approximate tier; build it with `bitfuse approximate` first")
    status = path.stat()
    stamp = (status.st_ino, status.st_mtime_ns, status.st_size, meta["model"])
    if session.tier is None or session.tier[0] != stamp:
        facts, start = _header(path)
        if any(facts[k] != meta[k] for k in ("uuid", "model", "n_bits")):
            raise InputError("the approximate tier was made with another model; build it anew")
        lists = InvertedLists.from_bytes(_lists(path, facts, start), facts["probes"])
        session.tier = stamp, Tier(lists, facts)
    return session.tier[1]


def search(session: Session, queries: Codes, k: int | None, radius: int | None) -> list[Near]:
    """The nearest slots of each query that the lists give, and those changed since exactly; inside a transaction."""
    tier, codes = _load(session), session.mirror.codes
    since = _since(session, tier)
    trusted, changed = since.trusted, since.changed
    bound = codes.n_bits + 1 if radius is None else radius + 1
    asked = k
    while True:
        found = [_trusted(session, *part, trusted) for part in tier.lists.search(queries.packed, asked, bound)]
        if k is None or asked is None or asked >= tier.facts["items"]:
            break
        if all(len(slots) >= k or whole < asked for _, slots, whole in found):
            break
        asked *= 4  # deleted and changed items took the places of others
    answers = [(distances[:k], slots[:k]) for distances, slots, _ in found]
    if changed is not None:
        exact = codes.search_many(queries, k, radius, changed)
        answers = [merged([one, other], k) for one, other in zip(answers, exact)]
    return answers


def _since(session: Session, tier: Tier) -> Since:
    """What changed since the tier was made, kept until the next change."""
    seq, codes, since = session.mirror.meta["seq"], session.mirror.codes, session.tier_since
    if since is None or since.tier is not tier or since.codes is not codes or since.seq != seq:
        newer = session.store.fetch("SELECT row FROM items WHERE seq > ?", (tier.facts["seq"],))
        changed = np.zeros(codes.n_slots, bool)
        changed[codes.slots_of(np.array([row for (row,) in newer], np.int64))] = True
        allowed = codes.allowed(changed) if newer else None
        since = session.tier_since = Since(tier, codes, seq, codes.alive & ~changed, allowed)
    return since


def _trusted(
    session: Session, distances: NDArray[np.int32], rows: NDArray[np.int64], trusted: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], Slots, int]:
    """The answers that still hold, and how many there were."""
    codes = session.mirror.codes
    at = np.searchsorted(codes.rows, rows)
    here = at < codes.n_slots
    here[here] = (codes.rows[at[here]] == rows[here]) & trusted[at[here]]
    return distances[here], at[here], len(rows)

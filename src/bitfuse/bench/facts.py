"""The facts that belong beside a score: what the codes look like, what the data is like, and where it was computed."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bitfuse.bench.answers import Answer
from bitfuse.bench.protocol import OPEN_LABELS, Protocol
from bitfuse.codes import Codes
from bitfuse.data.base import Dataset, Samples
from bitfuse.hashers.base import Hasher

_EASY = 0.4  # mAP of a constant code from which a table says little
_COLLAPSED = 0.5  # share of the gallery in one bucket, or of the bits that are dead
_PACKAGES = ("bitfuse", "numpy", "scipy", "numba", "torch")


def diagnose(codes: Codes) -> dict[str, float]:
    """What codes look like.

    Returns:
        `distinct`: distinct codes as a share of the rows; `largest_bucket`: share of the rows that have the most
        frequent code; `dead_bits`: bits that never change; `equal_bits`: bits that repeat an earlier bit or its
        complement, dead ones aside.
    """
    _, counts = np.unique(codes.packed, axis=0, return_counts=True)
    bits = codes.bits()
    dead = (bits == bits[:1]).all(axis=0)
    alive = np.packbits((bits ^ bits[:1])[:, ~dead], axis=0)  # complements become equal
    equal = alive.shape[1] - np.unique(alive, axis=1).shape[1]
    return {
        "distinct": len(counts) / len(codes),
        "largest_bucket": float(counts.max()) / len(codes),
        "dead_bits": int(dead.sum()),
        "equal_bits": equal,
    }


def remarks(
    dataset: Dataset,
    protocol: Protocol,
    views: tuple[str, ...],
    first: Answer,
    floors: dict[str, float],
    diagnostics: dict[str, float],
) -> list[str]:
    """What a reader must know before believing the numbers, one sentence each."""
    found = []
    rows = {_key(dataset.query, views, i) for i in range(len(dataset.query))}
    for name, part in (("the gallery", dataset.gallery), ("training", dataset.train)):
        same = len(rows & {_key(part, views, i) for i in range(len(part))})
        if same:
            found.append(
                f"{same} queries have exactly the features of a row in {name} under another id; "
                "drop the copies, or the score measures memory"
            )
    if protocol.train_in_gallery not in ("either", dataset.train_in_gallery):
        found.append(
            f"protocol {protocol.name!r} wants {protocol.train_in_gallery} of the training rows in the gallery, "
            f"this data set has {dataset.train_in_gallery} there; the figure is not comparable with that protocol's"
        )
    found += _other_labels(dataset, protocol) if floors else []
    useless = diagnostics["dead_bits"] + diagnostics["equal_bits"]
    if diagnostics["largest_bucket"] >= _COLLAPSED or useless >= _COLLAPSED * _bits(first):
        found.append(
            f"the codes collapse: {diagnostics['distinct']:.1%} of them are distinct, the most frequent one covers "
            f"{diagnostics['largest_bucket']:.0%} of the gallery, {diagnostics['dead_bits']} bits are dead, "
            f"{diagnostics['equal_bits']} repeat another"
        )
    if protocol.k is not None and (tied := first.scores.ties_at(protocol.k)) > protocol.k:
        low, high = first.scores.map_bounds
        found.append(
            f"at rank {protocol.k} stand {tied:.0f} items at the same distance, so their order decides: "
            f"{protocol.metric} lies between {low:.3f} and {high:.3f}; use more bits, or judge the whole ranking"
        )
    if floors.get("constant", 0) >= _EASY:
        found.append(
            f"one constant code reaches {protocol.metric} {floors['constant']:.3f} here, because "
            f"{first.scores.relevant_share:.0%} of the pairs are relevant; judge a method by its distance from that"
        )
    judged = (("queries", dataset.query, first.queries), ("gallery rows", dataset.gallery, first.gallery))
    for name, part, n in judged:
        if n < len(part):
            found.append(f"{len(part) - n} of {len(part)} {name} lack a view that the method needs and are left out")
    if floors and first.scores.n_empty:
        found.append(
            f"{first.scores.n_empty} of {first.queries} queries have no relevant item in the gallery; "
            f"they {'are left out' if protocol.empty == 'omit' else 'count as 0'}"
        )
    return found


def _other_labels(dataset: Dataset, protocol: Protocol) -> list[str]:
    named = dataset.notes.get("label variant")
    if protocol.label_variant == OPEN_LABELS or (named is not None and str(named) in protocol.label_variant):
        return []
    given = f"has {named}" if named else "does not name its own"
    return [
        f"protocol {protocol.name!r} is about {protocol.label_variant}, this data set {given}; "
        "the figure is not comparable with that protocol's"
    ]


def environment(threads: int, seconds: dict[str, float]) -> dict[str, Any]:
    """Versions, processor, threads and time."""
    return {
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads,
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
    }


def processor() -> str:
    """The model name of the processor, as far as the system tells it."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def name_of(hasher: Hasher) -> str:
    """The method's class, with the parameters that differ from their defaults."""
    changed = [
        f"{f.name}={getattr(hasher, f.name)!r}"
        for f in dataclasses.fields(hasher)
        if f.init and f.name not in ("n_bits", "seed") and getattr(hasher, f.name) != f.default
    ]
    return type(hasher).__name__ + (f"({', '.join(changed)})" if changed else "")


def _bits(answer: Answer) -> int:
    return int(answer.scores.counts.n.shape[1]) - 1


def _key(samples: Samples, views: tuple[str, ...], row: int) -> bytes:
    return b"".join(samples.views[name][row].tobytes() for name in views)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""Shards of codes, one after the other: what a process on one machine does, and every actor of a cluster."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.hashers import _persist
from bitfuse.pipeline.coding import item_codes, lacking, recorded_backbone
from bitfuse.pipeline.disk import write_whole
from bitfuse.pipeline.flow import stream
from bitfuse.pipeline.places import Place
from bitfuse.pipeline.sources import Row, Survey, rows


@dataclass(frozen=True)
class Plan:
    """All that one needs to know to make any of the shards.

    Attributes:
        survey: of the sources.
        out, model: directories.
        backbone: name; None is the one that the model records.
        device: where to compute.
        views: whether features are kept, as float16.
        batch_size: rows at a time; None leaves it to the backbone.
        key: stands for all that the content of the shards depends on.
    """

    survey: Survey
    out: str
    model: str
    backbone: str | None
    device: str
    views: bool
    batch_size: int | None
    key: str


class Record(TypedDict):
    """A finished shard: its number, file, input rows [first, after the last], how many are coded and skipped, check."""

    shard: int
    file: str
    rows: list[int]
    coded: int
    skipped: int
    bytes: int
    sha256: str


Skipped = list[tuple[int, str, str]]


class Coder:
    """Holds the model and the backbone, and makes shards.

    Args:
        plan: what to make.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.hasher = _persist.load(plan.model)
        self.backbone = recorded_backbone(self.hasher.sources, plan.backbone, device=plan.device)
        self.widths = self.hasher.widths
        self.views: list[str] = [
            view for view in ("image", "text") if view in self.widths and view in self.backbone.views
        ]
        if not self.views:
            raise InputError(f"the model has the views {list(self.widths)}; shards are made of images and texts")

    def code(self, shards: Iterable[int]) -> Iterator[Record]:
        """Make shards, in order, and give the record of each once it is safe on disk."""
        survey = self.plan.survey
        wanted = list(shards)
        waiting: deque[Row] = deque()

        def items() -> Iterator[Mapping[str, Any]]:
            for shard in wanted:
                for row in rows(survey, shard):
                    waiting.append(row)
                    yield {} if row.reason else {"image": row.image, "text": row.text}

        ahead = stream(items(), self.backbone, self.views, batch_size=self.plan.batch_size, every=survey.shard_rows)
        for shard in wanted:
            begin, end = survey.span(shard)
            held: list[Row] = []
            views = {view: np.full((end - begin, self.widths[view]), np.nan, np.float32) for view in self.views}
            reasons: dict[int, list[str]] = {}
            while len(held) < end - begin:
                part = next(ahead)
                n = len(part.views[self.views[0]])
                base = part.start - len(held)
                for view, found in part.views.items():
                    views[view][len(held) : len(held) + n] = found
                for row, view, reason in part.failures:
                    reasons.setdefault(row - base, []).append(f"{view}: {reason}")
                held += [waiting.popleft() for _ in range(n)]
            yield self._write(shard, held, views, reasons)
        for _ in ahead:
            raise AssertionError("rows were left over")

    def _write(
        self, shard: int, held: list[Row], views: dict[str, NDArray[np.float32]], reasons: Mapping[int, list[str]]
    ) -> Record:
        kept, skipped = self._usable(held, views, reasons)
        data = _parquet(self.plan, self.hasher.n_bits, shard, *self._columns(held, views, kept), skipped)
        path = Path(self.plan.out) / shard_name(shard)
        # a name of its own: after a lost node, two actors may for a while be at the same shard
        write_whole(path, data, writer=f".{os.uname().nodename}.{os.getpid()}")
        return {
            "shard": shard, "file": path.name, "rows": list(self.plan.survey.span(shard)), "coded": len(kept),
            "skipped": len(skipped), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip

    def _usable(
        self, held: list[Row], views: Mapping[str, NDArray[np.float32]], reasons: Mapping[int, list[str]]
    ) -> tuple[list[int], Skipped]:
        """The rows that can have a code, and (row, id, reason) of those with an input that could not be used."""
        present = {view: np.asarray(~np.isnan(x).all(axis=1)) for view, x in views.items()}
        kept: list[int] = []
        skipped: Skipped = []
        for i, row in enumerate(held):
            here = [view for view in present if present[view][i]]
            said = [row.reason] if row.reason else list(reasons.get(i, ()))
            lacks = None if row.reason else lacking(self.hasher, here) if here else " or ".join(self.views)
            usable = not row.reason and bool(here) and lacks is None
            if lacks is not None and not said:
                said.append(f"it has no {lacks} view")
            if usable:
                kept.append(i)
            if said:
                left = "kept with its other views" if usable else "left out"
                skipped.append((row.number, row.id, f"{'; '.join(said)} ({left})"))
        return kept, skipped

    def _columns(
        self, held: list[Row], views: Mapping[str, NDArray[np.float32]], kept: list[int]
    ) -> tuple[list[Row], NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        chosen = {view: x[kept] for view, x in views.items()}
        chosen = {view: x for view, x in chosen.items() if not np.isnan(x).all()}
        width = -(-self.hasher.n_bits // 8)
        packed = item_codes(self.hasher, chosen, device=self.plan.device).packed if kept else np.empty((0, width), "u1")
        return [held[i] for i in kept], packed, {view: views[view][kept] for view in self.views}


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:06d}.parquet"


def read_footer(file: Path) -> dict[str, Any] | None:
    """What a shard says of itself: plan, number, rows, coded, skipped; None where the file is no whole shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(file).metadata or {}
        footer: dict[str, Any] = json.loads(metadata[b"bitfuse"])
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None
    return footer


def _parquet(
    plan: Plan, n_bits: int, shard: int, kept: list[Row], packed: NDArray[np.uint8],
    views: Mapping[str, NDArray[np.float32]], skipped: Skipped,
) -> bytes:  # fmt: skip
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
    kinds = plan.survey.attributes
    fields = [("row", pa.int64()), ("id", pa.string()), ("text", pa.string()), ("image", pa.string())]
    fields += [(name, arrow[kind]) for name, kind in kinds.items()]
    fields += [("code", pa.binary(packed.shape[1]))]
    columns: list[Any] = [[row.number for row in kept], [row.id for row in kept], [row.text for row in kept]]
    columns += [[_address(row.image) for row in kept]]
    columns += [[row.attributes[name] for row in kept] for name in kinds]
    columns += [[code.tobytes() for code in packed]]
    if plan.views:
        # lists of no fixed length: older versions of Arrow cannot write those of a fixed one where some are null
        fields += [(f"view_{name}", pa.list_(pa.float16())) for name in views]
        columns += [_halves(x) for x in views.values()]
    facts = {
        "format": 1, "kind": "shard", "plan": plan.key, "shard": shard, "rows": plan.survey.span(shard),
        "n_bits": n_bits, "coded": len(kept), "skipped": skipped,
    }  # fmt: skip
    schema = pa.schema(fields, metadata={"bitfuse": json.dumps(facts)})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink)
    return bytes(sink.getvalue())


def _halves(x: NDArray[np.float32]) -> list[NDArray[np.float16] | None]:
    with np.errstate(over="ignore"):
        halves = x.astype(np.float16)
    if np.isinf(halves).any():
        raise InputError("features beyond 65,504 do not fit float16; encode without --views")
    return [None if np.isnan(row[0]) else row for row in halves]


def _address(image: Any) -> str | None:
    """Where a picture lies, for those that lie somewhere of their own."""
    if isinstance(image, Place):
        return image.path
    return os.path.abspath(image) if isinstance(image, Path) else None

"""Codes of any number of items as shards: Parquet files and a manifest, made as a stream and resumed after any end.

A directory of shards holds `manifest.json`, `model/` (a copy of the model), `shard-000000.parquet` onwards and, once
all is done, `skipped.jsonl`. A shard is a fixed range of input rows. It appears whole or not at all, and says in its
footer what it was made of, so a run that was killed goes on with the shards that are not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitfuse.errors import DamagedFile, InputError, MissingDependency, UnknownFormat, UnknownName
from bitfuse.hashers import _persist
from bitfuse.pipeline.coder import Coder, Plan, Record, read_footer, shard_name
from bitfuse.pipeline.coding import model_digest, recorded_backbone
from bitfuse.pipeline.disk import sha256_of, write_whole
from bitfuse.pipeline.sources import Roles, Survey, survey

FORMAT = 1
SHARD_ROWS = 8192
MANIFEST, SKIPPED, MODEL = "manifest.json", "skipped.jsonl", "model"
_SAVE_SECONDS = 5.0

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class EncodeReport:
    """What a run did.

    Attributes:
        rows: of the sources.
        coded: rows that have a code.
        skipped: rows with an input that could not be used, each with its reason in `skipped.jsonl`; those that have
            another view are coded all the same.
        shards: in all.
        resumed: shards that an earlier run had finished.
        seconds: taken by this run.
    """

    rows: int
    coded: int
    skipped: int
    shards: int
    resumed: int
    seconds: float


def encode(
    sources: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    backbone: str | None = None,
    views: bool = False,
    roles: Roles = Roles(),  # noqa: B008 - immutable
    shard_rows: int = SHARD_ROWS,
    batch_size: int | None = None,
    allow_remote: bool = False,
    device: str = "cpu",
    engine: Engine = "local",
    options: Mapping[str, Any] | None = None,
    on_shard: Callable[[int, int], None] | None = None,
) -> EncodeReport:
    """Encode sources to shards of codes. Memory is bounded by a batch and a shard, whatever the number of rows.

    Called again with the same arguments after any end, it goes on: no finished shard is made again, no row is lost or
    repeated, and what comes out is the same to the last byte.

    Args:
        sources: see `bitfuse.pipeline.sources.survey`.
        model: a directory that `fit` wrote.
        out: the directory of shards, new or begun before.
        backbone: name of what encodes pictures and texts, where the model does not record it.
        views: keep the features too, as float16.
        roles: which columns hold what, and where pictures lie.
        shard_rows: input rows of a shard.
        batch_size: rows at a time; None leaves it to the backbone.
        allow_remote: whether sources may be URLs.
        device: where to compute.
        engine: `"local"`, or `"ray"` for a cluster whose nodes all see `out`, the model and the sources by these paths.
        options: of the engine; see `bitfuse.pipeline.ray.coded`.
        on_shard: called with the rows done so far and the rows in all.

    Raises:
        InputError: sources or arguments that do not do, or `out` holds shards of something else.
        UnknownName: no such column or engine.
        CollectionError: another backbone than the model's.
        MissingDependency: pyarrow, or what the engine needs.
    """
    started = time.perf_counter()
    if engine not in ("local", "ray"):
        raise UnknownName("engine", engine, ("local", "ray"))
    for name, number in (("shard_rows", shard_rows), ("batch_size", 1 if batch_size is None else batch_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be an integer of at least 1, got {number!r}")
    if options and engine == "local":
        raise InputError(f"the local engine has no options, got {sorted(options)}")
    _require_pyarrow()
    card = _persist.read_card(Path(model))
    target = Path(out)
    found = survey(sources, roles, shard_rows, remote=allow_remote)
    facts = _facts(found, Path(model), card, views, batch_size, recorded_backbone(card["sources"], backbone).name)
    records = _begin(target, facts, Path(model))
    plan = Plan(found, str(target), str(target / MODEL), backbone, device, views, batch_size, facts["plan"])
    missing = [n for n in range(len(found.marks)) if n not in records]
    resumed, saved = len(records), time.monotonic()
    if missing:
        if engine == "ray":
            from bitfuse.pipeline.ray import coded

            made = coded(plan, missing, **(options or {}))
        else:
            made = Coder(plan).code(missing)
        for record in made:
            records[record["shard"]] = record
            if time.monotonic() - saved > _SAVE_SECONDS:
                _save(target, facts, records)
                saved = time.monotonic()
            if on_shard is not None:
                on_shard(sum(r["rows"][1] - r["rows"][0] for r in records.values()), found.rows)
    _report(target, records)
    _save(target, facts, records, complete=True)
    totals = (sum(r["coded"] for r in records.values()), sum(r["skipped"] for r in records.values()))
    return EncodeReport(found.rows, *totals, len(records), resumed, time.perf_counter() - started)


class Shards:
    """A finished directory of shards.

    Args:
        path: what `encode` wrote.

    Attributes:
        manifest: its content.
        model: the directory of the model that made the codes.

    Raises:
        InputError: not such a directory, or not finished.
        DamagedFile: its manifest cannot be read.
        UnknownFormat: written by a newer version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.manifest = _manifest(self.path)
        if not self.manifest["complete"]:
            raise InputError(f"{self.path} is not finished; run the `bitfuse encode` that began it once more")
        self.model = self.path / MODEL

    @staticmethod
    def at(path: str | os.PathLike[str]) -> bool:
        """Whether there is a directory of shards, finished or not."""
        return (Path(path) / MANIFEST).is_file()

    def __len__(self) -> int:
        return sum(record["coded"] for record in self.manifest["shards"])

    def files(self) -> Iterator[Path]:
        """The shards in order, each found to be what was written; else `DamagedFile`."""
        for record in self.manifest["shards"]:
            file = self.path / record["file"]
            if not file.is_file() or sha256_of(file) != record["sha256"]:
                raise DamagedFile(f"{file} is missing or changed since it was written; delete it and encode again")
            yield file

    def items(self) -> Iterator[dict[str, Any]]:
        """What `Collection.add` takes: id, text, image (a path), attributes, code and, where they were kept, views.

        Raises:
            DamagedFile: a shard is missing or changed.
        """
        import pyarrow.parquet as pq

        names = [f"view_{name}" for name in self.manifest["views"]]
        for file in self.files():
            table = pq.read_table(file).drop_columns(["row"])
            plain = table.drop_columns([name for name in names if name in table.column_names])
            kept = {n.removeprefix("view_"): table[n].to_pylist() for n in names if n in table.column_names}
            for i, item in enumerate(plain.to_pylist()):
                if kept:
                    item["views"] = {name: rows[i] for name, rows in kept.items() if rows[i] is not None}
                yield item


def _facts(
    found: Survey, model: Path, card: Mapping[str, Any], views: bool, batch_size: int | None, backbone: str
) -> dict[str, Any]:
    facts = {
        "model": model_digest(model),
        "method": str(card["method"]).rpartition(":")[2],
        "n_bits": card["parameters"]["n_bits"],
        "backbone": backbone,
        "features": card["sources"],
        "views": card["widths"],
        "stored_views": "float16" if views else None,
        "source": {
            "fingerprint": found.fingerprint,
            "parts": [{"path": part.path, "kind": part.kind, "rows": part.rows} for part in found.parts],
        },
        "attributes": found.attributes,
        "shard_rows": found.shard_rows,
        "batch_size": batch_size,
        "rows": found.rows,
    }
    plan = hashlib.sha256(json.dumps([FORMAT, facts], sort_keys=True).encode()).hexdigest()
    return {"format": FORMAT, "kind": "shards", "plan": plan, **facts}


def _begin(target: Path, facts: Mapping[str, Any], model: Path) -> dict[int, Record]:
    """Make the directory, or look what is there already: number -> record of every finished shard."""
    if not Shards.at(target):
        if target.exists() and any(name for name in os.listdir(target) if name not in (MODEL, f"{MODEL}.partial")):
            raise InputError(f"{target} exists and holds no shards; name a new directory")
        target.mkdir(parents=True, exist_ok=True)
        _copy_model(model, target)
        _save(target, facts, {})
        return {}
    known = _manifest(target)
    if known["plan"] != facts["plan"]:
        differ = [k for k in facts if k != "plan" and known.get(k) != facts[k]]
        raise InputError(f"{target} holds shards of something else ({', '.join(differ)} differ); name a new directory")
    for left in target.glob("*.partial"):
        left.unlink()
    listed: dict[int, Record] = {record["shard"]: record for record in known["shards"]}
    records: dict[int, Record] = {}
    for n in range(-(-facts["rows"] // facts["shard_rows"])):
        file = target / shard_name(n)
        if not file.is_file():
            continue
        if n in listed and listed[n]["bytes"] == file.stat().st_size:
            records[n] = listed[n]
        elif (record := _found(file, n, facts["plan"])) is not None:  # written, but killed before it was listed
            records[n] = record
    return records


def _found(file: Path, number: int, plan: str) -> Record | None:
    footer = read_footer(file)
    if footer is None or footer["plan"] != plan or footer["shard"] != number:
        return None
    return {
        "shard": number, "file": file.name, "rows": footer["rows"], "coded": footer["coded"],
        "skipped": len(footer["skipped"]), "bytes": file.stat().st_size, "sha256": sha256_of(file),
    }  # fmt: skip


def _save(target: Path, facts: Mapping[str, Any], records: Mapping[int, Record], *, complete: bool = False) -> None:
    content = {**facts, "complete": complete, "shards": [records[n] for n in sorted(records)]}
    write_whole(target / MANIFEST, json.dumps(content, indent=1).encode())


def _report(target: Path, records: Mapping[int, Record]) -> None:
    lines = []
    for n in sorted(records):
        if records[n]["skipped"]:
            footer = read_footer(target / records[n]["file"])
            for row, name, reason in footer["skipped"] if footer else ():
                lines.append(json.dumps({"row": row, "id": name, "reason": reason}))
    write_whole(target / SKIPPED, "".join(line + "\n" for line in lines).encode())


def _manifest(path: Path) -> dict[str, Any]:
    if not Shards.at(path):
        raise InputError(f"{path} holds no {MANIFEST}, so it is no directory that `bitfuse encode` wrote")
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
        if manifest["kind"] != "shards" or not isinstance(manifest["shards"], list):
            raise InputError(f"{path / MANIFEST} is not of shards of codes")
        if manifest["format"] > FORMAT:
            raise UnknownFormat(f"{path} has shard format {manifest['format']}, this version reads up to {FORMAT}")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise DamagedFile(f"{path / MANIFEST} cannot be read: {error}; restore it, or encode anew") from error
    return manifest


def _copy_model(model: Path, target: Path) -> None:
    partial = target / f"{MODEL}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target / MODEL, ignore_errors=True)
    partial.mkdir()
    for name in ("model.json", *_persist.read_card(model)["files"]):
        write_whole(partial / name, (model / name).read_bytes())
    partial.rename(target / MODEL)


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependency("pyarrow", "parquet", "writing shards") from error

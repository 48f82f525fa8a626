"""Features kept on disk by the content they were made from: append-only shards, so a killed run loses little."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import BitfuseWarning, DataWarning

FORMAT = 1
SHARD_ROWS = 512
SHARD_SECONDS = 30.0
"""A shard is written when it has this many rows, or this long after the one before: what a kill can cost."""

_warned: set[Path] = set()  # folders, so that every view of every run does not repeat it
_OPEN_SHARDS = 64
_STALE_SECONDS = 86_400


def cache_dir() -> Path:
    """The user's cache: `$BITFUSE_CACHE`, else `$XDG_CACHE_HOME/bitfuse`, else `~/.cache/bitfuse`."""
    if named := os.environ.get("BITFUSE_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bitfuse"


def fingerprint(facts: Mapping[str, Any]) -> str:
    """32 hex digits that stand for these facts, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]


class FeatureCache:
    """Rows of float32 by key, for one view of one backbone: `<directory>/features/<fingerprint of facts>/*.npy`.

    A shard is one `.npy` file of records (key, row), written to a temporary name and renamed; its name is the hash of
    its keys, so that two processes that do the same work write the same file. Where nothing can be written, it warns
    once and works in memory for what is pending.

    Args:
        directory: of the whole cache.
        facts: what fixes the features (`Backbone.describe`, the version of the decoder, ...).
        width: columns of a row.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any], width: int) -> None:
        self.path = directory / "features" / fingerprint({**facts, "format": FORMAT})
        self._record = np.dtype([("key", "V32"), ("row", "<f4", (width,))])
        self._where: dict[bytes, tuple[str, int]] = {}
        self._pending: dict[bytes, NDArray[np.float32]] = {}
        self._maps: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._writable = True
        self._last = time.monotonic()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            described = self.path / "facts.json"
            if not described.exists():
                described.write_text(json.dumps(facts, indent=2, sort_keys=True, default=str))
        except OSError as error:
            self._give_up(error)
        self._scan()

    def __len__(self) -> int:
        return len(self._where) + len(self._pending)

    def get(self, key: bytes) -> NDArray[np.float32] | None:
        """The row kept under this key of 32 bytes, or None."""
        if key in self._pending:
            return self._pending[key]
        if key not in self._where:
            return None
        name, position = self._where[key]
        row: NDArray[np.float32] = np.array(self._map(name)[position]["row"], np.float32)
        return row

    def put(self, key: bytes, row: NDArray[np.float32]) -> None:
        """Keep a row; it is on disk after the next shard is written, at the latest after `flush`."""
        if not self._writable:
            return
        self._pending[key] = row
        if len(self._pending) >= SHARD_ROWS or time.monotonic() - self._last > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a shard, whole or not at all."""
        self._last = time.monotonic()
        if not self._pending or not self._writable:
            return
        shard = np.empty(len(self._pending), self._record)
        for i, (key, row) in enumerate(self._pending.items()):
            shard[i] = (key, row)
        name = hashlib.sha256(shard["key"].tobytes()).hexdigest()[:32] + ".npy"
        temporary = self.path / f"{name}.{os.getpid()}.partial"
        try:
            with temporary.open("wb") as file:
                np.save(file, shard, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)
        except OSError as error:
            self._give_up(error)
            return
        self._where.update({key: (name, i) for i, key in enumerate(self._pending)})
        self._pending.clear()

    def _scan(self) -> None:
        try:
            files = sorted(self.path.iterdir())
        except OSError:
            return
        for file in files:
            if file.suffix == ".npy":
                try:
                    keys = self._map(file.name)["key"]
                except (OSError, ValueError, EOFError) as error:
                    warnings.warn(f"cache shard {file} is damaged and not used: {error}", DataWarning, stacklevel=2)
                    continue
                self._where.update({key.tobytes(): (file.name, i) for i, key in enumerate(keys)})
            elif file.suffix == ".partial" and self._writable:
                self._remove_stale(file)

    def _remove_stale(self, file: Path) -> None:
        try:
            if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                file.unlink()
        except OSError:  # another process was quicker
            return

    def _map(self, name: str) -> NDArray[Any]:
        if name not in self._maps:
            shard = np.load(self.path / name, mmap_mode="r", allow_pickle=False)
            if shard.dtype != self._record or shard.ndim != 1:
                raise ValueError(f"records of {shard.dtype} where {self._record} was expected")
            self._maps[name] = shard
            if len(self._maps) > _OPEN_SHARDS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(name)
        return self._maps[name]

    def _give_up(self, error: OSError) -> None:
        self._writable = False
        warn_unwritable(self.path.parent, error)


def warn_unwritable(folder: Path, error: OSError) -> None:
    """Say once per folder that nothing is cached there."""
    if folder not in _warned:
        _warned.add(folder)
        warnings.warn(
            f"features are not cached, the run goes on: {error}; set BITFUSE_CACHE to a folder that can be written",
            BitfuseWarning,
            stacklevel=4,
        )

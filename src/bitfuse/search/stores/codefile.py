"""The mapped code file: a cache of the codes that SQLite holds, written whole by `compact` and never changed in place.

Layout: a JSON header padded to a multiple of 64 bytes, then the row numbers, (n,) little-endian int64, then the packed
codes, (n, ceil(n_bits / 8)) uint8. The first 16 bytes are the magic and the length of the header.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import DamagedFile

MAGIC = b"BITFUSE\x01"
FORMAT = 1
_BLOCK = 1 << 20  # bytes under one checksum


@dataclass(frozen=True)
class Stamp:
    """What a code file must agree with to be used.

    Attributes:
        uuid: of the collection.
        model: hash of the model that made the codes.
        n_bits: code length.
        token: of the `compact` that wrote it. The database names the one it trusts, so that a file from another life
            of the same collection (a restored backup) is never mistaken for its own.
        max_seq: the last change it contains.
    """

    uuid: str
    model: str
    n_bits: int
    token: str
    max_seq: int


def _checksums(body: memoryview) -> list[int]:
    return [zlib.crc32(body[i : i + _BLOCK]) for i in range(0, len(body), _BLOCK)]


def sync_directory(path: Path) -> None:
    """Make renames inside a directory survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, stamp: Stamp, rows: NDArray[np.int64], packed: NDArray[np.uint8]) -> None:
    """Write a code file beside its final place, sync it and move it there.

    Args:
        path: of the file.
        stamp: what it belongs to.
        rows: (n,) insertion row numbers, ascending.
        packed: (n, ceil(n_bits / 8)) their codes.
    """
    body = rows.astype("<i8").tobytes() + np.ascontiguousarray(packed).tobytes()
    facts = {"format": FORMAT, **asdict(stamp), "rows": len(rows), "crc32": _checksums(memoryview(body))}
    header = json.dumps(facts).encode()
    header += b" " * (-(len(header) + 16) % 64)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(MAGIC + len(header).to_bytes(8, "little") + header)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@dataclass(frozen=True)
class Mapped:
    """The content of a code file.

    Attributes:
        rows: (n,) int64, read-only.
        packed: (n, ceil(n_bits / 8)) uint8, read-only.
    """

    rows: NDArray[np.int64]
    packed: NDArray[np.uint8]
    _map: mmap.mmap | None = None

    def release(self) -> None:
        """Give the memory back to the system; what is touched again is read from the file."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def read(path: Path, stamp: Stamp) -> Mapped:
    """Map a code file after checking every byte.

    Raises:
        DamagedFile: missing, truncated, changed, of another format, or it does not belong to `stamp`.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(16)
            length = int.from_bytes(start[8:], "little")
            if start[:8] != MAGIC or length > size:
                raise DamagedFile(f"{path} does not begin as a code file does")
            facts = json.loads(file.read(length))
            if facts["format"] != FORMAT or {k: facts[k] for k in asdict(stamp)} != asdict(stamp):
                raise DamagedFile(f"{path} belongs to another state of the collection")
            n, width = int(facts["rows"]), -(-stamp.n_bits // 8)
            expected = 16 + length + n * (8 + width)
            if size != expected:
                raise DamagedFile(f"{path} has {size} bytes, expected {expected}")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if _checksums(memoryview(mapped)[16 + length :]) != facts["crc32"]:
            raise DamagedFile(f"{path} changed since it was written")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedFile(f"{path} cannot be read: {error}") from error
    rows = np.frombuffer(mapped, "<i8", n, 16 + length)
    packed = np.frombuffer(mapped, np.uint8, n * width, 16 + length + n * 8).reshape(n, width)
    return Mapped(rows, packed, mapped)

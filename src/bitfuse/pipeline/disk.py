"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, writer: str = "") -> None:
    """Write a file beside its place, sync it and move it there.

    Args:
        path: of the file; one that is there is replaced.
        data: its content.
        writer: tells those apart who may write the same file at once.
    """
    temporary = path.with_name(f"{path.name}{writer}.partial")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

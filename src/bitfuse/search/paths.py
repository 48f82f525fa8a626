"""Paths that people give, and what the disk says about them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitfuse.errors import CollectionError, InputError


def check_path(value: Any, what: str) -> Path:
    """A path: a non-empty string or `os.PathLike` that a file system can hold.

    Raises:
        InputError: anything else; `what` names the argument.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise InputError(f"{what} must be a path, got {value!r:.80}")
    return Path(text)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn the disk's errors into `CollectionError`: no such directory, no permission, too long a name, no space."""
    try:
        yield
    except OSError as error:
        raise CollectionError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error

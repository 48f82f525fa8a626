"""Items as people give them, checked and turned into what a collection stores."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.search.columns import coerce
from bitfuse.search.encoder import Encoder

RESERVED = ("id", "text", "image", "views")
_BAD_NAME = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")
_INT_RANGE = (-(2**63), 2**63 - 1)
_encode = json.JSONEncoder(ensure_ascii=False).encode


class Prepared(NamedTuple):
    """One checked item.

    Attributes:
        id: of 1 to 512 bytes.
        text: None where it has none.
        image: absolute path of its picture, if it was given as a path.
        source: the picture as given, for extraction.
        attributes: name -> str, int, float, bool or None.
        views: precomputed views; empty where they are to be extracted.
    """

    id: str
    text: str | None = None
    image: str | None = None
    source: Path | bytes | None = None
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    views: dict[str, NDArray[np.float32]] = {}  # noqa: RUF012 - never changed

    def content(self) -> tuple[str, bytes]:
        """The attributes as JSON, and a hash of all of it: the same hash means the same content.

        A view given beside the picture or text that it was computed from is no content of its own.
        """
        attributes = _encode(self.attributes)
        origins = {"image": self.source, "text": self.text}
        given = {name: row for name, row in self.views.items() if origins.get(name) is None}
        facts = _encode([self.text, self.image, _picture_facts(self.source), attributes, list(given)])
        hasher = hashlib.blake2b(facts.encode(), digest_size=16)
        for row in given.values():
            hasher.update(row.data)
        return attributes, hasher.digest()


def _picture_facts(source: Path | bytes | None) -> list[int] | str | None:
    # size and time of change stand for the content, as in rsync: reading every picture again would take hours
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    if source is None:
        return None
    try:
        status = source.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def check_id(value: Any) -> str:
    """An id: a string of 1 to 512 bytes in UTF-8 without NUL."""
    if not isinstance(value, str) or _BAD_TEXT.search(value) or not 1 <= len(value.encode()) <= 512:
        raise InputError(f"an id must be a string of 1 to 512 bytes, got {value!r:.80}")
    return value


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or _BAD_TEXT.search(value):
        raise InputError(f"text must be a string without NUL, got {value!r:.80}")
    return value


def _image(value: Any) -> tuple[str | None, Path | bytes | None]:
    if value is None or isinstance(value, bytes):
        return None, value
    if not isinstance(value, str | os.PathLike) or _BAD_TEXT.search(os.fspath(value)):
        raise InputError(f"image must be a path or the bytes of a picture, got {value!r:.80}")
    path = os.path.abspath(value)
    return path, Path(path)


@lru_cache(4096)
def _good_name(name: str) -> bool:
    return 1 <= len(name) <= 128 and not _BAD_NAME.search(name)


def attribute(name: Any, value: Any, types: Mapping[str, str]) -> Any:
    """The value of an attribute as it is stored: str, int, float, bool or None, of its declared type if it has one."""
    if not isinstance(name, str) or not _good_name(name):
        raise InputError(
            f"an attribute name has 1 to 128 characters and no quote, backslash or control, got {name!r:.80}"
        )
    if isinstance(value, np.generic):
        value = value.item()
    if name in types:
        value = coerce(types[name], name, value)
    kind = type(value)
    if kind is str and not _BAD_TEXT.search(value):
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is int and _INT_RANGE[0] <= value <= _INT_RANGE[1]:
        return value
    if value is None or kind is bool:
        return value
    if kind is float and math.isnan(value):
        return None
    raise InputError(f"attribute {name!r} must be a text, a 64-bit integer, a finite number, true, false or None, "
                     f"got {value!r:.80}")  # fmt: skip


def prepare(item: Any, encoder: Encoder, types: Mapping[str, str]) -> Prepared:
    """Check one item: `{"id", "image", "text", **attributes}`, or with precomputed `"views"`.

    Raises:
        InputError: anything in it is not what it must be.
    """
    if not isinstance(item, Mapping):
        raise InputError(f"an item must be a mapping with an 'id', got {type(item).__name__}")
    name = check_id(item.get("id"))
    image, source = _image(item.get("image"))
    views = item.get("views")
    return Prepared(
        name,
        _text(item.get("text")),
        image,
        source,
        {k: attribute(k, v, types) for k, v in item.items() if k not in RESERVED},
        {} if views is None else encoder.check_rows(views),
    )


def pack_views(rows: NDArray[np.float32]) -> list[bytes]:
    """Rows (n, d) as they are stored: each a float32 power of two, then the row over it as float16, little-endian.

    The common factor keeps eleven significant bits of the greatest value whatever the range of the features.
    """
    largest = np.abs(rows).max(axis=1, initial=0)
    scale = np.ldexp(np.float32(1), np.frexp(largest)[1] - 1).astype(np.float32)
    scale[largest == 0] = 1
    packed = np.empty((len(rows), 4 + 2 * rows.shape[1]), np.uint8)
    packed[:, :4] = scale.astype("<f4")[:, None].view(np.uint8)
    packed[:, 4:] = (rows / scale[:, None]).astype("<f2").view(np.uint8)
    return [row.tobytes() for row in packed]


def unpack_view(blob: bytes) -> NDArray[np.float32]:
    """A row that `pack_views` stored, as float32."""
    with np.errstate(all="ignore"):  # a damaged one may hold anything
        row: NDArray[np.float32] = np.frombuffer(blob, "<f2", offset=4) * np.frombuffer(blob, "<f4", 1)
    return row

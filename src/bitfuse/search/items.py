"""Items as people give them, checked and turned into what a collection stores."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from json.encoder import encode_basestring
from math import isfinite, isnan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitfuse.codes import Codes
from bitfuse.errors import InputError
from bitfuse.search.columns import coerce
from bitfuse.search.encoder import Encoder

RESERVED = ("id", "text", "image", "views")
_CODED = (*RESERVED, "code")
_BAD_NAME = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')
_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")
_LEAST, _MOST = -(2**63), 2**63 - 1
_PLAIN: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class Prepared(NamedTuple):
    """One checked item.

    Attributes:
        id: of 1 to 512 bytes.
        text: None where it has none.
        image: absolute path of its picture, if it was given as a path.
        source: the picture as given, for extraction.
        attributes: name -> str, int, float, bool or None.
        views: precomputed views; empty where they are to be extracted.
        code: precomputed code, packed; empty where it is to be made of the views.
        digest: the hash of the content as another collection stored it; empty where it is to be computed.
    """

    id: str
    text: str | None = None
    image: str | None = None
    source: Path | bytes | None = None
    attributes: dict[str, Any] = {}  # noqa: RUF012 - never changed
    views: dict[str, NDArray[np.float32]] = {}  # noqa: RUF012 - never changed
    code: bytes = b""
    digest: bytes = b""

    def content(self) -> tuple[str, bytes]:
        """The attributes as JSON, and a hash of all of it: the same hash means the same content.

        A view given beside the picture or text that it was computed from is no content of its own; nor is a code given
        beside a picture, a text or a view.
        """
        pairs = [_key(k) + _WRITTEN[type(v)](v) for k, v in self.attributes.items()]
        attributes = "{" + ", ".join(pairs) + "}"
        if self.digest:
            return attributes, self.digest
        given = self.views
        if self.source is not None or self.text is not None:
            origins = {"image": self.source, "text": self.text}
            given = {name: row for name, row in given.items() if origins.get(name) is None}
        picture = None if self.source is None else _picture_facts(self.source)
        about = f"{_json(self.text)}, {_json(self.image)}, {_json(picture)}"
        names = ", ".join([encode_basestring(name) for name in given])
        facts = f"[{about}, {encode_basestring(attributes)}, [{names}]]"
        hasher = hashlib.blake2b(facts.encode(), digest_size=16)
        for row in given.values():
            hasher.update(row.data)
        if self.source is None and self.text is None and not self.views:
            hasher.update(self.code)
        return attributes, hasher.digest()


_WRITTEN: dict[type, Callable[[Any], str]] = {
    str: encode_basestring,
    int: repr,
    float: repr,
    bool: lambda value: "true" if value else "false",
    list: repr,
    type(None): lambda _: "null",
}
"""How `json.dumps(value, ensure_ascii=False)` writes a plain value, in a quarter of the time."""


def _json(value: str | list[int] | None) -> str:
    return _WRITTEN[type(value)](value)


@lru_cache(4096)
def _key(name: str) -> str:
    return f"{encode_basestring(name)}: "


class Stored(NamedTuple):
    """An item as a collection has it, with what another one needs to keep it just so.

    Attributes:
        row: insertion row number; ascending, and with gaps.
        item: with its digest, and where they are kept its views and the bytes of its picture (`source`).
        code: packed.
    """

    row: int
    item: Prepared
    code: bytes


def _picture_facts(source: Path | bytes) -> list[int] | str | None:
    # size and time of change stand for the content, as in rsync: reading every picture again would take hours
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        status = source.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def _good_text(value: str) -> bool:
    return "\0" not in value if value.isascii() else not _BAD_TEXT.search(value)


def check_id(value: Any) -> str:
    """An id: a string of 1 to 512 bytes in UTF-8 without NUL."""
    if not isinstance(value, str) or not _good_text(value) or not 1 <= len(value.encode()) <= 512:
        raise InputError(f"an id must be a string of 1 to 512 bytes, got {value!r:.80}")
    return value


def check_ids(ids: Any) -> list[str]:
    """One id, or several of any iterable kind, as a list."""
    if isinstance(ids, str):
        return [check_id(ids)]
    if not isinstance(ids, Iterable) or isinstance(ids, bytes | Mapping):
        raise InputError(f"ids must be a string or several of them, got {type(ids).__name__}")
    return [check_id(name) for name in ids]


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _good_text(value):
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
    kind, declared = type(value), types.get(name)
    if kind not in _WRITTEN or (declared is not None and kind is not _PLAIN[declared]):
        if isinstance(value, np.generic):
            value = value.item()
        if declared is not None:
            value = coerce(declared, name, value)
        kind = type(value)
    if kind is str:
        if _good_text(value):
            return value
    elif kind is float:
        if isfinite(value):
            return value
    elif kind is int:
        if _LEAST <= value <= _MOST:
            return value
    elif value is None or kind is bool:
        return value
    if kind is float and isnan(value):
        return None
    raise InputError(f"attribute {name!r} must be a text, a 64-bit integer, a finite number, true, false or None, "
                     f"got {value!r:.80}")  # fmt: skip


def _code(value: Any, n_bits: int) -> bytes:
    """A given code, packed: `bytes` of ceil(n_bits / 8), or `Codes` of one."""
    packed = value.packed.tobytes() if isinstance(value, Codes) else value
    given = value.n_bits if isinstance(value, Codes) else 8 * len(packed)
    if len(packed) != -(-n_bits // 8) or (isinstance(value, Codes) and given != n_bits):
        raise InputError(f"the code of an item must be one of {n_bits} bits, got {len(packed)} byte(s), {given} bits")
    if packed[-1] & ((1 << -n_bits % 8) - 1):
        raise InputError(f"a code has bits set beyond bit {n_bits}; pad it with zeros, as bitfuse.Codes does")
    return packed


def prepare(item: Any, encoder: Encoder, types: Mapping[str, str]) -> Prepared:
    """Check one item: `{"id", "image", "text", **attributes}`, or with precomputed `"views"` or a `"code"`.

    Under the name `code`, bytes and `Codes` are the item's code; anything else is an attribute of that name.

    Raises:
        InputError: anything in it is not what it must be.
    """
    if type(item) is not dict and not isinstance(item, Mapping):
        raise InputError(f"an item must be a mapping with an 'id', got {type(item).__name__}")
    name = check_id(item.get("id"))
    image, source = _image(item.get("image"))
    views, code = item.get("views"), item.get("code")
    coded = isinstance(code, bytes | Codes)
    return Prepared(
        name,
        _text(item.get("text")),
        image,
        source,
        {k: attribute(k, v, types) for k, v in item.items() if k not in (_CODED if coded else RESERVED)},
        {} if views is None else encoder.check_rows(views),
        _code(code, encoder.n_bits) if coded else b"",
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

"""Addresses of collections on a Milvus server: `milvus://[user:password@]host[:port]/name[?option=value&...]`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from bitfuse.errors import InputError, UnknownName

SCHEME = "milvus"
PORT = 19530
CONSISTENCY = ("strong", "bounded", "session", "eventually")
"""Milvus's consistency levels; a strong read sees every write that was acknowledged before it began."""

_OPTIONS = ("model", "consistency")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_FORM = "milvus://[user:password@]host[:port]/name[?model=DIR&consistency=LEVEL]"


@dataclass(frozen=True)
class Address:
    """Where a collection is and how it is to be read.

    Attributes:
        host: name or number of the server.
        port: 1 to 65535.
        name: of the collection.
        model: the directory of the model that made the codes; None to work without encoding.
        consistency: one of `CONSISTENCY`.
        token: `user:password`; "" for none. It is never shown.
    """

    host: str
    port: int
    name: str
    model: Path | None = None
    consistency: str = "strong"
    token: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{SCHEME}://{host}:{self.port}/{self.name}"

    @property
    def uri(self) -> str:
        """What the client connects to."""
        return f"http://{str(self).partition('://')[2].rpartition('/')[0]}"


def is_address(text: str) -> bool:
    """Whether this is an address and no path."""
    return "://" in text


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        InputError: another scheme, a bad host, port, name or option.
        UnknownName: an unknown option or consistency level.

    Examples:
        >>> parse_address("milvus://localhost/shop?model=models/clip&consistency=bounded")
        Address(host='localhost', port=19530, name='shop', model=...Path('models/clip'), consistency='bounded')
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InputError(f"{text!r} is no address ({error}); expected {_FORM}") from error
    if parts.scheme != SCHEME:
        raise InputError(f"{text!r}: this version opens directories and {_FORM}, not {parts.scheme}://")
    name = parts.path.removeprefix("/")
    if not parts.hostname or not _NAME.fullmatch(name) or port == 0 or parts.fragment:
        raise InputError(
            f"{text!r} is no address of a collection; expected {_FORM}, the name of letters, digits and _ "
            "(at most 255, no digit first)"
        )
    try:
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise InputError(f"{text!r}: its options cannot be read ({error}); expected {_FORM}") from error
    options = dict(pairs)
    for key, value in pairs:
        if key not in _OPTIONS:
            raise UnknownName("option of an address", key, _OPTIONS)
        if not value or len(options) < len(pairs):
            raise InputError(f"{text!r}: give the option {key!r} once, with a value")
    level = options.get("consistency", "strong")
    if level not in CONSISTENCY:
        raise UnknownName("consistency level", level, CONSISTENCY)
    token = "" if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    model = Path(options["model"]) if "model" in options else None
    return Address(parts.hostname, port or PORT, name, model, level, token)

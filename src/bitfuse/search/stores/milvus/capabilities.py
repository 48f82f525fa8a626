"""What a Milvus server can do, by its version, and the error for what it cannot."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitfuse.errors import CollectionError

Version = tuple[int, int]

OLDEST: Version = (2, 3)
"""Binary vectors under Hamming distance with range search, JSON fields, `count(*)` and upsert: all that is used."""


@dataclass(frozen=True)
class Capability:
    """Something that a collection in a directory does and a Milvus collection may not.

    Attributes:
        server: the first server version that could hold it; None where no server can.
        used: whether this version of Bitfuse uses it where the server can.
        instead: what to do.
    """

    server: Version | None
    used: bool
    instead: str


CAPABILITIES = {
    "stored float16 views (store_views, rerank)": Capability(
        (2, 4), False, "keep the views in a directory collection, or search without rerank"
    ),
    "several codes a search (weights of a cross-modal model, or its text and image together)": Capability(
        (2, 4), False, "search by one view, or use a directory collection"
    ),
    "columns without a value (nullable fields)": Capability(
        (2, 5), False, "nothing: attributes are keys of one JSON field, and an absent key is a missing value"
    ),
    "kept pictures (keep_images)": Capability(None, False, "give pictures by their paths"),
    "re-encoding in place": Capability(
        None, False, "copy it into a directory, `reencode` it there and copy it back under another name"
    ),
    "near-duplicates (dedupe)": Capability(None, False, "copy it into a directory and ask there"),
    "asymmetric distance": Capability(None, False, "search by Hamming distance, or use a directory collection"),
    "approximate tier (build_approximate, approximate=True)": Capability(
        (2, 3), False, "search exactly, or use a directory collection"
    ),
    "facets": Capability(None, False, "count(where=...) counts one value"),
    "backup": Capability(None, False, "copy it into a directory, or use Milvus's own backup"),
    "export": Capability(None, False, "copy it into a directory and export that"),
}
"""What is refused on Milvus, whatever the server, with the version from which a server could hold it."""


def parse_version(text: str) -> Version:
    """The first two numbers of a server's version.

    Raises:
        CollectionError: it names none.

    Examples:
        >>> parse_version("v2.3.5-lite")
        (2, 3)
    """
    match = re.match(r"v?(\d+)\.(\d+)", text)
    if match is None:
        raise CollectionError(f"the server calls its version {text!r}; expected one such as v2.4.1")
    return int(match[1]), int(match[2])


def check_server(text: str) -> Version:
    """The version of a server that is new enough.

    Raises:
        CollectionError: older than 2.3.
    """
    version = parse_version(text)
    if version < OLDEST:
        raise CollectionError(
            f"the Milvus server is {text}; collections need 2.3 or newer (range search on binary vectors and upsert "
            "came with it); upgrade the server"
        )
    return version


def refuse(feature: str, server: str) -> CollectionError:
    """The error for something that a collection on Milvus does not do."""
    known = CAPABILITIES[feature]
    if known.server is None:
        reason = "a Milvus collection has no place for it"
    elif parse_version(server) < known.server:
        reason = f"the server is {server}, and Milvus can hold it only from {'.'.join(map(str, known.server))} on"
    else:
        reason = f"the server, {server}, could hold it, but this version of Bitfuse does not use that"
    return CollectionError(f"{feature}: {reason}; {known.instead}")

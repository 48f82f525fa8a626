"""API keys: made at random, shown once, stored as hashes, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bitfuse.errors import DamagedFile, InputError

SCOPES = ("read", "write")
MIN_TOKEN = 16
_PREFIX = "bf_"


@dataclass(frozen=True)
class Key:
    """What one key may do.

    Attributes:
        name: whom logs name; never the key itself.
        sha256: hash of the key. Keys are random, so that a fast hash is enough.
        scopes: `"read"`, `"write"`, or both.
        collections: names of those that it opens; None for all.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...] = SCOPES
    collections: tuple[str, ...] | None = None

    def allows(self, scope: str, collection: str | None = None) -> bool:
        """Whether it may read or write, a collection where one is named."""
        within = self.collections is None or collection is None or collection in self.collections
        return scope in self.scopes and within


ANYBODY = Key("anybody", "")
"""Who calls a server without keys."""


def hashed(token: str) -> str:
    """The hash by which a key is known."""
    return hashlib.sha256(token.encode()).hexdigest()


def key_of(token: str, name: str = "token") -> Key:
    """The key that a token given on the command line stands for: all scopes, all collections.

    Raises:
        InputError: a token that can be guessed.
    """
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"a token is at least {MIN_TOKEN} printable ASCII characters without spaces; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return Key(name, hashed(token))


def find(keys: Sequence[Key], token: str) -> Key | None:
    """The key of this token. Every key is compared, in constant time, so that time tells nothing."""
    given, found = hashed(token), None
    for key in keys:
        if hmac.compare_digest(given, key.sha256):
            found = key
    return found


def new(path: Path, name: str, scopes: Iterable[str], collections: Iterable[str] | None) -> str:
    """Make a key, add its hash to a file, and give the key: it is stored nowhere.

    Raises:
        InputError: the name is taken, or no such scope.
    """
    wanted = tuple(dict.fromkeys(scopes))
    if not wanted or not set(wanted) <= set(SCOPES):
        raise InputError(f"scopes are {SCOPES}, got {wanted}")
    known = load(path) if path.exists() else ()
    if not name or name in {key.name for key in known}:
        raise InputError(f"{name!r} is taken or empty; give the key a name of its own")
    token = _PREFIX + secrets.token_urlsafe(32)
    key = Key(name, hashed(token), wanted, None if collections is None else tuple(collections))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump({"format": 1, "keys": [asdict(k) for k in (*known, key)]}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return token


def load(path: Path) -> tuple[Key, ...]:
    """The keys of a file that `new` wrote.

    Raises:
        InputError: there is no such file.
        DamagedFile: it is not one of keys.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        keys = tuple(
            Key(
                str(entry["name"]),
                str(entry["sha256"]),
                tuple(str(scope) for scope in entry["scopes"]),
                None if entry["collections"] is None else tuple(str(name) for name in entry["collections"]),
            )
            for entry in content["keys"]
        )
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); `bitfuse keys` makes a file of keys") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path} is not a file of keys ({error}); `bitfuse keys` makes one") from error
    if not all(set(key.scopes) <= set(SCOPES) and len(key.sha256) == 64 for key in keys):
        raise DamagedFile(f"{path} holds a key without a SHA-256 hash, or of an unknown scope")
    return keys

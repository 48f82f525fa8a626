"""The errors and warnings that Bitfuse raises. Each message says what was given, what was expected and what to do.

BitfuseError
├── InputError (also ValueError)        an argument, a file or a row is not what it must be
│   ├── MissingView                     rows lack a view that the method cannot do without
│   └── UnknownName                     no method, dataset, backbone, protocol or column of that name
├── NotFitted                           a hasher was used before `fit`
├── DamagedFile                         something on disk is missing, truncated or changed
├── UnknownFormat                       something on disk was written by a newer version
├── CollectionError                     a collection refuses: other model, other process, closed
├── ServiceError                        a Bitfuse server refuses, fails or cannot be reached
│   └── Overloaded                      it is busy, and says when to try again
└── MissingDependency (also ImportError)   an optional package is not installed

BitfuseWarning (UserWarning)
├── DataWarning                         too few rows, clamped anchors, ignored labels
└── ConvergenceWarning                  training ended in a state that is seldom wanted
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class BitfuseError(Exception):
    """Base of all errors that Bitfuse raises on purpose."""


class InputError(BitfuseError, ValueError):
    """An argument, a file or a row is not what it must be."""


class MissingView(InputError):
    """Rows lack a view that the method cannot do without.

    Attributes:
        view: name of the missing view.
        rows: the row numbers (0-based) that lack it.
    """

    def __init__(self, view: str, rows: Sequence[int], advice: str) -> None:
        self.view, self.rows = view, list(rows)
        shown = ", ".join(str(r) for r in self.rows[:5]) + (", ..." if len(self.rows) > 5 else "")
        super().__init__(f"view {view!r} is missing in {len(self.rows)} row(s) ({shown}); {advice}")


class UnknownName(InputError):
    """No thing of that name; the message suggests the nearest one.

    Attributes:
        name: what was asked for.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: Any, known: Iterable[str], advice: str = "") -> None:
        self.name, self.known = name, sorted(known)
        close = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5) if isinstance(name, str) else []
        hint = f"did you mean {close[0]!r}? " if close else ""
        listed = ", ".join(self.known) or "none"
        super().__init__(f"unknown {kind} {name!r:.200}; {hint}known: {listed}{'; ' + advice if advice else ''}")


class NotFitted(BitfuseError):
    """A hasher was used before `fit`."""


class DamagedFile(BitfuseError):
    """Something on disk is missing, truncated or changed since it was written."""


class UnknownFormat(BitfuseError):
    """Something on disk was written in a format newer than this version reads."""


class CollectionError(BitfuseError):
    """A collection refuses the call: another model, another writer, or it is closed."""


class ServiceError(BitfuseError):
    """A Bitfuse server refuses, fails or cannot be reached.

    Attributes:
        status: HTTP status; None where no answer came.
        kind: what the server calls the problem, such as `"not-found"`; "" where it did not say.
        request_id: by which the server's log names the request; "" where it did not say.
    """

    def __init__(self, message: str, status: int | None = None, kind: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.status, self.kind, self.request_id = status, kind, request_id


class Overloaded(ServiceError):
    """A Bitfuse server is busy.

    Attributes:
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, status: int, kind: str, request_id: str, retry_after: float) -> None:
        super().__init__(message, status, kind, request_id)
        self.retry_after = retry_after


class MissingDependency(BitfuseError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package!r}, which is not installed; run: pip install 'bitfuse[{extra}]'")


class MissingWeights(BitfuseError):
    """A backbone's weights are not on disk and cannot be fetched; the message names the ways on."""


class BitfuseWarning(UserWarning):
    """Base of all warnings that Bitfuse gives."""


class DataWarning(BitfuseWarning):
    """The data is smaller or poorer than the method wants; it works, within limits that the message names."""


class ConvergenceWarning(BitfuseWarning):
    """Training ended in a state that is seldom wanted: saturated gates, dead bits, few distinct codes, no progress."""

"""Refusals as problem details (RFC 9457): one table of kinds, one shape of body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from bitfuse.errors import BitfuseError, CollectionError, InputError, MissingWeights

MEDIA = "application/problem+json"

KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be read"),
    "unauthorized": (401, "A key is needed"),
    "forbidden": (403, "This is not allowed"),
    "not-found": (404, "There is no such thing"),
    "no-item": (404, "There is no such item"),
    "method-not-allowed": (405, "This address does not take this method"),
    "slow-body": (408, "The body came too slowly"),
    "too-large": (413, "The request is too large"),
    "wrong-media": (415, "The content type is not taken here"),
    "wrong-host": (421, "This server does not answer to that name"),
    "invalid": (422, "The request asks for something that cannot be"),
    "too-many": (429, "Too many requests at one time"),
    "huge-head": (431, "The address and headers are too large"),
    "internal": (500, "A defect of the server"),
    "overloaded": (503, "The server is busy"),
    "unavailable": (503, "The collection cannot do this now"),
}


class Problem(Exception):
    """A refusal.

    Args:
        kind: one of `KINDS`.
        detail: what was given, what was expected, what to do; shown to the client.
        retry_after: seconds after which to try again.
        errors: for input that does not fit the schema: where, and why.
    """

    def __init__(
        self, kind: str, detail: str, *, retry_after: int | None = None, errors: list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.retry_after, self.errors = kind, detail, retry_after, errors
        self.status, self.title = KINDS[kind]

    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        found = {}
        if self.retry_after is not None:
            found["retry-after"] = str(self.retry_after)
        if self.kind == "unauthorized":
            found["www-authenticate"] = "Bearer"
        return found

    def response(self, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
        """The answer that says so."""
        body: dict[str, Any] = {
            "type": f"urn:bitfuse:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors is not None:
            body["errors"] = self.errors
        return Response(
            json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"),
            self.status,
            {**self.headers(), **(headers or {})},
            MEDIA,
        )


def of_error(error: BitfuseError) -> Problem:
    """The refusal that an error of the library becomes."""
    if isinstance(error, InputError):
        return Problem("invalid", str(error))
    if isinstance(error, CollectionError | MissingWeights):
        return Problem("unavailable", str(error), retry_after=5)
    return Problem("internal", "something on the server's disk is damaged; its log says what")

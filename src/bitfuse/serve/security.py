"""Who may ask, and how answers are fenced: hosts, origins, content types, keys, headers.

Loopback is not trusted: a page on the web can make a browser send requests to it. A name that an attacker's DNS points
at 127.0.0.1 fails the host check, a forged form fails the origin and content-type checks.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitfuse.serve.keys import ANYBODY, Key, find
from bitfuse.serve.problems import Problem
from bitfuse.serve.settings import Settings

_SAFE = ("GET", "HEAD", "OPTIONS")
_MEDIA = ("application/json", "multipart/form-data", "application/x-ndjson")
_OPEN = re.compile(r"/|/favicon\.ico|/page/.*|/v1/health/(live|ready)")
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?")

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
API_POLICY = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


class Hosts:
    """The names that a server answers to.

    Args:
        settings: a loopback address answers to loopback names; a wildcard address to every literal address besides,
            which no rebinding can forge; any address to itself and to `allowed_hosts`.
    """

    def __init__(self, settings: Settings) -> None:
        self._names = {name.lower() for name in (*settings.allowed_hosts, settings.host)}
        self._wildcard = settings.host in ("0.0.0.0", "::", "")

    def accepts(self, header: str) -> bool:
        """Whether a `Host` header names this server."""
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = match["name"].lower().strip("[]")
        if name in self._names or is_loopback(name):
            return True
        if not self._wildcard:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Guard:
    """ASGI middleware: refuses before a byte of the body is read, and fences every answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings, self._hosts = app, settings, Hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        page = scope["path"] == "/" or scope["path"].startswith("/page/")

        async def fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("content-security-policy", PAGE_POLICY if page else API_POLICY)
                headers.setdefault("cache-control", "no-cache" if page else "no-store")
            await send(message)

        try:
            self._check(scope)
        except Problem as problem:
            await problem.response(scope["state"]["request_id"])(scope, receive, fenced)
            return
        await self._app(scope, receive, fenced)

    def _check(self, scope: Scope) -> None:
        # uvicorn has a limit too, but not for a head that comes in one piece
        head = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if head + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > self._settings.head_bytes:
            raise Problem("huge-head", f"address and headers are at most {self._settings.head_bytes:,} bytes")
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._hosts.accepts(hosts[0]):
            raise Problem(
                "wrong-host", "the Host header names another server; the operator can add names with --allow-host"
            )
        if scope["method"] not in _SAFE:
            self._check_write(headers, hosts[0])
        scope["state"]["key"] = self._key(scope["path"], headers)

    def _check_write(self, headers: Headers, host: str) -> None:
        origins = headers.getlist("origin")
        for origin in origins:
            if origin not in self._settings.allowed_origins and _place(origin) != host.lower():
                raise Problem("forbidden", "a page of another origin sent this; the operator can allow it")
        if not origins and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Problem("forbidden", "a page of another site sent this")
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body and media not in _MEDIA:
            raise Problem("wrong-media", f"a body must be one of {', '.join(_MEDIA)}")

    def _key(self, path: str, headers: Headers) -> Key | None:
        if not self._settings.keys:
            return ANYBODY
        given = headers.getlist("authorization")
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        key = find(self._settings.keys, token.strip()) if scheme.lower() == "bearer" else None
        if key is None and not _OPEN.fullmatch(path):
            raise Problem("unauthorized", "send a key of this server: Authorization: Bearer <key>")
        return key

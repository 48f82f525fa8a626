"""Structured logs: one JSON object a line, without tokens, query texts or addresses with arguments."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
from typing import Any

_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

log = logging.getLogger("bitfuse.serve")


class JsonLines(logging.Formatter):
    """A record as one line of JSON; `extra={"facts": {...}}` joins it."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str = "INFO") -> None:
    """Send what the service and uvicorn log to standard error, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("bitfuse.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.setLevel(level)
        logger.propagate = name == "uvicorn.error"
    logging.getLogger("uvicorn.access").disabled = True  # it would write whole addresses


def request_id(given: str | None) -> str:
    """The id of a request: the client's, if it is harmless, or a new one."""
    return given if given is not None and _GOOD_ID.fullmatch(given) else secrets.token_hex(8)

"""The application: middleware, routes and error handlers put together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from bitfuse.errors import BitfuseError
from bitfuse.serve.limits import Limits
from bitfuse.serve.logs import log
from bitfuse.serve.metrics import Metrics
from bitfuse.serve.problems import KINDS, Problem, of_error
from bitfuse.serve.recorder import Recorder
from bitfuse.serve.routes import collections, items, search, system
from bitfuse.serve.security import Guard
from bitfuse.serve.settings import Settings
from bitfuse.serve.shelf import Shelf

PAGE = Path(__file__).parent / "page"
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False,
}  # fmt: skip


def create_app(shops: Mapping[str, str | Path], settings: Settings | None = None) -> FastAPI:
    """The service over these collections, as an ASGI application.

    Args:
        shops: name in addresses -> directory.
        settings: limits, names, keys; the defaults suit one machine, on loopback, without keys.

    Returns:
        An application that has the collections open; its end (`lifespan`) closes them.

    Raises:
        BitfuseError: a collection cannot be opened, or has a name that cannot stand in an address.
    """
    settings = settings or Settings()
    metrics = Metrics()
    shelf = Shelf(shops, settings, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            shelf.close()

    app = FastAPI(
        title="Bitfuse", version="1", summary="Search items by words and pictures in learned binary codes.",
        lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, telemetry=_NO_TELEMETRY,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.shelf, app.state.settings, app.state.metrics = shelf, settings, metrics
    for topic in (search, items, collections, system):
        app.include_router(topic.router)
    if PAGE.is_dir():
        app.mount("/page", StaticFiles(directory=PAGE), name="page")

        @app.get("/", include_in_schema=False)
        async def page() -> Response:
            return Response((PAGE / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

    _handle_errors(app)
    app.add_middleware(Limits, settings=settings, metrics=metrics)
    app.add_middleware(Guard, settings=settings)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.allowed_origins), allow_methods=["GET", "POST", "PUT", "PATCH",
            "DELETE"], allow_headers=["authorization", "content-type", "x-request-id"], expose_headers=["x-request-id"],
        )  # fmt: skip
    app.add_middleware(Recorder, metrics=metrics)
    return app


def _handle_errors(app: FastAPI) -> None:
    by_status = {status: kind for kind, (status, _) in reversed(KINDS.items())}

    def answer(request: Request, problem: Problem) -> Response:
        return problem.response(request.state.request_id)

    @app.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> Response:
        return answer(request, problem)

    @app.exception_handler(BitfuseError)
    async def failed(request: Request, error: BitfuseError) -> Response:
        problem = of_error(error)
        if problem.status >= 500:
            log.error("failed", extra={"facts": {"request_id": request.state.request_id, "reason": str(error)}})
        return answer(request, problem)

    @app.exception_handler(RequestValidationError)
    async def unfit(request: Request, error: RequestValidationError) -> Response:
        # what was given is left out: it may be a query
        errors = [{"where": [str(part) for part in e["loc"]], "why": e["msg"]} for e in error.errors()[:20]]
        first = errors[0] if errors else {"where": [], "why": "unknown"}
        detail = f"{'.'.join(first['where'])}: {first['why']}"
        return answer(request, Problem("invalid", detail, errors=errors))

    @app.exception_handler(HTTPException)
    async def refused_by_framework(request: Request, error: HTTPException) -> Response:
        kind = by_status.get(error.status_code, "bad-request")
        problem = Problem(kind, str(error.detail))
        response = answer(request, problem)
        if error.headers and "allow" in {name.lower() for name in error.headers}:
            response.headers["allow"] = {k.lower(): v for k, v in error.headers.items()}["allow"]
        return response

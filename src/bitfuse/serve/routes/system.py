"""Health, metrics and documentation."""

from __future__ import annotations

from html import escape

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from bitfuse.serve import schemas
from bitfuse.serve.problems import Problem
from bitfuse.serve.routes.context import AnyMetrics, AnyShelf, Readers, refusals

router = APIRouter(tags=["system"])
_SHARED = refusals(401, 403, 421, 431)


@router.get("/v1/health/live", summary="Is the process there", responses=refusals(421, 431))
async def live() -> schemas.Health:
    """The event loop turns."""
    return schemas.Health(status="live")


@router.get("/v1/health/ready", summary="Can it answer", responses=refusals(421, 431, 503))
async def ready(shelf: AnyShelf) -> schemas.Health:
    """All collections are open and their backbones have their weights."""
    if not shelf.ready:
        raise Problem("unavailable", "collections are being opened", retry_after=1)
    return schemas.Health(status="ready")


@router.get(
    "/metrics",
    summary="Measures for Prometheus",
    dependencies=[Readers],
    response_class=Response,
    responses={**_SHARED, 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def measures(metrics: AnyMetrics, shelf: AnyShelf) -> Response:
    """Latency by stage, queues, refusals, sizes."""
    for served in shelf.all:
        await served.size()
    return Response(metrics.text(), 200, media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False, dependencies=[Readers])
async def openapi(request: Request) -> JSONResponse:
    """The description of this API."""
    return JSONResponse(request.app.openapi())


@router.get("/docs", include_in_schema=False, dependencies=[Readers])
async def docs(request: Request) -> HTMLResponse:
    """The routes as one plain page, without a script from anywhere."""
    rows = []
    for path, methods in request.app.openapi()["paths"].items():
        for method, facts in methods.items():
            cells = (method.upper(), path, facts.get("summary", ""), facts.get("description", ""))
            rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Bitfuse API</title><h1>Bitfuse API</h1>'
        '<p>The whole description is <a href="/openapi.json">openapi.json</a> (OpenAPI 3.1).</p>'
        f"<table>{''.join(rows)}</table></html>"
    )

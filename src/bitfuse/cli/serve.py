"""`bitfuse serve`: collections behind an HTTP API and a search page. `bitfuse keys`: who may use it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bitfuse.cli import app
from bitfuse.cli.inputs import err, out
from bitfuse.errors import InputError, MissingDependency

TOKEN = "BITFUSE_TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@app.command()
def serve(
    shops: Annotated[list[str], typer.Argument(help="Collections: a directory, or NAME=DIRECTORY.", metavar="SHOP...")],
    host: Annotated[str, typer.Option(help="Address to listen on; elsewhere than loopback needs keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar=TOKEN, help="One key for everything; better in the environment.", metavar="KEY")
    ] = None,
    keys: Annotated[Path | None, typer.Option(help="A file that `bitfuse keys` made.")] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Let anybody in who can reach a public address.")
    ] = False,
    allow_host: Annotated[list[str] | None, typer.Option(help="Another name of this server; repeatable.")] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(help="A page that may call it; repeatable.")] = None,
    pictures: Annotated[
        list[Path] | None, typer.Option(help="Show pictures of this folder; without: of any on loopback, else none.")
    ] = None,
    readers: Annotated[int, typer.Option(help="Threads that search.", min=1, max=64)] = 2,
    allow_download: Annotated[
        bool, typer.Option("--allow-download", help="Fetch the weights of a backbone that is not on this machine.")
    ] = False,
) -> None:
    """Serve collections: an API under /v1, and a search page."""
    os.environ.update({"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "OTEL_SDK_DISABLED": "true"})
    if not allow_download:  # before anything imports the hub's client, which reads it once
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import fastapi  # noqa: F401
    except ImportError as error:
        raise MissingDependency("fastapi", "serve", "bitfuse serve") from error
    from bitfuse.serve import keys as known
    from bitfuse.serve.app import create_app
    from bitfuse.serve.server import run
    from bitfuse.serve.settings import Settings

    everybody = (() if token is None else (known.key_of(token),)) + (() if keys is None else known.load(keys))
    if keys is not None and not everybody:
        raise InputError(f"{keys} holds no key; `bitfuse keys` adds one")
    public = host not in _LOOPBACK
    if public and not everybody and not without_keys:
        raise InputError(
            f"{host} can be reached by others: give --keys or --token (or {TOKEN}), or --without-keys to let anybody in"
        )
    settings = Settings(
        host=host,
        allowed_hosts=tuple(allow_host or ()),
        allowed_origins=tuple(allow_origin or ()),
        keys=everybody,
        picture_roots=tuple(pictures) if pictures else () if public else None,
        readers=readers,
        apart=True,
    )
    application = create_app(_named(shops), settings)
    err.print(f"serving {', '.join(_named(shops))} at http://{host}:{port}", markup=False)
    run(application, settings, port)


def _named(shops: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for shop in shops:
        name, mark, path = shop.partition("=")
        if not mark:
            name, path = Path(shop).resolve().name, shop
        if name in found:
            raise InputError(f"two collections are called {name!r}; name one of them: OTHER={path}")
        found[name] = Path(path)
    return found


@app.command()
def keys(
    file: Annotated[Path, typer.Argument(help="The file of keys; made if it is not there.")],
    name: Annotated[str, typer.Option(help="Whom the key is for; logs show it.")],
    scope: Annotated[list[str] | None, typer.Option(help="read or write; repeatable. Default: read.")] = None,
    collection: Annotated[list[str] | None, typer.Option(help="Only this collection; repeatable.")] = None,
) -> None:
    """Make an API key. It is shown once; the file holds its hash."""
    from bitfuse.serve.keys import new

    out.print(new(file, name, scope or ["read"], collection), markup=False, soft_wrap=True)
    err.print(f"{file} holds its hash; the key itself is not stored anywhere: keep it now", markup=False)

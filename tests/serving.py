"""What the tests of the service share: a collection made without weights, and a real server on loopback."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image

import bitfuse as bf
from bitfuse.data.shapes import generate
from bitfuse.pipeline.extract import extract
from bitfuse.serve.app import create_app
from bitfuse.serve.server import config
from bitfuse.serve.settings import Settings

N_ITEMS = 132  # not fewer than the hasher advises for 32 bits


def png(colour: str = "red", size: tuple[int, int] = (48, 48), **more: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG", **more)
    return file.getvalue()


def make_shop(path: Path) -> list[str]:
    """A collection of shapes by the pocket backbone, pictures kept; the captions in order."""
    world = generate(N_ITEMS)
    backbone = bf.backbone("pocket", light=True)
    samples, _ = extract(world, backbone)
    model = bf.hasher("itq", n_bits=32, aligned=True).fit(samples.views, sources=samples.sources)
    types = {"price": "float", "stock": "int", "colour": "str", "sold": "bool"}
    with bf.Collection.create(path, model=model, backbone=backbone, filterable=types, keep_images=True) as shop:
        shop.add(
            {
                "id": f"item {i}" if i % 10 else f"a/b {i}?#",
                "text": samples.texts[i],
                "image": bytes(world.images[i]),
                "price": i / 2,
                "stock": i,
                "colour": ["red", "green", "blue"][i % 3],
                "sold": i % 2 == 0,
                "note": "<script>alert(1)</script>",
                "views": {name: rows[i] for name, rows in samples.views.items()},
            }
            for i in range(N_ITEMS)
        )
    return list(samples.texts)


def make_arrays(path: Path) -> None:
    """A collection of a model that was fitted on arrays: nothing can be encoded."""
    rows = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    model = bf.hasher("lsh", n_bits=12).fit({"image": rows})
    with bf.Collection.create(path, model=model) as shop:
        shop.add({"id": f"row {i}", "views": {"image": rows[i]}} for i in range(60))


@contextmanager
def serving(collections: dict[str, Path], settings: Settings) -> Iterator[tuple[str, int]]:
    """A real server on loopback, in a thread; its address."""
    app = create_app(collections, settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config(app, settings, 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()

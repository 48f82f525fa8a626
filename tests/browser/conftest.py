"""A real Chromium before a real server on loopback, over a small collection of shapes.

Screenshots go to `.cache/screenshots`: they are there to be looked at.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.serving import make_arrays, serving

import bitfuse as bf
from bitfuse.bench.lengths import sweep
from bitfuse.data.base import Dataset
from bitfuse.data.shapes import generate
from bitfuse.pipeline.extract import extract
from bitfuse.serve.keys import Key
from bitfuse.serve.settings import Settings

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / ".cache" / "screenshots"
N_ITEMS = 300
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
KEY = "a key for the tests"
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@pytest.fixture(scope="session")
def world():
    return generate(N_ITEMS, size=96)


@pytest.fixture(scope="session")
def shop(tmp_path_factory, world):
    root = tmp_path_factory.mktemp("browser")
    backbone = bf.backbone("pocket", light=True)
    samples, _ = extract(world, backbone)

    def fitted(n_bits):
        return bf.hasher("itq", n_bits=n_bits, aligned=True).fit(samples.views, sources=samples.sources)

    model = fitted(64)
    parts = (samples.take(range(50, N_ITEMS)), samples.take(range(50)), samples.take(range(50, N_ITEMS)))
    kept = sweep(model, fitted, Dataset("shapes", *parts))  # as `bitfuse fit --sweep` does
    model.save(root / "model", {"sweep.json": json.dumps(kept.to_dict()).encode()})
    columns = world.attributes
    types = {"main_colour": "str", "main_shape": "str", "price": "float", "count": "int", "sold": "bool"}
    with bf.Collection.create(
        root / "shop", model=root / "model", backbone=backbone, filterable=types, keep_images=True
    ) as collection:
        collection.add(
            {
                "id": HOSTILE if i == 0 else f"item {i}",
                "text": HOSTILE if i == 0 else world.texts[i],
                "image": None if i == 1 else bytes(world.images[i]),
                **{name: columns[name][i] for name in ("main_colour", "main_shape", "price", "count")},
                "sold": i % 2 == 0,
                "note": HOSTILE,
                "views": {name: rows[i] for name, rows in samples.views.items()},
            }
            for i in range(N_ITEMS)
        )
    return root / "shop"


@pytest.fixture(scope="session")
def address(shop):
    with serving({"shop": shop}, Settings()) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture
def locked(shop):
    """A server that wants a key."""
    key = Key("test", hashlib.sha256(KEY.encode()).hexdigest(), frozenset({"read"}))
    with serving({"shop": shop}, Settings(keys=(key,))) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture
def several(shop, tmp_path):
    """A server of two collections, one of which can encode nothing."""
    make_arrays(tmp_path / "arrays")
    with serving({"shop": shop, "arrays": tmp_path / "arrays"}, Settings()) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (dependency group dev)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, permissions=["clipboard-write"])
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context, address):
    """The page as it opens; at the end, nothing may have been thrown or refused by its content policy."""
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    page.goto(address)
    page.wait_for_selector("#welcome:not([hidden])")
    yield page
    assert page.evaluate("window.hacked") is None
    assert wrong == []


@pytest.fixture(scope="session")
def shot():
    SHOTS.mkdir(parents=True, exist_ok=True)

    def take(page, name):
        page.wait_for_function("() => [...document.images].every((i) => !i.getAttribute('src') || i.complete)")
        page.screenshot(path=SHOTS / f"{name}.png")

    return take


@pytest.fixture(scope="session")
def accessible():
    """Fails where axe-core finds anything serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def check(page):
        found = axe.run(page).response["violations"]
        bad = [
            (rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]])
            for rule in found
            if rule["impact"] in ("serious", "critical")
        ]
        assert bad == []

    return check

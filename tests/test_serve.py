"""The service in one process: routes, keys, limits, batching, writing, metrics, logs, and the client."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
import threading
import time

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.serving import N_ITEMS, make_arrays, make_shop, png

import bitfuse as bf
from bitfuse.client import AsyncClient, Client
from bitfuse.errors import DamagedFile, DataWarning, InputError, Overloaded, ServiceError
from bitfuse.serve import keys as keyfile
from bitfuse.serve.app import create_app
from bitfuse.serve.batching import Batcher
from bitfuse.serve.limits import Lane
from bitfuse.serve.logs import JsonLines
from bitfuse.serve.metrics import Metrics
from bitfuse.serve.problems import MEDIA, Problem
from bitfuse.serve.routes.search import no_match_from
from bitfuse.serve.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning")
BASE = "/v1/collections/shop"
HERE = "http://localhost"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    make_shop(root / "shop")
    make_arrays(root / "arrays")
    return {"shop": root / "shop", "arrays": root / "arrays"}


@pytest.fixture(scope="module")
def server(places):
    with TestClient(create_app(places), base_url=HERE) as client:
        wait_ready(client)
        yield client


def wait_ready(client):
    deadline = time.monotonic() + 20
    while client.get("/v1/health/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ids(answer):
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def refused(answer, status, kind):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA
    said = answer.json()
    assert said["type"] == f"urn:bitfuse:problem:{kind}"
    assert said["status"] == status
    assert said["detail"]
    assert said["request_id"] == answer.headers["x-request-id"]
    return said


# searching


def test_every_way_of_searching_gives_what_the_library_gives(server, places):
    picture = png("blue")
    with bf.Collection.open(places["shop"], backbone=bf.backbone("pocket", light=True)) as shop:
        text, where = "a large red star", "price < 20 and colour = 'red'"
        cases = [
            ({"text": text, "k": 7}, {"text": text, "k": 7}),
            ({"image": base64.b64encode(picture).decode()}, {"image": picture}),
            (
                {"text": text, "image": base64.b64encode(picture).decode(), "weights": {"text": 1, "image": 3}},
                {"text": text, "image": picture, "weights": {"text": 1, "image": 3}},
            ),
            ({"like": "item 7", "k": 4}, {"like": "item 7", "k": 4}),
            ({"text": text, "radius": 14, "k": 100}, {"text": text, "radius": 14, "k": 100}),
            *([{"text": text, **more}] * 2 for more in ({"where": where}, {"rerank": True, "k": 5})),
        ]  # fmt: skip
        for asked, wanted in cases:
            said = server.post(f"{BASE}/search", json=asked)
            found = shop.search(**wanted)
            assert ids(said) == [hit.id for hit in found], asked
            assert [hit["distance"] for hit in said.json()["hits"]] == [hit.distance for hit in found]


def test_a_hit_shows_its_bits_and_its_item(server):
    [hit] = server.post(f"{BASE}/search", json={"like": "item 7", "k": 1, "explain": True}).json()["hits"]
    said = hit["explanation"]
    asked, found = (int(said[name], 16) for name in ("query_code", "code"))
    assert (asked ^ found).bit_count() == hit["distance"] == len(said["differing_bits"])
    assert all((asked ^ found) >> (31 - bit) & 1 for bit in said["differing_bits"])
    item = hit["item"]
    assert set(item["attributes"]) == {"price", "stock", "colour", "sold", "note"}
    assert server.get(item["thumbnail"]).status_code == 200


def test_a_picture_can_be_uploaded(server):
    files = {"image": ("../../etc/passwd", png("blue"), "image/png")}
    plain = server.post(f"{BASE}/search", json={"image": base64.b64encode(png("blue")).decode(), "k": 3})
    assert ids(server.post(f"{BASE}/search/picture", files=files, data={"query": '{"k": 3}'})) == ids(plain)
    refused(server.post(f"{BASE}/search/picture", files=files, data={"query": '{"k": 0}'}), 422, "invalid")
    refused(server.post(f"{BASE}/search/picture", files=files, data={"query": "no"}), 422, "invalid")
    refused(server.post(f"{BASE}/search/picture", data={"query": "{}"}), 415, "wrong-media")
    refused(server.post(f"{BASE}/search/picture", files={"other": b"x"}), 422, "invalid")


def test_encode_gives_the_code_that_search_takes(server):
    [code] = server.post(f"{BASE}/encode", json={"text": "red star"}).json()["codes"]
    by_code = server.post(f"{BASE}/search", json={"code": code, "k": 5})
    assert ids(by_code) == ids(server.post(f"{BASE}/search", json={"text": "red star", "k": 5}))
    assert by_code.json()["novelty"] is None
    refused(server.post(f"{BASE}/search", json={"code": code[:-2]}), 422, "invalid")
    refused(server.post(f"{BASE}/encode", json={}), 422, "invalid")


def test_a_code_whose_last_byte_is_not_full_must_end_in_zeros(server):
    base = "/v1/collections/arrays/search"
    assert len(ids(server.post(base, json={"code": "fff0"}))) == 10
    refused(server.post(base, json={"code": "ffff"}), 422, "invalid")


def test_views_are_searched_and_words_refused_where_the_model_knows_arrays_alone(server):
    base = "/v1/collections/arrays"
    assert ids(server.post(f"{base}/search", json={"views": {"image": [1.0] * 8}}))
    for answer in (
        server.post(f"{base}/search", json={"text": "red"}),
        server.post(f"{base}/encode", json={"image": base64.b64encode(png()).decode()}),
        server.put(f"{base}/items/new", json={"text": "red"}),
    ):
        assert "fitted on arrays" in refused(answer, 422, "invalid")["detail"]
    assert server.put(f"{base}/items/new", json={"views": {"image": [1.0] * 8}}).json()["status"] == "stored"


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"text": ""}, {"text": "  "}, {"text": "a", "like": "item 1"}, {"text": "a", "k": 0}, {"like": "nobody"},
        {"text": "a", "k": 1001}, {"text": "a", "radius": -1}, {"text": "a", "k": "3x"}, {"text": "x" * 10_001},
        {"text": "a", "where": "price <"}, {"text": "a", "where": "nothing = 1"}, {"like": ""}, {"code": "zz"},
        {"image": "no base64!"}, {"image": base64.b64encode(b"no picture").decode()}, {"text": "a", "more": 1},
        {"views": {"sound": [1.0]}}, {"views": {"text": [1.0]}}, {"text": "a", "weights": {"text": -1}}, {"text": None},
        {"text": "a", "weights": {"text": 0}}, {"like": "item 1", "weights": {"text": 1}},
        {"views": {"text": [1e39] * 128}}, {"text": "a", "where": "(" * 40 + "price < 1" + ")" * 40},
    ],
)  # fmt: skip
def test_bad_searches_are_refused_with_a_reason(server, asked):
    refused(server.post(f"{BASE}/search", json=asked), 422, "invalid")


def test_a_refusal_does_not_repeat_what_was_asked(server):
    answer = server.post(f"{BASE}/search", json={"text": "my secret wish", "k": "secret"})
    assert "secret" not in refused(answer, 422, "invalid")["detail"] + json.dumps(answer.json())


def test_random_codes_set_the_mark_of_no_match():
    rng = np.random.default_rng(0)
    nearest = []
    for _ in range(60):
        gallery = rng.integers(0, 2, (2000, 32))
        nearest.append((gallery != rng.integers(0, 2, 32)).sum(1).min())
    assert abs(float(np.median(nearest)) - no_match_from(32, 2000)) <= 1
    assert no_match_from(32, 0) == 32


# items


def test_an_item_lives_and_dies(server):
    for name in ("plain", "a/b c?#", "ümläut/..x", "//", "x" * 512):
        at = f"{BASE}/items/" + "".join(f"%{byte:02X}" for byte in name.encode())
        assert server.put(at, json={"text": "a blue ring", "attributes": {"price": 1}}).json() == {
            "id": name, "status": "stored", "reason": None,
        }  # fmt: skip
        again = server.put(at, json={"text": "a blue ring", "attributes": {"price": 1}})
        assert again.json()["status"] == "unchanged"
        assert server.patch(at, json={"attributes": {"price": 2, "colour": "blue"}}).json()["status"] == "stored"
        item = server.get(at).json()
        assert item == {
            "id": name, "text": "a blue ring", "thumbnail": None, "attributes": {"price": 2.0, "colour": "blue"},
        }  # fmt: skip
        assert server.patch(at, json={"text": "a red star"}).json()["status"] == "stored"
        assert server.get(at).json()["text"] == "a red star"
        assert name in ids(server.post(f"{BASE}/search", json={"text": "a red star", "k": 200}))
        assert server.delete(at).json()["status"] == "deleted"
        for answer in (server.get(at), server.delete(at), server.patch(at, json={"text": "x"})):
            refused(answer, 404, "no-item")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"attributes": {"price": 1}}, {"text": "a", "attributes": {"price": "cheap"}}, {"text": "a", "more": 1},
        {"text": "a", "attributes": {"id": "x"}}, {"text": "a", "attributes": {"a": [1]}}, {"views": {"text": [1.0]}},
        {"text": "a", "attributes": {'x"y': 1}}, {"image": base64.b64encode(b"<svg></svg>").decode()},
        {"text": "a\u0000"}, {"text": "a", "attributes": {"big": 2**70}},
    ],
)  # fmt: skip
def test_bad_items_are_refused(server, body):
    refused(server.put(f"{BASE}/items/bad", json=body), 422, "invalid")
    refused(server.get(f"{BASE}/items/bad"), 404, "no-item")


def test_an_item_with_a_bad_picture_is_refused_whole(server):
    body = {"text": "a red star", "image": base64.b64encode(png()[:60]).decode()}
    assert "truncated" in refused(server.put(f"{BASE}/items/half", json=body), 422, "invalid")["detail"]
    refused(server.get(f"{BASE}/items/half"), 404, "no-item")


def test_bulk_reports_every_line(server):
    lines = [
        {"id": "b1", "text": "a red star"},
        {"id": "b2", "text": "a blue ring", "attributes": {"price": "x"}},
        {"id": "b1", "text": "a red star"},
        {"op": "patch", "id": "b1", "attributes": {"price": 3}},
        {"op": "patch", "id": "nobody", "attributes": {"price": 3}},
        {"op": "delete", "id": "b1"},
        {"op": "delete", "id": "b1"},
        {"op": "burn", "id": "b1"},
        {"id": "b3"},
        {"id": "b4", "text": "x", "attributes": {"text": 1}},
    ]
    body = b"\n\n".join(json.dumps(line).encode() for line in lines) + b"\nnot json\n"
    answer = server.post(f"{BASE}/bulk", content=body, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 200
    said = [json.loads(line) for line in answer.text.splitlines()]
    assert [one["status"] for one in said] == [
        "stored", "refused", "unchanged", "stored", "missing", "deleted", "missing", "refused", "refused", "refused",
        "refused",
    ]  # fmt: skip
    assert [one["line"] for one in said] == [*range(1, 20, 2), 20]
    assert all(one["reason"] for one in said if one["status"] == "refused")
    refused(server.post(f"{BASE}/bulk", json=[]), 415, "wrong-media")


def test_changes_of_many_clients_share_transactions_and_none_is_lost(places):
    app = create_app(places)
    with TestClient(app, base_url=HERE) as client:
        wait_ready(client)
        served = app.state.shelf._served["shop"]

        async def rush():
            changes = [
                served.writer.change("add", [{"id": f"rush {i % 40}", "text": f"a red star {i}"}]) for i in range(80)
            ]
            return await asyncio.gather(*changes)

        outcomes = asyncio.run(rush())
        assert [one.status for [one] in outcomes] == ["stored"] * 80
        transactions = app.state.metrics.registry.get_sample_value("bitfuse_stage_seconds_count", {"stage": "write"})
        assert transactions <= 20
        for i in range(40):
            assert client.get(f"{BASE}/items/rush {i}").json()["text"] == f"a red star {i + 40}"
            assert client.delete(f"{BASE}/items/rush {i}").status_code == 200


def test_what_was_written_is_found_at_once_by_every_reader(server):
    for i in range(20):
        server.put(f"{BASE}/items/fresh", json={"text": f"a red star {i}"})
        assert server.get(f"{BASE}/items/fresh").json()["text"] == f"a red star {i}"
    server.delete(f"{BASE}/items/fresh")


# pictures


def test_thumbnails_are_new_pictures(server):
    sent = png("green", (900, 300), pnginfo=None, exif=b"Exif\0\0secret place")
    server.put(f"{BASE}/items/photo", json={"image": base64.b64encode(sent).decode()})
    answer = server.get(f"{BASE}/thumbnails/photo", params={"size": 90})
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == "JPEG"
        assert image.size == (90, 30)
    assert b"secret" not in answer.content
    refused(server.get(f"{BASE}/thumbnails/photo", params={"size": 5000}), 422, "invalid")
    server.delete(f"{BASE}/items/photo")
    refused(server.get(f"{BASE}/thumbnails/photo"), 404, "not-found")


def test_pictures_are_shown_from_the_folders_that_were_named(tmp_path):
    make_arrays(tmp_path / "shop")
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.png").write_bytes(png())
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "notes.txt").write_text("secret")
    paths = {"in": inside / "a.png", "out": outside / "a.png", "up": inside / ".." / "outside" / "a.png",
             "link": inside / "link.png", "text": inside / "notes.txt", "gone": inside / "gone.png"}  # fmt: skip
    with bf.Collection.open(tmp_path / "shop") as shop:
        shop.add({"id": name, "image": path, "views": {"image": np.ones(8)}} for name, path in paths.items())
    for roots, shown in (((inside,), {"in"}), ((), set()), (None, {"in", "out", "up", "link"})):
        settings = Settings(picture_roots=roots)
        with TestClient(create_app({"shop": tmp_path / "shop"}, settings), base_url=HERE) as client:
            said = {name: client.get(f"{BASE}/thumbnails/{name}").status_code for name in paths}
            assert {name for name, status in said.items() if status == 200} == shown
            assert set(said.values()) <= {200, 404}
            assert str(tmp_path) not in client.get(f"{BASE}/items/in").text


# collections


def test_a_collection_describes_itself(server):
    [shop, arrays] = server.get("/v1/collections").json()["collections"]
    assert shop == server.get(BASE).json()
    assert (shop["name"], shop["n_bits"], shop["method"], shop["writable"]) == ("shop", 32, "ITQ", True)
    assert shop["items"] >= N_ITEMS
    assert shop["answers"] == [["text"], ["image"], ["text", "image"]]
    assert shop["weighted"]
    assert (arrays["answers"], arrays["weighted"]) == ([], False)
    refused(server.get("/v1/collections/nothing"), 404, "not-found")


def test_facets_give_types_ranges_and_values(server):
    facets = server.get(f"{BASE}/facets").json()["facets"]
    assert list(facets) == ["price", "stock", "colour", "sold"]
    assert facets["price"]["type"] == "float"
    assert (facets["price"]["min"], facets["price"]["max"]) == (0, (N_ITEMS - 1) / 2)
    assert {v["value"] for v in facets["colour"]["values"]} == {"red", "green", "blue"}
    assert facets["colour"]["values"][0]["count"] == N_ITEMS / 3
    assert {v["value"] for v in facets["sold"]["values"]} == {True, False}


def test_stats_and_sweep(server):
    stats = server.get(f"{BASE}/stats").json()
    assert sum(codes for _, codes in stats["buckets"]) == stats["distinct_codes"]
    assert stats["latency_ms"] > 0
    assert server.get(f"{BASE}/sweep").json() == {"sweep": None}


# keys


def test_keys_open_what_they_are_for(places, tmp_path):
    file = tmp_path / "keys.json"
    full = keyfile.new(file, "full", ["read", "write"], None)
    reads = keyfile.new(file, "reads", ["read"], ["shop"])
    writes = keyfile.new(file, "writes", ["write"], ["shop"])
    assert full not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    settings = Settings(keys=keyfile.load(file))
    search = {"like": "item 1"}

    def head(key):
        return {"authorization": f"Bearer {key}"}

    with TestClient(create_app(places, settings), base_url=HERE) as client:
        for path in ("/v1/collections", BASE, "/metrics", "/docs", "/openapi.json", f"{BASE}/items/item 1", "/nope"):
            answer = client.get(path)
            refused(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            refused(client.get(path, headers=head("bf_wrong")), 401, "unauthorized")
        assert client.get("/v1/health/live").status_code == 200
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert client.get(path, headers=head(reads)).status_code == 200
            refused(client.get(path, headers=head(writes)), 403, "forbidden")
        assert client.post(f"{BASE}/search", json=search, headers=head(reads)).status_code == 200
        refused(client.post(f"{BASE}/search", json=search, headers=head(writes)), 403, "forbidden")
        refused(client.put(f"{BASE}/items/x", json={"text": "x"}, headers=head(reads)), 403, "forbidden")
        refused(client.get("/v1/collections/arrays", headers=head(reads)), 404, "not-found")
        assert client.delete(f"{BASE}/items/nobody", headers=head(writes)).status_code == 404
        names = [c["name"] for c in client.get("/v1/collections", headers=head(reads)).json()["collections"]]
        assert names == ["shop"]
        assert client.get(BASE, headers=head(reads)).json()["writable"] is False
        assert client.get("/v1/collections/arrays", headers=head(full)).json()["writable"] is True


def test_every_key_is_compared_whatever_matches(monkeypatch):
    known = [keyfile.key_of(f"a long enough token {i}".replace(" ", "-"), str(i)) for i in range(4)]
    calls = []
    plain = keyfile.hmac.compare_digest
    monkeypatch.setattr(keyfile.hmac, "compare_digest", lambda a, b: calls.append(1) or plain(a, b))
    assert keyfile.find(known, "a-long-enough-token-0").name == "0"
    assert keyfile.find(known, "nothing") is None
    assert len(calls) == 8


def test_bad_keys_and_files_are_refused(tmp_path):
    for token in ("short", "has spaces in it, so no", "ü" * 20):
        with pytest.raises(InputError, match="token"):
            keyfile.key_of(token)
    file = tmp_path / "keys.json"
    keyfile.new(file, "a", ["read"], None)
    with pytest.raises(InputError, match="taken"):
        keyfile.new(file, "a", ["read"], None)
    with pytest.raises(InputError, match="scopes"):
        keyfile.new(file, "b", ["admin"], None)
    with pytest.raises(InputError, match="bitfuse keys"):
        keyfile.load(tmp_path / "none.json")
    file.write_text('{"keys": [{"name": "x"}]}')
    with pytest.raises(DamagedFile):
        keyfile.load(file)


def test_bad_settings_and_names_are_refused(places):
    with pytest.raises(InputError, match="readers"):
        Settings(readers=0)
    with pytest.raises(InputError, match="address"):
        create_app({"../x": places["shop"]})
    with pytest.raises(InputError, match="needs a collection"):
        create_app({})
    with pytest.raises(InputError, match="does not exist"):
        create_app({"shop": places["shop"] / "nothing"})


# limits, batching, metrics, logs


def test_a_lane_is_first_come_first_served_and_refuses_politely():
    async def story():
        lane, order = Lane("t", 1, 2, 0.05, Metrics()), []

        async def ask(name, client, seconds=0.0):
            try:
                async with lane.place(client):
                    order.append(name)
                    await asyncio.sleep(seconds)
            except Problem as problem:
                order.append(f"{name} {problem.kind} {problem.retry_after}")

        await asyncio.gather(*(ask(name, name, 0.01) for name in "abcd"))
        assert order == ["d overloaded 1", "a", "b", "c"] or order == ["a", "d overloaded 1", "b", "c"]
        order.clear()
        await asyncio.gather(ask("slow", "s", 0.15), ask("late", "l"))
        assert order == ["slow", "late overloaded 1"]
        order.clear()
        await asyncio.gather(*(ask(i, "greedy", 0.005) for i in range(3)))
        assert "2 too-many 1" in order
        order.clear()
        waiting = asyncio.create_task(ask("holds", "h", 0.03))
        await asyncio.sleep(0)
        gone = asyncio.create_task(ask("gone", "g"))
        await asyncio.sleep(0)
        gone.cancel()
        await waiting
        await ask("after", "a")
        assert order == ["holds", "after"]
        assert lane._taken == 0
        assert not lane._clients

    asyncio.run(story())


class SlowBackbone:
    views, aligned, name, prompts = ("text",), True, "slow", ()

    def __init__(self):
        self.sizes, self.gate = [], threading.Event()

    def encode(self, view, inputs, *, batch_size=None):
        if inputs == ["a"]:
            return np.zeros((1, 2), np.float32)
        self.gate.wait(5)
        self.sizes.append(len(inputs))
        if "bad" in inputs:
            raise InputError("bad")
        return np.array([[len(x), 1] for x in inputs], np.float32)


def test_queries_that_come_together_share_a_pass():
    backbone, metrics = SlowBackbone(), Metrics()
    batcher = Batcher(backbone, 8, 4, metrics)

    async def story():
        asks = [batcher.encode("text", "x" * n, b"%d" % n) for n in range(1, 12)]
        asks.append(batcher.encode("text", "bad", b"bad"))
        threading.Timer(0.1, backbone.gate.set).start()
        rows = await asyncio.gather(*asks, return_exceptions=True)
        assert [int(row[0]) for row in rows[:-1]] == list(range(1, 12))
        assert isinstance(rows[-1], InputError)

    asyncio.run(story())
    assert backbone.sizes[0] <= 8
    assert max(backbone.sizes) == 8 or backbone.sizes[:2] == [1, 8]
    assert len(batcher._rows) == 4, "the cache is bounded"
    batcher.close()


def test_a_query_is_encoded_once(server):
    def encoded():
        text = server.get("/metrics").text
        return float(re.search(r"bitfuse_encode_batch_count (\S+)", text)[1])

    server.post(f"{BASE}/search", json={"text": "a yellow cross"})
    before = encoded()
    server.post(f"{BASE}/search", json={"text": "a yellow cross", "k": 3})
    assert encoded() == before


def test_metrics_name_stages_routes_and_sizes(server):
    server.post(f"{BASE}/search", json={"text": "a red star"})
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for wanted in (
        'bitfuse_requests_total{method="POST",route="/v1/collections/{collection}/search",status="200"}',
        'bitfuse_stage_seconds_count{stage="encode"}', 'bitfuse_stage_seconds_count{stage="search"}',
        'bitfuse_collection_items{collection="shop"}', 'bitfuse_under_way{lane="search"} 0.0',
    ):  # fmt: skip
        assert wanted in answer.text, wanted


def test_logs_are_json_without_queries_ids_and_keys(server, caplog):
    with caplog.at_level(logging.INFO, "bitfuse.serve"):
        server.post(f"{BASE}/search?token=hidden", json={"text": "my secret wish"}, headers={"x-request-id": "abc-1"})
        server.get(f"{BASE}/items/secret", headers={"x-request-id": "evil\\nid", "authorization": "Bearer hidden"})
    lines = [JsonLines().format(record) for record in caplog.records if record.name == "bitfuse.serve"]
    said = [json.loads(line) for line in lines]
    assert said[0]["request_id"] == "abc-1"
    assert said[0]["route"] == "/v1/collections/{collection}/search"
    assert said[0]["status"] == 200
    assert re.fullmatch("[0-9a-f]{16}", said[1]["request_id"])
    assert not [line for line in lines if "secret" in line or "hidden" in line]


def test_a_defect_is_a_problem_with_a_request_id(places, monkeypatch, caplog):
    app = create_app(places)
    with TestClient(app, base_url=HERE) as client:
        wait_ready(client)

        async def broken(*_):
            raise RuntimeError("private detail")

        monkeypatch.setattr(app.state.shelf._served["shop"], "read", broken)
        said = refused(client.get(f"{BASE}/items/x"), 500, "internal")
        assert "private" not in json.dumps(said)
    assert "private detail" in caplog.text


def test_nothing_is_measured_for_others(server):
    assert not server.app._native_telemetry.enabled()


# client


def test_the_client_speaks_for_the_server(server):
    with Client(HERE, "shop", transport=server._transport) as shop:
        written = shop.put("c/1", text="a red star", image=png(), attributes={"price": 4})
        assert (written.id, written.status) == ("c/1", "stored")
        assert shop.patch("c/1", attributes={"price": 5}).status == "stored"
        assert shop.get("c/1")["attributes"] == {"price": 5.0}
        found = shop.search("a red star", image=png(), weights={"text": 1, "image": 2}, k=3, explain=True)
        assert len(found.hits) == 3
        assert found.hits[0].explanation["bits"] == 32
        assert found.novelty >= 0
        assert isinstance(found.good_match, bool)
        assert shop.search(like="item 1", k=2).hits[0].distance >= 0
        assert shop.search(views={"text": np.ones(128)}, k=1).hits
        assert len(shop.encode("red")[0]) == 8
        assert [w.status for w in shop.bulk([{"id": "c/2", "text": "x"}, {"op": "delete", "id": "c/2"}], size=1)] == [
            "stored", "deleted",
        ]  # fmt: skip
        assert shop.delete("c/1").status == "deleted"
        assert shop.get("c/1") is None
        assert shop.describe()["n_bits"] == 32
        assert "price" in shop.facets()
        assert shop.stats()["items"] >= N_ITEMS
        with pytest.raises(InputError, match="filter"):
            shop.search("x", where="price <")
    with Client(HERE, "nothing", transport=server._transport) as shop, pytest.raises(ServiceError) as raised:
        shop.get("x")
    assert (raised.value.status, raised.value.kind) == (404, "not-found")
    assert raised.value.request_id


def test_the_asynchronous_client_does_the_same(server):
    async def story():
        async with AsyncClient(HERE, "shop", transport=httpx2.ASGITransport(server.app)) as shop:
            assert (await shop.put("d", text="a red star")).status == "stored"
            assert (await shop.get("d"))["text"] == "a red star"
            assert (await shop.patch("d", text="a blue ring")).status == "stored"
            assert (await shop.search("a blue ring", k=1)).hits
            assert (await shop.bulk([{"op": "delete", "id": "d"}]))[0].status == "deleted"
            assert await shop.get("d") is None
            assert await shop.encode("red")
            assert (await shop.describe())["name"] == "shop"
            assert await shop.facets()
            assert (await shop.stats())["n_bits"] == 32
            with pytest.raises(ServiceError) as raised:
                await shop.delete("d")
            assert raised.value.kind == "no-item"

    asyncio.run(story())


def test_the_client_comes_again_when_it_is_told(monkeypatch):
    waits, answers = [], []
    monkeypatch.setattr(time, "sleep", waits.append)
    busy = Problem("overloaded", "busy", retry_after=3).response("id")

    def handler(request):
        answers.append(request.headers["authorization"])
        if len(answers) < 3:
            return httpx2.Response(503, content=busy.body, headers=dict(busy.headers))
        return httpx2.Response(200, json={"codes": ["ff"]})

    with Client(HERE, "shop", key="k", transport=httpx2.MockTransport(handler)) as shop:
        assert shop.encode("x") == ["ff"]
        assert (waits, answers) == ([3.0, 3.0], ["Bearer k"] * 3)
    with Client(HERE, "shop", key="k", retries=0, transport=httpx2.MockTransport(handler)) as shop:
        answers.clear()
        with pytest.raises(Overloaded) as raised:
            shop.encode("x")
        assert raised.value.retry_after == 3

    def silent(request):
        raise httpx2.ConnectError("refused")

    with (
        Client(HERE, "shop", transport=httpx2.MockTransport(silent)) as shop,
        pytest.raises(ServiceError, match="is it running"),
    ):
        shop.encode("x")


def test_the_novelty_of_a_query_is_said_not_warned(server):
    strange = server.post(f"{BASE}/search", json={"views": {"image": [1000.0] * 128}, "k": 1}).json()
    assert strange["novelty"] > 1
    assert issubclass(DataWarning, UserWarning)

"""Hostile requests, each with its answer: in process where HTTP is enough, through a socket where it is not."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import time
import zlib
from contextlib import suppress

import httpx2
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.serving import make_shop, png, serving

from bitfuse.serve.app import create_app
from bitfuse.serve.keys import key_of
from bitfuse.serve.security import Hosts, is_loopback
from bitfuse.serve.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning")
BASE = "/v1/collections/shop"
SEARCH = {"like": "item 1", "k": 1}
LIMITS = Settings(
    body_bytes=200_000, bulk_bytes=300_000, body_seconds=0.6, header_seconds=0.6, image_pixels=300_000, bulk_lines=50
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "shop"
    make_shop(path)
    return path


@pytest.fixture(scope="module")
def server(place):
    with TestClient(create_app({"shop": place}, LIMITS), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def address(place):
    with serving({"shop": place}, LIMITS) as address:
        yield address


def refused(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def alive(server):
    assert server.post(f"{BASE}/search", json=SEARCH).status_code == 200


# hosts and origins


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "169.254.169.254", "10.0.0.1", "", "a b",
     "localhost:80:80", "localhost@evil.example", "[::1]evil", "localhost\tx", "testserver"],
)  # fmt: skip
def test_a_rebound_name_is_not_answered(server, host):
    for path in (f"{BASE}/search", BASE, "/metrics", "/", "/v1/health/live"):
        refused(server.get(path, headers={"host": host}), 421)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "127.8.8.8", "[::1]:8000", "LOCALHOST"])
def test_loopback_names_are_answered(server, host):
    assert server.get(BASE, headers={"host": host}).status_code == 200


def test_names_of_a_public_server():
    named = Hosts(Settings(host="192.0.2.7", allowed_hosts=("Search.example.org",)))
    assert named.accepts("search.example.org:443")
    assert named.accepts("192.0.2.7")
    assert not named.accepts("192.0.2.8")
    anywhere = Hosts(Settings(host="0.0.0.0"))
    assert anywhere.accepts("192.0.2.8:8000")
    assert not anywhere.accepts("rebound.example")
    assert is_loopback("::1")
    assert not is_loopback("localhost.example")


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"origin": "http://localhost:9999"}, {"origin": "http://["},
     {"origin": "http://localhost.evil.example"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
)  # fmt: skip
def test_a_forged_request_changes_nothing(server, headers):
    for answer in (
        server.put(f"{BASE}/items/forged", json={"text": "x"}, headers=headers),
        server.delete(f"{BASE}/items/item 1", headers=headers),
        server.post(f"{BASE}/bulk", content=b"{}", headers={**headers, "content-type": "application/x-ndjson"}),
        server.post(f"{BASE}/search", json=SEARCH, headers=headers),
    ):
        refused(answer, 403)
    assert server.get(f"{BASE}/items/item 1").status_code == 200


def test_its_own_page_may_write(server):
    headers = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
    assert server.post(f"{BASE}/search", json=SEARCH, headers=headers).status_code == 200


def test_no_other_origin_is_let_in_unless_it_is_named(server, place):
    asks = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    answer = server.options(f"{BASE}/search", headers=asks)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
    named = Settings(allowed_origins=("https://shop.example",), keys=(key_of("a-long-enough-token"),))
    with TestClient(create_app({"shop": place}, named), base_url="http://localhost") as client:
        answer = client.options(f"{BASE}/search", headers=asks)
        assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        other = client.options(f"{BASE}/search", headers={**asks, "origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        head = {"origin": "https://shop.example", "authorization": "Bearer a-long-enough-token"}
        assert client.post(f"{BASE}/search", json=SEARCH, headers=head).status_code == 200


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "", "application/xml", "json"])
def test_content_types_that_a_form_can_send_are_refused(server, media):
    body = json.dumps(SEARCH).encode()
    refused(server.post(f"{BASE}/search", content=body, headers={"content-type": media}), 415)
    refused(server.put(f"{BASE}/items/x", content=b'{"text": "x"}', headers={"content-type": media}), 415)


def test_a_multipart_form_does_not_reach_a_json_route(server):
    refused(server.put(f"{BASE}/items/x", files={"text": b"x"}), 422)
    refused(server.post(f"{BASE}/search", files={"text": b"x"}), 422)


# tokens


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "a-long-enough-token"}, {"authorization": "Basic a-long-enough-token"},
     {"authorization": "Bearer "}, {"authorization": "Bearer a-long-enough-toke"},
     {"authorization": "Bearer " + "x" * 9000},
     {"authorization": "Bearer a-long-enough-token, Bearer x"}, {"x-api-key": "a-long-enough-token"},
     {"cookie": "token=a-long-enough-token"}, {"authorization": "Bearer \u00e9"}],
)  # fmt: skip
def test_bad_tokens_open_nothing(place, headers):
    encoded = {name: value.encode("latin1") for name, value in headers.items()}
    settings = Settings(keys=(key_of("a-long-enough-token"),))
    with TestClient(create_app({"shop": place}, settings), base_url="http://localhost") as client:
        for path in (BASE, "/metrics", "/docs", "/openapi.json", "/nothing", f"{BASE}/thumbnails/x"):
            refused(client.get(path, headers=encoded), 401)
        refused(client.get(f"{BASE}?token=a-long-enough-token&key=a-long-enough-token", headers=encoded), 401)
        refused(client.post(f"{BASE}/search", json=SEARCH, headers=encoded), 401)
        good = {"authorization": "Bearer a-long-enough-token"}
        assert client.get(BASE, headers=good).status_code == 200


# paths and injection


@pytest.mark.parametrize(
    "path",
    ["/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/....//app.py", "/page//etc/passwd",
     "/page/..\\app.py", "/../../etc/passwd", "/v1/collections/../../etc", "/v1/collections/%2e%2e/search",
     "/v1/collections/shop%00", "/v1/collections/shop%2f..%2fshop", "/page/%00", "/v1/collections/" + "x" * 5000],
)  # fmt: skip
def test_no_path_leads_out(address, path):
    answer = raw(address, f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    status = int(answer.split(b" ")[1])
    assert status in (400, 404, 405, 422), answer
    assert b"root:" not in answer
    assert b"import" not in answer


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "..", "a\\..\\b", "x'; DROP TABLE items;--", "%s%n"]
)
def test_an_id_is_a_name_and_never_a_path(address, name):
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    with httpx2.Client(base_url=f"http://127.0.0.1:{address[1]}") as client:
        for kind in ("items", "thumbnails"):
            head = f"GET {BASE}/{kind}/{quoted} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            assert raw(address, head.encode()).split(b" ")[1] == b"404"
        lines = json.dumps({"id": name, "text": "x"}) + "\n" + json.dumps({"op": "delete", "id": name})
        answer = client.post(f"{BASE}/bulk", content=lines, headers={"content-type": "application/x-ndjson"})
        assert [json.loads(line)["status"] for line in answer.text.splitlines()] == ["stored", "deleted"]
        assert client.get(BASE).json()["items"] > 100


@pytest.mark.parametrize(
    "where",
    ["price < 1; DROP TABLE items", "price < 1 OR 1=1", "id = '' UNION SELECT sql FROM sqlite_master",
     "\"price\" < 1 --", "load_extension('x')", "price < (SELECT 1)", "price in (" + "1," * 11_000 + "1)",
     "not " * 500 + "price < 1", " and ".join(["price < 1"] * 300), "price < 1e999", "price < 99999999999999999999",
     "text like '%'", "price = 'x\u0000'", "\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace")],
)  # fmt: skip
def test_a_filter_is_a_filter_and_nothing_else(server, where):
    refused(server.post(f"{BASE}/search", json={**SEARCH, "where": where}), 422)
    alive(server)


def test_an_image_is_never_an_address(server):
    for address in ("http://127.0.0.1:1/x.png", "file:///etc/passwd", "/etc/passwd", "\\\\host\\share", "data:,x"):
        refused(server.post(f"{BASE}/search", json={"image": address}), 422)
        refused(server.put(f"{BASE}/items/x", json={"image": address}), 422)
        encoded = base64.b64encode(address.encode()).decode()
        refused(server.post(f"{BASE}/search", json={"image": encoded}), 422)


def test_stored_scripts_come_back_as_data(server):
    script = "<script>alert(1)</script>"
    server.put(f"{BASE}/items/xss", json={"text": script, "attributes": {script: script}})
    answer = server.get(f"{BASE}/items/xss")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["attributes"] == {script: script}
    assert "<script>" not in server.get("/docs").text
    server.delete(f"{BASE}/items/xss")


# pictures


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 60_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames, file = [Image.new("RGB", (16, 16), (i, 0, 0)) for i in range(40)], io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


PICTURES = {
    "a bomb of a billion pixels": bomb(40_000, 40_000),
    "over the limit of pixels": png("red", (600, 600)),
    "a line": bomb(30_000, 1),
    "truncated": png("red", (300, 300))[:200],
    "empty": b"",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "SVG behind XML": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
    "HTML": b"<html><script>alert(1)</script></html>",
    "a zip": b"PK\x03\x04" + b"\0" * 100,
    "HEIC": b"\0\0\0\x18ftypheic" + b"\0" * 60,
    "PDF": b"%PDF-1.7 " + b"\0" * 60,
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n(%pipe%id) run",
    "a broken header": b"\x89PNG\r\n\x1a\n" + b"\xff" * 100,
    "TIFF of nothing": b"II*\0\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", PICTURES)
def test_hostile_pictures_are_refused_quickly(server, name):
    start = time.perf_counter()
    picture = PICTURES[name]
    encoded = base64.b64encode(picture).decode()
    refused(server.post(f"{BASE}/search", json={"image": encoded}), 422)
    refused(server.post(f"{BASE}/search/picture", files={"image": ("x.png", picture, "image/png")}), 422)
    refused(server.put(f"{BASE}/items/bad", json={"image": encoded}), 422)
    assert time.perf_counter() - start < 2
    alive(server)


def test_of_an_animation_the_first_frame_is_taken(server):
    encoded = base64.b64encode(animation()).decode()
    assert server.post(f"{BASE}/search", json={"image": encoded}).status_code == 200


# sizes


def test_bodies_over_the_limit_are_refused_before_they_are_read(server, address):
    refused(server.post(f"{BASE}/search", json={"text": "x" * 250_000}), 413)
    refused(server.post(f"{BASE}/bulk", content=b"x" * 310_000, headers={"content-type": "application/x-ndjson"}), 413)
    head = (
        f"POST {BASE}/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        "content-length: 99999999999\r\n\r\n"
    )
    start = time.perf_counter()
    answer = raw(address, head.encode())
    assert b" 413 " in answer
    assert time.perf_counter() - start < 0.5


def test_a_chunked_body_has_the_same_limit(address):
    head = f"POST {BASE}/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
    body = b"transfer-encoding: chunked\r\n\r\n" + (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * 20
    assert b" 413 " in raw(address, head + body)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[" * 100_000, 400), (b'{"text":' * 20_000, 400), (b"\xff\xfe", 422), (b"", 422), (b"null", 422), (b"[]", 422),
     (b'{"text": NaN}', 422), (b'{"text": "a", "k": 1e400}', 422), (b'{"text":"a","text":1}', 422),
     (b'{"like": "item 1", "k": 1' + b" " * 1000 + b"}", 200), (b'{"__proto__": {"k": 1}}', 422)],
)  # fmt: skip
def test_odd_json_is_answered(server, body, status):
    answer = server.post(f"{BASE}/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text


def test_odd_multipart_is_answered(server):
    for media, body in (
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"a: b\r\n" * 9000),
        ("multipart/form-data; boundary=x", b'--x\r\ncontent-disposition: form-data; name="image"\r\n\r\n' + b"y" * 99),
        ("multipart/form-data; boundary=x", b"".join(
            b'--x\r\ncontent-disposition: form-data; name="a%d"\r\n\r\n1\r\n' % i for i in range(2000))),
    ):  # fmt: skip
        answer = server.post(f"{BASE}/search/picture", content=body, headers={"content-type": media})
        refused(answer, answer.status_code)
        assert answer.status_code in (400, 422)
    alive(server)


def test_bulk_lines_are_counted(server):
    lines = b"\n".join(b'{"op": "delete", "id": "nobody"}' for _ in range(51))
    refused(server.post(f"{BASE}/bulk", content=lines, headers={"content-type": "application/x-ndjson"}), 413)


# sockets


def raw(address: tuple[str, int], sent: bytes, seconds: float = 5.0) -> bytes:
    """What a server says until it closes, or stays silent."""
    with socket.create_connection(address, timeout=seconds) as connection:
        with suppress(OSError):
            connection.sendall(sent)
        return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
            if b"content-length" in received and b"}" in part:
                break
    except OSError:
        pass
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * (LIMITS.head_bytes + 1000) + b"\r\n\r\n",
        b"GET /" + b"y" * (LIMITS.head_bytes + 1000) + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost : localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\x00c\r\n\r\n",
    ],
)
def test_broken_http_is_refused(address, sent):
    answer = raw(address, sent)
    status = answer.split(b" ")[1] if answer.startswith(b"HTTP/1.1 ") else b"closed"
    assert status in (b"400", b"415", b"421", b"431", b"closed"), answer[:200]
    assert raw(address, b"GET /v1/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_slow_head_is_cut_off(address):
    with socket.create_connection(address, timeout=5) as connection:
        start = time.perf_counter()
        for byte in b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ":
            try:
                connection.sendall(bytes([byte]))
                time.sleep(0.03)
            except OSError:
                break
        assert rest_of(connection) == b""
        assert time.perf_counter() - start < 2.5


def test_a_slow_head_after_a_good_request_is_cut_off_too(address):
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"GET /v1/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"live" in rest_of(connection)
        time.sleep(0.2)
        start = time.perf_counter()
        connection.sendall(b"GET / HT")
        assert connection.recv(65536) == b""
        assert time.perf_counter() - start < 2.5


def test_a_slow_body_is_cut_off(address):
    with socket.create_connection(address, timeout=5) as connection:
        start = time.perf_counter()
        connection.sendall(
            f"POST {BASE}/search HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            "content-length: 1000\r\n\r\n".encode()
        )
        for _ in range(10):
            try:
                connection.sendall(b" ")
                time.sleep(0.1)
            except OSError:
                break
        answer = rest_of(connection)
        assert b" 408 " in answer
        assert time.perf_counter() - start < 2.5


def test_many_idle_connections_do_not_shut_others_out(address):
    idle = [socket.create_connection(address, timeout=5) for _ in range(200)]
    try:
        assert raw(address, b"GET /v1/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200")
        time.sleep(0.8)
        assert all(connection.recv(1) == b"" for connection in idle)
    finally:
        for connection in idle:
            connection.close()


def test_one_client_that_asks_too_much_is_told_to_wait(place):
    settings = Settings(active=1, waiting=3, wait_seconds=5, readers=1)
    with serving({"shop": place}, settings) as (_, port):
        import asyncio

        async def rush():
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                asks = [client.post(f"{BASE}/search", json={"text": f"a red star {i}"}) for i in range(40)]
                return await asyncio.gather(*asks)

        answers = asyncio.run(rush())
        statuses = {answer.status_code for answer in answers}
        assert statuses <= {200, 429, 503}
        assert 200 in statuses
        for answer in answers:
            if answer.status_code != 200:
                assert int(answer.headers["retry-after"]) >= 1
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.post(f"{BASE}/search", json={"text": "a red star"}).status_code == 200

"""`bitfuse serve` as a process: it starts, refuses what is unsafe, survives a kill; the examples of the docs run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from tests.serving import make_shop, png
from typer.testing import CliRunner

from bitfuse.cli import app, exit_code
from bitfuse.cli import serve as serve_verb  # noqa: F401  (registers it)
from bitfuse.errors import InputError
from bitfuse.serve import keys as keyfile
from bitfuse.serve.settings import Settings

ROOT = Path(__file__).parents[1]
BASE = "/v1/collections/shop"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("process") / "shop"
    make_shop(path)
    return path


@contextmanager
def process(*arguments, **environment):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "bitfuse", "serve", *map(str, arguments)]
    running = subprocess.Popen(
        [*command, "--port", str(port)], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        yield running, f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.communicate()


def wait_ready(running, url, seconds=60.0):
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        try:
            if httpx2.get(f"{url}/v1/health/ready", timeout=5).status_code == 200:
                return time.perf_counter() - start
        except httpx2.HTTPError:
            assert running.poll() is None, running.stderr.read()
        time.sleep(0.02)
    raise AssertionError("the server is not ready")


def test_what_is_unsafe_is_refused(shop, tmp_path):
    cli = CliRunner()
    for arguments, why in (
        (["--host", "0.0.0.0"], "can be reached by others"),
        (["--token", "short"], "token"),
        (["--keys", str(tmp_path / "none.json")], "bitfuse keys"),
        ([str(shop)], "two collections"),
    ):
        result = cli.invoke(app, ["serve", str(shop), *arguments], env={"BITFUSE_TOKEN": None})
        assert isinstance(result.exception, InputError), (arguments, result.output)
        assert why in str(result.exception)
        assert exit_code(result.exception) == 2


def test_keys_are_made_and_shown_once(tmp_path):
    file = tmp_path / "keys.json"
    arguments = ["keys", str(file), "--name", "front", "--scope", "read", "--scope", "write", "--collection", "shop"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    [token] = re.findall(r"bf_[\w-]{43}", result.output)
    [key] = keyfile.load(file)
    assert keyfile.find([key], token) is key
    assert (key.scopes, key.collections) == (("read", "write"), ("shop",))


def test_options_become_settings(shop, tmp_path, monkeypatch):
    import bitfuse.serve.app
    import bitfuse.serve.server

    seen = []
    monkeypatch.setattr(bitfuse.serve.app, "create_app", lambda shops, settings: seen.append((shops, settings)))
    monkeypatch.setattr(bitfuse.serve.server, "run", lambda app, settings, port: seen.append(port))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    given = ["serve", str(shop), f"b={shop}", "--host", "0.0.0.0", "--port", "9", "--token", "x" * 20,
             "--allow-host", "h", "--allow-origin", "https://o", "--readers", "3"]  # fmt: skip
    assert CliRunner().invoke(app, given).exit_code == 0
    (shops, settings), port = seen
    assert (list(shops), port) == (["shop", "b"], 9)
    assert settings == Settings(
        host="0.0.0.0", allowed_hosts=("h",), allowed_origins=("https://o",), keys=(keyfile.key_of("x" * 20),),
        picture_roots=(), readers=3, apart=True,
    )  # fmt: skip
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    seen.clear()
    given = ["serve", str(shop), "--host", "0.0.0.0", "--without-keys", "--pictures", str(tmp_path), "--allow-download"]
    os.environ.pop("HF_HUB_OFFLINE")
    assert CliRunner().invoke(app, given, env={"BITFUSE_TOKEN": None}).exit_code == 0
    assert seen[0][1].picture_roots == (tmp_path,)
    assert "HF_HUB_OFFLINE" not in os.environ


def test_a_killed_server_has_every_acknowledged_write(shop, tmp_path):
    copy = tmp_path / "shop"
    shutil.copytree(shop, copy)
    acknowledged = {}
    with process(copy) as (running, url):
        wait_ready(running, url)

        def write(worker):
            with httpx2.Client(base_url=url) as client:
                for i in range(10_000):
                    body = {"text": f"a red star {i}", "attributes": {"stock": i}}
                    try:
                        answer = client.put(f"{BASE}/items/k{worker}-{i % 20}", json=body)
                    except httpx2.HTTPError:
                        return
                    if answer.status_code == 200:
                        acknowledged[f"k{worker}-{i % 20}"] = i

        workers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + 30
        while len(acknowledged) < 80 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
        for worker in workers:
            worker.join()
    assert len(acknowledged) == 80
    with process(copy) as (running, url):
        wait_ready(running, url)
        with httpx2.Client(base_url=url) as client:
            for name, number in acknowledged.items():
                assert client.get(f"{BASE}/items/{name}").json()["attributes"]["stock"] >= number
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) in (0, -signal.SIGTERM)
        lines = [json.loads(line) for line in running.stderr if line.startswith("{")]
        assert {line["logger"] for line in lines} <= {"bitfuse.serve", "uvicorn.error"}
        assert any(line["message"] == "request" for line in lines)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_docs_run(shop, tmp_path):
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "service.md").read_text(), re.DOTALL)
    assert sum(block.count("curl") for block in blocks) >= 16
    (tmp_path / "picture.png").write_bytes(png("blue"))
    copy = tmp_path / "shop"
    shutil.copytree(shop, copy)
    with process(copy) as (running, url):
        wait_ready(running, url)
        for block in blocks:
            command = ["bash", "-euo", "pipefail", "-c", block]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "URL": url})
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            assert done.stdout

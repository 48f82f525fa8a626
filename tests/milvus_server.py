"""The real Milvus server that PyPI's `milvus==2.3.5` carries, for tests: in a network namespace of its own.

The server listens on every interface whatever it is told, and on a dozen ports. So it runs under `unshare --net`, and
two small relays join it to a port on the test's own loopback: one inside, from a socket file, and one here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

import pytest

PACKAGE = "milvus==2.3.5"
VARIABLE = "BITFUSE_MILVUS_ENV"  # an environment that has the package; without it one is made
_START = 120.0
_INSIDE = """
import asyncio, sys
from milvus import MilvusServer
server = MilvusServer()
server.config.configs["data_dir"] = sys.argv[1]
server.start()
async def main():
    async def serve(reader, writer):
        inner = await asyncio.open_connection("127.0.0.1", server.listen_port)
        async def pump(source, sink):
            try:
                while data := await source.read(1 << 18):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))
    await asyncio.start_unix_server(serve, sys.argv[2])
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Relay:
    """A TCP port on loopback, joined to a socket file, in a thread; the port stays while the server is restarted."""

    def __init__(self, socket: Path) -> None:
        self._socket, self._loop = socket, asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait(10)

    def _run(self, ready: threading.Event) -> None:
        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(OSError):
                    while data := await source.read(1 << 18):
                        sink.write(data)
                        await sink.drain()
            finally:  # also when it is cancelled: a writer that outlives its loop is a warning in a later test
                sink.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                inner = await asyncio.open_unix_connection(self._socket)
            except (OSError, asyncio.CancelledError):
                writer.close()
                return
            await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

        async def main() -> None:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._stop = asyncio.Event()
            ready.set()
            await self._stop.wait()
            server.close()

        self._loop.run_until_complete(main())
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0.1))  # closed sockets are dropped in the next round
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


class MilvusProcess:
    """A server with its data in a directory; `kill` and `start` again to see what lasts."""

    def __init__(self, python: Path, place: Path) -> None:
        self._python, self._place, self._process = python, place, None
        self._socket = place / "s"
        self.relay = Relay(self._socket)
        self.address = f"milvus://127.0.0.1:{self.relay.port}"

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        inside = 'ip link set lo up && exec "$@"'
        self._process = subprocess.Popen(
            ["unshare", "--net", "--map-root-user", "sh", "-c", inside, "sh", self._python, "-c", _INSIDE,
             self._place / "data", self._socket],
            stdout=subprocess.PIPE, start_new_session=True, env={**os.environ, "HOME": str(self._place)},
        )  # fmt: skip
        deadline = time.monotonic() + _START
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the Milvus server did not start in {_START:.0f} s")
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to the server and all that belongs to it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def close(self) -> None:
        self.kill()
        self.relay.close()


def environment(place: Path) -> Path:
    """The Python of an environment that has the server: the one that is named, or a new one."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named) / "bin" / "python"
    venv.create(place, with_pip=True)
    done = subprocess.run(
        [place / "bin" / "python", "-m", "pip", "install", "--quiet", PACKAGE], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be installed here: {done.stderr.strip()[-200:]}")
    return place / "bin" / "python"


def start(place: Path) -> MilvusProcess:
    """A running server, or a skip with the reason."""
    pytest.importorskip("pymilvus", reason="the extra `milvus` is not installed")
    if sys.platform != "linux" or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("the Milvus server of the tests needs Linux with `unshare` and `ip`")
    probe = subprocess.run(
        ["unshare", "--net", "--map-root-user", "ip", "link", "set", "lo", "up"], capture_output=True
    )
    if probe.returncode:
        pytest.skip("network namespaces cannot be made here, and the server would listen on every interface")
    server = MilvusProcess(environment(place / "env"), place)
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server

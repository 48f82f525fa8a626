"""Run in a network namespace that has only loopback: a cluster of three nodes, an encode on it, one node killed.

    python -m tests.faults.ray_cluster WORK RETRIES KILL

WORK holds `items.csv` and `model`; the shards go to `WORK/ray`, what happened to `WORK/said.json`. With KILL 1, the
raylet that
hosts an actor is killed with SIGKILL once two shards are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "OMP_NUM_THREADS": "1",
}
PORT = 6399


def fake() -> None:
    """In every worker: the backbone of the tests, slowed down so that there is a middle to be killed in."""
    from tests.fake_backbone import FakeBackbone

    import bitfuse.features

    class Slow(FakeBackbone):
        def encode(self, view, inputs, **rest):
            time.sleep(0.25)
            return super().encode(view, inputs, **rest)

    bitfuse.features.backbone = lambda name, **_: Slow()


def start_node(number: int, temporary: str) -> None:
    ray = Path(sys.executable).parent / "ray"
    first = 20_000 + number * 1000
    command = [ray, "start", "--node-ip-address=127.0.0.1", f"--min-worker-port={first}",
               f"--max-worker-port={first + 900}", "--object-store-memory=100000000"]  # fmt: skip
    if number == 0:  # the driver hangs on this one: no actor may come here
        command += ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={temporary}"]
    else:
        command += [f"--address=127.0.0.1:{PORT}", "--num-cpus=2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def actors() -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            title = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if process.name.isdigit() and title.startswith("ray::") and "Worker" in title and mine(process):
            found.append(int(process.name))
    return found


def mine(process: Path) -> bool:
    """Whether a process lives in this network namespace: there may be other clusters on the machine."""
    try:
        return os.readlink(process / "ns/net") == os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def kill_a_host(out: Path, killed: list[int]) -> None:
    while len(list(out.glob("shard-*.parquet"))) < 2:
        time.sleep(0.05)
    status = Path(f"/proc/{actors()[0]}/status").read_text()
    raylet = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid"))
    assert b"raylet" in Path(f"/proc/{raylet}/cmdline").read_bytes()
    os.kill(raylet, signal.SIGKILL)
    killed.append(raylet)


def main() -> None:
    work, retries, kill = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1"
    os.environ.update(HEALTH, HOME=str(work))  # the home may hold another cluster's token, which this one would refuse
    fake()
    import ray

    from bitfuse.pipeline.shards import encode

    temporary = f"/tmp/ray-{os.getpid()}"
    try:
        for number in range(3):
            start_node(number, temporary)
        root = str(Path(__file__).parents[2])
        hook = {"worker_process_setup_hook": fake, "env_vars": {"PYTHONPATH": root}}
        ray.init(f"127.0.0.1:{PORT}", runtime_env=hook, log_to_driver=False, logging_level="ERROR")
        nodes = sum(node["Alive"] for node in ray.nodes())
        killed: list[int] = []
        if kill:
            threading.Thread(target=kill_a_host, args=(work / "ray", killed), daemon=True).start()
        started = time.monotonic()
        error = ""
        try:
            encode([work / "items.csv"], work / "model", work / "ray", shard_rows=10, views=True, engine="ray",
                   options={"actors": 2, "retries": retries})  # fmt: skip
        except Exception as failure:  # what Ray raises differs by what it was doing
            error = type(failure).__name__
        alive = sum(node["Alive"] for node in ray.nodes())
        seconds = time.monotonic() - started
        said = {"nodes": nodes, "alive": alive, "killed": len(killed), "error": error, "seconds": seconds}
        (work / "said.json").write_text(json.dumps(said))
        ray.shutdown()
    finally:
        for process in Path("/proc").iterdir():  # the whole namespace, and nothing else
            if process.name.isdigit() and int(process.name) not in (os.getpid(), os.getppid()) and mine(process):
                with contextlib.suppress(OSError):
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()

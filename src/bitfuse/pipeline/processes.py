"""Training in several processes on one machine: started, watched, and ended together.

Each is this module run by Python. It gets what it needs over standard input and ends when that closes, which also
happens when the parent is killed. The first saves the model in a folder of the parent's, who reads it at the end.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.errors import BitfuseError, BitfuseWarning, InputError
from bitfuse.hashers import _persist
from bitfuse.hashers.base import Hasher

_PATIENCE = datetime.timedelta(minutes=30)  # of a process for the others: more than anything between two meetings
_GRACE = 5.0  # seconds for the others to say what they met, once one has failed
_MODEL, _WARNINGS = "model", "warnings.json"


def fit_in_processes(
    hasher: Hasher,
    views: Mapping[str, ArrayLike],
    labels: NDArray[np.bool_] | None,
    *,
    processes: int,
    sources: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "cpu",
) -> Hasher:
    """`hasher.fit(...)` by several processes, each with its part of every batch; the fitted model.

    They meet on the loopback interface alone. Without `OMP_NUM_THREADS` in the environment, the processors are shared
    among them.

    Args:
        hasher: unfitted; of a method whose `at_scale` is `"stream"`: the others have no batches to share.
        views, labels, sources: as for `Hasher.fit`; `StoredViews` are read by each process, arrays are sent to it.
        processes: at least 2; on GPUs at most as many as there are.
        device: `"cpu"` or `"cuda"`.

    Raises:
        InputError: a method that does not learn by batches, batches too small to share, or what `fit` raises.
        BitfuseError: a process failed or was killed; the others are ended, and nothing is written.
    """
    if hasher.at_scale != "stream":
        raise InputError(
            f"{type(hasher).__name__} does not learn by batches, so that processes have nothing to share; use one, or "
            "a deep method (`at scale` is `stream` in `bitfuse methods`)"
        )
    task = pickle.dumps((hasher, views, labels, sources, device))
    with tempfile.TemporaryDirectory(prefix="bitfuse-fit-") as name, _started(Path(name), processes, task) as workers:
        _await(workers, Path(name))
        for kind, message in json.loads((Path(name) / _WARNINGS).read_text()):
            warnings.warn(message, _named(kind, BitfuseWarning), stacklevel=2)
        return _persist.load(Path(name) / _MODEL)


@contextlib.contextmanager
def joined(device: str = "cpu", *, rendezvous: str = "env://") -> Iterator[str]:
    """Train with the other processes that enter such a block, in all of which `fit` is called alike.

    `RANK` and `WORLD_SIZE` in the environment say which process of how many this is, as `torchrun` sets them (with
    `MASTER_ADDR` and `MASTER_PORT`, which `"env://"` reads; `LOCAL_RANK` chooses among the GPUs of a machine). They
    meet by gloo on processors and by NCCL on GPUs, one process a GPU.

    Args:
        device: `"cpu"` or `"cuda"`.
        rendezvous: where they meet, as `torch.distributed.init_process_group` takes it.

    Returns:
        The device of this process, for `fit`.

    Raises:
        InputError: the environment does not say which process this is, or it has no GPU of its own.
    """
    from bitfuse.hashers import _train  # noqa: F401, isort: skip  # says how to install torch where it is absent
    import torch
    import torch.distributed as dist

    from bitfuse.hashers._parallel import Group, together

    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        raise InputError("RANK and WORLD_SIZE are not set; run this under torchrun, or use processes=") from None
    cuda = torch.device(device).type == "cuda"
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", rank))
        if local >= torch.cuda.device_count():
            raise InputError(f"process {local} has no GPU of its own, there are {torch.cuda.device_count()}; use fewer")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, init_method=rendezvous, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        with together(Group(rank, size, torch.device(device))):
            yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _started(folder: Path, processes: int, task: bytes) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, each with its task; at the end of the block none of them is left."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    loopback = "lo" if sys.platform == "linux" else "lo0"
    common = {"OMP_NUM_THREADS": threads, **os.environ, "WORLD_SIZE": str(processes)}
    common |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-m", "bitfuse.pipeline.processes", str(folder)]
            workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=common | own))
        for worker in workers:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended already; what ended it is told below
                worker.stdin.write(task)
                worker.stdin.flush()
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()


def _await(workers: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Return when all have ended well; raise what the first to fail met."""
    codes = [worker.poll() for worker in workers]
    while not any(codes) and None in codes:
        time.sleep(0.05)
        codes = [worker.poll() for worker in workers]
    if not any(codes):
        return
    until = time.monotonic() + _GRACE
    while None in codes and time.monotonic() < until:
        time.sleep(0.05)
        codes = [worker.poll() for worker in workers]
    told = {rank: _told(folder, rank) for rank in range(len(workers))}
    for kind, message in filter(None, told.values()):
        if issubclass(_named(kind, Exception), InputError):
            raise InputError(message)
    killed = [(rank, code) for rank, code in enumerate(codes) if code is not None and code and told[rank] is None]
    if killed:
        rank, code = killed[0]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        why = f"{how}; is memory short? Fewer processes or a smaller batch_size take less"
    else:
        rank, why = next((rank, ": ".join(found)) for rank, found in told.items() if found)
        why = f"failed: {why}"
    raise BitfuseError(f"training process {rank} of {len(workers)} {why}. The others were ended; nothing was written")


def _told(folder: Path, rank: int) -> tuple[str, str] | None:
    """The kind of error and the message that a process left."""
    path = folder / f"error-{rank}.json"
    if not path.is_file():
        return None
    kind, message = json.loads(path.read_text())
    return kind, message


def _named(kind: str, base: type[Any]) -> Any:
    """The error or warning of ours with that name, or the base."""
    from bitfuse import errors

    found = getattr(errors, kind, base)
    return found if isinstance(found, type) and issubclass(found, base) else base


def main() -> None:
    """One of the processes."""
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    hasher, views, labels, sources, device = pickle.load(sys.stdin.buffer)  # from the parent, over a pipe
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", BitfuseWarning)
            with joined(device, rendezvous=f"file://{folder}/meeting") as own:
                hasher.fit(views, labels, sources=sources, device=own)
        if rank == 0:
            hasher.save(folder / _MODEL)
            ours = [w for w in caught if issubclass(w.category, BitfuseWarning)]
            (folder / _WARNINGS).write_text(json.dumps([(w.category.__name__, str(w.message)) for w in ours]))
    except Exception as error:  # whatever it is, the parent tells it
        (folder / f"error-{rank}.json").write_text(json.dumps([type(error).__name__, str(error)]))
        sys.exit(1)


def _end_with_parent() -> None:
    while os.read(0, 1 << 16):  # past Python's buffer, whose lock would be held when the process ends well
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

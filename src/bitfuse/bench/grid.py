"""Grids: methods x data sets x code lengths x seeds, cell by cell over processes, resumed where they stopped."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bitfuse.bench.cells import Spec, finished, record_failure
from bitfuse.bench.histograms import usable_threads
from bitfuse.errors import InputError

_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Done:
    """One cell that has just ended.

    Attributes:
        spec: which.
        seconds: it took, training and encoding.
        error: why it failed; None if it did not.
    """

    spec: Spec
    seconds: float
    error: str | None


def run(root: Path, specs: Sequence[Spec], *, jobs: int | None = None, device: str = "cpu") -> Iterator[Done]:
    """Compute the cells that are not finished yet, and yield each as it ends.

    Each worker process takes one cell after another; the threads of this machine are divided among them. A cell that
    fails, or that takes its process with it, is recorded and the others go on; the next run tries it again. Whatever
    ends this process ends the workers, and only the cells then in work are lost.

    Args:
        root: of the grid; its data sets must be stored there.
        specs: the cells.
        jobs: processes at once; None is one a processor that this process may use.
        device: where deep methods compute.

    Raises:
        InputError: another run is writing there, or `jobs` is below 1.
    """
    jobs = usable_threads() if jobs is None else jobs
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    with _alone(root):
        for left in (root / "cells").glob("*/.*.partial"):
            shutil.rmtree(left)
        waiting = [spec for spec in specs if not finished(spec, root)]
        yield from _shared_out(root, waiting, min(jobs, len(waiting)), device)


def _shared_out(root: Path, waiting: list[Spec], jobs: int, device: str) -> Iterator[Done]:
    todo: queue.SimpleQueue[Spec] = queue.SimpleQueue()
    done: queue.SimpleQueue[Done] = queue.SimpleQueue()
    for spec in waiting:
        todo.put(spec)
    threads = {name: str(max(1, usable_threads() // max(1, jobs))) for name in _POOLS}
    hands = [_Hand(root, device, threads) for _ in range(jobs)]
    for hand in hands:
        threading.Thread(target=hand.work, args=(todo, done), daemon=True).start()
    try:
        for _ in waiting:
            yield done.get()
    finally:
        for hand in hands:
            hand.stop()


class _Hand:
    """One worker process, replaced when a cell takes it down."""

    def __init__(self, root: Path, device: str, threads: dict[str, str]) -> None:
        self.root, self.device, self.threads = root, device, threads
        self.process: subprocess.Popen[str] | None = None
        self.stopped = False

    def work(self, todo: queue.SimpleQueue[Spec], done: queue.SimpleQueue[Done]) -> None:
        while not self.stopped:
            try:
                spec = todo.get_nowait()
            except queue.Empty:
                break
            done.put(self._one(spec))
        self.stop()

    def stop(self) -> None:
        self.stopped = True
        process, self.process = self.process, None
        if process is not None:
            _end(process)

    def _one(self, spec: Spec) -> Done:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bitfuse.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **self.threads},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        task = {"root": str(self.root), "spec": dataclasses.asdict(spec), "device": self.device}
        answer = ""
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (OSError, ValueError):  # the worker is gone, or `stop` closed the pipes
            pass
        if answer:
            return Done(spec, **json.loads(answer))
        code = process.wait()  # its end of the pipe is closed: it has ended, or is about to
        self.process = None
        _end(process)
        error = f"its process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        if not self.stopped:
            record_failure(spec, self.root, error)
        return Done(spec, 0.0, error)


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was written and never read
                pipe.close()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of a grid; the system lets go of it however this process ends."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another run is writing to {root}; wait for it, or name another --out") from None
        yield

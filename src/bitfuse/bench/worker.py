"""A process that computes cells of a grid: one JSON line in, one JSON line out; it ends when its parent does."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    """Serve until standard input closes, which also happens when the parent is killed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a method prints must not stand between the answers
    asked: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    from bitfuse.bench.cells import Spec, compute

    while True:
        task = json.loads(asked.get())
        started = time.perf_counter()
        error = compute(Spec(**task["spec"]), Path(task["root"]), task["device"])
        print(json.dumps({"error": error, "seconds": time.perf_counter() - started}), file=answers, flush=True)


def _listen(asked: queue.Queue[str]) -> None:
    for line in sys.stdin:
        asked.put(line)
    os._exit(0)  # in the middle of a cell too: nobody waits for it, and nothing of it is on disk under its name


if __name__ == "__main__":
    main()

"""A backbone in a process of its own.

A pass is hundreds of short operations, each of which gives the interpreter's lock away and waits to get it back from
the threads that answer, search and write: alone, it takes a tenth of the time. Run as a module, this is that process.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import BitfuseError, CollectionError, InputError

if TYPE_CHECKING:
    from bitfuse.features.base import Backbone

_SMALL = 32 << 20  # bytes of weights up to which NumPy answers a query as soon as torch, without its import


def suited(name: str, revision: str | None) -> Backbone:
    """The backbone of this name, run the way that suits a server; its weights are not read yet."""
    from bitfuse.features import backbone
    from bitfuse.features.light import LightCLIP

    quick = backbone(name, revision=revision, light=True)
    if isinstance(quick, LightCLIP) and sum(file.stat().st_size for file in quick.checkpoint.weights) > _SMALL:
        return backbone(name, revision=revision)
    return quick


class Apart:
    """Encodes in another process, which is started anew where it ends. For one thread at a time.

    Args:
        name, revision: of the backbone, as `bitfuse.backbone` takes them.
    """

    def __init__(self, name: str, revision: str | None) -> None:
        self._facts = name, revision
        self._start()

    def _start(self) -> None:
        here, there = socket.socketpair()
        with there:
            # -P: nothing is imported from the folder in which the server was started
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bitfuse.serve.apart", str(there.fileno())],
                stdin=subprocess.DEVNULL, pass_fds=[there.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # as `bitfuse.serve.server.run` says
            )  # fmt: skip
        self._connection = Connection(here.detach())
        self._connection.send(self._facts)

    def encode(self, view: str, inputs: Sequence[Any]) -> NDArray[np.float32]:
        """See `Backbone.encode`.

        Raises:
            CollectionError: the process ends over this.
        """
        for _ in range(2):
            try:
                self._connection.send((view, inputs))
                answer = self._connection.recv()
            except (EOFError, OSError):
                self.close()
                self._start()
                continue
            if isinstance(answer, Exception):
                raise answer
            rows: NDArray[np.float32] = answer
            return rows
        raise CollectionError("the process that encodes ended twice; is there too little memory?")

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _portable(error: Exception) -> Exception:
    """An error that can be sent; one whose arguments are not its message cannot."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return InputError(str(error)) if isinstance(error, InputError) else BitfuseError(str(error))
    return error


def answer(connection: Connection) -> None:
    """Encode what is asked for, until the server closes the connection or ends."""
    try:
        backbone = suited(*connection.recv())
        while True:
            view, inputs = connection.recv()
            try:
                connection.send(backbone.encode(view, inputs))
            except (BitfuseError, ValueError, RuntimeError, MemoryError) as error:
                connection.send(_portable(error))
    except (EOFError, OSError):
        return


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the server ends it, once it has answered what it accepted
        signal.signal(number, signal.SIG_IGN)
    answer(Connection(int(sys.argv[1])))

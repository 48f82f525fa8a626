"""A writer killed with SIGKILL loses nothing that was acknowledged and leaves a collection that opens and verifies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("writer.py")


def kill_rounds(directory: Path, rounds: int, seed: int) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, directory, str(rounds), str(seed)], capture_output=True, text=True, check=False
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{said[-1:]}\n{done.stderr[-3000:]}"
    assert len(said) == rounds
    assert sum(r["steps"] for r in said) > rounds / 2, "the writer was killed before it had written anything"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_20_kills(tmp_path):
    kill_rounds(tmp_path, 20, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_200_kills(tmp_path):
    kill_rounds(tmp_path, 200, seed=2)

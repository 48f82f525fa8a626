"""One writer and many readers, or two writers: nobody sees a part of a batch, nothing is corrupted."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.errors import CollectionError

SCRIPT = Path(__file__).with_name("crowd.py")


def crowd(path: Path, writers: int, readers: int, seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, path, str(writers), str(readers), str(seconds)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{said}\n{done.stderr[-3000:]}"
    written = [s["written"] for s in said if "written" in s]
    looks = [s for s in said if "looks" in s]
    assert len(written) == writers
    assert min(written) > 0
    assert len(looks) == readers
    assert all(s["torn"] == 0 and s["looks"] > 0 for s in looks), looks
    assert max(s["most"] for s in looks) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_writers_and_two_readers(tmp_path):
    crowd(tmp_path / "shop", writers=2, readers=2, seconds=4)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_eight_readers_during_heavy_writing(tmp_path):
    crowd(tmp_path / "shop", writers=1, readers=8, seconds=30)


def test_a_writer_that_does_not_end_is_refused_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("bitfuse.search.stores.sqlite._BUSY_MS", 50)
    rows = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    model = bf.hasher("lsh", n_bits=8).fit({"image": rows})
    with bf.Collection.create(tmp_path / "shop", model=model) as shop:
        shop.add([{"id": "a", "views": {"image": rows[0]}}])
        other = sqlite3.connect(tmp_path / "shop" / "items.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CollectionError, match="another process"):
            shop.add([{"id": "b", "views": {"image": rows[1]}}])
        assert [h.id for h in shop.search(views={"image": rows[1]})] == ["a"], "readers go on"
        other.rollback()
        other.close()
        assert shop.add([{"id": "b", "views": {"image": rows[1]}}]).added == 1
        assert shop.verify() == []

"""Encoding killed with SIGKILL at random moments and begun again: what comes out is the same to the last byte."""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tests.fake_backbone import FakeBackbone, sources
from tests.test_encode import write_table, write_tar

import bitfuse as bf
from bitfuse.pipeline.shards import encode

ENCODE = """
import sys, time
import bitfuse.features
from tests.fake_backbone import FakeBackbone

class Slow(FakeBackbone):
    def encode(self, view, inputs, **rest):
        time.sleep(0.002)
        return super().encode(view, inputs, **rest)

bitfuse.features.backbone = lambda name, **_: Slow()
from bitfuse.pipeline.shards import encode
table, tar, model, out = sys.argv[1:]
encode([table, tar], model, out, shard_rows=25, batch_size=10, views=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("bitfuse.features.backbone", lambda name, **_: FakeBackbone())
    rng = np.random.default_rng(0)
    views = {view: rng.normal(size=(300, 24)).astype("f4") for view in ("image", "text")}
    bf.hasher("itq", n_bits=24, aligned=True).fit(views, sources=sources(FakeBackbone())).save(tmp_path / "model")
    table, tar = write_table(tmp_path, 700), write_tar(tmp_path / "t.tar", 800)
    (tmp_path / "pics" / "p0003.png").write_bytes(b"no picture")
    started = time.monotonic()
    encode([table, tar], tmp_path / "model", tmp_path / "whole", shard_rows=25, batch_size=10, views=True)
    seconds = max(time.monotonic() - started, 0.5)
    dice = random.Random(7)
    out = tmp_path / "killed"
    kills = finished = 0
    while kills < 20:
        arguments = [str(path) for path in (table, tar, tmp_path / "model", out)]
        process = subprocess.Popen([sys.executable, "-c", ENCODE, *arguments])
        wait_for(out, process)
        time.sleep(dice.uniform(0, seconds / 12))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        shards = sorted(out.glob("shard-*.parquet"))
        assert len(shards) >= finished  # nothing finished is lost
        finished = len(shards)
        if json.loads((out / "manifest.json").read_text())["complete"]:
            last = shards[dice.randrange(len(shards))]
            last.unlink()  # so that the kills that are left have something to interrupt
            finished -= 1
    encode([table, tar], tmp_path / "model", out, shard_rows=25, batch_size=10, views=True)
    for path in (tmp_path / "whole").iterdir():
        if path.is_file():
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    assert {path.name for path in out.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


def wait_for(out, process):
    """Until this process works on shards: it has looked through the sources, and what was there before is counted."""
    before = len(list(out.glob("shard-*.parquet"))) if out.exists() else 0
    deadline = time.monotonic() + 120
    while process.poll() is None and len(list(out.glob("shard-*.parquet*"))) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.002)

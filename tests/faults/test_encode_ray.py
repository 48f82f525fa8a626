"""Encoding on a real cluster of three nodes, of which one is killed; see `ray_cluster.py`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.fake_backbone import FakeBackbone, sources
from tests.test_encode import files_of, write_table

import bitfuse as bf
from bitfuse.pipeline.shards import encode

ROOT = Path(__file__).parents[2]
ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

pytest.importorskip("ray")


def in_a_namespace(command, **options):
    return subprocess.run([*ALONE, *map(str, command)], capture_output=True, text=True, **options)


def can_be_alone():
    try:
        return in_a_namespace(["true"]).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not can_be_alone(), reason="needs the right to make a network namespace (unshare --net)")
@pytest.mark.parametrize(("retries", "kill"), [(-1, True), (0, True), (-1, False)])
def test_a_cluster_loses_a_node(tmp_path, monkeypatch, retries, kill):
    monkeypatch.setattr("bitfuse.features.backbone", lambda name, **_: FakeBackbone())
    rng = np.random.default_rng(0)
    views = {view: rng.normal(size=(300, 24)).astype("f4") for view in ("image", "text")}
    bf.hasher("itq", n_bits=24, aligned=True).fit(views, sources=sources(FakeBackbone())).save(tmp_path / "model")
    table = write_table(tmp_path, 200)
    encode([table], tmp_path / "model", tmp_path / "whole", shard_rows=10, views=True)
    command = [sys.executable, "-m", "tests.faults.ray_cluster", tmp_path, retries, int(kill)]
    done = in_a_namespace(command, cwd=ROOT, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["nodes"] == 3
    assert said["killed"] == kill
    if retries == 0:  # with retries switched off, the lost node is the end of it
        assert said["error"]
        assert len(list((tmp_path / "ray").glob("shard-*.parquet"))) < 20
        encode([table], tmp_path / "model", tmp_path / "ray", shard_rows=10, views=True)  # and this machine goes on
    else:
        assert said["error"] == ""
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "whole")

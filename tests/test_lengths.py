"""`bitfuse fit --sweep`: what shorter and longer codes give, measured, printed, plotted and kept with the model."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.bench.lengths import JSON, PAGE, around
from bitfuse.cli import main
from bitfuse.hashers import _persist


def run(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in args])
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """400 rows around eight centres, with labels and without."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 8, 400)
    views = {"image": (rng.normal(size=(8, 24))[y] + 0.5 * rng.normal(size=(400, 24))).astype(np.float32)}
    place = tmp_path_factory.mktemp("arrays")
    np.savez(place / "labelled.npz", **views, labels=np.eye(8, dtype=bool)[y])
    np.savez(place / "bare.npz", **views)
    return place


def test_lengths_around_one():
    assert around(64) == [16, 32, 64, 128, 256]
    assert around(20) == [10, 20, 40, 80]
    assert around(4) == [4, 8, 16]
    assert around(4096) == [1024, 2048, 4096]


def test_a_sweep_is_measured_printed_plotted_and_kept(arrays, tmp_path, capsys):
    model = tmp_path / "model"
    code, out, _ = run(
        capsys, "fit", arrays / "labelled.npz", "--method", "lsh", "--bits", 32, "--sweep", "--out", model
    )
    assert code == 0
    assert "Code length against quality" in out
    kept = json.loads(_persist.attachment(model, JSON))
    assert [one["bits"] for one in kept["lengths"]] == [8, 16, 32, 64, 128]
    assert [one["bytes_per_item"] for one in kept["lengths"]] == [1, 2, 4, 8, 16]
    quality = [one["map"] for one in kept["lengths"]]
    assert quality[0] < quality[2] < quality[4], "longer random codes come nearer to the features"
    assert kept["lengths"][0]["recall_of_10_neighbours"] < kept["lengths"][4]["recall_of_10_neighbours"]
    assert kept["lengths"][0]["distinct_share"] < kept["lengths"][4]["distinct_share"] <= 1
    page = (model / PAGE).read_text()
    assert "<svg" in page
    assert "bytes per item" in page
    code, out, _ = run(capsys, "evaluate", model, arrays / "labelled.npz", "--json")
    assert json.loads(out)["map"] == pytest.approx(quality[2], abs=1e-4), "judged as `evaluate` judges"
    assert bf.load(model).n_bits == 32


def test_without_labels_neighbours_are_judged(arrays, tmp_path, capsys):
    model = tmp_path / "model"
    asked = ("fit", arrays / "bare.npz", "--method", "lsh", "--bits", 16, "--sweep", "--out", model, "--json")
    code, out, _ = run(capsys, *asked)
    assert code == 0
    kept = json.loads(out)["sweep"]
    assert kept == json.loads(_persist.attachment(model, JSON))
    assert all(one["map"] is None for one in kept["lengths"])
    assert kept["lengths"][-1]["recall_of_10_neighbours"] > kept["lengths"][0]["recall_of_10_neighbours"]


def test_a_damaged_sweep_is_noticed(arrays, tmp_path, capsys):
    model = tmp_path / "model"
    run(capsys, "fit", arrays / "bare.npz", "--method", "lsh", "--bits", 8, "--sweep", "--out", model)
    (model / JSON).write_text("{}")
    code, _, err = run(capsys, "evaluate", model, arrays / "bare.npz")
    assert code == 3
    assert JSON in err

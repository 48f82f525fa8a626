"""Tuning: an ordinary checkpoint comes out, better on the held-out pairs than before, the same at every run."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bitfuse.cli import main
from bitfuse.data.shapes import generate, write
from bitfuse.errors import ConvergenceWarning, DamagedFile, InputError, MissingDependency, UnknownName
from bitfuse.features import backbone
from bitfuse.features.checkpoints import POCKET, find
from bitfuse.features.light import LightCLIP
from bitfuse.pipeline.cache import fingerprint
from bitfuse.pipeline.extract import extract
from bitfuse.tune.contrastive import contrastive, found, pairs_of, same_text
from bitfuse.tune.run import METHODS, tune

PAIRS = generate(110, start=6_000_000, style="outline")
FEW = {"epochs": 2, "batch_size": 32}


@pytest.fixture(scope="module", params=METHODS)
def tuned(request, tmp_path_factory):
    """The method, what it reported, and the checkpoint."""
    folder = tmp_path_factory.mktemp("tuned") / request.param
    return request.param, tune(PAIRS, "pocket", folder, method=request.param, **FEW), folder


def test_the_checkpoint_is_an_ordinary_one(tuned):
    _, _, folder = tuned
    assert {f.name for f in folder.iterdir()} == {*(f.name for f in POCKET.iterdir()), "tuning.json"} - {"README.md"}
    tensors, before = load_file(folder / "model.safetensors"), load_file(POCKET / "model.safetensors")
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in before.items()}
    encoder = backbone(str(folder))
    rows = encoder.encode("text", ["a red star"])
    assert rows.shape == (1, 128)
    assert np.abs(rows - backbone("pocket").encode("text", ["a red star"])).max() > 1e-3
    light = backbone(str(folder), light=True)
    assert isinstance(light, LightCLIP)
    np.testing.assert_allclose(light.encode("text", ["a red star"]), rows, atol=1e-4)


def test_merged_weights_give_what_was_judged(tuned):
    _, report, folder = tuned
    pairs = pairs_of(PAIRS, 0.1)
    encoder = backbone(str(folder))
    images = torch.from_numpy(encoder.encode("image", pairs.pictures(pairs.held)))
    texts = torch.from_numpy(encoder.encode("text", pairs.words(pairs.held)))
    same = same_text(pairs.words(pairs.held))
    assert found(images, texts, same) == pytest.approx(report.after)
    scale = load_file(folder / "model.safetensors")["logit_scale"].exp()
    assert float(contrastive(images, texts, scale, same)) == pytest.approx(min(report.validation), abs=2e-3)
    assert report.pairs + report.held_out == 110


def test_held_out_pairs_are_told_apart_better_than_before(tuned):
    _, report, folder = tuned
    assert min(report.validation) < 0.9 * report.validation[0]
    assert report.best_epoch == 1 + int(np.argmin(report.validation[1:]))
    record = json.loads((folder / "tuning.json").read_text())
    assert record["validation"] == report.validation
    assert record["weights_before"] == find("pocket").weights_hash()


def test_an_adapter_changes_the_projections_alone(tuned):
    method, _, folder = tuned
    after, before = load_file(folder / "model.safetensors"), load_file(POCKET / "model.safetensors")
    changed = {k for k in after if not torch.equal(after[k], before[k].float())}
    if method == "adapter":
        assert changed == {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    else:
        assert {k.split(".")[0] for k in changed} >= {"vision_model", "text_model", "visual_projection"}


def test_the_cache_does_not_mix_the_two(tuned, tmp_path):
    _, _, folder = tuned
    encoders = backbone("pocket"), backbone(str(folder))
    facts = [encoder.describe("image") for encoder in encoders]
    assert facts[0]["weights"] != facts[1]["weights"]
    assert fingerprint(facts[0]) != fingerprint(facts[1])
    rows = [extract(generate(4), encoder, cache=tmp_path)[0].views["image"] for encoder in encoders]
    np.testing.assert_array_equal(extract(generate(4), encoders[1], cache=tmp_path)[0].views["image"], rows[1])
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


def test_the_same_seed_gives_the_same_checkpoint(tuned, tmp_path):
    method, _, folder = tuned
    state = torch.random.get_rng_state()
    tune(PAIRS, "pocket", tmp_path / "again", method=method, **FEW)
    assert torch.equal(torch.random.get_rng_state(), state)
    one, two = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_weights_stay_where_no_epoch_is_better(tmp_path):
    with pytest.warns(ConvergenceWarning, match="no epoch was better"):
        report = tune(generate(110), "pocket", tmp_path / "out", method="adapter", epochs=1, learning_rate=5.0)
    assert report.best_epoch == 0
    assert report.after == report.before
    after, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", POCKET))
    assert all(torch.equal(after[name], before[name].float()) for name in after)


def test_the_loss_is_the_cross_entropy_of_both_ways():
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    texts = ["a", "b", " A "]  # the first and the last are the same text
    cosine = (x / x.norm(dim=1, keepdim=True)) @ (y / y.norm(dim=1, keepdim=True)).T
    others = {0: [0, 1], 1: [0, 1, 2], 2: [1, 2]}
    terms = []
    for i, among in others.items():
        for s in (cosine[i], cosine[:, i]):
            terms.append(-math.log(math.exp(3 * s[i]) / sum(math.exp(3 * s[j]) for j in among)))  # noqa: PERF401
    value = contrastive(x, y, torch.tensor(3.0), same_text(texts))
    assert float(value) == pytest.approx(sum(terms) / 6, rel=1e-5)
    # nearest text of each picture: 0, 0 or 2, 1; the last picture finds the second text, a wrong one
    assert found(x, y, same_text(texts))["image_to_text_r1"] == pytest.approx(1 / 3)


def test_what_cannot_be_tuned_is_refused(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'lora'"):
        tune(PAIRS, "pocket", tmp_path / "a", method="lorra")
    with pytest.raises(InputError, match="exists"):
        tune(PAIRS, "pocket", tmp_path)
    for bad in ({"rank": 0}, {"epochs": 0}, {"share": 1.0}, {"learning_rate": 0.0}, {"batch_size": 0}):
        with pytest.raises(InputError, match=next(iter(bad)).replace("share", "hold out")):
            tune(PAIRS, "pocket", tmp_path / "a", **bad)
    with pytest.raises(InputError, match="lack one"):
        tune(replace(PAIRS, texts=None), "pocket", tmp_path / "a")
    with pytest.raises(InputError, match="too few"):
        tune(generate(20), "pocket", tmp_path / "a")
    with pytest.raises(DamagedFile):
        tune(PAIRS, str(tmp_path), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_rows_that_are_no_pair_are_skipped_and_named():
    images, texts = list(PAIRS.images), list(PAIRS.texts)
    images[3], images[4], texts[5] = None, b"no picture", " "
    pairs = pairs_of(replace(PAIRS, images=images, texts=texts), 0.1)
    assert [name for name, _ in pairs.skipped] == [PAIRS.ids[i] for i in (3, 4, 5)]
    assert len(pairs.ids) == 107
    assert not set(pairs.train.tolist()) & set(pairs.held.tolist())


def test_without_peft_the_extra_is_named(tmp_path, monkeypatch):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "peft" else find_spec(name, *a))
    with pytest.raises(MissingDependency, match=r"bitfuse\[tune\]"):
        tune(PAIRS, "pocket", tmp_path / "a", method="lora")


def test_the_verb(tmp_path, capsys):
    table = write(tmp_path / "world", 60, seed=9, style="outline")
    given = ["tune", str(table), "--backbone", "pocket", "--method", "adapter", "--epochs", "2", "--out"]
    with pytest.raises(SystemExit) as stop:
        main([*given, str(tmp_path / "tuned")])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "R@1 of the held-out pairs, image to text" in printed
    assert "next: bitfuse fit" in printed
    assert backbone(str(tmp_path / "tuned")).encode("text", ["a"]).shape == (1, 128)
    with pytest.raises(SystemExit) as stop:
        main([*given, str(tmp_path / "tuned")])
    assert stop.value.code == 2
    assert "exists" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main([*given, str(tmp_path / "more"), "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["method"] == "adapter"

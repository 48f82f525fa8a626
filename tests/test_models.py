"""Model directories: whole or not at all, checked when loaded, open to methods of other packages."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.errors import DamagedFile, InputError, NotFitted, UnknownFormat
from bitfuse.hashers import _persist
from bitfuse.hashers.base import Hasher

VIEWS = {
    "image": np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32),
    "text": np.random.default_rng(1).normal(size=(300, 5)).astype(np.float32),
}
OLD = Path(__file__).parent / "formats"


@pytest.fixture
def saved(tmp_path):
    facts = {"image": {"backbone": "pocket", "revision": "1"}}
    model = bf.hasher("itq", n_bits=8).fit(VIEWS, sources=facts)
    model.save(tmp_path / "model", attachments={"note.txt": b"hello"})
    return model, tmp_path / "model"


def test_a_model_comes_back_whole(saved):
    model, path = saved
    again = bf.load(path)
    assert repr(again) == repr(model)
    assert again.encode(VIEWS) == model.encode(VIEWS)
    assert again.log == model.log
    assert again.sources == {
        "image": {"backbone": "pocket", "revision": "1"},
        "text": {"backbone": "arrays only"},
    }
    assert _persist.attachment(path, "note.txt") == b"hello"
    assert _persist.attachment(path, "other.txt") is None
    assert sorted(p.name for p in path.parent.iterdir()) == ["model"]


def test_saving_again_replaces(saved):
    _, path = saved
    bf.hasher("lsh", n_bits=16).fit(VIEWS).save(path)
    assert bf.load(path).n_bits == 16
    assert sorted(p.name for p in path.iterdir()) == ["familiar.safetensors", "model.json", "weights.safetensors"]


def test_a_directory_that_is_no_model_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("five years")
    with pytest.raises(InputError, match="not a Bitfuse model"):
        bf.hasher("lsh").fit(VIEWS).save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "five years"


def test_an_unfitted_model_is_not_saved(tmp_path):
    with pytest.raises(NotFitted, match="fit"):
        bf.hasher("itq").save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_save_that_fails_leaves_the_old_model(saved, monkeypatch):
    model, path = saved

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("bitfuse.hashers._persist.os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            bf.hasher("lsh", n_bits=16).fit(VIEWS).save(path)
    assert bf.load(path).encode(VIEWS) == model.encode(VIEWS)
    assert sorted(p.name for p in path.parent.iterdir()) == ["model"]


@pytest.mark.parametrize("name", ["weights.safetensors", "note.txt"])
def test_a_missing_or_changed_file_is_named(saved, name):
    _, path = saved
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(DamagedFile, match=f"{name} changed"):
        bf.load(path)
    (path / name).unlink()
    with pytest.raises(DamagedFile, match=f"{name} is missing"):
        bf.load(path)


def edit(path, **changes):
    card = json.loads((path / "model.json").read_text())
    (path / "model.json").write_text(json.dumps({**card, **changes}))


def test_cards_that_cannot_be_trusted(saved, tmp_path):
    _, path = saved
    with pytest.raises(InputError, match="does not exist"):
        bf.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"has no model\.json"):
        bf.load(tmp_path)
    edit(path, files={"../../secret": "sha256:0"})
    with pytest.raises(DamagedFile, match="outside"):
        bf.load(path)
    edit(path, files={}, parameters={"bits": 3})
    with pytest.raises(DamagedFile, match="does not take"):
        bf.load(path)
    edit(path, format=99)
    with pytest.raises(UnknownFormat, match="99"):
        bf.load(path)
    (path / "model.json").write_text("{")
    with pytest.raises(DamagedFile, match="not a readable"):
        bf.load(path)


@pytest.mark.parametrize("method", ["os:system", "bitfuse.hashers.nothing:Nothing", "subprocess:Popen"])
def test_a_card_cannot_name_just_any_callable(saved, method):
    _, path = saved
    edit(path, method=method)
    with pytest.raises(DamagedFile, match="not known here"):
        bf.load(path)


@dataclass(kw_only=True, frozen=True, eq=False)
class FirstColumns(Hasher):
    """A method of another package: the first columns, as they are."""

    year = 2026
    reference = "none"

    def _fit(self, batch, labels, *, device):
        return {"mean": batch.concatenated().mean(axis=0)}, {}

    def _project(self, state, batch, space, *, device):
        return (batch.concatenated() - state["mean"])[:, : self.n_bits]


def test_a_method_of_another_package_is_saved_and_loaded(tmp_path):
    model = FirstColumns(n_bits=4).fit(VIEWS)
    model.save(tmp_path / "model")
    assert bf.load(tmp_path / "model").encode(VIEWS) == model.encode(VIEWS)


def test_partial_fit_is_refused_by_name_where_a_method_is_not_online():
    with pytest.raises(InputError, match="chunk by chunk"):
        bf.hasher("itq").partial_fit(VIEWS)


def test_models_of_the_first_format_still_open():
    model = bf.load(OLD / "model-1")
    codes = bf.Codes.load(OLD / "codes-1.safetensors")
    assert model.encode({"image": np.eye(4, 6), "text": np.eye(4, 5)}) == codes

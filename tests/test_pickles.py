"""The converter of pickled parts: what numpy writes under every protocol, and pickles that want to run something."""

import collections
import os
import pickle

import numpy as np
import pytest

from bitfuse.data.arrays import read_arrays
from bitfuse.data.pickles import convert, load_pickle
from bitfuse.errors import DataWarning, InputError


def part(n, seed):
    rng = np.random.default_rng(seed)
    return {"image": rng.normal(size=(n, 5)), "text": np.asfortranarray(rng.normal(size=(n, 3)).astype(">f4")),
            "label": np.eye(4, dtype=np.int64)[np.arange(n) % 4]}  # fmt: skip


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_parts_become_one_file_that_is_read(tmp_path, protocol):
    parts = {name: part(n, n) for name, n in (("train", 9), ("query", 6), ("retrieval", 12))}
    files = [dump(tmp_path / f"{name}.pkl", value, protocol) for name, value in parts.items()]
    out = convert(*files, tmp_path / "ucmfh.npz")
    assert sorted(p.name for p in tmp_path.glob("*.npz*")) == ["ucmfh.npz"]
    data = read_arrays(out)
    for name, read in (("train", data.train), ("query", data.query), ("retrieval", data.gallery)):
        np.testing.assert_array_equal(read.views["image"], parts[name]["image"].astype(np.float32))
        np.testing.assert_array_equal(read.views["text"], parts[name]["text"].astype(np.float32))
        np.testing.assert_array_equal(read.labels, parts[name]["label"] == 1)


def test_lists_of_rows_scalars_and_a_gallery_that_is_the_training_part(tmp_path):
    rows = {k: list(v) for k, v in part(6, 0).items()}
    rows["label"] = [np.int64(i % 2) for i in range(6)]
    out = convert(dump(tmp_path / "a.pkl", rows), dump(tmp_path / "b.pkl", rows), None, tmp_path / "out.npz")
    with pytest.warns(DataWarning, match="6 of 6 query rows equal a gallery row"):
        data = read_arrays(out)
    assert data.train_in_gallery == "all"
    assert data.query.labels.sum(axis=0).tolist() == [3, 3]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch BOMB",)


class Sneaky:
    """Names numpy's own functions, and asks of them what they are not for."""

    def __init__(self, call, arguments, state=None):
        self.made = (call, arguments) if state is None else (call, arguments, state)

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    "value",
    [
        Bomb(),
        {"image": Bomb()},
        np.array([Bomb(), None], dtype=object),
        collections.OrderedDict(a=1),
        Sneaky(np.dtype, ("O",)),
        Sneaky(np.dtype, ("V8",)),
        Sneaky(np.ndarray, ((10**9,),)),
        Sneaky(np.frombuffer, (b"12345678",)),
        {"image": Sneaky(np.dtype, ("f8",), (3, "|", None, None, None, -1, -1, 63))},
        np.array(["a"]),
        np.zeros(3, [("a", "f8")]),
    ],
)
def test_nothing_but_numbers_is_read_and_nothing_is_run(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        convert(dump(tmp_path / "t.pkl", value), dump(tmp_path / "q.pkl", value), None, tmp_path / "out.npz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q.pkl", "t.pkl"]


def test_a_pickle_cannot_change_what_the_next_one_meets(tmp_path):
    good = dump(tmp_path / "good.pkl", np.arange(3.0))
    # GLOBAL numpy.dtype, then BUILD with (None, {"answer": 7}): sets an attribute of what the name stands for
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x02cnumpy\ndtype\nN}X\x06\x00\x00\x00answerK\x07s\x86b.")
    load_pickle(tmp_path / "bad.pkl")
    assert load_pickle(good).values.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.pop("label"), "no label or labels or lab; its keys: image, text"),
        (lambda p: p.update(text=p["text"][1:]), "one row each"),
        (lambda p: p.update(text=["a"] * 6), "must be numbers"),
        (lambda p: p.update(text=[np.zeros(2), np.zeros(3)]), "not an array of numbers"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, change, words):
    bad = part(6, 0)
    change(bad)
    with pytest.raises(InputError, match=words):
        convert(dump(tmp_path / "t.pkl", bad), dump(tmp_path / "q.pkl", bad), None, tmp_path / "out.npz")


def test_files_that_are_none(tmp_path):
    good = dump(tmp_path / "t.pkl", part(6, 0))
    with pytest.raises(InputError, match="cannot be read"):
        convert(tmp_path / "none.pkl", good, None, tmp_path / "out.npz")
    (tmp_path / "cut.pkl").write_bytes(good.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a readable pickle"):
        convert(tmp_path / "cut.pkl", good, None, tmp_path / "out.npz")
    with pytest.raises(InputError, match=r"must end in \.npz"):
        convert(good, good, None, tmp_path / "out.h5")
    with pytest.raises(InputError, match="holds a list"):
        convert(dump(tmp_path / "l.pkl", [1]), good, None, tmp_path / "out.npz")

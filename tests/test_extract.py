"""Extraction: bad rows reported, features cached by content, a killed run resumed; and `bitfuse.dataset` on top."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bitfuse.data import shapes
from bitfuse.data.base import Samples
from bitfuse.data.table import read_folder, read_table
from bitfuse.errors import BitfuseWarning, DataWarning, InputError, UnknownName
from bitfuse.features.images import open_image
from bitfuse.pipeline import cache as cache_module
from bitfuse.pipeline import flow
from bitfuse.pipeline.cache import FeatureCache, cache_dir
from bitfuse.pipeline.datasets import dataset
from bitfuse.pipeline.extract import extract, stream


class Toy:
    """Mean colours of a 2 x 2 grid, and the hash of the text; counts what it is given."""

    name, views, aligned, prompts = "toy", ("image", "text"), False, ()

    def __init__(self, delay=0.0, log=None, revision=1):
        self.delay, self.log, self.revision = delay, log, revision
        self.encoded, self.batches = {"image": 0, "text": 0}, []

    def describe(self, view):
        return {"backbone": "toy", "revision": self.revision, "view": view}

    def width(self, view):
        return {"image": 12, "text": 8}[view]

    def encode(self, view, inputs, *, batch_size=None):
        self.encoded[view] += len(inputs)
        self.batches.append((view, len(inputs)))
        rows = np.array([self._image(x) if view == "image" else self._text(x) for x in inputs], np.float32)
        time.sleep(self.delay)
        if self.log:
            with open(self.log, "a") as file:
                file.writelines(hashlib.sha256(row.tobytes()).hexdigest() + "\n" for row in rows)
        return rows

    def _image(self, image):
        assert image.mode == "RGB"
        return np.asarray(image.resize((2, 2), Image.Resampling.BOX), np.float32).ravel() / 255

    def _text(self, text):
        assert text.strip()
        return np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], np.uint8).astype(np.float32)


def png(colour, size=(8, 8)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def coloured(n, start=0):
    """n pictures, all different, with texts."""
    images = [png((i % 256, i // 256 % 256, 99)) for i in range(start, start + n)]
    return Samples(
        tuple(f"i{k}" for k in range(start, start + n)), images=images, texts=[f"word {k}" for k in range(n)]
    )


def direct(samples, toy=None):
    """The slow twin: one by one, no batches, no cache, no threads."""
    toy = toy or Toy()
    return {
        "image": np.concatenate([toy.encode("image", [open_image(i)]) for i in samples.images]),
        "text": np.concatenate([toy.encode("text", [t]) for t in samples.texts]),
    }


@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
def test_extraction_equals_encoding_one_by_one(batch_size):
    samples = coloured(300)
    done, skipped = extract(samples, Toy(), batch_size=batch_size)
    for view, expected in direct(samples).items():
        np.testing.assert_array_equal(done.views[view], expected)
    assert not skipped
    assert done.ids == samples.ids
    assert done.sources == {v: {"backbone": "toy", "revision": 1, "view": v} for v in ("image", "text")}
    assert samples.views == {}


def folder_with_bad_rows(folder):
    good = png((200, 10, 10), (64, 64))
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(noise, "JPEG")
    files = {"good.png": good, "cut.jpg": noise.getvalue()[:1500], "words.png": b"no picture", "empty.png": b""}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    rows = [
        "good,good.png,a red square",
        "cut_with_text,cut.jpg,still described",
        "cut_alone,cut.jpg,",
        "gone,not-there.png,",
        "words,words.png,",
        "empty,empty.png,  ",
        "nothing,,",
        "text_only,,only words",
        "picture_only,good.png,",
    ]
    (folder / "items.csv").write_text("id,image,text\n" + "\n".join(rows) + "\n")
    return folder / "items.csv"


def test_bad_rows_are_reported_and_never_fatal(tmp_path):
    done, skipped = extract(read_table(folder_with_bad_rows(tmp_path)), Toy())
    assert done.ids == ("good", "cut_with_text", "text_only", "picture_only")
    present = {view: (~np.isnan(x).all(axis=1)).tolist() for view, x in done.views.items()}
    assert present == {"image": [True, False, False, True], "text": [True, True, True, False]}
    assert all(np.isfinite(x[~np.isnan(x).all(axis=1)]).all() for x in done.views.values())
    reasons = dict(skipped)
    assert reasons.keys() == {"cut_with_text", "cut_alone", "gone", "words", "empty", "nothing"}
    for name, words in {
        "cut_with_text": "image: cut.jpg: damaged or truncated",
        "cut_alone": "left out",
        "gone": "no such file",
        "words": "not a picture",
        "empty": "0 bytes",
        "nothing": "no image and no text (left out)",
    }.items():
        assert words in reasons[name]
    assert "kept with its other views" in reasons["cut_with_text"]


def test_nothing_usable_is_an_error_and_so_is_nothing_to_encode(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"none of 1 rows could be used.*not a picture"):
        extract(read_folder(tmp_path), Toy())
    with pytest.raises(InputError, match="the samples have nothing"):
        extract(Samples(("a",)), Toy())
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        extract(coloured(3), Toy(), batch_size=0)


def test_views_that_are_there_already_are_kept():
    samples = coloured(4)
    mine = np.ones((4, 3), np.float32)
    toy = Toy()
    done, _ = extract(Samples(samples.ids, {"image": mine}, samples.images, samples.texts), toy)
    assert done.views["image"] is mine
    assert done.views["text"].shape == (4, 8)
    assert toy.encoded["image"] == 0


def test_a_backbone_that_gives_nan_costs_that_row_only(tmp_path):
    class Sick(Toy):
        def encode(self, view, inputs, *, batch_size=None):
            rows = super().encode(view, inputs)
            rows[[text == "word 1" for text in inputs] if view == "text" else [], 0] = np.nan
            return rows

    samples = coloured(3)
    texts = Samples(samples.ids, texts=samples.texts)
    for _ in range(2):  # and it is not cached
        done, skipped = extract(texts, Sick(), cache=tmp_path)
        assert done.ids == ("i0", "i2")
        assert skipped == [("i1", "text: the backbone gave NaN or infinite values (left out)")]


def test_large_pictures_shorten_the_batches(monkeypatch):
    monkeypatch.setattr(flow, "PIXELS", 1000)
    samples = coloured(100)
    toy = Toy()
    done, _ = extract(samples, toy)
    np.testing.assert_array_equal(done.views["image"], direct(samples)["image"])
    assert max(n for view, n in toy.batches if view == "image") <= 16


def test_stream_reads_only_a_little_ahead():
    taken = []

    def items():
        for i in range(5000):
            taken.append(i)
            yield {"text": f"word {i}"}

    parts = stream(items(), Toy(), ("text",), batch_size=10)
    first, second = next(parts), next(parts)
    assert (first.start, second.start) == (0, 10)
    assert first.views["text"].shape == (10, 8)
    assert len(taken) < 60
    parts.close()


# The cache -----------------------------------------------------------------------------------------------------


def test_what_is_cached_is_not_encoded_again(tmp_path):
    samples = coloured(40)
    toy = Toy()
    first, _ = extract(samples, toy, cache=tmp_path)
    assert toy.encoded == {"image": 40, "text": 40}
    again, _ = extract(samples, toy, cache=tmp_path)
    assert toy.encoded == {"image": 40, "text": 40}
    for view in first.views:
        np.testing.assert_array_equal(first.views[view], again.views[view])
    extract(coloured(45), toy, cache=tmp_path)
    assert toy.encoded == {"image": 45, "text": 45}
    extract(samples, other := Toy(revision=2), cache=tmp_path)
    assert other.encoded["image"] == 40


def test_the_key_is_the_content_not_the_path(tmp_path):
    (tmp_path / "pics").mkdir()
    path = tmp_path / "pics" / "a.png"
    path.write_bytes(png("red"))
    toy = Toy()
    red, _ = extract(read_folder(tmp_path / "pics"), toy, cache=tmp_path / "c")
    (tmp_path / "pics" / "b.png").write_bytes(png("red"))
    path.write_bytes(png("blue"))
    both, _ = extract(read_folder(tmp_path / "pics"), toy, cache=tmp_path / "c")
    assert toy.encoded["image"] == 2
    np.testing.assert_array_equal(both.views["image"][1], red.views["image"][0])
    assert (both.views["image"][0] != red.views["image"][0]).any()


def test_equal_inputs_are_encoded_once(tmp_path):
    toy = Toy()
    samples = Samples(tuple(map(str, range(50))), texts=["the same words"] * 50)
    done, _ = extract(samples, toy)
    assert toy.encoded["text"] == 1
    assert (done.views["text"] == done.views["text"][0]).all()
    extract(samples, toy := Toy(), cache=tmp_path, batch_size=5)
    assert toy.encoded["text"] == 1


def test_damaged_shards_are_reported_and_made_anew(tmp_path):
    samples = coloured(20)
    expected, _ = extract(samples, Toy(), cache=tmp_path)
    for shard in tmp_path.rglob("*.npy"):
        shard.write_bytes(shard.read_bytes()[:-10])
    toy = Toy()
    with pytest.warns(DataWarning, match="is damaged and not used"):
        done, _ = extract(samples, toy, cache=tmp_path)
    assert toy.encoded["image"] == 20
    np.testing.assert_array_equal(done.views["image"], expected.views["image"])
    extract(samples, toy, cache=tmp_path)  # repaired: the shard was written again
    assert toy.encoded["image"] == 20


def test_a_cache_that_cannot_be_written_warns_once_and_goes_on(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    samples = coloured(5)
    with pytest.warns(BitfuseWarning, match="features are not cached") as caught:
        done, _ = extract(samples, Toy(), cache=blocked)
    assert len(caught) == 1
    np.testing.assert_array_equal(done.views["text"], direct(samples)["text"])


def test_a_full_disk_in_the_middle_warns_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD_ROWS", 8)
    monkeypatch.setattr(cache_module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.warns(BitfuseWarning, match="No space left"):
        done, _ = extract(coloured(40), Toy(), cache=tmp_path, batch_size=8)
    assert len(done) == 40


def test_shards_are_mapped_a_few_at_a_time_and_stale_parts_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD_ROWS", 4)
    monkeypatch.setattr(cache_module, "_OPEN_SHARDS", 2)
    store = FeatureCache(tmp_path, {"a": 1}, 3)
    rows = {hashlib.sha256(bytes([i])).digest(): np.full(3, i, np.float32) for i in range(30)}
    for key, row in rows.items():
        store.put(key, row)
    store.flush()
    old, new = store.path / "x.npy.1.partial", store.path / "y.npy.2.partial"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    again = FeatureCache(tmp_path, {"a": 1}, 3)
    assert len(again) == 30
    assert len(list(again.path.glob("*.npy"))) == 8
    for key in sorted(rows):
        np.testing.assert_array_equal(again.get(key), rows[key])
    assert len(again._maps) == 2
    assert not old.exists()
    assert new.exists()
    assert again.get(bytes(32)) is None


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BITFUSE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("BITFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "bitfuse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "bitfuse"


KILLED = """
import importlib.util, sys
from bitfuse.pipeline import cache
cache.SHARD_ROWS = 16
spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
toys.extract(toys.coloured(200), toys.Toy(delay=0.02, log=sys.argv[3]), cache=sys.argv[2], batch_size=8)
"""


def test_a_killed_extraction_resumes_without_doing_finished_shards_again(tmp_path):
    kept, first, second = tmp_path / "cache", tmp_path / "first.log", tmp_path / "second.log"
    process = subprocess.Popen([sys.executable, "-c", KILLED, __file__, str(kept), str(first)])
    deadline = time.monotonic() + 60
    while len(list(kept.rglob("*.npy"))) < 5:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = set()
    for shard in kept.rglob("*.npy"):
        finished |= {hashlib.sha256(row.tobytes()).hexdigest() for row in np.load(shard)["row"]}
    assert 0 < len(finished) < 400
    done, _ = extract(coloured(200), Toy(log=second), cache=kept, batch_size=8)
    redone = second.read_text().split()
    assert not finished.intersection(redone)
    assert len(redone) + len(finished) == 400
    for view, expected in direct(coloured(200)).items():
        np.testing.assert_array_equal(done.views[view], expected)


# Data sets -----------------------------------------------------------------------------------------------------


def test_shapes_come_in_three_parts_and_from_the_cache_the_second_time(tmp_path):
    toy = Toy()
    options = {"n_train": 30, "n_query": 5, "n_gallery": 20, "cache": tmp_path}
    data = dataset("shapes", backbone=toy, **options)
    assert (len(data.train), len(data.query), len(data.gallery)) == (30, 5, 20)
    assert data.train_in_gallery == "none"
    assert toy.encoded["image"] == 55
    again = dataset("shapes", backbone=toy, **options)
    assert toy.encoded["image"] == 55
    for part in ("train", "query", "gallery"):
        a, b = getattr(data, part), getattr(again, part)
        assert (a.ids, list(a.texts), list(a.images)) == (b.ids, list(b.texts), list(b.images))
        assert {k: list(v) for k, v in a.attributes.items()} == b.attributes
        assert (a.label_names, a.sources) == (b.label_names, b.sources)
        np.testing.assert_array_equal(a.labels, b.labels)
        for view in ("image", "text"):
            np.testing.assert_array_equal(a.views[view], b.views[view])
    assert dataset("shapes", backbone=toy, seed=3, **options).train.texts != data.train.texts
    for stored in (tmp_path / "shapes").iterdir():
        stored.write_bytes(stored.read_bytes()[:-5])
    repaired = dataset("shapes", backbone=toy, **options)
    np.testing.assert_array_equal(repaired.query.views["image"], data.query.views["image"])


def test_a_table_becomes_a_data_set(tmp_path):
    path = shapes.write(tmp_path / "world", 60)
    data = dataset(path, backbone=Toy(), n_query=10, cache=False, train="disjoint", label_sep="|")
    assert (len(data.query), len(data.train), len(data.gallery)) == (10, 25, 25)
    assert data.query.views.keys() == {"image", "text"}
    direct_scenes = shapes.generate(60)
    row = direct_scenes.ids.index(data.query.ids[0])
    np.testing.assert_array_equal(
        data.query.views["image"][0], Toy().encode("image", [open_image(direct_scenes.images[row])])[0]
    )
    assert set(data.query.label_names) <= set(direct_scenes.label_names)
    assert data.query.attributes["price"][0] == direct_scenes.attributes["price"][row]


def test_skipped_rows_of_a_data_set_are_warned_of_and_named(tmp_path):
    path = folder_with_bad_rows(tmp_path)
    with pytest.warns(DataWarning, match=r"6 row\(s\) with inputs that cannot be used"):
        data = dataset(path, backbone=Toy(), n_query=1, cache=False)
    assert len(data.notes["skipped"]) == 6


def test_arrays_need_no_backbone(tmp_path):
    path = tmp_path / "f.npz"
    np.savez(path, image=np.random.default_rng(0).normal(size=(50, 4)), labels=np.arange(50) % 5)
    data = dataset(path, n_query=10)
    assert data.train_in_gallery == "all"
    assert data.name == "f"
    with pytest.raises(InputError, match="holds features already"):
        dataset(path, backbone="pocket")
    np.savez(path, I_tr=np.eye(4), T_tr=np.eye(4), I_te=np.ones((2, 4)), T_te=np.ones((2, 4)))
    assert len(dataset(path).query) == 2
    with pytest.raises(InputError, match="parts; leave n_query out"):
        dataset(path, n_query=1)


def test_names_and_options_that_do_not_exist(tmp_path):
    with pytest.raises(UnknownName, match="unknown data set 'shape'; did you mean 'shapes'"):
        dataset("shape")
    with pytest.raises(UnknownName, match="unknown option of shapes 'n_quer'; did you mean 'n_query'"):
        dataset("shapes", n_quer=3)
    with pytest.raises(InputError, match="1 to 1,000,000 scenes"):
        dataset("shapes", n_query=0)
    (tmp_path / "items.csv").write_text("text\nx\n")
    with pytest.raises(InputError, match=r"is a table, for which \['n_quer'\] cannot be named"):
        dataset(tmp_path / "items.csv", n_quer=3, backbone=Toy())


def test_the_progress_bar_goes_to_standard_error(capsys):
    extract(coloured(5), Toy(), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "5/5" in shown.err

"""The one pipeline with a backbone in stages: the rows of `encode`, the same wherever it begins, prepared meanwhile."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

import bitfuse as bf
from bitfuse.data.shapes import generate
from bitfuse.features.base import Staged
from bitfuse.features.images import open_image
from bitfuse.features.pixels import pixel_values, plain
from bitfuse.pipeline.flow import stream


@pytest.fixture(scope="module")
def pocket():
    return bf.backbone("pocket")


def items(n):
    samples = generate(n, seed=3)
    return [{"image": image, "text": text} for image, text in zip(samples.images, samples.texts)]


def test_stages_give_the_rows_of_encode(pocket):
    given = items(70)
    assert isinstance(pocket, Staged)
    parts = list(stream(given, pocket, ("image", "text"), batch_size=16))
    assert [part.start for part in parts] == [0, 16, 32, 48, 64]
    expected = {"image": pocket.encode("image", [open_image(one["image"]) for one in given]),
                "text": pocket.encode("text", [one["text"] for one in given])}  # fmt: skip
    for view, rows in expected.items():
        np.testing.assert_allclose(np.concatenate([part.views[view] for part in parts]), rows, atol=1e-5)


def test_rows_are_the_same_to_the_last_bit_wherever_the_stream_begins(pocket):
    given = items(90)
    whole = list(stream(given, pocket, ("image", "text"), batch_size=12, every=30))
    assert [part.start for part in whole] == [0, 12, 24, 30, 42, 54, 60, 72, 84]
    later = list(stream(given[30:], pocket, ("image", "text"), batch_size=12, every=30))
    for a, b in zip(whole[3:], later, strict=True):
        for view in ("image", "text"):
            np.testing.assert_array_equal(a.views[view], b.views[view])


def test_the_next_batch_is_prepared_while_the_model_works():
    class Slow:
        name, views, aligned, prompts = "slow", ("text",), False, ()
        staged, forwarded, overlapped = 0, 0, 0
        lock = threading.Lock()

        def describe(self, view):
            return {}

        def width(self, view):
            return 1

        def encode(self, view, inputs, *, batch_size=None):
            raise AssertionError("it has stages")

        def at_once(self, view):
            return 4

        def stage(self, view, inputs):
            with self.lock:
                self.staged += 1
            return inputs

        def forward(self, view, staged):
            self.forwarded += 1
            waited = time.monotonic() + 1
            while self.forwarded < 8 and time.monotonic() < waited:
                if self.staged > self.forwarded:  # later inputs were made ready before this forward ends
                    self.overlapped += 1
                    break
                time.sleep(0.001)
            return np.array([[len(text)] for text in staged], np.float32)

    slow = Slow()
    parts = list(stream(({"text": "x" * (1 + i % 9)} for i in range(64)), slow, ("text",), batch_size=8))
    assert np.concatenate([part.views["text"] for part in parts])[:, 0].tolist() == [1 + i % 9 for i in range(64)]
    assert slow.overlapped == 7


def test_on_several_cores_threads_share_the_model_and_the_cores(pocket, monkeypatch):
    import torch

    pocket.at_once("image")
    met, seen, forward = threading.Barrier(2), set(), pocket.forward

    def together(view, staged):
        met.wait(timeout=60)  # breaks where only one thread comes
        seen.add((threading.get_ident(), torch.get_num_threads()))
        return forward(view, staged)

    given, before = items(64), torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr("bitfuse.pipeline.workers.THREADS", 2)
    monkeypatch.setattr(pocket, "forward", together)
    try:
        parts = list(stream(given, pocket, ("image", "text"), batch_size=16))
        later = []
        other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert [torch.get_num_threads(), *later] == [2, 2]
    finally:
        torch.set_num_threads(before)
    assert sorted(cores for _, cores in seen) == [1, 1]
    assert threading.get_ident() not in {thread for thread, _ in seen}
    rows = pocket.encode("text", [one["text"] for one in given])
    np.testing.assert_allclose(np.concatenate([part.views["text"] for part in parts]), rows, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 48), (60, 49), (49, 60), (77, 101), (640, 481), (30, 47), (500, 48)])
def test_pixels_are_those_of_the_processor(pocket, size):
    pocket.at_once("image")
    config = pocket._processor.to_dict()
    assert plain(config)
    assert not plain({**config, "do_rescale": False})
    assert not plain({**config, "image_processor_type": "SiglipImageProcessor"})
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels)
    expected = pocket._processor(images=[image], return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(pixel_values([image], config)[0], expected)

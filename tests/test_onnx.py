"""Models as ONNX graphs: the same bits as Bitfuse gives, from pixels and tokens."""

import json
import warnings

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.errors import ConvergenceWarning, DataWarning, InputError
from bitfuse.features.images import open_image
from bitfuse.pipeline.onnx import METHODS, export, head

pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

MODELS = {
    "lsh": [{}],
    "itq": [{}, {"aligned": True}],
    "clipmh": [{"epochs": 2, "scaling": s} for s in ("centred", "unit", "raw", "mean")]
    + [{"epochs": 2, "variant": "code"}]
    + [{"epochs": 2, "fusion": fusion} for fusion in ("attention", "bilinear", "sum")],
    "dmmvh": [{"epochs": 2, "hidden": 32, "width": 16}],
    "ucmfh": [
        {"epochs": 1},
        {"epochs": 1, "fusion": "joint", "missing": "zeros", "start": "none", "targets": 0.0},
        {"epochs": 1, "fusion": "none"},
    ],
}
CASES = [(name, options) for name, several in MODELS.items() for options in several]


def fitted(name, world, n_bits, options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (ConvergenceWarning, DataWarning))
        model = bf.hasher(name, n_bits=n_bits, **options)
        return model.fit(world.train.views, world.train.labels, sources=world.train.sources)


@pytest.fixture(scope="module")
def world():
    return bf.dataset("shapes", n_train=300, n_query=100, n_gallery=20)


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_the_head_of_a_view_is_the_projection_of_that_view_alone(world, name, options):
    import torch

    model = fitted(name, world, 20, options)
    assert type(model).__name__ in METHODS
    for view, x in world.query.views.items():
        expected = model.project({view: x})
        with torch.no_grad():
            found = head(model, view)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.parametrize(
    ("name", "options"), [("clipmh", {"epochs": 2, "fusion": "attention"}), ("ucmfh", {"epochs": 1})]
)
def test_attention_is_traced_for_any_number_of_rows(world, name, options):
    import torch

    class Head(torch.nn.Module):
        def __init__(self, values):
            super().__init__()
            self.values = values

        def forward(self, x):
            return self.values(x)

    model, x = fitted(name, world, 20, options), world.query.views["text"]
    axes = ({0: torch.export.Dim.DYNAMIC},)  # raises where the trace depends on the number of rows
    with torch.no_grad():
        traced = torch.export.export(Head(head(model, "text")), (torch.zeros(2, x.shape[1]),), dynamic_shapes=axes)
        for n in (1, 3, 64):
            expected = model.project({"text": x[:n]})
            found = traced.module()(torch.from_numpy(x[:n])).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, np.abs(expected).max()))


def run(folder, card, view, kind, staged):
    session = ort.InferenceSession(folder / card["graphs"][view]["files"][kind], providers=["CPUExecutionProvider"])
    return session.run(None, {name: staged[name].numpy() for name in card["graphs"][view]["inputs"]})[0]


def check_graphs(folder, world, name, n_bits, options, int8):
    model = fitted(name, world, n_bits, options)
    model.save(folder / "model")
    card = export(folder / "model", folder / "graphs", int8=int8)
    assert json.loads((folder / "graphs/onnx.json").read_text()) == card
    assert (folder / "graphs/tokenizer.json").is_file()
    encoder = bf.backbone("pocket")
    inputs = {"image": [open_image(i) for i in world.query.images], "text": list(world.query.texts)}
    for view, given in inputs.items():
        z = model.project({view: encoder.encode(view, given, batch_size=len(given))})
        certain = np.abs(z) >= 1e-5
        for rows in (slice(0, 1), slice(0, 3), slice(0, 64), slice(None)):  # any number of rows, any length of text
            code = run(folder / "graphs", card, view, "fp32", encoder.stage(view, given[rows]))
            assert code.dtype == np.uint8
            assert code.shape == (len(given[rows]), -(-n_bits // 8))
            bf.Codes(code, n_bits)  # no pad bit is set
            bits = np.unpackbits(code, axis=1, count=n_bits)
            assert (bits == (z[rows] > 0))[certain[rows]].all()
        if int8:
            code = run(folder / "graphs", card, view, "int8", encoder.stage(view, given))
            flipped = (np.unpackbits(code, axis=1, count=n_bits) != (z > 0)).mean()
            assert 0 < flipped < 0.05


def test_graphs_give_the_bits_of_the_model(tmp_path, world):
    check_graphs(tmp_path, world, "clipmh", 20, {"epochs": 2}, int8=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_graphs_of_every_method(tmp_path, world, name, options):
    check_graphs(tmp_path, world, name, 16, options, int8=options.get("fusion") == "attention" or name == "ucmfh")


def test_what_is_not_exported(tmp_path, world):
    fitted("pcarr", world, 8, {}).save(tmp_path / "pcarr")
    with pytest.raises(InputError, match="PCARR is not exported, only CLIPMH, DMMVH, ITQ, LSH, UCMFH are"):
        export(tmp_path / "pcarr", tmp_path / "x")
    bf.hasher("lsh", n_bits=8).fit({"image": np.eye(4)}).save(tmp_path / "arrays")
    with pytest.raises(InputError, match="name it with --backbone"):
        export(tmp_path / "arrays", tmp_path / "x")
    with pytest.raises(InputError, match="exists; name a new directory"):
        export(tmp_path / "arrays", tmp_path)
    assert not (tmp_path / "x").exists()

"""The floors (LSH, PCARR, ITQ in both modes, OneHot) and published presets. What all share is in test_checks.py."""

import warnings

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.errors import BitfuseWarning, InputError, UnknownName
from bitfuse.hashers import hasher_class
from bitfuse.hashers._axes import principal_axes
from bitfuse.hashers.itq import ITQ
from bitfuse.hashers.lsh import LSH
from bitfuse.hashers.onehot import OneHot, _ridge
from bitfuse.hashers.pcarr import PCARR

RNG = np.random.default_rng(0)
KIND = RNG.integers(0, 5, 400)
CENTRES = RNG.standard_normal((5, 24))
VIEWS = {
    name: CENTRES[KIND] + 0.7 * RNG.standard_normal((400, 24)) + shift for name, shift in (("image", 3), ("text", -2))
}
LABELS = np.eye(5, dtype=bool)[KIND]


def clustered(codes: bf.Codes, other: bf.Codes | None = None) -> float:
    return bf.score(codes, codes if other is None else other, LABELS, LABELS).map


def test_lsh_bits_differ_with_the_angle():
    x = RNG.standard_normal((40, 16))
    codes = LSH(n_bits=4096).fit({"x": x}).encode({"x": x})
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    angle = np.arccos(np.clip(unit @ unit.T, -1, 1)) / np.pi
    assert np.abs(codes.hamming(codes) / 4096 - angle).max() < 0.05


def test_lsh_learns_nothing_and_ignores_the_length_of_rows():
    a, b = LSH().fit({"x": VIEWS["image"]}), LSH().fit({"x": VIEWS["text"][:1]})
    assert a.encode({"x": VIEWS["image"]}) == b.encode({"x": 1000 * VIEWS["image"]})


@pytest.mark.parametrize(("n", "d"), [(50, 8), (8, 50), (30, 30)])
def test_principal_axes_are_those_of_the_singular_value_decomposition(n, d):
    x = np.random.default_rng(n).standard_normal((n, d))
    axes = principal_axes(x, 5)
    expected = np.linalg.svd(x)[2][:5].T
    assert np.allclose(np.abs((axes * expected).sum(axis=0)), 1)
    assert principal_axes(x[:, :1] * np.ones(d), 5).shape == (d, 1)  # no axis is made up beyond the rank


@pytest.mark.parametrize("method", [PCARR, ITQ])
def test_the_projection_has_orthonormal_columns_while_the_rank_allows(method):
    w = method(n_bits=16).fit(VIEWS)._fitted["state"]["W"]
    assert np.allclose(w.T @ w, np.eye(16), atol=1e-5)
    w = method(n_bits=64).fit({"image": VIEWS["image"]})._fitted["state"]["W"]
    assert w.shape == (24, 64)
    assert np.allclose(w @ w.T, np.eye(24), atol=1e-5)


def test_itq_brings_values_nearer_to_their_signs_than_a_random_rotation():
    loss = [ITQ(n_bits=16, n_iter=i).fit(VIEWS).log["quantisation_loss"] for i in (0, 1, 10, 50)]
    assert loss == sorted(loss, reverse=True)
    assert loss[0] - loss[-1] > 0.01
    assert np.array_equal(
        ITQ(n_bits=16, n_iter=0).fit(VIEWS).project(VIEWS), PCARR(n_bits=16).fit(VIEWS).project(VIEWS)
    )


def test_aligned_itq_answers_one_view_with_the_other():
    across = {}
    for name, aligned in (("aligned", True), ("side by side", False)):
        hasher = ITQ(n_bits=32, aligned=aligned).fit(VIEWS)
        image, text = (hasher.encode({view: VIEWS[view]}) for view in ("image", "text"))
        across[name] = clustered(text, image)
    assert across["aligned"] > 0.9
    assert across["side by side"] < across["aligned"]


def test_rotation_from_learns_from_one_view_and_only_centres_the_others():
    images = {"image": VIEWS["image"], "text": np.full_like(VIEWS["text"], np.nan)}
    prompts = {"image": np.full((30, 24), np.nan), "text": VIEWS["text"][:30]}
    rows = {name: np.concatenate([images[name], prompts[name]]) for name in images}
    alone = ITQ(n_bits=16, aligned=True).fit({"image": VIEWS["image"]})
    with_prompts = ITQ(n_bits=16, aligned=True, rotation_from="image").fit(rows)
    query = {"image": VIEWS["image"]}
    assert with_prompts.encode(query) == alone.encode(query)
    assert clustered(with_prompts.encode({"text": VIEWS["text"]}), with_prompts.encode(query)) > 0.9


def test_a_row_with_two_views_takes_the_mean_of_their_values():
    hasher = ITQ(n_bits=16, aligned=True).fit(VIEWS)
    parts = [hasher.project({view: VIEWS[view]}) for view in ("image", "text")]
    assert np.allclose(hasher.project(VIEWS), np.mean(parts, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "views", "error", "message"),
    [
        ({"aligned": True}, {**VIEWS, "text": VIEWS["text"][:, 1:]}, InputError, "needs views of one width"),
        ({"aligned": True, "rotation_from": "imag"}, VIEWS, UnknownName, "did you mean 'image'"),
        ({"rotation_from": "image"}, VIEWS, InputError, "aligned=True"),
        (
            {"aligned": True, "rotation_from": "image"},
            {**VIEWS, "image": np.full((400, 24), np.nan)},
            InputError,
            "no training row has the view 'image'",
        ),
    ],
)
def test_itq_says_what_it_cannot_do(parameters, views, error, message):
    with pytest.raises(error, match=message):
        ITQ(n_bits=16, **parameters).fit(views)


def test_onehot_leave_one_out_error_is_that_of_leaving_each_row_out():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((25, 6)), rng.standard_normal((25, 2))

    def left_out(ridge: float) -> float:
        total = 0.0
        for i in range(25):
            rest = np.arange(25) != i
            centre, mean = x[rest].mean(axis=0), y[rest].mean(axis=0)
            z = x[rest] - centre
            w = np.linalg.solve(z.T @ z + ridge * np.eye(6), z.T @ (y[rest] - mean))
            total += float((((x[i] - centre) @ w + mean - y[i]) ** 2).sum())
        return total

    ridges = (0.1, 1.0, 10.0, 30.0, 100.0)
    w, b, best = _ridge(x, y, ridges)
    assert best == min(ridges, key=left_out)
    z = x - x.mean(axis=0)
    assert np.allclose(w, np.linalg.solve(z.T @ z + best * np.eye(6), z.T @ (y - y.mean(axis=0))))
    assert np.allclose(x.mean(axis=0) @ w + b, y.mean(axis=0))


def test_onehot_gives_rows_of_one_predicted_label_one_code():
    hasher = OneHot(n_bits=32).fit(VIEWS, LABELS)
    codes = hasher.encode(VIEWS)
    assert len(np.unique(codes.packed, axis=0)) == 5
    assert clustered(codes) > 0.99
    alone = hasher.encode({"image": VIEWS["image"]})
    assert clustered(alone, codes) > 0.9


def test_onehot_scores_keep_the_doubt_of_the_classifier():
    codes = OneHot(n_bits=32, coded="scores").fit(VIEWS, LABELS).encode(VIEWS)
    assert len(np.unique(codes.packed, axis=0)) > 5  # as many as there are labels, and more
    assert clustered(codes) > 0.99


@pytest.mark.parametrize(("parameters", "message"), [({"coded": "label"}, "'labels'"), ({"ridge": 0.0}, "above 0")])
def test_onehot_refuses_parameters_that_mean_nothing(parameters, message):
    with pytest.raises(InputError, match=message):
        OneHot(n_bits=16, **parameters).fit(VIEWS, LABELS)


def test_onehot_takes_the_ridge_it_is_given():
    assert OneHot(n_bits=16, ridge=7.0).fit(VIEWS, LABELS).log["ridge"] == 7.0


def test_the_public_name_of_the_list_of_methods_outlives_the_import_of_the_package():
    bf.hasher("lsh")
    assert bf.hashers() == sorted(bf.hashers())
    assert {"clipmh", "itq", "lsh", "onehot", "pcarr"} <= set(bf.hashers())


SMALLER = {"ucch": {"hidden": 64}}  # 8192 units a layer take seconds to make
"""What differs from the published preset below, besides the number of epochs."""


@pytest.mark.parametrize("name", [name for name in bf.hashers() if "published" in hasher_class(name).presets])
def test_published_constants_fit_and_encode_raw_features(name):
    raw = {v: 5 * np.abs(x[:80]).astype(np.float32) for v, x in VIEWS.items()}
    kind = hasher_class(name)
    fewer = SMALLER.get(name, {}) | ({"epochs": 2} if "epochs" in kind.__dataclass_fields__ else {})
    model = bf.hasher(name, preset="published", n_bits=8, **fewer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)  # constants for thousands of rows meet 80
        model.fit(raw, LABELS[:80] if kind.supervised else None)
    for space in model.spaces:
        values = model.project(raw if space == "fused" else {space: raw[space]}, space)
        assert values.shape == (80, 8)
        assert np.isfinite(values).all()

"""UCMFH, DJSRH and UCCH: their equations against loops, their parts one by one. The contract is in test_checks.py."""

import math

import numpy as np
import pytest
import torch

import bitfuse as bf
from bitfuse.errors import DataWarning, InputError, UnknownName
from bitfuse.hashers._ucmfh import contrast
from bitfuse.hashers.djsrh import DJSRH
from bitfuse.hashers.itq import ITQ
from bitfuse.hashers.ucch import UCCH
from bitfuse.hashers.ucmfh import UCMFH

RNG = np.random.default_rng(0)
KIND = RNG.integers(0, 8, 300)
CENTRES = RNG.standard_normal((8, 24))
VIEWS = {
    name: (CENTRES[KIND] + 1.5 * RNG.standard_normal((300, 24)) + shift).astype(np.float32)
    for name, shift in (("image", 1), ("text", -1))
}
LABELS = np.eye(8, dtype=bool)[KIND]
SMALL = {"n_bits": 16, "epochs": 2, "hidden": 32, "width": 16, "feed_forward": 16}
RATES = {"learning_rate": 1e-12, "fusion_rate": 1e-12}
STARTED = {"neighbours": {}, "aligned": {"start": "aligned"}}


def fitted(**parameters) -> UCMFH:
    return UCMFH(**{**SMALL, **parameters}).fit(VIEWS)


def state(model) -> dict[str, np.ndarray]:
    return model._fitted["state"]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rows_as_seen(view):
    x = unit(VIEWS[view].astype(float))
    return unit(x - x.mean(axis=0))


def across(model, spaces=True) -> list[float]:
    codes = {v: model.encode({v: VIEWS[v]}, v if spaces else None) for v in ("image", "text")}
    return [bf.score(codes[q], codes[g], LABELS, LABELS).map for q, g in (("image", "text"), ("text", "image"))]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.mark.parametrize("spread", [False, True])
def test_the_contrast_is_that_of_the_definition(spread):
    a, b = RNG.standard_normal((2, 5, 4))
    P = np.exp(RNG.standard_normal((5, 5))) if spread else np.eye(5)
    P /= P.sum(axis=1, keepdims=True)
    expected = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(5):
            below = sum(math.exp(cosine(x[i], y[j]) / 0.3) for j in range(5))
            expected -= sum(P[i, j] * math.log(math.exp(cosine(x[i], y[j]) / 0.3) / below) for j in range(5)) / 10
    assert contrast(*map(torch.from_numpy, (a, b, P)), 0.3).item() == pytest.approx(expected)


def test_the_start_solves_the_regression_of_averaged_neighbours():
    model = fitted(ridge=0.5, neighbours=7, **RATES)
    x = rows_as_seen("image")
    E = np.zeros_like(x)
    for i in range(300):
        near = sorted(range(300), key=lambda j: -(x[i] @ x[j]))[:7]
        E[i] = sum(max(x[i] @ x[j], 0) * x[j] for j in near)
        E[i] /= sum(max(x[i] @ x[j], 0) for j in near)
    E = unit(E - E.mean(axis=0))
    Y = E @ np.linalg.svd(E)[2][:16].T
    Y -= Y.mean(axis=0)
    for view in VIEWS:
        X = rows_as_seen(view)
        X -= X.mean(axis=0)
        rho = 0.5 * np.trace(X.T @ X) / 24
        # the start is W R with one R: W is stationary, X'(Y - X W) = rho W, if this holds for the W in its span
        W = np.linalg.lstsq(X.T @ X + rho * np.eye(24), X.T @ Y, rcond=None)[0]
        start = state(model)[f"start.{view}"]
        R = np.linalg.lstsq(W, start, rcond=None)[0]
        assert np.allclose(W @ R, start, atol=1e-6)
        assert np.allclose(R @ R.T, R[0] @ R[0] * np.eye(16), atol=1e-6)  # a rotation, times a scale


@pytest.mark.parametrize("start", STARTED)
def test_an_untrained_network_leaves_the_start_as_it_is(start):
    model = fitted(**STARTED[start], **RATES)
    w = state(model)
    z = {v: rows_as_seen(v) @ w[f"start.{v}"] + w[f"offset.{v}"] for v in VIEWS}
    assert np.allclose(model.project(VIEWS), (z["image"] + z["text"]) / 2, atol=1e-4)
    assert np.allclose(model.project({"text": VIEWS["text"]}, "text"), z["text"], atol=1e-4)
    assert np.concatenate(list(z.values())).std() == pytest.approx(1, abs=1e-3)


def test_the_aligned_start_has_the_signs_of_aligned_itq():
    itq = ITQ(n_bits=16, aligned=True, rotation_from="image").fit(VIEWS)
    for view, x in VIEWS.items():
        ours = fitted(start="aligned", **RATES).project({view: x}, view)
        theirs = itq.project({view: x})
        theirs -= theirs.mean(axis=0)
        assert np.allclose(ours / ours.std(), theirs / theirs.std(), atol=0.02)


@pytest.mark.parametrize("fusion", ["tokens", "joint", "none"])
def test_the_fused_space_with_one_view_is_the_space_of_that_view(fusion):
    model = fitted(fusion=fusion)
    for view, x in VIEWS.items():
        assert np.allclose(model.project({view: x}), model.project({view: x}, view), atol=1e-5)
    mixed = {**VIEWS, "text": np.where(np.arange(300)[:, None] < 150, np.nan, VIEWS["text"])}
    z = model.project(mixed)
    assert np.allclose(z[:150], model.project({"image": VIEWS["image"]}, "image")[:150], atol=1e-5)
    assert np.allclose(z[150:], model.project(VIEWS)[150:], atol=1e-5)


@pytest.mark.parametrize("fusion", ["tokens", "joint", "none"])
def test_only_a_transformer_makes_the_views_of_a_row_meet(fusion):
    model = fitted(fusion=fusion)
    alone = [model.project({v: x}, v) for v, x in VIEWS.items()]
    meets = not np.allclose(model.project(VIEWS), np.mean(alone, axis=0), atol=1e-5)
    assert meets == (fusion != "none")
    assert any(name.startswith("fusion.transformer") for name in state(model)) == (fusion != "none")


def test_a_missing_view_is_a_learned_token_or_zeros():
    assert not any(state(fitted(missing="zeros"))[f"fusion.absent.{v}"].any() for v in VIEWS)
    still, moved = (state(fitted(**rates))["fusion.absent.text"] for rates in (RATES, {"fusion_rate": 0.01}))
    assert np.abs(still - moved).max() > 1e-3


def test_without_the_hash_loss_the_codes_are_those_of_the_start():
    assert fitted(hash_loss=0.0).encode(VIEWS) == fitted(**RATES).encode(VIEWS)
    assert fitted(fusion_loss=0.0).encode(VIEWS) != fitted(**RATES).encode(VIEWS)


def test_learning_from_neighbours_beats_aligned_itq_from_view_to_view():
    ours = UCMFH(n_bits=32, epochs=5).fit(VIEWS)
    itq = ITQ(n_bits=32, aligned=True, rotation_from="image").fit(VIEWS)
    assert min(across(ours)) > max(across(itq, spaces=False)) + 0.01
    assert ours.log["losses"][-1] < ours.log["losses"][0]


def test_the_published_preset_is_the_architecture_of_the_paper():
    model = bf.hasher("ucmfh", preset="published", n_bits=16, epochs=2).fit(VIEWS)
    w = state(model)
    assert not any(name.startswith(("start.", "fusion.enter")) for name in w)
    assert w["fusion.transformer.layers.1.linear1.weight"].shape == (2048, 48)
    assert w["hash.text.0.weight"].shape == (4096, 24)
    assert w["hash.text.3.weight"].shape == (16, 4096)
    assert not any(w[f"mean.{v}"].any() for v in VIEWS)
    assert model.log["losses"][1] < model.log["losses"][0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"guide": "audio"}, "guide"),
        ({"start": "itq"}, "start"),
        ({"fusion": "token"}, "tokens"),
        ({"missing": "nothing"}, "missing"),
        ({"temperature": 0.0}, "temperature"),
        ({"fusion_loss": 0.0, "hash_loss": 0.0}, "hash_loss"),
        ({"fusion": "none", "hash_loss": 0.0}, "hash_loss"),
        ({"start": "aligned", "guide": None, "ridge": -1.0}, "ridge"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(parameters, message):
    with pytest.raises((InputError, UnknownName), match=message):
        fitted(**parameters)


def test_views_of_unlike_widths_are_fused_as_tokens_or_not_at_all():
    unlike = {"image": VIEWS["image"], "text": VIEWS["text"][:, :7]}
    small = {"n_bits": 8, "epochs": 1, "hidden": 16}
    for fusion in ("tokens", "none"):
        codes = UCMFH(fusion=fusion, **small).fit(unlike).encode({"text": unlike["text"]}, "text")
        assert len(codes) == len(unlike["text"])
    with pytest.raises(InputError, match="fusion='tokens'"):
        UCMFH(fusion="joint", **small).fit(unlike)


def test_the_guide_is_the_view_whose_neighbours_have_something_in_common():
    noise = np.random.default_rng(1).standard_normal((len(VIEWS["image"]), 24)).astype(np.float32)
    for first, second in (("image", "noise"), ("noise", "image")):
        views = {"image": VIEWS["image"], "noise": noise}
        model = bf.hasher("ucmfh", n_bits=16, epochs=1, hidden=16, fusion="none").fit(
            {v: views[v] for v in (first, second)}
        )
        assert model.log["guide"] == "image"


def test_more_neighbours_than_rows_are_clamped_with_a_warning():
    with pytest.warns(DataWarning, match="300"):
        fitted(neighbours=301)


@pytest.mark.parametrize("method", ["ucmfh", "djsrh", "ucch"])
def test_a_space_that_no_view_is_named_after_is_refused(method):
    views = {"picture": VIEWS["image"], "text": VIEWS["text"]}
    parameters = {"guide": "picture"} if method == "ucmfh" else {}
    model = bf.hasher(method, n_bits=16, epochs=1, hidden=16, **parameters).fit(views)
    with pytest.raises(InputError, match="picture"):
        model.encode(views, "image")


@pytest.mark.parametrize("scaling", ["centred", "raw"])
def test_djsrh_reconstructs_the_similarity_of_the_paper(scaling):
    F_I, F_T = RNG.standard_normal((2, 6, 4))
    model = DJSRH(n_bits=16, scaling=scaling, beta=0.7, eta=0.3)
    mixed, m = np.zeros((6, 6)), 6
    for i in range(m):
        for j in range(m):
            c = [cosine(F[i], F[j]) for F in (F_I, F_T)]
            s = c if scaling == "centred" else [2 * x - 1 for x in c]
            mixed[i, j] = 0.7 * s[0] + 0.3 * s[1]
    S = [[0.7 * mixed[i, j] + 0.3 * sum(mixed[i] * mixed[j]) / m for j in range(m)] for i in range(m)]
    assert np.allclose(model.similarity(torch.from_numpy(F_I), torch.from_numpy(F_T)), S)


def test_djsrh_sharpens_its_codes_epoch_by_epoch():
    model = DJSRH(n_bits=4, lam=0.2, mu=1.4)
    x = {v: torch.from_numpy(rows_as_seen(v)[:10]) for v in VIEWS}
    network = torch.nn.ModuleDict({v: torch.nn.Linear(24, 4).double() for v in VIEWS})
    loss = model._objective(network, x, RNG)
    S = 1.4 * model.similarity(x["image"], x["text"]).numpy()
    for epoch in (1, 2, 3):
        H = {v: np.tanh(math.sqrt(epoch) * network[v](x[v]).detach().numpy()) for v in VIEWS}
        expected = 0.0
        for a, b, weight in (("image", "image", 0.2), ("image", "text", 1), ("text", "text", 0.2)):
            errors = [(S[i, j] - cosine(H[a][i], H[b][j])) ** 2 for i in range(10) for j in range(10)]
            expected += weight * sum(errors) / 100
        assert loss(np.arange(10)).item() == pytest.approx(expected)


def test_ucch_ranks_as_the_paper_does():
    model = UCCH(margin=0.2, shift=0.1)
    s = RNG.uniform(-1, 1, (6, 6))
    s[0, 1] = s[0, 0] - 0.1  # nearer to the true pair than the margin: it may be a false negative, and stays
    expected = 0.0
    for i in range(6):
        moved = [s[i, j] if s[i, j] >= s[i, i] - 0.2 else s[i, j] - 0.1 for j in range(6)]
        expected += (0.2 - s[i, i] + math.log(sum(math.exp(x) for x in moved))) / 6
    assert model.ranking(torch.from_numpy(s)).item() == pytest.approx(expected)


def test_ucch_contrasts_with_remembered_signs():
    model = UCCH(n_bits=4, temperature=0.9)
    h, signs = unit(RNG.standard_normal((3, 4))), np.sign(RNG.standard_normal((7, 4)))
    expected = 0.0
    for i in range(3):
        e = [math.exp(sum(signs[j] * h[i]) / (0.9 * math.sqrt(4))) for j in range(7)]
        expected -= math.log(e[i] / sum(e)) / 3
    assert model.contrast(torch.from_numpy(h), torch.from_numpy(signs)).item() == pytest.approx(expected)


@pytest.mark.parametrize("method", ["djsrh", "ucch"])
def test_towers_learn_and_rank_across_views(method):
    model = bf.hasher(method, n_bits=32, epochs=10, hidden=128, learning_rate=0.01 if method == "djsrh" else 1e-3)
    model.fit(VIEWS)
    assert model.log["losses"][-1] < model.log["losses"][0]
    assert min(across(model)) > 0.25  # an eighth of the pairs are relevant


def test_ucch_has_as_many_layers_as_it_is_told():
    w = state(UCCH(n_bits=8, epochs=1, hidden=12, image_layers=3, text_layers=2).fit(VIEWS))
    assert sum(name.startswith("image.") and name.endswith("weight") for name in w) == 4
    assert sum(name.startswith("text.") and name.endswith("weight") for name in w) == 3


@pytest.mark.parametrize(
    ("model", "message"),
    [(DJSRH(beta=1.5), "beta"), (DJSRH(eta=-1), "eta"), (UCCH(alpha=2), "alpha"), (UCCH(temperature=0), "temperature")],
)
def test_weights_outside_their_range_are_refused(model, message):
    with pytest.raises(InputError, match=message):
        model.clone(n_bits=16).fit(VIEWS)

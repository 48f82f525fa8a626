"""CVH and CMFH: each update against its objective, and one code space for every view."""

import numpy as np
import pytest
import scipy.linalg
from tests.maths.numeric import stationary

from bitfuse.errors import InputError, MissingView
from bitfuse.hashers import cmfh, cvh, hasher


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def pairs(n=200, seed=0, names=("image", "text")):
    """Views of unlike widths with four common factors under noise of their own."""
    rng = np.random.default_rng(seed)
    factors, fixed = rng.normal(size=(n, 4)), np.random.default_rng(99)
    widths = dict(zip(names, (20, 12, 9)))
    return {
        v: (factors @ fixed.normal(size=(4, d)) + 0.5 * rng.normal(size=(n, d)) + 2).astype(np.float32)
        for v, d in widths.items()
    }


def paired_rank(model, views, found="text"):
    """Mean share of the gallery that lies nearer to an image than its own text does; .5 is chance."""
    d = model.encode({"image": views["image"]}, "image").hamming(model.encode({found: views[found]}, found))
    return (d < np.diag(d)[:, None]).mean()


# ---- CVH


def test_cvh_solves_the_generalised_eigenproblem_of_both_views(rng):
    X, Y = rng.normal(size=(60, 6)), rng.normal(size=(60, 4))
    Y[:, :3] += X[:, :3]
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    W_x, W_y, correlation = cvh.canonical(X.T @ X / 60, Y.T @ Y / 60, X.T @ Y / 60, 0.5, 3)
    C_xx = X.T @ X / 60 + 0.5 * np.trace(X.T @ X) / 60 / 6 * np.eye(6)
    C_yy = Y.T @ Y / 60 + 0.5 * np.trace(Y.T @ Y) / 60 / 4 * np.eye(4)
    C_xy = X.T @ Y / 60
    squared = scipy.linalg.eigh(C_xy @ np.linalg.inv(C_yy) @ C_xy.T, C_xx, eigvals_only=True)[::-1]
    assert np.allclose(correlation**2, squared[:3])
    assert np.allclose(W_x.T @ C_xx @ W_x, np.eye(3))
    assert np.allclose(W_y.T @ C_yy @ W_y, np.eye(3))
    assert np.allclose(W_x.T @ C_xy @ W_y, np.diag(correlation))
    assert np.allclose(W_y, np.linalg.inv(C_yy) @ C_xy.T @ W_x / correlation)  # the inverse, not the covariance
    for _ in range(100):  # no other feasible pair has a larger objective
        other_x = scipy.linalg.solve_triangular(np.linalg.cholesky(C_xx).T, np.linalg.qr(rng.normal(size=(6, 3)))[0])
        other_y = scipy.linalg.solve_triangular(np.linalg.cholesky(C_yy).T, np.linalg.qr(rng.normal(size=(4, 3)))[0])
        assert np.trace(other_x.T @ C_xy @ other_y) <= correlation.sum()


def test_cvh_values_are_centred_on_the_training_rows():
    views = pairs()
    model = hasher("cvh", n_bits=8).fit(views)
    for view in views:
        assert np.allclose(model.project({view: views[view]}, view).mean(axis=0), 0, atol=1e-4)


# ---- CMFH


def test_cmfh_updates_are_stationary_and_every_step_descends(rng):
    X = [rng.normal(size=(14, 5)), rng.normal(size=(14, 20))]  # one view narrower, one wider than the rows
    Y, mu, gamma, values = rng.normal(size=(14, 3)), 0.4, 0.2, []
    maps = [cmfh.regressor(x, mu, gamma) for x in X]
    U, W = [rng.normal(size=(3, x.shape[1])) for x in X], [rng.normal(size=(x.shape[1], 3)) for x in X]
    for _ in range(8):
        values.append(cmfh.loss(X, Y, U, W, mu, gamma))
        U = [cmfh.loadings(x, Y, gamma) for x in X]
        values.append(cmfh.loss(X, Y, U, W, mu, gamma))
        W = [m @ Y for m in maps]
        values.append(cmfh.loss(X, Y, U, W, mu, gamma))
        Y = cmfh.latent(X, U, W, mu, gamma)
    assert np.all(np.diff(values) <= 1e-12)
    assert stationary(lambda y: cmfh.loss(X, y, U, W, mu, gamma), Y)
    U = [cmfh.loadings(x, Y, gamma) for x in X]
    assert stationary(lambda u: cmfh.loss(X, Y, [U[0], u], W, mu, gamma), U[1])
    W = [m @ Y for m in maps]
    for v in (0, 1):  # W too small by mu^2 would not be stationary
        assert stationary(lambda w, v=v: cmfh.loss(X, Y, U, [*W[:v], w, *W[v + 1 :]], mu, gamma), W[v])


def test_cmfh_objective_falls_and_more_than_two_views_share_the_space():
    views = pairs(names=("audio", "image", "text"))
    model = hasher("cmfh", n_bits=16).fit(views)
    objective = model.log["objective"]
    assert len(objective) > 2
    assert np.all(np.diff(objective) <= 1e-9 * np.abs(objective[:-1]))
    assert paired_rank(model, pairs(seed=4, names=("audio", "image", "text"))) < 0.15


def test_cmfh_values_are_centred_on_the_training_rows():
    z = hasher("cmfh", n_bits=8, scaling="raw").fit(pairs()).project(pairs())
    assert np.abs(z.mean(axis=0)).max() < 0.1 * z.std()


# ---- both


@pytest.mark.parametrize("name", ["cmfh", "cvh"])
def test_a_pair_gets_like_codes_in_both_views_and_the_fused_code_is_their_mean(name):
    views, fresh = pairs(), pairs(seed=4)
    model = hasher(name, n_bits=16).fit(views)
    assert paired_rank(model, fresh) < 0.1
    image, text = (model.project({v: fresh[v]}, v) for v in ("image", "text"))
    assert np.allclose(model.project(fresh), (image + text) / 2, atol=1e-5)
    assert np.allclose(model.project({"text": fresh["text"]}), text, atol=1e-6)  # fused, of what is there


@pytest.mark.parametrize("name", ["cmfh", "cvh"])
def test_spaces_are_those_of_the_views_it_was_fitted_on(name):
    views = pairs(names=("left", "right"))
    model = hasher(name, n_bits=8).fit(views)
    assert len(model.encode(views)) == 200
    with pytest.raises(InputError, match="fitted on \\['left', 'right'\\]"):
        model.encode(views, "image")
    with pytest.raises(MissingView):
        hasher(name, n_bits=8).fit(pairs()).encode({"text": pairs()["text"]}, "image")

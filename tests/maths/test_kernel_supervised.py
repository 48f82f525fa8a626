"""MFKH and DMVH: each update against its objective, and the slips of the public code kept out."""

import numpy as np
import pytest
from tests.maths.numeric import stationary

from bitfuse.hashers import _graphs as G
from bitfuse.hashers import _solvers as S
from bitfuse.hashers import dmvh, hasher, mfkh


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def problem(rng, n=40, R=9):
    """Kernels of two views to some of the rows (R, n), landmark kernels, and the Laplacian of a label graph."""
    y = np.eye(3, dtype=bool)[np.arange(n) % 3]
    x = [rng.normal(size=(n, 4)) + y @ rng.normal(size=(3, 4)), rng.normal(size=(n, 5))]
    K = [S.rbf(v[:R], v, 2.0) for v in x]
    LL = [S.rbf(v[:R], v[:R], 2.0) for v in x]
    return K, LL, G.laplacian(G.knn_graph(np.hstack(x), 4, labels=y), normalised=True)


def rows(n=160, seed=0):
    """Rows whose views hardly cluster by label: the features alone do not give the labels away."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 4
    centres = np.random.default_rng(99).normal(size=(2, 4, 12))
    views = {v: 0.45 * c[kind] + rng.normal(size=(n, 12)) + 1 for v, c in zip(("image", "text"), centres)}
    return {v: x.astype(np.float32) for v, x in views.items()}, np.eye(4, dtype=bool)[kind]


def precision(model):
    """Share of the ten nearest training rows of fresh rows that share their label."""
    (views, y), (fresh, y_fresh) = rows(), rows(80, seed=5)
    near = np.argsort(model.encode(fresh).hamming(model.encode(views)), axis=1, kind="stable")[:, :10]
    return y[near].swapaxes(0, 1)[:, y_fresh].mean()


# ---- MFKH


def test_mfkh_projections_keep_the_constraint_and_minimise_under_it(rng):
    K_v, LL_v, LS = problem(rng)
    K, LL = S.combine([0.4, 0.6], K_v), S.combine([0.4, 0.6], LL_v)
    W, rough = mfkh.projections(K, LL, LS, 0.1, 3)
    centred = K - K.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T / 40
    assert np.allclose(W.T @ covariance @ W, np.eye(3))  # balanced by b, uncorrelated, unit variance
    assert mfkh.loss(K, LL, LS, W, 0.1) == pytest.approx(40 * rough.sum())
    slow = np.trace(W.T @ (K @ LS.toarray() @ K.T + 0.1 * LL) @ W)
    assert mfkh.loss(K, LL, LS, W, 0.1) == pytest.approx(slow)
    values, T = np.linalg.eigh(covariance)
    T = T / np.sqrt(values)
    for _ in range(200):
        other = T @ S.procrustes(rng.normal(size=(9, 3)))
        assert mfkh.loss(K, LL, LS, other, 0.1) >= mfkh.loss(K, LL, LS, W, 0.1)


def test_mfkh_null_space_of_the_covariance_is_dropped(rng):
    K_v, LL_v, LS = problem(rng)
    K = np.vstack([K_v[0], K_v[0][:2]])  # two landmarks twice: nine kernel functions in eleven rows
    LL = np.block([[LL_v[0], LL_v[0][:, :2]], [LL_v[0][:2], LL_v[0][:2, :2]]])
    W, rough = mfkh.projections(K, LL, LS, 0.1, 11)
    assert W.shape == (11, 9)
    assert np.isfinite(W).all()
    assert rough.min() > 0


def test_mfkh_weights_minimise_over_the_simplex(rng):
    K_v, LL_v, LS = problem(rng)
    W = rng.normal(size=(9, 3))
    mu = mfkh.kernel_weights(K_v, LL_v, LS, W, 0.1)
    value = mfkh.loss(S.combine(mu, K_v), S.combine(mu, LL_v), LS, W, 0.1)
    for a in np.linspace(0, 1, 51):
        assert value <= mfkh.loss(S.combine([a, 1 - a], K_v), S.combine([a, 1 - a], LL_v), LS, W, 0.1) + 1e-9


def test_mfkh_alternation_stops_before_its_objective_rises():
    # Each half step is a minimum, but new weights mu change the constraint W'G W = I itself: the W that was
    # feasible no longer is, and the next minimum may lie higher. So the objective cannot be promised to fall;
    # the paper stops where it rises, and so does the log.
    model = hasher("mfkh", n_bits=8, landmarks=40).fit(*rows())
    objective = model.log["objective"]
    assert 1 <= len(objective) <= 10
    assert np.all(np.diff(objective) <= 0)
    assert sum(model.log["mu"]) == pytest.approx(1)


def test_mfkh_rotation_is_what_the_values_gain_and_leaves_the_bits_balanced():
    views, y = rows()
    turned, plain = (hasher("mfkh", n_bits=16, landmarks=60, rotate=r).fit(views, y) for r in (True, False))
    z = plain.project(views)
    assert np.allclose(z.mean(axis=0), 0, atol=1e-3)
    assert np.allclose(np.cov(z.T, bias=True), np.eye(16), atol=1e-2)
    assert precision(turned) > precision(plain) > 0.25


# ---- DMVH


def dmvh_state(rng):
    K_v, _, LS = problem(rng)
    R = S.procrustes(rng.normal(size=(3, 3)))
    return K_v, LS, rng.normal(size=(40, 3)), S.sign(rng.normal(size=(40, 3))), R, np.array([0.5, 0.5])


def test_dmvh_closed_forms_are_stationary(rng):
    K_v, LS, B, Y, R, alpha = dmvh_state(rng)
    K = S.combine(alpha, K_v)
    W = dmvh.regression(K, B, 0.2)
    assert stationary(lambda w: dmvh.loss(LS, K, B, Y, R, w, 0.1, 0.3, 0.2), W)
    found = dmvh.smooth_embedding(LS, Y @ R.T, K.T @ W, B, 0.1, 0.3)
    assert stationary(lambda b: dmvh.loss(LS, K, b, Y, R, W, 0.1, 0.3, 0.2), found)
    dense = np.linalg.solve(LS.toarray() + 0.4 * np.eye(40), 0.1 * Y @ R.T + 0.3 * K.T @ W)
    assert np.allclose(found, dense, atol=1e-8)


def test_dmvh_codes_and_rotation_are_exact_minimisers(rng):
    K_v, LS, B, _Y, R, alpha = dmvh_state(rng)
    K, W = S.combine(alpha, K_v), rng.normal(size=(9, 3))

    def loss(Y, R):
        return dmvh.loss(LS, K, B, Y, R, W, 0.1, 0.3, 0.2)

    best = S.sign(B @ R)
    for bits in np.ndindex(2, 2, 2):
        for i in range(40):  # every row against every code
            other = best.copy()
            other[i] = np.where(bits, 1.0, -1.0)
            assert loss(best, R) <= loss(other, R) + 1e-9
    turned = S.procrustes(B.T @ best)
    for _ in range(200):
        assert loss(best, turned) <= loss(best, S.procrustes(rng.normal(size=(3, 3)))) + 1e-9


def test_dmvh_weights_minimise_over_the_simplex_with_both_kernels(rng):
    K_v, _LS, B, _Y, _R, _alpha = dmvh_state(rng)
    W = rng.normal(size=(9, 3))
    alpha = dmvh.kernel_weights(K_v, W, B)

    def loss(a):
        return ((B - S.combine(a, K_v).T @ W) ** 2).sum()

    assert all(loss(alpha) <= loss([a, 1 - a]) + 1e-9 for a in np.linspace(0, 1, 51))


def test_dmvh_every_step_descends(rng):
    K_v, LS, B, Y, R, alpha = dmvh_state(rng)
    values = []
    for _ in range(15):
        K = S.combine(alpha, K_v)
        W = dmvh.regression(K, B, 0.2)
        values.append(dmvh.loss(LS, K, B, Y, R, W, 0.1, 0.3, 0.2))
        B = dmvh.smooth_embedding(LS, Y @ R.T, K.T @ W, B, 0.1, 0.3)
        values.append(dmvh.loss(LS, K, B, Y, R, W, 0.1, 0.3, 0.2))
        Y = S.sign(B @ R)
        values.append(dmvh.loss(LS, K, B, Y, R, W, 0.1, 0.3, 0.2))
        R = S.procrustes(B.T @ Y)
        values.append(dmvh.loss(LS, K, B, Y, R, W, 0.1, 0.3, 0.2))
        alpha = dmvh.kernel_weights(K_v, W, B)
        values.append(dmvh.loss(LS, S.combine(alpha, K_v), B, Y, R, W, 0.1, 0.3, 0.2))
    assert np.all(np.diff(values) <= 1e-9 * np.abs(values[:-1]))
    assert values[-1] < 0.9 * values[0]


def test_dmvh_query_applies_the_rotation_and_the_last_regression():
    views, y = rows()
    model = hasher("dmvh", n_bits=16, landmarks=60).fit(views, y)
    objective = model.log["objective"]
    assert len(objective) > 2
    assert np.all(np.diff(objective) <= 1e-9 * np.abs(objective[:-1]))
    assert model.log["agreement"] > 0.8  # without the rotation, signs agree with the learned codes little over half
    assert precision(model) > precision(hasher("itq", n_bits=16).fit(views)) + 0.05

"""MFH, MAH, MVLH, MvDH: each update against its objective, and the slips of the public code kept out."""

import itertools

import numpy as np
import pytest
from tests.maths.numeric import gradient, stationary

from bitfuse.hashers import _graphs as G
from bitfuse.hashers import _solvers as S
from bitfuse.hashers import hasher, mah, mfh, mvdh, mvlh


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def rows(n=120, seed=0, noise=0.4):
    """Two views of six clusters, off the origin, and the cluster of each row."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 6
    centres = np.random.default_rng(99).normal(size=(2, 6, 12)) + 1
    views = {v: c[kind] + noise * rng.normal(size=(n, 12)) for v, c in zip(("image", "text"), centres)}
    return {v: x.astype(np.float32) for v, x in views.items()}, kind


def falls(objective, slack=1e-9):
    values = np.array(objective)
    return len(values) > 2 and bool(np.all(np.diff(values) <= slack * np.abs(values[:-1])))


def signs(rng, *shape):
    return S.sign(rng.normal(size=shape))


# ---- MFH


def mfh_q(X, L, gamma, alpha, beta):
    """Q as the paper writes it, n x n and dense."""
    d, n = X.shape
    C = np.eye(n) - 1 / n
    Q = alpha * (C - C @ X.T @ np.linalg.inv(X @ C @ X.T + beta * np.eye(d)) @ X @ C)
    return Q + sum(gamma * np.eye(n) - gamma**2 * np.linalg.inv(lap + gamma * np.eye(n)) for lap in L)


def test_mfh_low_rank_eigenvectors_are_those_of_the_papers_dense_matrix(rng):
    X, gamma, alpha, beta = rng.normal(size=(7, 30)), 0.3, 0.8, 2.0
    H = [G.anchor_factor(x, 9, 3, rng) for x in (X[:4].T, X[4:].T)]
    Q = mfh_q(X, [np.eye(30) - h @ h.T for h in H], gamma, alpha, beta)
    assert np.allclose(Q @ np.ones(30), 0)  # the trivial eigenvector
    A, c = mfh.low_rank(X - X.mean(axis=1, keepdims=True), H, gamma, alpha, beta)
    C = np.eye(30) - 1 / 30
    assert np.allclose(C @ Q @ C, c * C - A @ A.T)
    Y, values = mfh.leading(A, 5)
    assert np.allclose(Y.T @ Y, np.eye(5))
    assert np.allclose(Y.sum(axis=0), 0)  # the constant vector is not among them
    assert np.allclose(c - values, np.linalg.eigvalsh(Q)[1:6])
    assert np.trace(Y.T @ Q @ Y) == pytest.approx(c * 5 - values.sum())
    turned = Y @ S.procrustes(rng.normal(size=(5, 5)))
    assert np.trace(turned.T @ Q @ turned) == pytest.approx(np.trace(Y.T @ Q @ Y))  # `rotate` costs nothing


def test_mfh_closed_forms_are_stationary_and_give_q(rng):
    X, n, gamma, alpha, beta = rng.normal(size=(4, 12)), 12, 0.3, 0.8, 0.5
    h = G.anchor_factor(X.T, 5, 2, rng)
    L = np.eye(n) - h @ h.T
    Y = S.procrustes(rng.normal(size=(n, 2)))
    Y_v = gamma * np.linalg.inv(L + gamma * np.eye(n)) @ Y
    C = np.eye(n) - 1 / n
    W = mfh.regression(X @ C, Y, beta)
    b = (Y - X.T @ W).mean(axis=0)

    def objective(Y_v, W, b):
        graph = np.trace(Y_v.T @ L @ Y_v) + gamma * ((Y - Y_v) ** 2).sum()
        return graph + alpha * (((X.T @ W + b - Y) ** 2).sum() + beta * (W**2).sum())

    assert stationary(lambda v: objective(v, W, b), Y_v)
    assert stationary(lambda v: objective(Y_v, v, b), W)
    assert stationary(lambda v: objective(Y_v, W, v), b)
    assert objective(Y_v, W, b) == pytest.approx(np.trace(Y.T @ mfh_q(X, [L], gamma, alpha, beta) @ Y))


def test_mfh_maps_features_by_the_ridge_of_its_embedding_and_separates_clusters():
    views, kind = rows()
    model = hasher("mfh", n_bits=16, anchors=40).fit(views)
    assert purity(model, kind) > 0.9
    assert len(model.log["objective"]) == 1


def purity(model, kind):
    """Share of the ten nearest rows of a fresh sample that are of the row's cluster."""
    fresh, of = rows(90, seed=5)
    d = model.encode(fresh).hamming(model.encode(rows()[0]))
    near = np.argsort(d, axis=1, kind="stable")[:, :10]
    return (kind[near] == of[:, None]).mean()


# ---- MAH


def mah_problem(rng, n=25, R=9, k=3):
    x = [rng.normal(size=(n, 4)), rng.normal(size=(n, 5))]
    K = [S.rbf(v[:R], v, 2.0) for v in x]
    W = [G.knn_graph(v, 3) for v in x]
    return K, W, rng.random((R, k)) + 0.1, rng.random((k, n)) + 0.1


def test_mah_loss_is_the_papers(rng):
    K, W, U, V = mah_problem(rng)
    alpha = np.array([0.3, 0.7])
    slow = ((alpha[0] * K[0] + alpha[1] * K[1] - U @ V) ** 2).sum() + 2 * ((U.T @ U - np.eye(3)) ** 2).sum()
    for a, w in zip(alpha, W):
        w = w.toarray()
        slow += 5 * a * np.trace(V @ (np.diag(w.sum(axis=0)) - w) @ V.T)
    assert mah.loss(S.combine(alpha, K), S.combine(alpha, W), U, V, 5.0, 2.0) == pytest.approx(slow)


def test_mah_multiplicative_steps_are_descent_steps_and_stop_where_the_gradient_does(rng):
    K_v, W_v, U, V = mah_problem(rng)
    alpha = np.array([0.5, 0.5])
    values = []
    for _ in range(60):
        K, W = S.combine(alpha, K_v), S.combine(alpha, W_v)
        for step in ("v", "u", "alpha"):
            if step == "v":
                V = mah.update_v(K, W, U, V, 0.5)
            elif step == "u":
                U = mah.update_u(K, U, V, 1.0)
            else:
                alpha = mah.kernel_weights(K_v, W_v, U, V, 0.5)
            values.append(mah.loss(S.combine(alpha, K_v), S.combine(alpha, W_v), U, V, 0.5, 1.0))
        assert U.min() >= 0
        assert V.min() >= 0
        assert alpha.sum() == pytest.approx(1)
    assert falls(values)
    # V - update(V) has the sign of the gradient: the ratio is (negative part) / (positive part) of it
    K, W = S.combine(alpha, K_v), S.combine(alpha, W_v)
    U, V = rng.random(U.shape) + 0.2, rng.random(V.shape) + 0.2
    slope = gradient(lambda v: mah.loss(K, W, U, v, 0.5, 1.0), V)
    assert np.array_equal(V - mah.update_v(K, W, U, V, 0.5) > 0, slope > 0)
    slope = gradient(lambda u: mah.loss(K, W, u, V, 0.5, 1.0), U)
    assert np.array_equal(U - mah.update_u(K, U, V, 1.0) > 0, slope > 0)


def test_mah_weights_minimise_over_the_simplex(rng):
    K, W, U, V = mah_problem(rng)
    found = mah.kernel_weights(K, W, U, V, 0.5)
    value = mah.loss(S.combine(found, K), S.combine(found, W), U, V, 0.5, 1.0)
    for a in np.linspace(0, 1, 51):
        assert value <= mah.loss(S.combine([a, 1 - a], K), S.combine([a, 1 - a], W), U, V, 0.5, 1.0) + 1e-9


def test_mah_logistic_regression_is_stationary_and_separates(rng):
    X = rng.normal(size=(60, 2))
    Y = np.stack([X[:, 0] > 0.3, X @ [1, -1] > 0], axis=1)
    theta = mah.logistic(X, Y, 0.01)

    def objective(t):
        M = np.where(Y, 1, -1) * (X @ t[:-1] + t[-1])
        return np.log1p(np.exp(-M)).sum() / 60 + 0.005 * (t**2).sum()

    assert np.abs(gradient(objective, theta)).max() < 1e-3
    assert (((X @ theta[:-1] + theta[-1]) > 0) == Y).mean() > 0.95


def test_mah_bits_split_the_training_rows_and_the_objective_falls():
    views, kind = rows()
    model = hasher("mah", n_bits=12, anchors=60, n_iter=20).fit(views)
    assert falls(model.log["objective"])
    share = model.encode(views).bits().mean(axis=0)
    assert np.all((share > 0.2) & (share < 0.8))  # a threshold at zero of a non-negative V would make every bit 1
    assert purity(model, kind) > 0.9


# ---- MVLH


def test_mvlh_loadings_and_weights_are_minimisers_and_every_step_descends(rng):
    phi = [rng.normal(size=(6, 30)), 0.4 * rng.normal(size=(5, 30))]
    B, mu, lam, t = signs(rng, 4, 30), np.array([0.5, 0.5]), 0.3, 2.0
    values = []

    def total(U, B, mu):
        return float(mu**t @ mvlh.residuals(phi, U, B, lam))

    for _ in range(12):
        U = [S.factor(p, B, lam) for p in phi]
        values.append(total(U, B, mu))
        B = mvlh.update_codes(phi, U, B, mu**t)
        values.append(total(U, B, mu))
        mu = S.power_weights(mvlh.residuals(phi, U, B, lam), t)
        values.append(total(U, B, mu))
    assert falls(values)
    U = [S.factor(p, B, lam) for p in phi]
    assert stationary(lambda u: total([u, U[1]], B, mu), U[0])
    assert mu[1] > mu[0]  # the view with the smaller error counts more


def test_mvlh_code_sweep_makes_each_row_the_best_of_all_rows(rng):
    phi, B, w = [rng.normal(size=(6, 3)), rng.normal(size=(5, 3))], signs(rng, 4, 3), np.array([0.2, 0.7])
    U = [rng.normal(size=(6, 4)), rng.normal(size=(5, 4))]

    def loss(b):
        return sum(m * ((p - u @ b) ** 2).sum() for m, p, u in zip(w, phi, U))

    best = B.copy()
    for j in range(4):
        tried = [np.vstack([best[:j], row, best[j + 1 :]]) for row in itertools.product([-1.0, 1.0], repeat=3)]
        best = min(tried, key=loss)
    assert np.array_equal(mvlh.update_codes(phi, U, B, w), best)


def test_mvlh_objective_falls_and_a_dropped_view_leaves_least_squares_of_the_other():
    views, kind = rows()
    model = hasher("mvlh", n_bits=12, anchors=60, ridge=0.0).fit(views)
    assert falls(model.log["objective"])
    assert purity(hasher("mvlh", n_bits=12, anchors=60).fit(views), kind) > 0.9
    state = model._get("state")
    z = model.project({"image": views["image"][:5]})
    x = S.l2_normalise(S.l2_normalise(views["image"][:5]) - state["mean.image"])
    phi = S.rbf(x, state["anchors.image"], state["width.image"]) - state["centre.image"]
    assert np.allclose(z, np.linalg.lstsq(state["U.image"], phi.T, rcond=None)[0].T, atol=1e-4)


def test_mvlh_centring_keeps_bits_alive():
    views, _ = rows(300)
    dead = {c: spread(hasher("mvlh", n_bits=16, anchors=60, centre=c).fit(views), views) for c in (True, False)}
    assert dead[True] > 0.1 > dead[False]  # uncentred, a bit that never changes explains the constant feature


def spread(model, views):
    share = model.encode(views).bits().mean(axis=0)
    return np.minimum(share, 1 - share).min()


# ---- MvDH


def mvdh_problem(rng, n=40):
    X = [rng.normal(size=(5, n)), rng.normal(size=(4, n))]
    H = G.anchor_factor(np.vstack(X).T, 10, 3, rng)
    F = mvdh.soft_clusters(H, 3, rng)
    return X, H, F, signs(rng, 4, n), mvdh.Weights(0.7, 0.5, 2.0, 0.3)


def test_mvdh_never_formed_matrix_is_the_papers(rng):
    _, H, F, B, w = mvdh_problem(rng)
    n = B.shape[1]
    inner = B.T @ np.linalg.inv(B @ B.T + w.delta * np.eye(4)) @ B
    Mx = (np.eye(n) - H @ H.T) + w.alpha / w.beta * (np.eye(n) - inner)  # a Laplacian, not the affinity
    slow = w.beta * np.trace(F @ Mx @ F.T) + w.gamma / 2 * ((F @ F.T - np.eye(len(F))) ** 2).sum()
    assert mvdh.cluster_loss(F, B, H, w) == pytest.approx(slow)
    P = S.factor(F, B, w.delta).T
    explicit = w.alpha * (((F - P.T @ B) ** 2).sum() + w.delta * (P**2).sum())
    assert explicit == pytest.approx(w.alpha * np.trace(F @ (np.eye(n) - inner) @ F.T))
    ones = np.ones((1, n))
    assert (ones @ (np.eye(n) - H @ H.T)).max() < 1e-9


def test_mvdh_cluster_step_descends_and_keeps_fixed_points_of_the_gradient(rng):
    _, H, F, B, w = mvdh_problem(rng)
    values = [mvdh.cluster_loss(F, B, H, w)]
    for _ in range(300):
        F = mvdh.update_clusters(F, B, H, w)
        values.append(mvdh.cluster_loss(F, B, H, w))
        assert F.min() >= 0
    assert falls(values)
    slope = gradient(lambda f: mvdh.cluster_loss(f, B, H, w), F)
    assert (
        np.abs(slope[F > 1e-3]).max() < 0.05 * np.abs(gradient(lambda f: mvdh.cluster_loss(f, B, H, w), F + 0.1)).max()
    )


def test_mvdh_every_step_descends(rng):
    X, H, F, B, w = mvdh_problem(rng)
    theta, lam, values = np.array([0.5, 0.5]), 30.0, []

    def total(U, F, B, theta):
        h = [((x - u @ B) ** 2).sum() + w.delta * (u**2).sum() for x, u in zip(X, U)]
        return float(theta @ h + lam / 2 * theta @ theta) + mvdh.cluster_loss(F, B, H, w), np.array(h)

    for _ in range(8):
        U = [S.factor(x, B, w.delta) for x in X]
        values.append(total(U, F, B, theta)[0])
        B = mvdh.update_codes(X, U, F, S.factor(F, B, w.delta).T, B, theta, w.alpha, 20)
        values.append(total(U, F, B, theta)[0])
        F = mvdh.update_clusters(F, B, H, w)
        h = total(U, F, B, theta)[1]
        values.append(total(U, F, B, theta)[0])
        theta = S.project_simplex(-h / lam)
        values.append(total(U, F, B, theta)[0])
        closed = np.clip((lam + h[1] - h[0]) / (2 * lam), 0, 1)
        assert theta[0] == pytest.approx(closed)
    assert falls(values)
    U = [S.factor(x, B, w.delta) for x in X]
    assert stationary(lambda u: total([u, U[1]], F, B, theta)[0], U[0])


def test_mvdh_codes_are_optimised_row_by_row_to_the_best_of_all_codes():
    views, kind = rows()
    model = hasher("mvdh", n_bits=6, anchors=40, clusters=6, pull=0.0).fit(views)
    assert falls(model.log["objective"])
    assert min(model.log["theta"]) > 0.2  # the published lambda gives one view all the weight
    state, fresh = model._get("state"), {v: x[:40] for v, x in rows(90, seed=5)[0].items()}
    codes = model.encode(fresh).signs().astype(float)  # (40, 6)
    X = [S.l2_normalise(S.l2_normalise(x) - state[f"mean.{v}"]) for v, x in fresh.items()]

    def loss(b):
        return sum(state[f"theta.{v}"] * ((x - b @ state[f"U.{v}"].T) ** 2).sum(axis=1) for v, x in zip(fresh, X))

    found = loss(codes)
    for j in range(6):
        flipped = codes * np.where(np.arange(6) == j, -1, 1)
        assert np.all(found <= loss(flipped) + 1e-9)
    rest = [(x - codes @ state[f"U.{v}"].T, state[f"U.{v}"], state[f"theta.{v}"]) for v, x in zip(fresh, X)]
    margins = sum(t * (r @ u + codes * (u**2).sum(axis=0)) for r, u, t in rest)  # u_j'(x - sum_{i != j} u_i b_i)
    assert np.allclose(model.project(fresh), margins, atol=1e-5)
    every = np.array([loss(np.tile(b, (40, 1))) for b in itertools.product([-1.0, 1.0], repeat=6)])
    assert np.mean(found <= every.min(axis=0) + 1e-9) > 0.6  # coordinate descent finds the optimum of most rows
    assert purity(hasher("mvdh", n_bits=12, anchors=40).fit(views), kind) > 0.9


def test_mvdh_project_is_the_margin_of_each_bit_and_repeats():
    views, _ = rows()
    model = hasher("mvdh", n_bits=8, anchors=40).fit(views)
    z = model.project(views)
    assert np.array_equal(z > 0, model.encode(views).bits() == 1)
    alone = np.vstack([model.project({v: x[i : i + 1] for v, x in views.items()}) for i in range(20)])
    assert np.allclose(alone, z[:20], atol=1e-5)


def test_mvdh_and_mvlh_trust_the_view_that_codes_explain_better():
    views, _ = rows()
    views["text"] = np.random.default_rng(1).normal(size=(120, 12)).astype(np.float32)
    assert np.diff(hasher("mvdh", n_bits=4, anchors=40, lam=50.0).fit(views).log["theta"]) < -0.1
    assert np.diff(hasher("mvlh", n_bits=4, anchors=40, width=3.0, scaling="unit").fit(views).log["mu"]) < -0.1


@pytest.mark.parametrize("name", ["mvdh", "mvlh"])
def test_rows_with_and_without_a_view_do_not_touch_one_another(name):
    views, _ = rows()
    model = hasher(name, n_bits=8, anchors=40).fit(views)
    mixed = {v: x[:30].copy() for v, x in views.items()}
    mixed["text"][::3], mixed["image"][1::3] = np.nan, np.nan
    z = model.project(mixed)
    assert np.allclose(z[2::3], model.project(views)[2:30:3], atol=1e-5)
    assert np.allclose(z[::3], model.project({"image": views["image"][:30:3]}), atol=1e-5)
    assert np.allclose(z[1::3], model.project({"text": views["text"][1:30:3]}), atol=1e-5)

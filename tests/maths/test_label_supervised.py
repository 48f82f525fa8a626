"""FOMH, FDMH, DCMVH, SAPMH: each update against its objective, and the slips of the public code kept out.

FOMH, DCMVH and SAPMH find codes by the method of multipliers: B is tied to a copy Z by a penalty and a multiplier that
grows, so a step lowers the augmented Lagrangian and not the objective, which may rise while B and Z disagree. Their
tests hold each step to the Lagrangian, by enumeration, and the objective to its overall fall.
"""

import itertools

import numpy as np
import pytest
from tests.maths.numeric import gradient, stationary

from bitfuse.errors import InputError
from bitfuse.hashers import _solvers as S
from bitfuse.hashers import dcmvh, fdmh, fomh, hasher, sapmh

NAMES = ["fomh", "fdmh", "dcmvh", "sapmh"]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def rows(n=240, seed=0, views=("image", "text")):
    """Rows whose views hardly cluster by label: the features alone do not give the labels away."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 5, n)
    centres = np.random.default_rng(99).normal(size=(len(views), 5, 12))
    x = {v: 0.7 * c[kind] + rng.normal(size=(n, 12)) + 1 for v, c in zip(views, centres)}
    return {v: a.astype(np.float32) for v, a in x.items()}, np.eye(5, dtype=bool)[kind]


def precision(model, keep=("image", "text")):
    """Share of the ten nearest training rows of fresh rows that share their label."""
    (views, y), (fresh, y_fresh) = rows(), rows(120, seed=7)
    distances = model.encode({v: fresh[v] for v in keep}).hamming(model.encode(views))
    near = np.argsort(distances, axis=1, kind="stable")[:, :10]
    return (y[near] & y_fresh[:, None]).any(axis=2).mean()


def small(name, **parameters):
    sizes = {} if name == "dcmvh" else {"anchors": 60}
    return hasher(name, n_bits=16, **sizes, **parameters)


def signs(k):
    return [np.array(b, float) for b in itertools.product([-1.0, 1.0], repeat=k)]


def minimises(value, B):
    """Whether no other column of signs does better than B's, column by column."""
    for i in range(B.shape[1]):
        best = value(B)
        for b in signs(len(B)):
            other = B.copy()
            other[:, i] = b
            if value(other) < best - 1e-9:
                return False
    return True


def semantics(rng, n=12):
    labels = rng.random((n, 3)) < 0.4
    labels[:3] |= np.eye(3, dtype=bool)
    L1 = np.vstack([labels.T, np.ones(n)])
    similarity = S.Similarity(labels)
    return similarity, L1.T @ similarity.M @ L1


@pytest.mark.parametrize("name", NAMES)
def test_codes_of_fresh_rows_find_rows_of_their_label(name):
    views, y = rows()
    assert precision(hasher("itq", n_bits=16).fit(views)) < 0.7
    assert precision(small(name).fit(views, y)) > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_objective_falls(name):
    views, y = rows()
    objective = np.array(small(name).fit(views, y).log["objective"])
    assert objective[-1] < objective[0]
    if name == "fdmh":  # every step is a minimiser of the objective itself
        assert (np.diff(objective) <= 1e-9 * objective[:-1]).all()
    else:  # the multipliers make it rise on the way; it ends near the lowest value it had
        assert objective[-1] <= objective.min() + 0.25 * (objective[0] - objective.min())


@pytest.mark.parametrize("name", ["fomh", "sapmh"])
def test_a_query_does_not_feel_the_other_queries(name):
    views, y = rows()
    model = small(name).fit(views, y)
    fresh = rows(20, seed=3)[0]
    strange = {v: np.vstack([x[:5], 30 * np.random.default_rng(1).normal(size=(200, 12))]) for v, x in fresh.items()}
    alone = np.vstack([model.project({v: x[i : i + 1] for v, x in fresh.items()}) for i in range(5)])
    assert np.allclose(model.project(fresh)[:5], alone, atol=1e-6)
    assert np.allclose(model.project(strange)[:5], alone, atol=1e-6)


@pytest.mark.parametrize("name", ["fomh", "sapmh"])
def test_image_alone_and_text_alone_are_answered(name):
    views, y = rows()
    model = small(name).fit(views, y)
    assert precision(model, ["image"]) > 0.55
    assert precision(model, ["text"]) > 0.55


@pytest.mark.parametrize("name", NAMES)
def test_published_constants_fit_raw_features(name):
    views, y = rows()
    model = hasher(name, preset="published", n_bits=16)
    if name == "dcmvh":
        fitted = model.fit(views, y)
    else:
        with pytest.warns(UserWarning, match="anchors asked for"):
            fitted = model.fit(views, y)
    assert len(fitted.log["objective"]) == model.parameters["n_iter"]
    assert np.isfinite(fitted.project(views)).all()


# ---- FOMH


def stream_problem(rng):
    """A chunk of 8 rows after 4 earlier ones: codes, surrogates, features, S of all, and the sums of the earlier."""
    labels = np.eye(3, dtype=bool)[rng.integers(0, 3, 12)]
    labels[:3] = np.eye(3)
    past = S.Similarity(labels[:4])
    chunk = S.Similarity(labels[4:], past=past.gram)
    L1 = np.vstack([labels.T, np.ones(12)])
    formed = L1.T @ chunk.M @ L1
    B, D = S.sign(rng.normal(size=(4, 12))), rng.normal(size=(4, 12))
    return chunk, formed, L1, B, D


def test_fomh_regression_minimises_over_all_chunks(rng):
    phi, B = rng.normal(size=(5, 20)), S.sign(rng.normal(size=(4, 20)))

    def value(W):
        return float(((B - W @ phi) ** 2).sum() / 0.3 + 0.2 * (W**2).sum())

    W = fomh.regression(B @ phi.T, phi @ phi.T, 0.3, 0.2)
    assert stationary(value, W)
    sums = [B @ phi.T], [phi @ phi.T]
    assert fomh.regression_loss(*sums, 20, [W], np.array([0.3]), 0.2) == pytest.approx(value(W))


def test_fomh_surrogate_minimises_over_the_pairs_of_the_chunk_with_all_rows(rng):
    chunk, formed, L1, B, D = stream_problem(rng)
    alpha, beta = 0.3, 0.7
    found = fomh.surrogate(B[:, 4:], B @ L1.T, B @ B.T, chunk, alpha, beta)

    def value(now):
        every = np.hstack([D[:, :4], now])
        return alpha * float(((4 * formed - B.T @ every) ** 2).sum()) + beta * float(((B[:, 4:] - now) ** 2).sum())

    assert stationary(value, found)


def test_fomh_codes_and_copy_are_exact_minimisers_of_the_lagrangian(rng):
    chunk, formed, L1, _, D = stream_problem(rng)
    P, mu = [0.1 * rng.normal(size=(4, 8)) for _ in range(2)], np.array([0.4, 0.6])
    Z, G = S.sign(rng.normal(size=(4, 8))), 0.1 * rng.normal(size=(4, 8))
    alpha, beta, rho = 0.02, 0.4, 0.3
    D_now, DD = D[:, 4:], D @ D.T

    def lagrangian(B, Z):
        fit = sum(((B - p) ** 2).sum() / m for p, m in zip(P, mu)) + beta * ((B - D_now) ** 2).sum()
        pull = -2 * alpha * 4 * np.trace(formed[4:] @ D.T @ B) + alpha * np.trace(B.T @ DD @ Z)
        return fit + pull + (G * (B - Z)).sum() + rho / 2 * ((B - Z) ** 2).sum()

    B = fomh.update_codes(P, D_now, D @ L1.T, DD, chunk, Z, G, mu, alpha, beta, rho)
    assert minimises(lambda b: lagrangian(b, Z), B)
    assert minimises(lambda z: lagrangian(B, z), fomh.update_copy(B, DD, G, alpha, rho))


def test_fomh_queries_weigh_their_views_as_defined():
    views, y = rows()
    model = small("fomh", query_iter=3).fit(views, y)
    fresh = rows(6, seed=4)[0]
    fresh["text"][2] = np.nan
    state = model._get("state")
    parts = {v: S.l2_normalise(S.l2_normalise(x) - state[f"mean.{v}"]) for v, x in fresh.items()}
    got = model.project(fresh)
    for i in range(6):
        here = [v for v in fresh if not np.isnan(fresh[v][i]).any()]
        P = {v: state[f"W.{v}"] @ S.rbf(parts[v][i : i + 1], state[f"anchors.{v}"], state[f"width.{v}"], bias=True)[0]
             for v in here}  # fmt: skip
        mu = dict.fromkeys(here, 0.5)
        for _ in range(3):
            b = S.sign(sum(mu[v] * P[v] for v in here))
            mu = {v: 1 / (2 * np.linalg.norm(b - P[v])) for v in here}
        assert np.allclose(got[i], sum(mu[v] * P[v] for v in here), atol=1e-5)


def test_fomh_stream_of_small_chunks_equals_one_chunk_in_worth():
    views, y = rows()
    whole = small("fomh").fit(views, y)
    stream = small("fomh")
    for part in np.array_split(np.arange(240), 20):
        stream.partial_fit({v: x[part] for v, x in views.items()}, y[part])
    assert stream.log["rows"] == 240
    assert stream.log["chunks"] == 20
    assert precision(stream) > precision(whole) - 0.03


def test_fomh_without_memory_forgets_the_similarity_of_earlier_chunks():
    views, y = rows()
    model = small("fomh", memory=False)
    for part in np.array_split(np.arange(240), 20):
        model.partial_fit({v: x[part] for v, x in views.items()}, y[part])
    state = model._get("state")
    assert state["gram"][-1, -1] == 12


def test_fomh_collects_anchors_until_there_are_enough_and_keeps_its_sums_exact():
    views, y = rows()
    model = small("fomh")
    for part in np.array_split(np.arange(100), 5):
        model.partial_fit({v: x[part] for v, x in views.items()}, y[part])
        state = model._get("state")
        seen = {v: x[: part[-1] + 1] for v, x in views.items()}
        for v, x in seen.items():
            assert len(state[f"anchors.{v}"]) == min(60, len(x))
            kept = S.l2_normalise(S.l2_normalise(x) - state[f"mean.{v}"])
            phi = S.rbf(kept, state[f"anchors.{v}"], state[f"width.{v}"], bias=True)
            assert np.allclose(state[f"C2.{v}"], phi.T @ phi)
            if "codes" in state:
                assert np.allclose(state[f"C1.{v}"], state["codes"].T.astype(float) @ phi)
        assert ("codes" in state) == (part[-1] + 1 < 60)


def test_fomh_shuffles_the_rows_of_fit_into_chunks_and_uses_the_last():
    views, y = rows()
    order = np.argsort(y.argmax(axis=1), kind="stable")
    model = small("fomh", chunk=70).fit({v: x[order] for v, x in views.items()}, y[order])
    assert model.log["chunks"] == 3
    assert model._get("state")["rows"] == 240
    assert precision(model) > 0.7


def test_fomh_refuses_a_chunk_with_other_labels_and_a_width_for_other_views():
    views, y = rows()
    model = small("fomh").partial_fit(views, y)
    with pytest.raises(InputError, match="4 label columns, the stream so far 5"):
        model.partial_fit(views, np.eye(4, dtype=bool)[np.arange(240) % 4])
    sounds, y = rows(views=("sound", "text"))
    with pytest.raises(InputError, match="no kernel width for view 'sound'"):
        hasher("fomh", preset="published", n_bits=16, anchors=50).fit(sounds, y)


# ---- FDMH


def test_fdmh_latent_features_minimise(rng):
    phi, W = [rng.normal(size=(5, 9)) for _ in range(2)], [rng.normal(size=(4, 5)) for _ in range(2)]
    R, B, weights = S.procrustes(rng.normal(size=(4, 4))), S.sign(rng.normal(size=(4, 9))), np.array([0.2, 0.5])

    def value(V):
        views = sum(a * ((V - w @ p) ** 2).sum() for a, w, p in zip(weights, W, phi))
        return float(views + 0.5 * ((B - R @ V) ** 2).sum())

    assert stationary(value, fdmh.update_latent(W, phi, weights, R, B, 0.5))


def test_fdmh_rotation_minimises_and_is_not_transposed(rng):
    turn, V = S.procrustes(rng.normal(size=(6, 6))), rng.normal(size=(6, 40))
    assert np.allclose(fdmh.update_rotation(turn @ V, V), turn)
    B = S.sign(rng.normal(size=(6, 40)))
    least = ((B - fdmh.update_rotation(B, V) @ V) ** 2).sum()
    assert all(least <= ((B - S.procrustes(rng.normal(size=(6, 6))) @ V) ** 2).sum() for _ in range(200))


@pytest.mark.parametrize("k", [3, 6])
def test_fdmh_projection_stays_semi_orthogonal_and_never_raises_the_loss(rng, k):
    B, L, z = S.sign(rng.normal(size=(k, 30))), (rng.random((4, 30)) < 0.3).astype(float), rng.random(k)

    def value(P):
        return float((z[:, None] * (B - P @ L) ** 2).sum())

    P = S.procrustes(rng.normal(size=(k, 4)))
    values = [value(P)]
    for _ in range(400):
        P = fdmh.update_projection(P, B, L, z, steps=1)
        values.append(value(P))
    assert (np.diff(values) <= 1e-9).all()
    assert np.allclose(P.T @ P if k > 4 else P @ P.T, np.eye(min(k, 4)))
    turned = [S.procrustes(P + 0.05 * rng.normal(size=P.shape)) for _ in range(200)]
    assert values[-1] <= min(map(value, turned)) + 1e-3


def test_fdmh_codes_are_the_best_balanced_ones(rng):
    A = rng.normal(size=(3, 6))
    B = fdmh.balanced_signs(A)
    assert (B.sum(axis=1) == 0).all()
    for a, b in zip(A, B):
        assert a @ b >= max(a @ s for s in signs(6) if s.sum() == 0) - 1e-12


def test_fdmh_correntropy_weights_are_the_slope_of_its_loss():
    error = np.array([0.5, 3.0])
    slope = gradient(lambda e: float((4 * (1 - np.exp(-e / 4))).sum()), error)
    assert np.allclose(slope, np.exp(-error / 4))  # sigma^2 = 4: z_j weighs ||b_j - p_j L||^2 in the next round


def test_fdmh_regresses_onto_signs():
    views, y = rows()
    z = small("fdmh").fit(views, y).project(views)
    assert abs(z.mean()) < 0.1  # onto {0, 1} it would be about 0.5, and the threshold 0 off the middle
    assert 0.4 < np.abs(z).mean() < 1.2


# ---- DCMVH


def layers(rng, d=6, d1=5, c=3, k=4, n=12):
    W1, W2, W3 = rng.normal(size=(d1, d)), rng.normal(size=(c, d1)), rng.normal(size=(k, c))
    return W1, W2, W3, rng.normal(size=(k, n)), (rng.random((c, n)) < 0.4).astype(float), rng.normal(size=(d, n))


def bracket(H, L, W1, W2, W3, X, *weights):
    Z2 = W2 @ W1 @ X
    return dcmvh.bracket(H, L, W1, W2, W3, Z2, W3 @ Z2, *weights)


def test_dcmvh_layers_are_exact_minimisers(rng):
    W1, W2, W3, H, L, X = layers(rng)
    theta, delta, gamma = 0.7, 0.5, 0.9
    D = 0.5 / np.linalg.norm(W1, axis=1)[:, None]

    def value(w1, w2, w3):
        Z2 = w2 @ w1 @ X
        smooth = ((H - w3 @ Z2) ** 2).sum() + theta * ((Z2 - L) ** 2).sum() + gamma * (D * w1**2).sum()
        return float(smooth + delta * ((w2**2).sum() + (w3**2).sum()))

    first = dcmvh.first_layer(W1, W2, W3, H, L, X, np.linalg.eigh(X @ X.T), theta, gamma)
    assert stationary(lambda w: value(w, W2, W3), first)
    before, after = (bracket(H, L, w, W2, W3, X, theta, delta, gamma) for w in (W1, first))
    assert after < before  # the norm ||W1||_{2,1} itself, of which D is the reweighting
    assert stationary(lambda w: value(W1, w, W3), dcmvh.second_layer(W3, H, L, W1 @ X, theta, delta))
    assert stationary(lambda w: value(W1, W2, w), dcmvh.third_layer(H, W2 @ W1 @ X, delta))


def test_dcmvh_first_layer_is_sparse_over_all_its_rows(rng):
    W1, W2, W3, H, L, X = layers(rng)
    apart = bracket(H, L, W1, W2, W3, X, 0.7, 0.5, 1.0) - bracket(H, L, W1, W2, W3, X, 0.7, 0.5, 0.0)
    assert apart == pytest.approx(sum(np.sqrt((w**2).sum()) for w in W1))


def test_dcmvh_representation_minimises(rng):
    similarity, formed = semantics(rng)
    P, m = [rng.normal(size=(4, 12)) for _ in range(2)], np.array([0.2, 0.3])
    W4, B = S.procrustes(rng.normal(size=(4, 4))), S.sign(rng.normal(size=(4, 12)))

    def value(H):
        F = W4 @ H
        fit = sum(w * ((H - p) ** 2).sum() for w, p in zip(m, P)) + 0.5 * ((B - F) ** 2).sum()
        return float(fit + 0.1 * ((4 * formed - B.T @ F) ** 2).sum())

    assert stationary(value, dcmvh.latent(P, m, W4, B, similarity, 0.1, 0.5))


def test_dcmvh_rotation_and_copy_are_exact_minimisers_of_the_lagrangian(rng):
    similarity, formed = semantics(rng)
    B, H = S.sign(rng.normal(size=(4, 12))), rng.normal(size=(4, 12))
    Zw, Gw = S.procrustes(rng.normal(size=(4, 4))), 0.1 * rng.normal(size=(4, 4))
    alpha, beta, rho = 0.1, 0.6, 2.0

    def lagrangian(W, Z):  # the square of B^T W4 H is split between W4 and its copy
        fit = beta * ((B - W @ H) ** 2).sum() - 2 * alpha * 4 * np.trace(formed @ B.T @ W @ H)
        split = alpha * np.trace(W.T @ B @ B.T @ Z @ H @ H.T)
        return fit + split + (Gw * (W - Z)).sum() + rho / 2 * ((W - Z) ** 2).sum()

    W4 = dcmvh.fusion_layer(B, similarity, H, Zw, Gw, alpha, beta, rho)
    copy = dcmvh.fusion_copy(B, H, W4, Gw, alpha, rho)
    for _ in range(300):
        noise = rng.choice([0.01, 0.1, 10]) * rng.normal(size=(4, 4))
        assert lagrangian(W4, Zw) <= lagrangian(S.procrustes(W4 + noise), Zw) + 1e-9
        assert lagrangian(W4, copy) <= lagrangian(W4, S.procrustes(copy + noise)) + 1e-9


def test_dcmvh_codes_and_copy_are_exact_minimisers_of_the_lagrangian(rng):
    similarity, formed = semantics(rng)
    F, Zb, Gb = rng.normal(size=(4, 12)), S.sign(rng.normal(size=(4, 12))), 0.1 * rng.normal(size=(4, 12))
    alpha, beta, rho = 0.05, 0.3, 0.4

    def lagrangian(B, Z):
        fit = beta * ((B - F) ** 2).sum() - 2 * alpha * 4 * np.trace(formed @ B.T @ F)
        return fit + alpha * np.trace(B.T @ F @ F.T @ Z) + (Gb * (B - Z)).sum() + rho / 2 * ((B - Z) ** 2).sum()

    B = dcmvh.update_codes(F, similarity, Zb, Gb, alpha, beta, rho)
    assert minimises(lambda b: lagrangian(b, Zb), B)
    assert minimises(lambda z: lagrangian(B, z), dcmvh.update_copy(F, B, Gb, alpha, rho))


# ---- SAPMH


def partial(rng, n=12, q=3, a=5, k=4):
    similarity, formed = semantics(rng, n)
    masks = [np.arange(n) < 9, np.arange(n) >= 4]
    X = [rng.normal(size=(n, a)) * m[:, None] for m in masks]
    U, W = [rng.normal(size=(q, a)) for _ in X], rng.normal(size=(q, k))
    return similarity, formed, masks, X, U, W, rng.normal(size=(n, q)), S.sign(rng.normal(size=(n, k)))


def test_sapmh_basis_regression_and_latent_rows_minimise(rng):
    similarity, formed, masks, X, U, W, H, B = partial(rng)
    mu, theta, rho, lam = np.array([0.3, 0.8]), 0.6, 0.05, 0.2

    def value(h, u, w):
        views = sum(m * (((x - h @ b) * here[:, None]) ** 2).sum() for m, x, b, here in zip(mu, X, u, masks))
        ridge = lam * (sum((b**2).sum() for b in u) + (h**2).sum())
        hw = h @ w
        return float(views + ridge + theta * ((B - hw) ** 2).sum() + rho * ((4 * formed - B @ hw.T) ** 2).sum())

    found = sapmh.basis(H * masks[0][:, None], X[0], 0.3, lam)
    assert stationary(lambda u: value(H, [u, U[1]], W), found)
    assert stationary(lambda w: value(H, U, w), sapmh.regression(H, B, similarity, theta, rho))
    missed = sapmh.residual(X[0], (X[0] ** 2).sum(), H * masks[0][:, None], U[0])
    assert missed == pytest.approx(((X[0] - (H * masks[0][:, None]) @ U[0]) ** 2).sum())
    rows = sapmh.latent(X, masks, U, W, B, similarity, mu, theta, rho, lam)
    assert stationary(lambda h: value(h, U, W), rows)


def test_sapmh_codes_and_copy_are_exact_minimisers_of_the_lagrangian(rng):
    similarity, formed, *_ = partial(rng)
    HW, Z, G = rng.normal(size=(12, 4)), S.sign(rng.normal(size=(12, 4))), 0.1 * rng.normal(size=(12, 4))
    theta, rho, eta = 0.3, 0.05, 0.4

    def lagrangian(B, Z):
        fit = theta * ((B - HW) ** 2).sum() - 2 * rho * 4 * np.trace(formed @ HW @ B.T)
        return fit + rho * np.trace(Z @ HW.T @ HW @ B.T) + (G * (B - Z)).sum() + eta / 2 * ((B - Z) ** 2).sum()

    B = sapmh.update_codes(HW, similarity, Z, G, theta, rho, eta)
    assert minimises(lambda b: lagrangian(b.T, Z), B.T)
    assert minimises(lambda z: lagrangian(B, z.T), sapmh.update_copy(HW, B, G, rho, eta).T)


def test_sapmh_rows_are_solved_each_with_its_own_matrix(rng):
    U, base = rng.normal(size=(2, 6, 9)), 0.1 * np.eye(6)
    UU, weights, right = U @ U.transpose(0, 2, 1), rng.uniform(0.3, 2, (2, 20)), rng.normal(size=(20, 6))
    typical = np.linalg.inv(base + UU.sum(axis=0))
    found = sapmh.solve_rows(weights, UU, base, right, typical, np.zeros((20, 6)))
    for i in range(20):
        A = base + weights[0, i] * UU[0] + weights[1, i] * UU[1]
        assert np.allclose(found[i], np.linalg.solve(A, right[i]), rtol=1e-6)


@pytest.mark.parametrize("refit", [True, False])
def test_sapmh_query_alternates_as_defined(refit):
    views, y = rows()
    model = small("sapmh", q=8, query_iter=2, refit=refit).fit(views, y)
    fresh = rows(6, seed=4)[0]
    fresh["text"][2] = np.nan
    state, lam = model._get("state"), model.parameters["lam"]
    W, theta = state["W"], float(state["theta"])
    assert (theta == 0) == refit
    got = model.project(fresh)
    for i in range(6):
        here = [v for v in fresh if not np.isnan(fresh[v][i]).any()]
        x = {}
        for v in here:
            part = S.l2_normalise(S.l2_normalise(fresh[v][i : i + 1]) - state[f"mean.{v}"])
            x[v] = S.rbf(part, state[f"anchors.{v}"], state[f"width.{v}"])[0]
        mu = {v: m for v, m in zip(fresh, state["mu"]) if v in here}
        U = {v: state[f"U.{v}"] for v in here}
        h = np.linalg.solve(
            lam * np.eye(8) + sum(mu[v] * U[v] @ U[v].T for v in here), sum(mu[v] * U[v] @ x[v] for v in here)
        )
        for _ in range(2):
            mu = {v: 1 / (2 * 240**0.5 * np.linalg.norm(x[v] - h @ U[v])) for v in here}
            A = lam * np.eye(8) + theta * W @ W.T + sum(mu[v] * U[v] @ U[v].T for v in here)
            h = np.linalg.solve(A, sum(mu[v] * U[v] @ x[v] for v in here) + theta * W @ S.sign(h @ W))
        assert np.allclose(got[i], h @ W, atol=1e-4)


def test_sapmh_half_of_the_training_rows_may_lack_a_view():
    views, y = rows()
    whole = precision(small("sapmh").fit(views, y))
    lacking = {v: x.copy() for v, x in views.items()}
    lacking["image"][:60] = np.nan
    lacking["text"][60:120] = np.nan
    assert precision(small("sapmh").fit(lacking, y)) > whole - 0.15
    lacking["text"][:] = np.nan
    with pytest.raises(InputError, match="view"):
        small("sapmh").fit(lacking, y)

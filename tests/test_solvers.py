"""The shared solvers against definitions written out, enumeration and finite differences."""

import itertools

import numpy as np
import pytest
from scipy import sparse

from bitfuse.errors import DataWarning, InputError
from bitfuse.hashers import _graphs as G
from bitfuse.hashers import _solvers as S


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_sign_is_that_of_codes_and_never_zero():
    assert S.sign(np.array([-2.0, -0.0, 0.0, 1e-300])).tolist() == [-1, -1, -1, 1]


def test_settled_compares_the_last_step_with_the_value():
    assert not S.settled([1.0], 1)
    assert not S.settled([100.0, 98.0], 0.01)
    assert S.settled([5.0, 100.0, 99.5], 0.01)


def test_normalising_keeps_zero_rows_and_constant_columns_finite(rng):
    x = rng.normal(size=(20, 3)).astype(np.float32)
    x[4], x[:, 1] = 0, 5
    unit = S.l2_normalise(x - [0, 5, 0])
    assert np.allclose(np.linalg.norm(unit, axis=1)[[0, 1, 5]], 1)
    assert S.l2_normalise(np.zeros((2, 3))).tolist() == [[0, 0, 0]] * 2
    mean, scale = S.mean_and_scale(x)
    assert np.allclose(((x - mean) / scale).std(axis=0), [1, 0, 1])


def test_distances_and_their_mean_are_those_of_the_loop(rng):
    x, z = rng.normal(size=(12, 4)), rng.normal(size=(5, 4))
    loop = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in z] for p in x]
    assert np.allclose(S.squared_distances(x, z), loop)
    assert S.squared_distances(1e4 + x, 1e4 + x).min() >= 0  # cancellation must not give a negative distance
    pairs = [((p - q) ** 2).sum() for p in x for q in x]
    assert np.isclose(S.mean_squared_distance(x), np.mean(pairs))
    assert S.mean_squared_distance(np.ones((3, 2))) == 1


def test_anchors_are_distinct_training_rows_and_clamped_with_a_warning(rng):
    x = rng.normal(size=(10, 3))
    drawn = S.draw_anchors(x, 6, np.random.default_rng(0))
    assert len({tuple(row) for row in drawn}) == 6
    assert all(any(np.array_equal(row, r) for r in x) for row in drawn)
    with pytest.warns(DataWarning, match="300 anchors asked for, 10 training rows given"):
        assert len(S.draw_anchors(x, 300, rng)) == 10
    with pytest.raises(InputError, match="at least 1"):
        S.draw_anchors(x, 0, rng)


def test_kmeans_finds_separate_clusters_and_lowers_the_scatter(rng):
    middles = np.array([[0, 0], [9, 0], [0, 9]])
    x = np.repeat(middles, 30, axis=0) + rng.normal(size=(90, 2))
    best = min((G.kmeans(x, 3, np.random.default_rng(s)) for s in range(5)), key=lambda ca: scatter(x, *ca))
    assert np.allclose(best[0][np.argsort(best[0] @ [1, 2])], middles, atol=0.6)
    many = rng.normal(size=(200, 4))
    scatters = [scatter(many, *G.kmeans(many, 8, np.random.default_rng(0), iterations=i)) for i in (1, 3, 20)]
    assert scatters[0] > scatters[1] > scatters[2]


def scatter(x, centres, of):
    return ((x - centres[of]) ** 2).sum()


def test_kernel_width_comes_from_the_data_unless_given(rng):
    x = rng.normal(size=(40, 3))
    assert S.kernel_width(x, None, "image") == pytest.approx(S.mean_squared_distance(x) ** 0.5)
    assert S.kernel_width(x, 85.0, "image") == 85
    assert S.kernel_width(x, {"image": 140.0, "text": 60.0}, "text") == 60
    with pytest.raises(InputError, match="'audio'"):
        S.kernel_width(x, {"image": 1.0}, "audio")
    with pytest.raises(InputError, match="positive"):
        S.kernel_width(x, 0.0, "image")


def test_rbf_features_keep_their_spread_on_unit_rows(rng):
    x = S.l2_normalise(rng.normal(size=(100, 32)))
    z = x[:10]
    phi = S.rbf(x, z, S.kernel_width(x, None, "image"), bias=True)
    assert phi.shape == (100, 11)
    assert np.all(phi[:, -1] == 1)
    assert np.isclose(phi[3, 7], np.exp(-((x[3] - z[7]) ** 2).sum() / (2 * S.mean_squared_distance(x))))
    assert np.ptp(phi[:, :-1]) > 0.3
    assert np.ptp(S.rbf(x, z, 85.0)) < 1e-3  # the published width, made for raw VGG features, flattens the kernel


def test_nearest_is_a_sort_of_all_distances(rng):
    x, z = rng.normal(size=(30, 5)), rng.normal(size=(17, 5))
    index, distance = G.nearest(x, z, 4)
    d = S.squared_distances(x, z)
    assert np.array_equal(index, np.argsort(d, axis=1)[:, :4])
    assert np.allclose(distance, np.sort(d, axis=1)[:, :4])


def test_knn_graph_is_that_of_the_loop(rng, monkeypatch):
    monkeypatch.setattr(G, "_BLOCK", 7)  # several blocks
    x = rng.normal(size=(25, 3))
    y = np.eye(4, dtype=bool)[rng.integers(4, size=25)]
    y[3] = [True, True, True, True]
    for labels, width in ((None, None), (None, 0.8), (y, None)):
        slow = np.zeros((25, 25))
        for i in range(25):
            others = [j for j in range(25) if j != i and (labels is None or (labels[i] & labels[j]).any())]
            for j in sorted(others, key=lambda j: ((x[i] - x[j]) ** 2).sum())[:3]:
                slow[i, j] = slow[j, i] = 1 if width is None else np.exp(-((x[i] - x[j]) ** 2).sum() / (2 * width**2))
        assert np.allclose(G.knn_graph(x, 3, labels=labels, width=width).toarray(), slow)
    assert G.knn_graph(x[:2], 5).toarray().tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("normalised", [False, True])
def test_laplacian_is_positive_semidefinite_and_not_the_affinity(rng, normalised):
    a = G.knn_graph(rng.normal(size=(20, 3)), 3)
    lap = G.laplacian(a, normalised=normalised).toarray()
    d = a.toarray().sum(axis=1)
    scale = np.outer(d, d) ** -0.5 if normalised else np.ones((20, 20))
    f = rng.normal(size=20)
    energy = 0.5 * sum(
        a[i, j] * (f[i] * (scale[i, i] ** 0.5) - f[j] * (scale[j, j] ** 0.5)) ** 2 for i in range(20) for j in range(20)
    )
    assert np.isclose(f @ lap @ f, energy)
    lonely = sparse.csr_matrix((3, 3))
    assert np.isfinite(G.laplacian(lonely, normalised=normalised).toarray()).all()


def test_anchor_graph_affinity_is_doubly_stochastic(rng):
    x = rng.normal(size=(50, 4))
    Z = G.anchor_graph(x, x[:8], 3).toarray()
    assert np.all((Z > 0).sum(axis=1) == 3)
    assert np.allclose(Z.sum(axis=1), 1)
    affinity = Z / Z.sum(axis=0) @ Z.T
    assert np.allclose(affinity.sum(axis=0), 1)
    assert np.linalg.eigvalsh(np.eye(50) - affinity).min() > -1e-12


@pytest.mark.parametrize("kind", ["signed", "balanced"])
def test_similarity_is_never_formed_and_equals_its_definition(rng, kind):
    labels = rng.random((14, 5)) < 0.4
    labels[:, 2] = False  # a class without rows
    labels[0] = [True, False, False, False, True]
    L = labels.T.astype(float)[[0, 1, 3, 4]]
    F = L / np.sqrt(L.sum(axis=1, keepdims=True))
    F -= F.mean(axis=1, keepdims=True)
    formed = 2 * L.T @ L - 1 if kind == "signed" else 14 / 4 * F.T @ F
    s = S.Similarity(labels, kind)
    B, D = rng.normal(size=(2, 3, 14))
    assert np.allclose(D @ s, D @ formed)
    parts = B @ s.L1.T, D @ s.L1.T, B @ B.T, D @ D.T
    assert np.isclose(s.loss(3, *parts), ((3 * formed - B.T @ D) ** 2).sum())
    late = S.Similarity(
        labels[9:], kind, S.Similarity(labels[:9], kind).gram
    )  # the same rows as a stream of two chunks
    assert np.allclose(late.onto(D @ s.L1.T), (D @ formed)[:, 9:])
    assert np.isclose(late.loss(3, *parts), s.loss(3, *parts))
    assert np.isclose(s.scale, (formed**2).sum() / np.trace(formed))


def test_similarity_scale_and_start_keep_the_classes_apart(rng):
    of = np.repeat([0, 1, 2, 3], [40, 5, 5, 5])
    start = S.Similarity(np.eye(4, dtype=bool)[of]).start(32, rng)
    assert len(np.unique(start.T, axis=0)) == 4
    assert np.isclose(S.Similarity(np.eye(4, dtype=bool)[of]).scale, 55 / 4)
    first, labels = start[:, ::2], np.eye(5, dtype=bool)[of]
    past = S.Similarity(labels[::2])
    later = S.Similarity(np.vstack([labels[1::2], [False] * 4 + [True]]), past=past.gram).start(
        32, rng, first @ past.L1.T
    )
    assert (later[:, :-1] == start[:, 1::2][:, : later.shape[1] - 1]).mean() > 0.95  # known classes keep their codes
    assert np.abs(later[:, -1] @ later[:, :-1]).max() < 32
    alone = S.Similarity(np.ones((9, 1), bool))
    assert len(np.unique(alone.start(32, rng).T, axis=0)) == 9  # one class says nothing: the start is random
    assert alone.scale == 1
    with pytest.raises(InputError, match="'balanced' or 'signed'"):
        S.Similarity(np.ones((9, 1), bool), "other")


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6)])
def test_procrustes_beats_every_other_rotation(rng, shape):
    C = rng.normal(size=shape)
    R = S.procrustes(C)
    small = R.T @ R if shape[0] >= shape[1] else R @ R.T
    assert np.allclose(small, np.eye(min(shape)))
    for _ in range(200):
        assert np.trace(R.T @ C) >= np.trace(S.procrustes(rng.normal(size=shape)).T @ C) - 1e-12
    near = S.procrustes(R + 1e-4 * rng.normal(size=shape))
    assert np.trace(R.T @ C) >= np.trace(near.T @ C)


def test_dcc_rows_are_exact_minimisers_and_the_objective_falls(rng):
    G, Q = rng.normal(size=(9, 6)), rng.normal(size=(9, 11))
    P, A = G.T @ Q, G.T @ G

    def loss(B):
        return ((Q - G @ B) ** 2).sum(axis=0)

    B = S.sign(rng.normal(size=(6, 11)))
    start, previous = B.copy(), loss(B)
    for _ in range(10):
        B, _ = S.dcc(P, A, B, sweeps=1)
        assert np.all(loss(B) <= previous + 1e-9)
        previous = loss(B)
    final, Z = S.dcc(P, A, start, sweeps=50)
    assert np.array_equal(final, B)
    assert np.array_equal(S.sign(Z), final)
    for j in range(6):  # no single bit of any column can be flipped to its advantage
        flipped = final.copy()
        flipped[j] *= -1
        assert np.all(loss(final) <= loss(flipped) + 1e-9)
    best = np.min([loss(np.tile(np.array(b)[:, None], 11)) for b in itertools.product([-1.0, 1.0], repeat=6)], axis=0)
    assert np.mean(loss(final) <= best + 1e-9) > 0.3
    assert np.all(loss(final) >= best - 1e-9)


def test_dcc_solves_every_column_on_its_own(rng):
    G, Q = rng.normal(size=(9, 6)), rng.normal(size=(9, 40))
    start = S.sign(rng.normal(size=(6, 40)))
    together = S.dcc(G.T @ Q, G.T @ G, start)[1]
    for i in range(40):
        alone = S.dcc(G.T @ Q[:, i : i + 1], G.T @ G, start[:, i : i + 1])[1]
        assert np.allclose(alone[:, 0], together[:, i])


def test_dcc_with_an_identity_gram_is_the_sign(rng):
    P = rng.normal(size=(5, 8))
    assert np.array_equal(S.dcc(P, np.eye(5), np.ones((5, 8)))[0], S.sign(P))


def test_simplex_projection_is_the_nearest_point(rng):
    assert S.project_simplex(np.array([0.2, 0.3, 0.5])).tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert S.project_simplex(np.array([9.0, 0.0])).tolist() == [1, 0]
    for _ in range(20):
        v = rng.normal(size=4) * 2
        x = S.project_simplex(v)
        others = rng.dirichlet(np.full(4, 0.5), size=500)
        assert np.isclose(x.sum(), 1)
        assert x.min() >= 0
        assert ((x - v) ** 2).sum() <= ((others - v) ** 2).sum(axis=1).min() + 1e-12


def test_simplex_qp_is_the_minimum_over_every_support(rng):
    for m in (1, 2, 3, 4):
        for _ in range(10):
            C, h = rng.normal(size=(m, m)), rng.normal(size=m)
            E = C @ C.T
            x = S.simplex_qp(E, h)
            assert np.isclose(x.sum(), 1)
            assert x.min() >= 0
            assert objective(E, h, x) <= best_by_support(E, h) + 1e-9
    assert np.isclose(S.simplex_qp(np.zeros((3, 3)), np.array([3.0, 1.0, 2.0])), [0, 1, 0]).all()


def objective(E, h, x):
    return x @ E @ x / 2 + h @ x


def best_by_support(E, h):
    best = np.inf
    for support in itertools.chain.from_iterable(itertools.combinations(range(len(h)), r + 1) for r in range(len(h))):
        s = list(support)
        system = np.block([[E[np.ix_(s, s)], np.ones((len(s), 1))], [np.ones((1, len(s))), np.zeros((1, 1))]])
        inner = np.linalg.lstsq(system, np.append(-h[s], 1), rcond=None)[0][:-1]
        if inner.min() >= 0:
            x = np.zeros(len(h))
            x[s] = inner
            best = min(best, objective(E, h, x))
    return best


def test_weight_rules_minimise_what_they_say(rng):
    h = rng.random(3) * 5 + 0.1
    others = rng.dirichlet(np.ones(3), size=2000)
    for t in (1.5, 2, 3):
        mu = S.power_weights(h, t)
        assert mu.sum() == pytest.approx(1)
        assert (mu**t * h).sum() <= (others**t * h).sum(axis=1).min() + 1e-12
    mu = S.ratio_weights(h)
    assert mu.sum() == pytest.approx(1)
    assert (h / mu).sum() <= (h / others).sum(axis=1).min() + 1e-12
    assert np.allclose(S.inverse_weights(h), 1 / (2 * np.sqrt(h)))
    assert S.power_weights(np.array([2.0, 2.0]), 2).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("rule", [lambda h: S.power_weights(h, 2), S.ratio_weights, S.inverse_weights])
def test_weight_rules_survive_a_perfectly_fitted_view(rule):
    assert np.isfinite(rule(np.array([0.0, 3.0]))).all()
    assert np.isfinite(rule(np.zeros(2))).all()

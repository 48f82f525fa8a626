"""BSTH, DMMVH, FGCMH and DCMH: their equations by hand, what the papers promise. The contract is in test_checks.py."""

import warnings

import numpy as np
import pytest
import torch

import bitfuse as bf
from bitfuse.errors import BitfuseWarning, InputError, MissingView
from bitfuse.hashers import _losses, dcmh
from bitfuse.hashers._anchored import AnchoredGraphs, edges
from bitfuse.hashers._tokens import BitTokens, ByGroup, Prototypes, sinusoids
from bitfuse.hashers.dmmvh import DMMVH

RNG = np.random.default_rng(0)
KIND = RNG.integers(0, 4, 240)
CENTRES = {"image": RNG.standard_normal((4, 16)), "text": RNG.standard_normal((4, 12))}
VIEWS = {
    name: (centres[KIND] + 0.7 * RNG.standard_normal((240, centres.shape[1]))).astype(np.float32)
    for name, centres in CENTRES.items()
}
LABELS = np.eye(4, dtype=bool)[KIND]
FUSED = ("bsth", "dmmvh", "fgcmh")


def quick(name, **parameters):
    small = {"bsth": {"concept": 8, "hidden": 16}, "fgcmh": {"anchors": 20, "hidden": 16}, "dcmh": {"hidden": 16}}
    model = bf.hasher(name, **{"n_bits": 8, "epochs": 2, **small.get(name, {}), **parameters})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)  # two epochs teach little
        return model.fit(VIEWS, LABELS)


def inputs(model):
    """The rows as a network sees them, by view, by hand."""
    parts = {}
    for name, rows in VIEWS.items():
        x = rows.astype(np.float64)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        x = x - x.mean(axis=0)
        parts[name] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return parts


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


@pytest.mark.parametrize("present", [["image", "text"], ["text"]])
def test_dmmvh_is_its_equations(present):
    model = quick("dmmvh", hidden=10, width=6)
    w = model._fitted["state"]
    parts = []
    for v, (name, x) in enumerate(inputs(model).items()):
        x = model.scale * x * (name in present)
        parts.append(np.tanh(linear(w, f"second.layers.{v}", np.tanh(linear(w, f"first.layers.{v}", x)))))
    x = np.concatenate(parts, axis=1)
    h = np.tanh(linear(w, "hash", sigmoid(linear(w, "gate.weight", x)) * x))
    assert np.allclose(model.project({name: VIEWS[name] for name in present}), h, atol=1e-4)


def test_dmmvh_learns_from_dissimilar_rows_until_they_are_a_margin_apart():
    u = torch.tensor([[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]])
    shared = torch.tensor([[1.0, 0, 2], [0, 1, 0], [2, 0, 1]])
    assert float(_losses.contrastive(u, shared)) == pytest.approx(0.6)
    assert float(_losses.contrastive(u, shared, margin=0.5, weight=3.0)) == pytest.approx(0.3)
    assert float(_losses.contrastive(u, shared, margin=0.7)) == pytest.approx(0.0)
    collapsed = quick("dmmvh", lam=0.0, epochs=20, validation=0.0).project(VIEWS)
    apart = quick("dmmvh", epochs=20, validation=0.0).project(VIEWS)
    similar = LABELS @ LABELS.T

    def too_near(h):
        h = h / np.linalg.norm(h, axis=1, keepdims=True)
        return np.maximum(h @ h.T, 0)[~similar].mean()

    assert too_near(apart) < too_near(collapsed) / 2


def test_fgcmh_is_its_equations():
    model = quick("fgcmh", epochs=3)
    w = model._fitted["state"]
    anchors = dict(zip(VIEWS, np.split(w["anchors"].astype(np.float64), [16], axis=1), strict=True))

    def softmax(rows, nodes):
        cos = rows @ nodes.T / np.linalg.norm(rows, axis=1)[:, None] / np.linalg.norm(nodes, axis=1)
        e = np.exp(cos / model.temperature)
        return e / e.sum(axis=1, keepdims=True)

    def convolve(name, x, z):
        to_x, to_z = softmax(x, z), softmax(z, z)
        for layer in (f"{name}.layers.0", f"{name}.layers.1"):
            x, z = (
                np.maximum(linear(w, layer, model.own * rows + (1 - model.own) * a @ z), 0)
                for rows, a in ((x, to_x), (z, to_z))
            )
        return x, z

    mu = 1 / (2 * np.sqrt(w["residuals"]))
    seen = [
        convolve(f"views.{v}", model.scale * x, model.scale * anchors[name])
        for v, (name, x) in enumerate(inputs(model).items())
    ]
    rows, nodes = (sum(mu[v] / mu.sum() * part[i] for v, part in enumerate(seen)) for i in (0, 1))
    h = np.tanh(linear(w, "hash", convolve("fused", rows, nodes)[0]))
    assert np.allclose(model.project(VIEWS), h, atol=1e-4)
    alone = np.tanh(linear(w, "hash", convolve("fused", seen[1][0], nodes)[0]))
    assert np.allclose(model.project({"text": VIEWS["text"]}), alone, atol=1e-4)
    assert not np.allclose(mu[0], mu[1])


def test_the_loss_of_fgcmh_is_its_equation():
    model = bf.hasher("fgcmh", n_bits=5, anchors=6, hidden=4, lam_1=0.7, lam_2=0.3, lam_3=0.2)
    torch.manual_seed(0)
    network = model._network({"image": 3, "text": 2}, 7, 3).eval()
    network.anchors.copy_(torch.randn(6, 5))
    x, y = torch.randn(7, 5), torch.tensor(RNG.random((7, 3)) < 0.5).float()
    views, fused = network.features(x, torch.ones(7, 2))
    value = model._loss(network, x, torch.ones(7, 2), y).item()
    guesses = [*(head(part) for head, part in zip(network.view_labels, views)), network.semantic(fused)]
    p, labels = [sigmoid(g.detach().numpy().astype(np.float64)) for g in guesses], y.numpy()
    wrong = [-(labels * np.log(q) + (1 - labels) * np.log(1 - q)).mean() for q in p]
    h = torch.tanh(network.hash(fused)).detach()
    related = float(_losses.inner_product(h, y @ y.T))
    quantised = ((np.abs(h.numpy()) - 1) ** 2).mean()
    expected = wrong[0] + wrong[1] + 0.7 * related + 0.3 * wrong[2] + 0.2 * quantised
    assert value == pytest.approx(expected, rel=1e-4)


def test_codes_of_fgcmh_do_not_depend_on_the_other_queries():
    model = quick("fgcmh", epochs=5)
    among = model.project(VIEWS)
    strangers = {name: np.concatenate([rows[:7], 50 * RNG.standard_normal(rows.shape)]) for name, rows in VIEWS.items()}
    alone = np.concatenate([model.project({name: rows[[i]] for name, rows in VIEWS.items()}) for i in range(7)])
    assert np.allclose(among[:7], alone, atol=1e-5)
    assert np.allclose(model.project(strangers)[:7], alone, atol=1e-5)


def test_the_anchors_of_fgcmh_are_training_rows_and_no_more_than_there_are():
    model = quick("fgcmh", anchors=50)
    rows = np.concatenate(list(inputs(model).values()), axis=1)
    nearest = np.abs(model._fitted["state"]["anchors"][:, None] - rows).max(axis=2).min(axis=1)
    assert (len(nearest), nearest.max() < 1e-5) == (50, True)
    assert quick("fgcmh", anchors=1000).log["anchors"] == 240


def test_edges_are_shares_and_grow_with_the_cosine():
    a = edges(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.1], [0.0, 1.0], [-1.0, 0.0]]), 0.5)[0]
    assert float(a.sum()) == pytest.approx(1)
    assert a[0] > a[1] > a[2]
    uniform = edges(torch.zeros(1, 2), torch.eye(2), 0.5)
    assert torch.allclose(uniform, torch.full((1, 2), 0.5))  # a view that a row lacks


def test_a_view_without_weight_does_not_reach_the_fused_features():
    torch.manual_seed(0)
    network = AnchoredGraphs([3, 2], 4, 5, 6, 2, own=0.8, temperature=0.1, scale=1.0)
    network.anchors.copy_(torch.randn(4, 5))
    x, present = torch.randn(7, 5), torch.tensor([[1.0, 0.0]]).repeat(7, 1)
    other = torch.cat([x[:, :3], torch.randn(7, 2)], dim=1)
    assert torch.allclose(network(x, present), network(other, present))


def test_bsth_has_one_small_network_a_bit():
    torch.manual_seed(0)
    layer = ByGroup(3, 4, 2)
    x = torch.randn(5, 3, 4)
    by_hand = torch.stack([x[:, g] @ layer.weight[g] + layer.bias[g] for g in range(3)], dim=1)
    assert torch.allclose(layer(x), by_hand, atol=1e-6)
    changed = x.clone()
    changed[:, 1] += 1
    assert (layer(changed) != layer(x)).any(dim=2).any(dim=0).tolist() == [False, True, False]


def test_positions_are_sines_and_cosines_of_falling_pace():
    waves = sinusoids(5, 6).numpy()
    for t in range(5):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert waves[t, 2 * i : 2 * i + 2] == pytest.approx([np.sin(angle), np.cos(angle)], abs=1e-6)
    assert sinusoids(4, 5).shape == (4, 5)


def test_bsth_sums_the_tokens_of_the_views_that_are_there():
    torch.manual_seed(0)
    network = BitTokens([3, 2], [4, 4], 6, 1, 5, 2, 0.1).eval()
    x = torch.randn(7, 5)
    here = torch.tensor([[1.0, 0.0]]).repeat(7, 1)
    other = torch.cat([x[:, :3], torch.randn(7, 2)], dim=1)
    with torch.no_grad():
        assert torch.allclose(network(x, here), network(other, here))
        assert not torch.allclose(network(x, torch.ones(7, 2)), network(x, here))


def test_the_targets_of_bsth_are_codes_of_labels_that_use_every_bit():
    model = quick("bsth", n_bits=16)
    P = model._fitted["state"]["prototypes"]
    assert P.shape == (4, 16)
    assert (np.abs(P) <= 1).all()
    b = LABELS @ P > 0
    assert len(np.unique(b, axis=0)) == 4
    assert 0 < b.mean(axis=0).min() <= b.mean(axis=0).max() < 1
    losses = model.log["prototype_losses"]
    assert losses[-1] < losses[0] / 2
    assert np.abs(np.abs(P) - 1).mean() < 0.4  # near to their signs


def test_equal_rows_of_labels_weigh_in_the_targets_of_bsth_as_in_its_equation():
    model = bf.hasher("bsth", n_bits=5, gamma_1=2.0, gamma_2=0.3, gamma_3=0.7, gamma_4=0.9)
    torch.manual_seed(0)
    prototypes = Prototypes(3, 5, 0.0)
    y = torch.tensor(np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1], [1, 0, 1], [0, 1, 0]], np.float32))
    meet = y.T @ y / 6
    meet.fill_diagonal_(1)
    P = prototypes()
    h = y @ P  # every row on its own
    by_row = (
        2 * ((torch.sigmoid(prototypes.classifier(h)) - y) ** 2).mean()
        + 0.3 * ((h - torch.where(h > 0, 1.0, -1.0)) ** 2).mean()
        + 0.7 * ((_losses.cosines(P) - meet) ** 2).mean()
        + 0.9 * (h.mean(dim=0) ** 2).mean()
    )
    distinct, counts = y.unique(dim=0, return_counts=True)
    assert len(distinct) == 3
    by_set = model._label_loss(prototypes, distinct, counts / 6, meet)
    assert by_set.item() == pytest.approx(by_row.item(), rel=1e-6)
    weights = list(prototypes.parameters())
    for slope, expected in zip(torch.autograd.grad(by_set, weights), torch.autograd.grad(by_row, weights)):
        assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-6)


def test_the_loss_of_bsth_is_its_equation():
    model = bf.hasher("bsth", n_bits=5, concept=6, hidden=4, layers=1, dropout=0.0, beta_1=2.0, beta_2=0.3, beta_3=0.7)
    torch.manual_seed(0)
    network = model._network({"a": 3, "b": 2}, 7, 3).eval()
    network.prototypes.copy_(torch.randn(3, 5))
    x, y = torch.randn(7, 5), torch.tensor(RNG.random((7, 3)) < 0.6).float()
    value = model._loss(network, x, torch.ones(7, 2), y).item()
    h, labels = network(x, torch.ones(7, 2)).detach().numpy().astype(np.float64), y.numpy()
    b = np.where(labels @ network.prototypes.numpy() > 0, 1, -1)
    guess = sigmoid(linear({k: v.numpy() for k, v in network.state_dict().items()}, "classifier", h))
    cos = h @ h.T / np.linalg.norm(h, axis=1) / np.linalg.norm(h, axis=1)[:, None]
    S = 2 * sigmoid(labels @ labels.T) - 1
    expected = 2 * ((guess - labels) ** 2).mean() + 0.3 * ((h - b) ** 2).mean() + 0.7 * ((cos - S) ** 2).mean()
    assert value == pytest.approx(expected, rel=1e-4)


def test_presets_hold_what_is_published():
    published = bf.hasher("bsth", preset="published")
    assert (published.epochs, published.batch_size, published.concept, published.gamma_4) == (300, 1024, 128, 0.01)
    assert published.hidden == {"image": 2048, "text": 1024}
    likelihood = bf.hasher("dcmh", preset="published")
    assert (likelihood.gamma, likelihood.eta, likelihood.balanced, likelihood.epochs) == (1, 1, False, 500)
    model = quick("bsth", hidden={"image": 4, "text": 6})
    assert model._fitted["state"]["views.1.0.weight"].shape == (6, 12)


def test_inner_products_follow_plus_and_minus_one():
    u = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    shared = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert float(_losses.inner_product(u, shared)) == pytest.approx(0.5)
    assert float(_losses.inner_product(-u, 1 - shared)) == pytest.approx((1 + 4) / 2)


def test_dcmh_is_two_networks_that_read_one_view_each():
    model = quick("dcmh")
    w = model._fitted["state"]
    for name, x in inputs(model).items():
        hidden = np.maximum(linear(w, f"{name}.0", model.scale * x), 0)
        z = model.project({name: VIEWS[name]}, name)
        assert np.allclose(z, linear(w, f"{name}.2", hidden), atol=1e-4)
        assert np.array_equal(model.project(VIEWS, name), z)
    assert set(model.log["image"]) == {"distinct_codes", "dead_bits"}


def test_dcmh_finds_texts_by_images_and_images_by_texts():
    model = quick("dcmh", n_bits=16, epochs=30, hidden=64)
    image, text = (model.encode({name: VIEWS[name]}, name) for name in VIEWS)
    for query, gallery in ((image, text), (text, image)):
        assert bf.score(query, gallery, LABELS, LABELS).map > 0.9


def test_the_likelihood_of_dcmh_is_its_definition():
    f, G, S = RNG.normal(size=(4, 3)), RNG.normal(size=(5, 3)), (RNG.random((4, 5)) < 0.3).astype(float)
    cost = np.array([[np.log1p(np.exp(a @ b / 2)) - s * (a @ b) / 2 for b, s in zip(G, row)] for a, row in zip(f, S)])
    plain, balanced = (float(dcmh.likelihood(*map(torch.tensor, (f, G, S)), balanced=b)) for b in (False, True))
    assert plain == pytest.approx(cost.mean())
    assert balanced == pytest.approx((cost[S == 1].mean() + cost[S == 0].mean()) / 2)


def test_the_codes_of_dcmh_are_the_nearest_to_both_networks_of_all_codes():
    f, g = torch.randn(6, 4), torch.randn(6, 4)
    best = dcmh.nearest_codes(f, g)
    for bits in np.ndindex(2, 2, 2, 2):
        other = 2 * torch.tensor(bits).float() - 1
        apart, least = (((b - f) ** 2 + (b - g) ** 2).sum(dim=1) for b in (other, best))
        assert (least <= apart + 1e-5).all()


def test_dcmh_balances_its_bits():
    means = {
        eta: np.abs(quick("dcmh", eta=eta, gamma=0.0, epochs=15).project(VIEWS, "text").mean(axis=0)).mean()
        for eta in (0.0, 3.0)
    }
    assert means[3.0] < means[0.0] / 2


def test_dcmh_with_few_columns_still_learns():
    model = quick("dcmh", n_bits=16, epochs=30, hidden=64, columns=32)
    query, gallery = (model.encode({name: VIEWS[name]}, name) for name in VIEWS)
    assert bf.score(query, gallery, LABELS, LABELS).map > 0.85


def test_dcmh_wants_an_image_and_a_text():
    with pytest.raises(InputError, match="reads the views"):
        bf.hasher("dcmh", n_bits=8).fit({"image": VIEWS["image"], "sound": VIEWS["text"]}, LABELS)


@pytest.mark.parametrize("name", FUSED)
def test_codes_tell_the_labels_apart_with_all_views_and_with_one(name):
    model = quick(name, n_bits=16, epochs=25, hidden=64, **({"concept": 16} if name == "bsth" else {}))
    gallery = model.encode(VIEWS)
    assert bf.score(gallery, gallery, LABELS, LABELS).map > 0.9
    for view, rows in VIEWS.items():
        assert bf.score(model.encode({view: rows}), gallery, LABELS, LABELS).map > 0.7


@pytest.mark.parametrize("name", [*FUSED, "dcmh"])
def test_a_fit_logs_its_losses_and_they_fall(name):
    log = quick(name, epochs=12).log
    assert len(log["losses"]) == log["epochs"]
    assert log["losses"][-1] < log["losses"][0]
    assert log["held_out"] == 24
    assert 1 <= log["best_epoch"] <= log["epochs"]


def test_training_rows_that_lack_a_view_are_for_dmmvh_alone():
    partly = {**VIEWS, "text": np.where(np.arange(240)[:, None] % 3 == 0, np.nan, VIEWS["text"])}
    for name in ("bsth", "fgcmh", "dcmh"):
        with pytest.raises(MissingView):
            bf.hasher(name, n_bits=8, epochs=1).fit(partly, LABELS)
    model = DMMVH(n_bits=16, epochs=20).fit(partly, LABELS)
    assert bf.score(model.encode(partly), model.encode(VIEWS), LABELS, LABELS).map > 0.85


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("bsth", {"concept": 0}, "concept must be at least 1"),
        ("bsth", {"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ("bsth", {"hidden": {"image": 4}}, "hidden has widths for the views"),
        ("dcmh", {"columns": 0}, "columns must be at least 1"),
        ("dcmh", {"scale": 0.0}, "scale must be above 0"),
        ("dmmvh", {"scale": -1.0}, "scale must be above 0"),
        ("dmmvh", {"width": 0}, "hidden and width must be at least 1"),
        ("dmmvh", {"margin": 1.0}, "margin is a cosine"),
        ("dmmvh", {"view_dropout": 1.0}, r"\[0, 1\)"),
        ("fgcmh", {"anchors": 0}, "anchors must be at least 1"),
        ("fgcmh", {"temperature": 0.0}, "temperature must be above 0"),
        ("fgcmh", {"own": 1.5}, r"own must be in \[0, 1\]"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(name, parameters, message):
    with pytest.raises(InputError, match=message):
        quick(name, **parameters)


def test_one_row_is_too_few_for_batch_normalisation():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BitfuseWarning)
        with pytest.raises(InputError, match="at least 2 labelled training rows"):
            bf.hasher("bsth", n_bits=8).fit({name: rows[:1] for name, rows in VIEWS.items()}, LABELS[:1])

"""CLIPMH: its equations, its losses, how it is trained, the warnings it gives. The contract is in test_checks.py."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from tests.oracles import losses as oracle

import bitfuse as bf
from bitfuse import metrics
from bitfuse.errors import ConvergenceWarning, InputError, UnknownName
from bitfuse.hashers import _losses, _train, hasher
from bitfuse.hashers._deep import keep_views
from bitfuse.hashers.clipmh import CLIPMH

RNG = np.random.default_rng(0)
KIND = RNG.integers(0, 4, 300)
CENTRES = RNG.standard_normal((4, 24))
VIEWS = {
    name: (CENTRES[KIND] + RNG.standard_normal((300, 24)) + shift).astype(np.float32)
    for name, shift in (("image", 1), ("text", -1))
}
LABELS = np.eye(4, dtype=bool)[KIND]


def quick(**parameters) -> CLIPMH:
    return CLIPMH(**{"n_bits": 16, "epochs": 3, **parameters})


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("scaling", ["centred", "unit", "raw"])
@pytest.mark.parametrize("variant", ["text", "code"])
def test_the_values_are_those_of_the_equations(variant, scaling):
    model = quick(variant=variant, scaling=scaling, scale=3.0).fit(VIEWS, LABELS)
    w = model._fitted["state"]
    parts = []
    for rows in VIEWS.values():
        x = rows.astype(np.float64)
        if scaling != "raw":
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        if scaling == "centred":
            x = x - x.mean(axis=0)
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
        parts.append(3.0 * x)
    if variant == "code":
        layers = [(w[f"views.layers.{i}.weight"], w[f"views.layers.{i}.bias"]) for i in range(2)]
        parts = [np.tanh(x @ weight.T + bias) for x, (weight, bias) in zip(parts, layers, strict=True)]
    x = np.concatenate(parts, axis=1)
    assert ("gate.weight.bias" in w) == (variant == "text")
    x_f = sigmoid(x @ w["gate.weight.weight"].T + w.get("gate.weight.bias", 0)) * x
    h = np.tanh(x_f @ w["hash.weight"].T + w["hash.bias"])
    assert np.allclose(model.project(VIEWS), h, atol=1e-4)


@pytest.mark.parametrize("name", sorted(_losses.METRIC))
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_are_those_of_their_definitions(name, seed):
    rng = np.random.default_rng(seed)
    u = np.tanh(rng.standard_normal((9, 5)))
    y = rng.random((9, 4)) < (0.3 if seed else 0.0)  # no similar pair at all with seed 0
    shared = y.astype(int) @ y.T.astype(int)
    value = _losses.metric(name)(torch.tensor(u), torch.tensor(shared, dtype=torch.float64))
    assert float(value) == pytest.approx(oracle.metric(name, u.tolist(), shared.tolist()), rel=1e-5)
    assert float(_losses.quantisation(torch.tensor(u))) == pytest.approx(oracle.quantisation(u.tolist()))


@pytest.mark.parametrize("name", sorted(_losses.METRIC))
def test_every_loss_learns_to_tell_the_labels_apart(name):
    model = CLIPMH(n_bits=16, loss=name, epochs=30).fit(VIEWS, LABELS)
    assert bf.score(model.encode(VIEWS), model.encode(VIEWS), LABELS, LABELS).map > 0.85


def test_the_best_epoch_is_chosen_by_mean_average_precision():
    rng = np.random.default_rng(2)
    query, gallery, relevant = rng.standard_normal((7, 5)), rng.standard_normal((30, 5)), rng.random((7, 30)) < 0.2
    relevant[3] = False
    order = np.argsort(-query @ gallery.T, axis=1)
    ranked = np.take_along_axis(relevant, order, axis=1)
    expected = metrics.mean(metrics.average_precision_of_ranking(ranked))
    value = _train.misranking(torch.tensor(query), torch.tensor(gallery), torch.tensor(relevant))
    assert value == pytest.approx(1 - expected, rel=1e-5)
    assert _train.misranking(torch.tensor(query), torch.tensor(gallery), torch.tensor(relevant & False)) == 1


def test_training_stops_early_and_goes_back_to_the_best_epoch():
    values = iter([0.5, 0.3, 0.4, 0.6, 0.9, 0.1])
    seen = []
    network = torch.nn.Linear(1, 1)

    def validate():
        seen.append(network.weight.item())
        return next(values)

    log = _train.train(
        network,
        lambda rows: network(torch.ones(len(rows), 1)).mean(),
        np.arange(8),
        _train.Schedule(epochs=6, batch_size=4, learning_rate=0.1, patience=3),
        np.random.default_rng(0),
        validate,
    )
    assert (log["epochs"], log["best_epoch"]) == (5, 2)
    assert network.weight.item() == seen[1] != seen[-1]
    assert log["validation"] == [0.5, 0.3, 0.4, 0.6, 0.9]


def test_held_out_rows_are_training_rows_that_are_not_trained_on():
    rows, held = _train.hold_out(300, 0.1, 24, np.random.default_rng(0))
    assert len(held) == 30
    assert sorted([*rows, *held]) == list(range(300))
    assert len(_train.hold_out(200, 0.1, 24, np.random.default_rng(0))[1]) == 0
    assert quick().fit(VIEWS, LABELS).log["held_out"] == 30
    everything = quick(validation=0.0).fit(VIEWS, LABELS).log
    assert (everything["held_out"], everything["validation"], everything["best_epoch"]) == (0, [], 3)


def test_no_row_is_dropped_from_an_epoch():
    seen = []
    network = torch.nn.Linear(1, 1)

    def loss(rows):
        seen.extend(rows)
        return network(torch.ones(1, 1)).sum()

    schedule = _train.Schedule(epochs=1, batch_size=8, learning_rate=0.1, patience=1)
    _train.train(network, loss, np.arange(3, 46), schedule, np.random.default_rng(0))
    assert sorted(seen) == list(range(3, 46))


def test_view_dropout_leaves_every_row_a_view_and_no_absent_view_comes_back():
    rng = np.random.default_rng(0)
    masks = rng.random((4000, 3)) < 0.7
    masks = masks[masks.any(axis=1)]
    kept = keep_views(masks, 0.5, rng)
    assert kept.any(axis=1).all()
    assert not (kept & ~masks).any()
    several = masks.sum(axis=1) > 1
    lost = (kept != masks).any(axis=1)
    assert not lost[~several].any()
    assert 0.46 < lost[several].mean() < 0.54
    assert np.array_equal(keep_views(masks, 0.0, rng), masks)


def test_view_dropout_teaches_to_answer_one_view_alone():
    shuffled = {**VIEWS, "text": VIEWS["text"] + 0.5 * RNG.standard_normal((300, 24)).astype(np.float32)}
    scores = {}
    for share in (0.0, 0.5):
        model = CLIPMH(n_bits=16, view_dropout=share, epochs=20).fit(shuffled, LABELS)
        text = model.encode({"text": shuffled["text"]})
        scores[share] = bf.score(text, model.encode(shuffled), LABELS, LABELS).map
    assert scores[0.5] > scores[0.0]


@pytest.mark.parametrize(
    ("parameters", "change", "message"),
    [
        ({"learning_rate": 30.0, "validation": 0.0}, None, "gates are stuck"),
        ({"n_bits": 1}, None, "2 distinct codes for 4 labels"),
        ({"learning_rate": 0.01, "validation": 0.0}, "one label", "bits are the same in all training rows"),
        ({"learning_rate": 1e-12, "validation": 0.0}, None, "the training loss did not fall"),
    ],
)
def test_each_bad_sign_has_its_warning(parameters, change, message):
    labels = np.ones((300, 1), bool) if change else LABELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        with pytest.warns(ConvergenceWarning, match=message):  # it hands on those that do not match
            quick(**{"epochs": 30, **parameters}).fit(VIEWS, labels)


def test_a_good_fit_warns_of_nothing_and_logs_what_it_did():
    log = CLIPMH(n_bits=16).fit(VIEWS, LABELS).log
    assert log["losses"][-1] < log["losses"][0]
    assert log["dead_bits"] == 0
    assert log["distinct_codes"] >= 4
    assert 0 <= log["saturated_gates"] < 0.9


def test_a_loss_that_is_not_a_number_is_an_error():
    network = torch.nn.Linear(1, 1)
    schedule = _train.Schedule(epochs=1, batch_size=8, learning_rate=0.1, patience=1)
    with pytest.raises(InputError, match="the training loss became nan in epoch 1"):
        _train.train(network, lambda rows: network.weight.sum() * np.nan, np.arange(8), schedule, RNG)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"variant": "paper"}, InputError, "'text' or 'code'"),
        ({"loss": "contrastiv"}, UnknownName, "did you mean 'contrastive'"),
        ({"scaling": "none"}, InputError, "scaling must be"),
        ({"scale": 0.0}, InputError, "scale must be above 0"),
        ({"view_dropout": 1.0}, InputError, r"\[0, 1\)"),
        ({"validation": 1.0}, InputError, r"\[0, 1\)"),
        ({"epochs": 0}, InputError, "epochs must be at least 1"),
        ({"learning_rate": 0.0}, InputError, "learning_rate must be above 0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        quick(**parameters).fit(VIEWS, LABELS)


def test_the_published_preset_turns_the_extensions_off():
    model = hasher("clipmh", preset="published")
    assert (model.variant, model.scaling, model.scale) == ("text", "raw", 1.0)
    assert (model.view_dropout, model.validation) == (0.0, 0.0)


def test_many_rows_give_the_bits_of_few(monkeypatch):
    model = quick().fit(VIEWS, LABELS)
    whole = model.project(VIEWS)
    monkeypatch.setattr("bitfuse.hashers._train.BLOCK", 64)
    assert np.allclose(model.project(VIEWS), whole, atol=1e-5)


def test_the_number_of_threads_stays_what_it_was():
    before = torch.get_num_threads()
    quick().fit(VIEWS, LABELS).encode(VIEWS)
    assert torch.get_num_threads() == before


def test_its_module_is_imported_without_torch_and_fit_says_how_to_install_it():
    code = """
import sys
import bitfuse.hashers.clipmh
assert "torch" not in sys.modules
sys.modules["torch"] = None
import numpy as np
try:
    bitfuse.hashers.clipmh.CLIPMH(n_bits=2).fit({"image": np.eye(8)}, np.eye(8))
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "MissingDependency" in done.stdout
    assert "pip install 'bitfuse[clip]'" in done.stdout

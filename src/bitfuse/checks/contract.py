"""Checks of the contract of a hasher: what its constructor, fit, clone, save and log do, and what they leave alone."""

from __future__ import annotations

import dataclasses
import os
import pickle
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bitfuse.checks.tools import N_BITS, Factory, clusters, fitted, made, raises, same, view_names
from bitfuse.codes import Codes
from bitfuse.errors import InputError, NotFitted


def constructor_only_stores(make: Factory) -> None:
    """The constructor stores its parameters and does nothing else; they cannot be changed."""
    hasher = make(n_bits=N_BITS, seed=5).clone(n_bits=-3)
    assert (hasher.n_bits, hasher.seed) == (-3, 5), "it changed n_bits or seed, or checked them before fit"
    raises(dataclasses.FrozenInstanceError, lambda: setattr(hasher, "n_bits", 8), "when a parameter is set")
    views, labels = clusters(view_names(make))
    raises(InputError, lambda: hasher.fit(views, labels), "when fit meets n_bits=-3")


def fit_returns_self(make: Factory) -> None:
    """Fit returns the hasher itself."""
    hasher = made(make)
    assert hasher.fit(*clusters(view_names(make))) is hasher, "fit returned something else"


def inputs_untouched(make: Factory) -> None:
    """Inputs may be read-only and are left as they were."""
    views, labels = clusters(view_names(make))
    before = {name: x.copy() for name, x in views.items()}
    for array in (*views.values(), labels):
        array.flags.writeable = False
    hasher = fitted(make, views, labels)
    hasher.encode(views)
    assert all(np.array_equal(before[name], x) for name, x in views.items()), "a view was changed in place"
    assert list(views) == list(before), "the mapping of views was changed"


def refit_forgets(make: Factory) -> None:
    """Fitting again forgets what was learned before."""
    first, second = clusters(view_names(make), seed=1), clusters(view_names(make), n=144, seed=2)
    again = fitted(make, *first).fit(*second)
    same(again.encode(second[0]), fitted(make, *second).encode(second[0]), "between a refit and a first fit")


def same_seed_same_codes(make: Factory) -> None:
    """The same seed and data give the same codes; n_bits and seed are read by fit."""
    views, labels = clusters(view_names(make))
    a, b = (fitted(make, views, labels, seed=7).encode(views) for _ in range(2))
    same(a, b, "between two fits with one seed")


def global_random_state_untouched(make: Factory) -> None:
    """The global random states of random, numpy and torch stay as they were."""
    views, labels = clusters(view_names(make))
    fitted(make, views, labels)  # a library that the first fit imports may seed itself

    def state() -> bytes:
        torch = sys.modules.get("torch")
        drawn = torch.get_rng_state().numpy().tobytes() if torch else b""
        return pickle.dumps((random.getstate(), np.random.get_state(), drawn))  # noqa: NPY002

    random.random(), np.random.random()  # noqa: NPY002  # or a hasher that sets one fixed state would not show
    if "torch" in sys.modules:
        sys.modules["torch"].rand(1)
    before = state()
    fitted(make, views, labels).encode(views)
    assert state() == before, "a global random state moved; draw from a generator of your own"


def unfitted_raises(make: Factory) -> None:
    """Project, encode, save and log raise NotFitted before fit."""
    views, _ = clusters(view_names(make))
    hasher = made(make)
    calls = {"project": lambda: hasher.project(views), "encode": lambda: hasher.encode(views)}
    calls |= {"save": lambda: hasher.save("never-written"), "log": lambda: hasher.log}
    for name, call in calls.items():
        raises(NotFitted, call, f"from {name} before fit")


def clone_is_unfitted(make: Factory) -> None:
    """A clone has the same parameters, or those named, and is not fitted."""
    hasher = fitted(make, *clusters(view_names(make)))
    twin, other = hasher.clone(), hasher.clone(n_bits=24)
    assert twin.parameters == hasher.parameters, "a clone has other parameters"
    assert other.parameters == {**hasher.parameters, "n_bits": 24}, "clone(n_bits=24) changed something else"
    raises(NotFitted, lambda: twin.widths, "from a clone")
    assert hasher.widths, "cloning unfitted the original"


def labels_needed_where_supervised(make: Factory) -> None:
    """A supervised method wants labels at fit, of one row a sample, and leaves unlabelled rows out."""
    views, labels = clusters(view_names(make))
    if not make(n_bits=N_BITS, seed=0).supervised:
        return
    raises(InputError, lambda: made(make).fit(views), "without labels")
    raises(InputError, lambda: made(make).fit(views, labels[1:]), "with labels of another length")
    raises(InputError, lambda: made(make).fit(views, np.zeros_like(labels)), "when no row carries a label")
    unlabelled = labels & (np.arange(128) < 112)[:, None]
    partly = fitted(make, views, unlabelled)
    without = fitted(make, {k: x[:112] for k, x in views.items()}, labels[:112])
    same(partly.encode(views), without.encode(views), "when unlabelled rows are added to the training rows")


def labels_ignored_elsewhere(make: Factory) -> None:
    """An unsupervised method accepts labels and ignores them."""
    views, labels = clusters(view_names(make))
    if make(n_bits=N_BITS, seed=0).supervised:
        return
    same(made(make).fit(views).encode(views), fitted(make, views, labels).encode(views), "with and without labels")


def save_load_fresh_process(make: Factory) -> None:
    """Saved, and loaded by a fresh process, a model gives the same codes."""
    views, labels = clusters(view_names(make))
    hasher = fitted(make, views, labels)
    with tempfile.TemporaryDirectory() as folder:
        hasher.save(Path(folder) / "model")
        np.savez(Path(folder) / "views.npz", **views)  # type: ignore[arg-type]
        code = (
            "import importlib, sys, numpy as np; from bitfuse.hashers._persist import load\n"
            "importlib.import_module(sys.argv[2]); hasher = load(sys.argv[1] + '/model')\n"
            "hasher.encode(dict(np.load(sys.argv[1] + '/views.npz'))).save(sys.argv[1] + '/codes')"
        )
        command = [sys.executable, "-c", code, folder, type(hasher).__module__]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"a fresh process could not load it: {done.stderr[-500:]}"
        same(hasher.encode(views), Codes.load(Path(folder) / "codes"), "after saving and loading")

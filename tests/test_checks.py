"""The conformance suite on every registered method, and on hashers that are broken on purpose, one check each."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

import bitfuse as bf
from bitfuse.checks import Check, check_hasher, checks
from bitfuse.codes import Codes
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import InputError, UnknownName
from bitfuse.hashers import hasher_class
from bitfuse.hashers.base import Hasher
from bitfuse.hashers.itq import ITQ
from bitfuse.hashers.lsh import LSH

NAMES = [
    "constructor_only_stores",
    "fit_returns_self",
    "inputs_untouched",
    "refit_forgets",
    "same_seed_same_codes",
    "global_random_state_untouched",
    "unfitted_raises",
    "clone_is_unfitted",
    "labels_needed_where_supervised",
    "labels_ignored_elsewhere",
    "save_load_fresh_process",
    "shapes_and_dtypes",
    "row_wise",
    "view_order_irrelevant",
    "missing_views",
    "wrong_width_rejected",
    "one_two_three_views",
    "no_dead_bits",
    "tiny_data_warns_and_works",
    "beats_lsh",
]

KNOWN_FAILURES: dict[tuple[str, str], str] = {}
"""(method, check) -> why the method cannot pass it. Each would be an expected failure, strictly; there is none."""


def cases():
    for name in bf.hashers():
        for check in checks():
            reason = KNOWN_FAILURES.get((name, check.name))
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            yield pytest.param(name, check, id=f"{name}-{check.name}", marks=marks)


@pytest.mark.parametrize(("name", "check"), list(cases()))
def test_method_conforms(name: str, check: Check) -> None:
    check(hasher_class(name))


def test_the_suite_holds_these_checks_and_no_fewer() -> None:
    assert [check.name for check in checks()] == NAMES
    assert all(check.run.__doc__ for check in checks())


def test_known_failures_name_methods_and_checks_that_exist() -> None:
    assert {name for name, _ in KNOWN_FAILURES} <= set(bf.hashers())
    assert {check for _, check in KNOWN_FAILURES} <= set(NAMES)


def test_aligned_itq_conforms() -> None:
    def make(**parameters):
        return ITQ(aligned=True, **parameters)

    assert check_hasher(make) == NAMES


def broken(**methods) -> type[Hasher]:
    """LSH with something replaced."""
    return dataclass(kw_only=True, frozen=True, eq=False)(type("Broken", (LSH,), methods))


def centred_on_the_batch(self, state, batch, space, *, device):
    z = LSH._project(self, state, batch, space, device=device)
    return z - z.mean(axis=0) if len(z) > 1 else z


def unseeded(self, batch, labels, *, device):
    return LSH._fit(
        self.clone(seed=int.from_bytes(random.SystemRandom().randbytes(4), "big")), batch, labels, device=""
    )


def reseeding(self, batch, labels, *, device):
    np.random.seed(0)  # noqa: NPY002
    return LSH._fit(self, batch, labels, device=device)


def remembering(self, batch, labels, *, device):
    state, log = LSH._fit(self, batch, labels, device=device)
    return ({k: -w for k, w in state.items()} if self._fitted else state), log


def writing(self, batch, labels, *, device):
    labels[:] = 0
    return LSH._fit(self, batch, None, device=device)


def reading_labels(self, batch, labels, *, device):
    return LSH._fit(self.clone(seed=1 if labels is None else 2), batch, labels, device=device)


def dead(self, state, batch, space, *, device):
    z = LSH._project(self, state, batch, space, device=device)
    z[:, 0] = 1
    return z


def too_long(self, state, batch, space, *, device):
    return np.repeat(LSH._project(self, state, batch, space, device=device), 2, axis=1)


def worthless(self, state, batch, space, *, device):
    z = LSH._project(self, state, batch, space, device=device)
    return np.sin(1e6 * z)


def keep_labels(self, batch, labels):
    return batch, labels


def checked(self) -> None:
    if self.n_bits < 1:
        raise InputError("checked by the constructor")


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("row_wise", {"_project": centred_on_the_batch}),
        ("same_seed_same_codes", {"_fit": unseeded}),
        ("global_random_state_untouched", {"_fit": reseeding}),
        ("refit_forgets", {"_fit": remembering}),
        ("inputs_untouched", {"_fit": writing, "_check_training": keep_labels}),
        ("labels_ignored_elsewhere", {"_fit": reading_labels, "_check_training": keep_labels}),
        ("no_dead_bits", {"_project": dead}),
        ("shapes_and_dtypes", {"_project": too_long}),
        ("tiny_data_warns_and_works", {"_check_training": Hasher._check_training, "_project": too_long}),
        ("constructor_only_stores", {"__post_init__": checked}),
    ],
)
def test_a_broken_hasher_is_caught(name: str, methods: dict) -> None:
    check = next(check for check in checks() if check.name == name)
    check(LSH)
    with pytest.raises((AssertionError, InputError, ValueError)):
        check(broken(**methods))


def test_codes_that_rank_nothing_do_not_beat_the_floor() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 300)
    x = (rng.standard_normal((4, 16))[kind] + 0.3 * rng.standard_normal((300, 16))).astype(np.float32)
    samples = Samples(tuple(map(str, range(300))), views={"image": x}, labels=np.eye(4, dtype=bool)[kind])
    data = Dataset("clusters", *(samples.take(np.arange(*part)) for part in ((100, 300), (0, 100), (100, 300))))
    check = checks()[-1]
    check(LSH, data)
    check(ITQ, data)
    with pytest.raises(AssertionError, match=r"beats_lsh: mAP 0\.\d+, random codes 0\.\d+ on clusters"):
        check(broken(_project=worthless), data)
    unlabelled = Dataset("bare", *(Samples(p.ids, views=p.views) for p in (data.train, data.query, data.gallery)))
    with pytest.raises(InputError, match="bare carries no labels"):
        check(LSH, unlabelled)


def test_a_method_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownName, match="did you mean 'itq'"):
        hasher_class("itqq")


def test_a_saved_model_is_read_by_its_own_class(tmp_path) -> None:
    x = {"image": np.random.default_rng(0).standard_normal((300, 8))}
    LSH(n_bits=8).fit(x).save(tmp_path / "model")
    loaded = bf.load(tmp_path / "model")
    assert type(loaded) is LSH
    assert isinstance(loaded.encode(x), Codes)

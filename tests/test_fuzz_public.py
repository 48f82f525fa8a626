"""Every public name beside the collection (`test_fuzz.py`) with arguments good and bad: an answer or a clear error.

A path that is none is Python's own `TypeError`, and what the disk says is an `OSError`: both say what is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.test_fuzz import CODE, MODEL, ROWS, junk, words

import bitfuse as bf
from bitfuse.errors import BitfuseError

CODES = MODEL.encode({"image": ROWS[:24]})
LABELS = np.eye(4, dtype=int)[np.arange(24) % 4]
PUBLIC = set(bf.__all__) - {"__version__", "Collection", "Dataset", "Protocol", "Samples", "evaluate", "hashers"}
"""All but what takes no argument, holds values only, or takes what the others give."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::bitfuse.errors.DataWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

matrices = junk | st.sampled_from(
    [
        ROWS[:5], ROWS[:0], np.full((2, 4), np.inf), np.zeros((2, 3, 4)), np.zeros((2, 5000)), np.zeros((2, 0)),
        np.ones((2, 4), bool), np.zeros((2, 3), np.uint8), np.zeros((2, 3), object), np.zeros((2, 3), "M8[s]"),
        np.zeros((2, 3), complex), [[1, 0], [1]], np.float64(3),
    ]
)  # fmt: skip
codes = st.sampled_from([CODES, CODES[:0], CODES[:3], CODE, bf.Codes(np.zeros((2, 1), np.uint8), 5)]) | junk
integers = st.sampled_from([None, 0, 1, 5, 20, 100, -1, 2**31, 2**63, 2**70, True, 1.5, np.int64(3), "3"]) | junk
several = st.lists(st.integers(-3, 40), max_size=6) | junk | st.sampled_from(
    [np.arange(5), np.zeros(24, bool), np.array([2**63], np.uint64), np.arange(6).reshape(2, 3), [1, 1], [None]]
)  # fmt: skip
labels = st.sampled_from([LABELS, LABELS[:3], LABELS[:1], 2 * LABELS]) | matrices
views = st.just({"image": ROWS}) | junk | st.dictionaries(st.sampled_from(["image", "text", None, 3]), matrices)
names = st.sampled_from(["itq", "lsh", "cmfh", "onehot", "strict", "shapes", "published", "default", ""]) | words | junk
paths = st.sampled_from(["", ".", "..", "absent", "made", "made/x", None, 7, b"made/y"])


def index() -> bf.ScanIndex:
    made = bf.ScanIndex(20, threads=1)
    made.add(CODES)
    return made


class Call(NamedTuple):
    run: Callable[..., Any]
    arguments: dict[str, st.SearchStrategy[Any]]


CALLS = {
    "Codes": Call(bf.Codes, {"packed": matrices, "n_bits": integers}),
    "Codes.from_real": Call(bf.Codes.from_real, {"z": matrices}),
    "Codes.from_bits": Call(bf.Codes.from_bits, {"bits": matrices}),
    "Codes.concatenate": Call(bf.Codes.concatenate, {"parts": st.lists(codes, max_size=3) | junk}),
    "Codes.hamming": Call(CODES.hamming, {"other": codes}),
    "Codes.save": Call(CODES.save, {"path": paths}),
    "Codes.load": Call(bf.Codes.load, {"path": paths}),
    "ScanIndex": Call(bf.ScanIndex, {"n_bits": integers, "threads": integers}),
    "ScanIndex.add": Call(lambda **k: index().add(**k), {"codes": codes, "ids": several}),
    "ScanIndex.remove": Call(lambda **k: index().remove(**k), {"ids": several}),
    "ScanIndex.search": Call(
        lambda **k: index().search(**k), {"codes": codes, "k": integers, "radius": integers, "allow": several}
    ),
    "hasher": Call(bf.hasher, {"name": names, "preset": names, "n_bits": integers}),
    "hasher.fit": Call(lambda **k: bf.hasher("lsh", n_bits=8).fit(**k), {"views": views, "labels": labels}),
    "hasher.fit, supervised": Call(
        lambda **k: bf.hasher("onehot", n_bits=8).fit(**k), {"views": views, "labels": labels}
    ),
    "hasher.encode": Call(MODEL.encode, {"views": views, "space": names}),
    "hasher.project": Call(MODEL.project, {"views": views}),
    "hasher.novelty": Call(MODEL.novelty, {"views": views}),
    "hasher.save": Call(MODEL.save, {"path": paths}),
    "load": Call(bf.load, {"path": paths}),
    "dataset": Call(bf.dataset, {"name_or_path": junk | st.sampled_from(["absent", "mirflickr25k", Path("absent")])}),
    "backbone": Call(bf.backbone, {"name_or_path": junk | st.sampled_from(["absent", "", Path("absent"), "vgg:x"])}),
    "score": Call(
        bf.score,
        {"query": codes, "gallery": codes, "query_labels": labels, "gallery_labels": labels, "protocol": names},
    ),
}  # fmt: skip


def test_every_public_name_is_here() -> None:
    assert {name.partition(".")[0] for name in CALLS} == PUBLIC


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(list(CALLS)))
    return name, {argument: draw(values) for argument, values in CALLS[name].arguments.items()}


def answers_or_explains(name: str, arguments: dict[str, Any]) -> None:
    try:
        CALLS[name].run(**arguments)
    except BitfuseError:
        return
    except (TypeError, OSError) as error:
        if not any("path" in name for name in arguments) or not (
            isinstance(error, OSError) or "os.PathLike" in str(error)
        ):
            raise


quick = settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with contextlib.chdir(tmp_path_factory.mktemp("fuzz")):
        yield


@quick
@given(call=calls())
def test_every_call_answers_or_says_what_is_wrong(elsewhere: None, call: tuple[str, dict[str, Any]]) -> None:
    answers_or_explains(*call)


@pytest.mark.slow
@settings(quick, max_examples=5000, derandomize=False)
@given(call=calls())
def test_thousands_of_calls(elsewhere: None, call: tuple[str, dict[str, Any]]) -> None:
    answers_or_explains(*call)

"""Which rows are queries, gallery and training: decided by hashes of ids, so the same on every machine, for ever."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import DataWarning, InputError


def draws(ids: Sequence[str], salt: str) -> NDArray[np.float64]:
    """One number in [0, 1) per id: the first 8 bytes of SHA-256 of salt, a zero byte and the id. (n,) float64."""
    prefix = hashlib.sha256(salt.encode() + b"\0")

    def one(name: str) -> int:
        digest = prefix.copy()
        digest.update(name.encode())
        return int.from_bytes(digest.digest()[:8]) >> 11  # the 53 bits that a float holds exactly

    return np.array([one(i) for i in ids], np.float64) / (1 << 53)


def holdout_mask(ids: Sequence[str], share: float = 0.1, salt: str = "bitfuse") -> NDArray[np.bool_]:
    """Which ids are held out: about `share` of them, each by its own hash, whatever else is in the data.

    Args:
        ids: n distinct strings.
        share: expected share held out, 0 to 1.
        salt: another salt holds out others.

    Returns:
        (n,) bool.

    Examples:
        >>> from bitfuse.data.split import holdout_mask
        >>> holdout_mask([f"item-{i}" for i in range(1000)]).sum()
        np.int64(117)
    """
    if not 0 <= share <= 1:
        raise InputError(f"the share to hold out must be between 0 and 1, got {share}")
    return draws(ids, salt) < share


def split(
    samples: Samples,
    *,
    n_query: int | None = None,
    query_share: float = 0.1,
    per_class: int | None = None,
    train: Literal["all", "disjoint"] | float = "all",
    seed: int = 0,
    name: str = "split",
    queries_among: NDArray[np.bool_] | None = None,
    unseen: int = 0,
) -> Dataset:
    """Split into queries, gallery and training by the strict recipe, or by the class-wise one of the papers.

    Strict: queries are the rows whose hash falls below `query_share` (`holdout_mask`), or the `n_query` rows of
    lowest hash; the gallery is the rest. Class-wise (`per_class`): of each label, that many positives at random, and
    the union is the query set. Where there are labels, only labelled rows become queries; rows without labels stay in
    the gallery.

    Args:
        samples: the rows to split.
        n_query: exact number of queries; not together with `per_class`.
        query_share: expected share of queries among the rows that may become one, above 0 and below 1.
        per_class: positives drawn per label (the papers take 100), at most half of the label's positives.
        train: "all" trains on the whole gallery; "disjoint" trains on one half of it and searches the other; a number
            below 1 is the share of the gallery that trains and stays in it, a larger one the count.
        seed: another seed draws others; 0 with `query_share` gives `holdout_mask` of default salt.
        name: of the data set.
        queries_among: (n,) bool, the rows that a query may come from; those of them that are not drawn are left out,
            and the gallery is all other rows. None: queries come from anywhere, the gallery is the rest.
        unseen: labels, drawn by `seed`, whose rows never train and stay in the gallery: `evaluate` then also says how
            a method does on classes that it has not seen.

    Raises:
        InputError: numbers out of range, or a part that would be empty.
    """
    salt = "bitfuse" if seed == 0 else f"bitfuse-{seed}"
    may = samples.labelled if samples.labelled.any() else np.ones(len(samples), bool)
    if queries_among is not None:
        may = may & queries_among
    if per_class is not None:
        if n_query is not None:
            raise InputError("give n_query or per_class, not both")
        query = _per_class(samples, per_class, salt, queries_among)
    elif n_query is not None:
        if not 1 <= n_query <= may.sum():
            raise InputError(f"n_query must be 1 to {may.sum()} (the rows that may be queries), got {n_query}")
        query = _lowest(samples, may, n_query, salt)
    else:
        query = holdout_mask(samples.ids, query_share, salt) & may
    rest = ~query if queries_among is None else ~queries_among
    trained, searched = _training(samples, rest, train, salt)
    hidden = _hidden(samples, unseen, salt)
    trained = trained & ~samples.labels[:, hidden].any(axis=1) if samples.labels is not None else trained
    for part, mask in (("query", query), ("gallery", searched), ("train", trained)):
        if not mask.any():
            raise InputError(f"{len(samples)} rows split so that {part} is empty; give more rows or other shares")
    recipe = "class-wise" if per_class is not None else "n_query" if n_query is not None else "share"
    notes: dict[str, Any] = {
        "split": recipe,
        "split seed": seed,
        "split by": {"share": query_share, "n_query": n_query, "class-wise": per_class}[recipe],
        "train": train,
        "rows without labels": int((~samples.labelled).sum()),
    }
    if unseen:
        notes["labels that never train"] = [samples.label_names[i] for i in hidden.tolist()]
    return Dataset(name, samples.take(trained), samples.take(query), samples.take(searched), notes)


def _lowest(samples: Samples, among: NDArray[np.bool_], count: int, salt: str) -> NDArray[np.bool_]:
    rows = np.flatnonzero(among)
    order = np.argsort(draws([samples.ids[i] for i in rows], salt), kind="stable")
    mask = np.zeros(len(samples), bool)
    mask[rows[order[:count]]] = True
    return mask


def _per_class(samples: Samples, count: int, salt: str, pool: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    if samples.labels is None or not samples.labels.any():
        raise InputError("per_class draws queries by label, and there are no labels")
    if count < 1:
        raise InputError(f"per_class must be at least 1, got {count}")
    query = np.zeros(len(samples), bool)
    among = samples.labels if pool is None else samples.labels & pool[:, None]
    positives = among.sum(axis=0)
    most = positives // 2 if pool is None else positives  # the gallery keeps its half, unless it has a part of its own
    for label in range(samples.labels.shape[1]):
        query |= _lowest(samples, among[:, label], min(count, most[label]), f"{salt}-label-{label}")
    if few := int((most < count).sum()):
        share, need = ("half", 2 * count) if pool is None else ("all", count)
        warnings.warn(
            f"{few} label(s) have fewer than {need} rows; {share} of each became queries instead of {count}",
            DataWarning,
            stacklevel=3,
        )
    return query


def _hidden(samples: Samples, unseen: int, salt: str) -> NDArray[np.intp]:
    """The columns of the labels that never train."""
    names = samples.label_names
    if not 0 <= unseen < max(1, len(names)):
        raise InputError(f"unseen must be 0 to {max(0, len(names) - 1)} of the {len(names)} named labels, got {unseen}")
    return np.sort(np.argsort(draws(names, f"{salt}-unseen"), kind="stable")[:unseen])


def _training(
    samples: Samples, rest: NDArray[np.bool_], train: str | float, salt: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the training rows and of the rows searched in."""
    size = int(rest.sum())
    if train == "all":
        return rest, rest
    if train == "disjoint":
        half = _lowest(samples, rest, size // 2, f"{salt}-train")
        return half, rest & ~half
    if isinstance(train, str | bool) or not 0 < train <= size:
        raise InputError(f"train must be 'all', 'disjoint', a share below 1 or a count up to {size}, got {train!r}")
    count = int(train) if train >= 1 else round(train * size)
    return _lowest(samples, rest, count, f"{salt}-train"), rest

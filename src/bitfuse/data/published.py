"""What the loaders of published data sets share: stated counts, words for what is missing, and the papers' split."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.split import split
from bitfuse.errors import DataWarning, InputError

PER_CLASS = 100
"""Positives that the papers draw for each class as queries."""

_SMALL = 0.5  # below this share of the published rows, the numbers of the split shrink with the set


@dataclass(frozen=True)
class Published:
    """What is publicly stated about a data set.

    Attributes:
        title: as papers call it.
        page: the official page that it comes from, and the files to get there. Nothing is ever downloaded.
    """

    title: str
    page: str

    def missing(self, path: Path, what: str) -> InputError:
        """The error for a file or folder that is not there."""
        return InputError(
            f"{self.title}: there is no {path}, which holds {what}; get it from the official page, {self.page}, and "
            "unpack it there (nothing is downloaded by itself)"
        )

    def lines(self, path: Path, what: str) -> list[str]:
        """The lines of a text file, stripped; empty ones at its end left out. A byte that is no UTF-8 becomes U+FFFD.

        Raises:
            InputError: no such file, or nothing in it.
        """
        if not path.is_file():
            raise self.missing(path, what)
        found = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()]
        if not found:
            raise InputError(f"{self.title}: {path}, which holds {what}, is empty; is its download complete?")
        return found

    def json(self, path: Path, what: str, keep: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> dict[str, Any]:
        """The object that a JSON file holds.

        Args:
            path: the file.
            what: it holds, in words.
            keep: what to keep of each object in it, so that a large file does not fill the memory.

        Raises:
            InputError: no such file, no JSON (a truncated download), or no object in it.
        """
        if not path.is_file():
            raise self.missing(path, what)
        try:
            with path.open(encoding="utf-8") as file:
                found = json.load(file, object_hook=keep)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.title}: {path} is not complete JSON ({error}); get it again") from error
        if not isinstance(found, dict):
            raise InputError(f"{self.title}: {path} holds a {type(found).__name__}, not an object with {what}")
        return found

    def compare(self, found: Mapping[str, int], published: Mapping[str, int], root: Path) -> list[str]:
        """What differs from the published counts, one phrase each; warns of them together."""
        differs = [f"{found[k]:,} {k} (published: {n:,})" for k, n in published.items() if found[k] != n]
        if differs:
            warnings.warn(
                f"{root} is NOT the published {self.title}: {', '.join(differs)}; figures made on it cannot be "
                f"compared with published ones. The whole set: {self.page}",
                DataWarning,
                stacklevel=2,
            )
        return differs


@dataclass(frozen=True, eq=False)
class RawSet:
    """A published data set as it lies on disk: before features, before it is split.

    Attributes:
        published: what is stated about it.
        samples: all rows that the variant keeps, without features.
        variant: its name, such as `"tc21"`.
        labels: the label variant in words, such as `"24 labels (MIR-Flickr25K)"`: stands beside every score.
        rows: how many rows the published variant has.
        n_train: training rows that the papers draw from the gallery; None is the whole gallery.
        queries_among: (n,) bool, where queries come from a part of their own and the gallery is the rest; else None.
        differs: how the copy on disk differs from the published set; empty where it does not.
        notes: what else a reader should know.
    """

    published: Published
    samples: Samples
    variant: str
    labels: str
    rows: int
    n_train: int | None
    queries_among: NDArray[np.bool_] | None = None
    differs: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)

    def split(self, *, seed: int = 0, per_class: int | None = None, train: int | None = None) -> Dataset:
        """The split recipe of the papers, named `per-class`.

        For each class `per_class` positives are drawn, their union is the query set; the rest is the gallery (where
        the set has a part for queries: the other part); the training rows are drawn from the gallery. A copy with
        less than half of the published rows draws fewer queries in proportion, and says so.

        Args:
            seed: another seed draws others. No paper published its own, so take the mean over several.
            per_class: None is 100, fewer on a small copy.
            train: rows to train on; None is the papers' number, or all of a smaller gallery.

        Returns:
            A Dataset without features; its `notes` name variant, labels, recipe and seed.
        """
        asked, total = per_class, len(self.samples)
        small = total < _SMALL * self.rows
        if per_class is None:
            per_class = max(1, math.ceil(PER_CLASS * total / self.rows)) if small else PER_CLASS
        wanted = self.n_train if train is None else train
        others = total - per_class * len(self.samples.label_names)
        if self.queries_among is not None:
            others = int((~self.queries_among).sum())
        fits = wanted is not None and (train is not None or wanted <= others)
        if asked is None and (small or (wanted is not None and not fits)):
            trained = f"{wanted:,} rows" if fits else "the whole gallery"
            warnings.warn(
                f"{self.published.title}: {total:,} rows instead of {self.rows:,}, so the split draws {per_class} of a "
                f"class as queries instead of {PER_CLASS}, and {trained} train",
                DataWarning,
                stacklevel=2,
            )
        whole = split(
            self.samples,
            per_class=per_class,
            train=wanted if wanted is not None and fits else "all",
            seed=seed,
            queries_among=self.queries_among,
        )
        return self.named(whole, {**whole.notes, "split": "per-class"}, f"split seed {seed}")

    def by_parts(self, query: NDArray[np.bool_], train: NDArray[np.bool_]) -> Dataset:
        """The parts that the set itself comes in: queries, the rest as gallery, training rows within it."""
        for part, mask in (("query", query), ("training", train)):
            if not mask.any():
                raise InputError(f"{self.published.title}: no row of the {part} part can be used")
        take = self.samples.take
        whole = Dataset("", take(train & ~query), take(query), take(~query))
        return self.named(whole, {"split": "the set's own parts"}, "its own parts")

    def named(self, whole: Dataset, notes: Mapping[str, Any], how: str) -> Dataset:
        """The data set under the name that a table shows: variant, rows and, where it is so, that it is a copy."""
        other = "; NOT the published set" if self.differs else ""
        name = f"{self.published.title} ({self.variant}, {len(self.samples):,} rows, {how}{other})"
        facts = {"variant": self.variant, "label variant": self.labels, **notes, **self.notes}
        if self.differs:
            facts["differs from the published set"] = "; ".join(self.differs)
        return Dataset(name, whole.train, whole.query, whole.gallery, facts)


def inside(path: str, where: str) -> PurePosixPath:
    """A relative path of a picture, out of a file that somebody else wrote.

    Raises:
        InputError: it is empty, absolute, or leaves its folder.
    """
    found = PurePosixPath(path.replace("\\", "/"))
    if not path or found.is_absolute() or ".." in found.parts or ":" in path or "\0" in path:
        raise InputError(f"{where}: {path!r} is not the path of a picture inside its folder")
    return found

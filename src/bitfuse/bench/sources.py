"""What a grid runs on: a name or a path becomes one data set for each seed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from bitfuse.data.base import Dataset, Samples
from bitfuse.data.split import split
from bitfuse.errors import InputError

QUERY_SHARE, MOST_QUERIES, MOST_TRAINED = 0.1, 1000, 5000
"""Where the data leaves the split to us: a tenth of the labelled rows are queries, at most 1,000; at most 5,000 rows of
the gallery train, as in the tables of the literature, so that no method's cost explodes."""


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How rows that come in one piece are split, once for each seed.

    Attributes:
        n_query: queries; None is a tenth of the labelled rows, at most 1,000.
        n_train: rows of the gallery to train on; None is at most 5,000.
        labels: patterns of label names (`product_type*`) that count; none is all.
    """

    n_query: int | None = None
    n_train: int | None = None
    labels: tuple[str, ...] = ()

    def datasets(self, samples: Samples, name: str, seeds: Sequence[int]) -> dict[int, Dataset]:
        """One split for each seed, of the same sizes and under the same name.

        Raises:
            InputError: sizes that the rows do not allow, or no label of these names.
        """
        samples = self.narrowed(samples)
        labelled = int(samples.labelled.sum()) or len(samples)
        n_query = self.n_query or max(1, min(MOST_QUERIES, round(QUERY_SHARE * labelled)))
        rest = len(samples) - n_query
        n_train = self.n_train or MOST_TRAINED
        train: Any = "all" if n_train >= rest else n_train
        found = {seed: split(samples, n_query=n_query, train=train, seed=seed, name=name) for seed in seeds}
        how = "all of them" if train == "all" else f"{n_train:,} of them"
        notes = {
            "split": f"{n_query:,} queries drawn for each seed by hashes of ids, the rest is the gallery; {how} train",
            "labels": ", ".join(self.labels) or "all",
        }
        return {seed: settled(replace(dataset, notes=notes), seeds) for seed, dataset in found.items()}

    def narrowed(self, samples: Samples) -> Samples:
        """The samples with the labels that count."""
        if not self.labels:
            return samples
        keep = [i for i, n in enumerate(samples.label_names) if any(fnmatchcase(n, p) for p in self.labels)]
        if samples.labels is None or not keep:
            raise InputError(
                f"no label is named like {', '.join(self.labels)}; there are {', '.join(samples.label_names) or 'none'}"
            )
        names = tuple(samples.label_names[i] for i in keep)
        marked = replace(samples, labels=samples.labels[:, keep], label_names=names)
        return marked.take(marked.labelled)


def of_each_seed(make: Callable[[int], Dataset], seeds: Sequence[int]) -> dict[int, Dataset]:
    """The data sets of a loader that takes the seed of the split, under one name."""
    return {seed: settled(make(seed), seeds) for seed in seeds}


def settled(dataset: Dataset, seeds: Sequence[int]) -> Dataset:
    """The same data set with all seeds of the splits in place of its own, so that the splits share one table."""
    notes = {k: v for k, v in dataset.notes.items() if k not in ("split seed", "skipped")}
    notes["split seeds"] = ", ".join(map(str, seeds))
    name = re.sub(r",? split seed \d+", "", dataset.name)
    return Dataset(name, dataset.train, dataset.query, dataset.gallery, notes)

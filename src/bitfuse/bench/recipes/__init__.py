"""Recipes: one row of a published table each, as data: what was run, what came out, what the paper leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from bitfuse.bench.cells import Spec
from bitfuse.bench.protocol import Protocol
from bitfuse.errors import InputError, UnknownName
from bitfuse.hashers import hasher
from bitfuse.hashers.base import Hasher

LOADERS = {"mirflickr25k": "flickr25k", "mscoco": "coco", "nuswide": "nuswide"}
"""The data sets of recipes by the names that `bitfuse.dataset` gives them."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One method on one data set in one paper, at every code length that the paper gives.

    Attributes:
        name: `<author><year>_<method>_<dataset>`.
        paper, source: title, and the table that the numbers stand in.
        method: a registered name.
        dataset: what it was run on, one of `LOADERS`; `variant` of its labels.
        features: view -> what the paper's features were.
        split: sizes of the published parts (`train`, `gallery`, `query`), and how they were drawn.
        protocol: preset of the evaluation.
        preset, parameters: as for `bitfuse.hasher`; parameters are those of this data set that differ.
        published: code length -> mAP, 0 to 1.
        suspected_typos: code lengths whose published number does not fit its neighbours, with the reason.
        open: what the paper leaves open, and what stands here instead.
    """

    name: str
    paper: str
    source: str
    method: str
    dataset: str
    variant: str
    features: Mapping[str, str]
    split: Mapping[str, Any]
    protocol: str
    preset: str
    parameters: Mapping[str, Any]
    published: Mapping[int, float]
    suspected_typos: Mapping[int, str]
    open: tuple[str, ...]

    def hasher(self, n_bits: int, seed: int = 0) -> Hasher:
        """The unfitted method with the recipe's parameters."""
        return hasher(self.method, preset=self.preset, n_bits=n_bits, seed=seed, **self.parameters)

    def specs(self, dataset: str, seed: int, lengths: Sequence[int] | None = None) -> list[Spec]:
        """The cells of a grid that rerun it on a stored data set.

        Raises:
            InputError: a code length that the paper does not give.
        """
        wanted = list(self.published) if lengths is None else list(lengths)
        if unknown := sorted(set(wanted) - set(self.published)):
            raise InputError(f"{self.name} has the code lengths {list(self.published)}, not {unknown}")
        return [
            Spec(
                method=self.method,
                preset=self.preset,
                parameters=dict(self.parameters),
                n_bits=n_bits,
                seed=seed,
                dataset=dataset,
                recipe=self.name,
            )
            for n_bits in wanted
        ]


def names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(f.name.removesuffix(".yaml") for f in files(__name__).iterdir() if f.name.endswith(".yaml"))


def matching(pattern: str) -> list[Recipe]:
    """The recipes of this name, or of names like this pattern (`*_clipmh_*`); sorted by name, maybe none."""
    return [recipe(name) for name in names() if fnmatchcase(name, pattern)]


@cache
def recipe(name: str) -> Recipe:
    """One recipe, checked against the method's signature.

    Raises:
        UnknownName: no such recipe.
        InputError: a file with unknown, missing or impossible entries.
    """
    file = files(__name__) / f"{name}.yaml"
    if name not in names():
        raise UnknownName("recipe", name, names())
    return parse(name, file.read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Recipe:
    """A recipe out of the text of its file.

    Raises:
        InputError: unknown, missing or impossible entries.
        UnknownName: no such method, preset, parameter or protocol.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name}: not YAML: {error}") from error
    wanted = {f.name for f in fields(Recipe)} - {"name"}
    if not isinstance(found, dict) or set(found) != wanted:
        given = set(found) if isinstance(found, dict) else set()
        raise InputError(f"recipe {name}: lacks {sorted(wanted - given)}, has unknown {sorted(given - wanted)}")
    read = Recipe(name=name, **{**found, "open": tuple(found["open"])})
    Protocol.of(read.protocol)
    if read.dataset not in LOADERS:
        raise UnknownName("data set of a recipe", read.dataset, LOADERS)
    if name.split("_")[1:] != [read.method, read.dataset]:
        raise InputError(f"recipe {name} is for {read.method} on {read.dataset}; its file must be named so")
    for n_bits, value in read.published.items():
        read.hasher(n_bits)
        if not 0 < value < 1:
            raise InputError(f"recipe {name}: mAP is above 0 and below 1, got {value!r} at {n_bits} bits")
    if unknown := set(read.suspected_typos) - set(read.published):
        raise InputError(f"recipe {name}: suspected typos at {sorted(unknown)} bits, which it does not publish")
    return read

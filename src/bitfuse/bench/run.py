"""Run an evaluation: one method on one data set under one protocol."""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitfuse.bench import facts
from bitfuse.bench import modes as asking
from bitfuse.bench.answers import Answer, Coder, Examination, Fitted
from bitfuse.bench.beside import beside
from bitfuse.bench.histograms import usable_threads
from bitfuse.bench.protocol import Protocol
from bitfuse.bench.scores import Scores, plain, score
from bitfuse.data.base import Dataset
from bitfuse.errors import DataWarning, InputError
from bitfuse.hashers.base import Hasher

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Answer", "Result", "Scores", "evaluate", "examine", "score", "subject_of"]


@dataclass(frozen=True, eq=False)
class Result:
    """One method on one data set under one protocol.

    Attributes:
        method: class and the parameters that differ from their defaults.
        n_bits, seed: of the hasher.
        widths: view -> columns of the features that the method reads.
        dataset: its name.
        sizes: number of items of its parts: train, query, gallery.
        protocol: under which all numbers stand.
        modes: query mode -> answer, None where the method cannot answer it ("-" in a table).
        floors: mAP of random codes and of one constant code in the first mode; empty without labels.
        diagnostics: of the gallery's codes: `distinct`, `largest_bucket`, `dead_bits`, `equal_bits`.
        environment: versions, processor, threads, seconds.
        notes: what a reader should know beside the numbers: of the data set, and the warnings given.
        beside: the metric of the first mode on what training never saw (`bitfuse.bench.beside`); empty without labels.
    """

    method: str
    n_bits: int
    seed: int
    widths: dict[str, int]
    dataset: str
    sizes: dict[str, int]
    protocol: Protocol
    modes: dict[str, Answer | None]
    floors: dict[str, float]
    diagnostics: dict[str, float]
    environment: dict[str, Any]
    notes: list[str]
    beside: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def map(self) -> float:
        """mAP of the codes in the first mode that the method answers."""
        return self.first.scores.map

    @property
    def first(self) -> Answer:
        """The answer to the first mode that the method answers."""
        return next(a for a in self.modes.values() if a is not None)

    def table(self) -> Group:
        """A table for the terminal, with the protocol under it."""
        from bitfuse.bench.tables import result_table

        return result_table(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        own["protocol"] = {**self.protocol.to_dict(), "text": self.protocol.describe()}
        own["modes"] = {name: a.to_dict() if a else None for name, a in self.modes.items()}
        return {"map": plain(self.map), **{k: plain(v) for k, v in own.items()}}

    def save(self, path: str | Path) -> None:
        """Write the JSON of `to_dict`; the file appears whole or not at all."""
        target = Path(path)
        temporary = target.with_name(target.name + ".partial")
        temporary.write_text(json.dumps(self.to_dict(), indent=1))
        temporary.replace(target)


def evaluate(
    hasher: Hasher,
    dataset: Dataset,
    protocol: str | Protocol = "strict",
    *,
    device: str = "cpu",
    threads: int | None = None,
) -> Result:
    """Judge a fitted method on a data set.

    Each mode has three columns made of the same features: `float` is the cosine of the features, each view at unit
    length, side by side, a view that the query lacks as zeros (from one view to another: each centred on its mean
    over the training part); `projected` is the cosine of the values before the sign; `binary` is the codes.

    Args:
        hasher: fitted; its views must be among those of the data.
        dataset: with features. Without labels, only neighbours and pairs are judged.
        protocol: a preset's name, or a `Protocol`.
        device: where a deep method computes.
        threads: None is one a processor that this process may use.

    Warns:
        DataWarning: queries with the features of a gallery or training row, codes that collapse, more ties at rank K
            than K, relevant pairs so common that a constant code scores well, rows left out, training rows where the
            protocol wants none, labels other than the protocol's.

    Raises:
        NotFitted: `fit` has not run.
        InputError: no views in common, or other widths.
    """
    subject = subject_of(hasher)
    result = examine(subject, Fitted(hasher, dataset, device), dataset, Protocol.of(protocol), threads=threads)
    for remark in result.notes[len(dataset.notes) :]:
        warnings.warn(remark, DataWarning, stacklevel=2)
    return result


def subject_of(hasher: Hasher) -> asking.Subject:
    """What an examination needs to know of a fitted method."""
    return asking.Subject(
        facts.name_of(hasher), hasher.n_bits, hasher.seed, hasher.widths, hasher.spaces, hasher.accepts_missing
    )


def examine(
    subject: asking.Subject, coder: Coder, dataset: Dataset, protocol: Protocol, *, threads: int | None = None
) -> Result:
    """Judge codes, wherever they come from; `evaluate` is this with a fitted method, and warns of the remarks.

    Raises:
        InputError: no views in common, or no mode that the method answers.
    """
    views = asking.views_of(subject, dataset.query.views)
    if not views:
        raise InputError(
            f"the model was fitted on {list(subject.widths)}, the data set {dataset.name!r} has the views "
            f"{list(dataset.query.views)}; extract its features first, or evaluate it on the data it was made for"
        )
    labelled = bool(dataset.query.labelled.any() and dataset.gallery.labelled.any())
    exam = Examination(subject, coder, dataset, protocol, views, labelled, threads or usable_threads())
    answers = {mode.name: exam.answer(mode) for mode in asking.modes(views)}
    given = [a for a in answers.values() if a is not None]
    if not given:
        raise InputError(f"{subject.method} answers no query mode of the views {list(views)} on this data")
    first = next(mode for mode in asking.modes(views) if answers[mode.name] is not None)
    floors = exam.floors(given[0]) if labelled else {}
    diagnostics = facts.diagnose(next(iter(exam.galleries.values())))
    remarks = facts.remarks(dataset, protocol, views, given[0], floors, diagnostics)
    parts = {"train": dataset.train, "query": dataset.query, "gallery": dataset.gallery}
    return Result(
        method=subject.method,
        n_bits=subject.n_bits,
        seed=subject.seed,
        widths=subject.widths,
        dataset=dataset.name,
        sizes={name: len(part) for name, part in parts.items()},
        protocol=protocol,
        modes=answers,
        floors=floors,
        diagnostics=diagnostics,
        environment=facts.environment(exam.threads, exam.seconds),
        notes=[f"{k}: {v}" for k, v in dataset.notes.items()] + remarks,
        beside=beside(exam, first) if labelled and dataset.train.labels is not None else {},
    )

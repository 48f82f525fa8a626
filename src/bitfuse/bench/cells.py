"""Cells of a grid: one method on one data set at one code length and seed, as codes on disk, judged later."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from bitfuse.bench import facts, stored
from bitfuse.bench import modes as asking
from bitfuse.bench.histograms import usable_threads
from bitfuse.bench.protocol import Protocol
from bitfuse.bench.run import Result, examine, subject_of
from bitfuse.codes import Codes
from bitfuse.data.base import Dataset
from bitfuse.errors import BitfuseWarning, DamagedFile, UnknownFormat
from bitfuse.hashers import hasher
from bitfuse.hashers.base import Hasher

FORMAT = 1
CARD = "cell.json"
_VALUES = "values.safetensors"
_MOST_BYTES = 64 << 20  # of values before the sign that a cell keeps beside its codes


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a cell is.

    Attributes:
        method, preset, parameters, n_bits, seed: as for `bitfuse.hasher`.
        dataset: fingerprint of the stored data set.
        recipe: the recipe that asked for it, if one did.
    """

    method: str
    dataset: str
    n_bits: int = 64
    seed: int = 0
    preset: str = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = None

    @property
    def name(self) -> str:
        """Of the cell's directory."""
        own = "" if self.preset == "default" else f"-{self.preset}"
        if self.parameters:
            written = json.dumps(dict(self.parameters), sort_keys=True)
            own += f"-{hashlib.sha256(written.encode()).hexdigest()[:8]}"
        return f"{self.method}{own}-{self.n_bits}-s{self.seed}"

    def place(self, root: Path) -> Path:
        """The cell's directory in a grid."""
        return root / "cells" / self.dataset / self.name


def datasets_of(root: Path) -> Path:
    """Where a grid keeps its data sets."""
    return root / "data"


def finished(spec: Spec, root: Path) -> bool:
    """Whether this version of Bitfuse has finished this cell; a failed one has not."""
    card = _card(spec.place(root))
    return card is not None and "error" not in card and card["version"] == version("bitfuse")


def compute(spec: Spec, root: Path, device: str = "cpu") -> str | None:
    """Train, encode and store one cell; it appears whole or not at all.

    Returns:
        None, or why it failed: the failure is stored in the cell's place.
    """
    with _whole(spec.place(root)) as folder:
        try:
            made = _made(spec, stored.load(datasets_of(root), spec.dataset), folder, device)
        except Exception as raised:  # whatever a method raises is this cell's result, and the others go on
            error = f"{type(raised).__name__}: {raised}"
            _write_card(folder, spec, {"error": error, "traceback": traceback.format_exc()})
            return error
        _write_card(folder, spec, made)
        return None


def record_failure(spec: Spec, root: Path, error: str) -> None:
    """Store that a cell failed, and why: for the one whose process is gone."""
    with _whole(spec.place(root)) as folder:
        _write_card(folder, spec, {"error": error})


@contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """A new directory that takes the place of an older one when it is complete."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)


def _write_card(folder: Path, spec: Spec, facts_of_it: dict[str, Any]) -> None:
    card = {"format": FORMAT, "version": version("bitfuse"), "spec": dataclasses.asdict(spec), **facts_of_it}
    (folder / CARD).write_text(json.dumps(card, indent=1))


def _made(spec: Spec, dataset: Dataset, folder: Path, device: str) -> dict[str, Any]:
    model = hasher(spec.method, preset=spec.preset, n_bits=spec.n_bits, seed=spec.seed, **spec.parameters)
    train, values = dataset.train, {}
    rows = bytes_kept = 0
    seconds = {"fit": 0.0, "encode": 0.0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.perf_counter()
        model.fit(train.views, train.labels if model.supervised else None, sources=train.sources, device=device)
        seconds["fit"] = time.perf_counter() - started
        subject = dataclasses.replace(subject_of(model), method=_title(spec, model))
        for number, (part, samples, coding, at) in enumerate(_codings(subject, dataset)):
            chosen = {name: samples.views[name][at] for name in coding.views}
            started = time.perf_counter()
            z = model.project(chosen, coding.space, device=device)
            codes = Codes.from_real(z)
            seconds["encode"] += time.perf_counter() - started
            codes.save(folder / f"{part}-{number}.safetensors")
            rows, bytes_kept = rows + len(at), bytes_kept + z.nbytes
            values[str(number)] = z
    if bytes_kept <= _MOST_BYTES:
        save_file(values, folder / _VALUES)
    told = dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, BitfuseWarning))
    return {
        "subject": dataclasses.asdict(subject),
        "encoded_rows": rows,
        "bytes_per_item": -(-spec.n_bits // 8),
        "environment": facts.environment(usable_threads(), seconds),
        "warnings": list(told),
    }


def _title(spec: Spec, model: Hasher) -> str:
    """The method in a table: a preset by its name, not by all that it sets."""
    if spec.preset == "default":
        return facts.name_of(model)
    own = [f"{name}={value!r}" for name, value in spec.parameters.items()]
    return f"{type(model).__name__} ({', '.join([spec.preset, *own])})"


def _codings(subject: asking.Subject, dataset: Dataset) -> Iterator[tuple[str, Any, asking.Coding, NDArray[np.intp]]]:
    """Every coding that judging will ask for, in a fixed order, with the rows that have its views."""
    for coding in asking.codings(subject, asking.views_of(subject, dataset.query.views)):
        samples = dataset.query if coding.part == "query" else dataset.gallery
        yield coding.part, samples, coding, asking.rows_with(samples, coding.views, subject)


@dataclass(frozen=True, eq=False)
class Cell:
    """A stored cell: its card, and its codes on demand.

    Attributes:
        path: of its directory.
        spec: what it is.
        card: the JSON beside the codes.
        dataset: what it was trained on and coded.
    """

    path: Path
    spec: Spec
    card: dict[str, Any]
    dataset: Dataset

    @property
    def subject(self) -> asking.Subject:
        """What an examination needs to know of the method."""
        known = self.card["subject"]
        return asking.Subject(**{**known, "spaces": tuple(known["spaces"])})

    def code(self, coding: asking.Coding, rows: NDArray[np.intp]) -> tuple[Codes, NDArray[np.float32] | None]:
        """The stored codes of these rows, and the values before the sign where they were small enough to keep."""
        for number, (part, _, known, at) in enumerate(_codings(self.subject, self.dataset)):
            if known == coding:
                places = np.searchsorted(at, rows)
                values = self._values()
                codes = Codes.load(self.path / f"{part}-{number}.safetensors")
                return codes[places], None if values is None else values[str(number)][places]
        raise DamagedFile(f"{self.path} holds no codes of {coding}; delete the cell and run the grid again")

    def judge(self, protocol: str | Protocol = "strict", threads: int | None = None) -> Result:
        """Score the stored codes: the same numbers that `bitfuse.evaluate` gives for the fitted method."""
        result = examine(self.subject, self, self.dataset, Protocol.of(protocol), threads=threads)
        known = self.card["environment"]
        seconds = {**known["seconds"], "score": result.environment["seconds"]["score"]}
        environment = {**known, "seconds": seconds, "encoded_rows": self.card["encoded_rows"]}
        return dataclasses.replace(result, environment=environment, notes=result.notes + self.card["warnings"])

    def _values(self) -> dict[str, NDArray[np.float32]] | None:
        file = self.path / _VALUES
        try:
            return load_file(file) if file.is_file() else None
        except SafetensorError as error:
            raise DamagedFile(f"{file} is damaged ({error}); delete the cell and run the grid again") from error


@dataclass(frozen=True)
class Failure:
    """A cell that did not come about, and why."""

    spec: Spec
    dataset: str
    error: str


def read_cells(root: Path) -> tuple[list[Cell], list[Failure]]:
    """All cells of a grid, sorted by data set and name, and those that failed."""
    cells: list[Cell] = []
    failures: list[Failure] = []
    for place in sorted((root / "cells").glob("*/*")):
        card = _card(place)
        if card is None or place.name.startswith("."):
            continue
        spec = Spec(**card["spec"])
        dataset = stored.load(datasets_of(root), spec.dataset)
        if "error" in card:
            failures.append(Failure(spec, dataset.name, card["error"]))
        else:
            cells.append(Cell(place, spec, card, dataset))
    return cells, failures


def _card(place: Path) -> dict[str, Any] | None:
    file = place / CARD
    if not file.is_file():
        return None
    try:
        card: dict[str, Any] = json.loads(file.read_text())
    except ValueError:  # the machine went down before the file reached the disk: not finished
        return None
    if card["format"] > FORMAT:
        raise UnknownFormat(f"{file} has format {card['format']}, this version reads up to {FORMAT}")
    return card

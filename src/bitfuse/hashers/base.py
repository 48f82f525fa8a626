"""The contract of every hashing method: public methods stand here once, a method supplies `_fit` and `_project`."""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitfuse.codes import Codes, check_n_bits
from bitfuse.errors import DataWarning, InputError, NotFitted
from bitfuse.hashers import _familiar, _persist
from bitfuse.hashers._views import AtScale, Batch, as_batch, as_labels, check_view_count, require

Array = NDArray[Any]
State = dict[str, Array]
Facts = Mapping[str, Mapping[str, Any]]


@dataclass(kw_only=True, frozen=True, eq=False)
class Hasher(ABC):
    """A method that learns binary codes: a keyword-only, immutable dataclass whose fields are its hyper-parameters.

    Constructors only store; `fit` checks and works. The class facts below are what `bitfuse methods` prints.

    Parameters:
        n_bits: code length, 1 to 4096.
        seed: of every random choice; the same seed, data and machine give the same codes.
    """

    n_bits: int = 64
    seed: int = 0
    _fitted: dict[str, Any] = field(init=False, repr=False, default_factory=dict)

    spaces: ClassVar[tuple[str, ...]] = ("fused",)
    supervised: ClassVar[bool] = False
    online: ClassVar[bool] = False
    data_driven: ClassVar[bool] = True
    accepts_missing: ClassVar[Literal["none", "query", "train+query"]] = "none"
    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = None
    cost: ClassVar[str] = "n"
    at_scale: ClassVar[AtScale] = "sample"
    year: ClassVar[int]
    reference: ClassVar[str]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @abstractmethod
    def _fit(self, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str) -> tuple[State, dict[str, Any]]:
        """Learn from a checked batch (labels aligned, None unless supervised): named arrays, and a JSON-able log."""

    @abstractmethod
    def _project(self, state: State, batch: Batch, space: str, *, device: str) -> Array:
        """Values before the sign, (n, n_bits), row by row: a row's values do not depend on the other rows."""

    def _update(
        self, state: State | None, batch: Batch, labels: NDArray[np.bool_] | None, *, device: str
    ) -> tuple[State, dict[str, Any]]:
        """Learn from one more chunk, given the state so far (None before the first). Online methods supply it."""
        raise InputError(f"{type(self).__name__} does not learn chunk by chunk; use fit, or a method with online=True")

    @final
    def fit(
        self, views: Mapping[str, ArrayLike], labels: ArrayLike | None = None, *, sources: Facts | None = None,
        device: str = "cpu",
    ) -> Self:  # fmt: skip
        """Learn from views and, for a supervised method, labels. Fitting again forgets.

        Args:
            views: name -> (n, d) numbers; rows aligned; a wholly NaN row lacks that view. Or `StoredViews`, on disk.
            labels: (n, c) of 0 and 1. Rows without a label are left out by supervised methods; others ignore labels.
            sources: view name -> facts about the features' origin, kept with the model (`Samples.sources`).
            device: where a deep method computes: `"cpu"`, `"cuda"`, ...; not saved.

        Raises:
            InputError: bad shapes, values, parameters or labels; a supervised method without labels.
            MissingView: rows lack a view and the method cannot train without it.
        """
        batch, y = self._check_training(as_batch(views), labels)
        if self.data_driven and len(batch) < 4 * self.n_bits:
            few = f"{len(batch)} training rows are few for {self.n_bits} bits ({4 * self.n_bits} are advised); "
            warnings.warn(few + "use fewer bits, more rows, or 'lsh', which learns nothing", DataWarning, stacklevel=2)
        report, rows = batch.report(self.at_scale), len(batch)
        if self.at_scale == "sample":
            batch, y = batch.sampled(), y if y is None else y[batch.sample]
        state, log = self._fit(batch, y, device=device)
        self._keep(batch, state, {**log, **report}, rows, sources)
        self._fitted["familiar"] = _familiar.learn(batch, self.seed)
        return self

    @final
    def partial_fit(
        self, views: Mapping[str, ArrayLike], labels: ArrayLike | None = None, *, sources: Facts | None = None,
        device: str = "cpu",
    ) -> Self:  # fmt: skip
        """Learn from one more chunk of a stream (online methods only); arguments and errors as for `fit`."""
        known = self._fitted or {"state": None, "widths": None, "log": {"rows": 0}, "sources": {}}
        batch, y = self._check_training(as_batch(views, known["widths"]), labels)
        learned = self._update(known["state"], batch, y, device=device)
        return self._keep(batch, *learned, known["log"]["rows"] + len(batch), sources or known["sources"])

    @final
    def project(
        self, views: Mapping[str, ArrayLike], space: str | None = None, *, device: str = "cpu"
    ) -> NDArray[np.float32]:
        """The values before the sign: (n, n_bits) float32.

        Args:
            views: as for `fit`, the same names and widths; an absent view is missing for every row.
            space: one of `spaces`; None is the first.
            device: where a deep method computes.

        Raises:
            NotFitted: `fit` has not run.
            InputError: no such space; bad shapes or values.
            MissingView: rows lack a view that this method or space cannot do without.
        """
        state, widths = self._get("state"), self.widths
        space = self.spaces[0] if space is None else space
        if not isinstance(space, str) or space not in self.spaces:
            raise InputError(f"{type(self).__name__} has the spaces {self.spaces}, not {space!r}")
        batch = as_batch(views, widths)
        if space in widths:  # a space named after a view reads that view alone
            require(batch, [space], type(self).__name__, f"for the space {space!r}")
            batch = batch.of(space)
        elif self.accepts_missing == "none":
            require(batch, list(widths), type(self).__name__, "at query time")
        return np.asarray(self._project(state, batch, space, device=device), np.float32)

    @final
    def encode(self, views: Mapping[str, ArrayLike], space: str | None = None, *, device: str = "cpu") -> Codes:
        """The codes: the sign of `project`, packed; arguments and errors as there."""
        return Codes.from_real(self.project(views, space, device=device))

    @final
    def novelty(self, views: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
        """How unlike the training rows each row is, (n,) float32: a Mahalanobis distance, the greatest of its views.

        1 is the furthest of up to 1,000 training rows that took no part in learning the distance; NaN where nothing is
        known (fewer than 100 training rows, `partial_fit` alone, an older model). Views and errors as for `project`.
        """
        return _familiar.novelty(self._fitted.get("familiar", {}), as_batch(views, self.widths))

    @final
    def clone(self, **changes: Any) -> Self:
        """An unfitted copy with the same parameters, save for `changes`."""
        return dataclasses.replace(self, **changes)

    @final
    def save(self, path: str | Path, attachments: Mapping[str, bytes] | None = None) -> None:
        """Write a model directory (JSON + safetensors), whole or not at all; an older model there is replaced.

        Args:
            path: the directory to make.
            attachments: further small files kept and checked with the model, file name -> content.
        """
        facts = {k: self._get(k) for k in _persist.FACTS}
        _persist.save(self, Path(path), self._get("state"), facts, attachments or {}, self._fitted.get("familiar", {}))

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}

    @property
    def log(self) -> dict[str, Any]:
        """What training recorded: rows used, losses, diagnostics."""
        return dict(self._get("log"))

    @property
    def widths(self) -> dict[str, int]:
        """View name -> number of columns it was fitted on."""
        return dict(self._get("widths"))

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """View name -> facts about where the training features came from."""
        return dict(self._get("sources"))

    def _get(self, key: str) -> Any:
        if not self._fitted:
            raise NotFitted(f"this {type(self).__name__} is not fitted; call fit(views, labels) or bitfuse.load first")
        return self._fitted[key]

    def _check_training(self, batch: Batch, labels: ArrayLike | None) -> tuple[Batch, NDArray[np.bool_] | None]:
        check_n_bits(self.n_bits)
        check_view_count(len(batch.arrays), self.min_views, self.max_views, type(self).__name__)
        if self.accepts_missing != "train+query":
            require(batch, list(batch.arrays), type(self).__name__, "at training")
        if not self.supervised:
            return batch, None
        y = as_labels(labels, len(batch), type(self).__name__)
        labelled = np.asarray(y.any(axis=1))
        return (batch, y) if labelled.all() else (batch.only(labelled), y[labelled])

    def _keep(self, batch: Batch, state: State, log: dict[str, Any], rows: int, sources: Facts | None) -> Self:
        widths = {k: v.shape[1] for k, v in batch.arrays.items()}
        known = {k: dict((sources or {}).get(k, {"backbone": "arrays only"})) for k in widths}
        self._fitted.update(state=state, log={"rows": rows, **log}, widths=widths, sources=known)
        return self

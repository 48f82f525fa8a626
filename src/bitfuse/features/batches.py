"""What every backbone does alike: inputs checked, weights loaded once, batches encoded, the rows looked at."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import DamagedFile, InputError, UnknownName
from bitfuse.features.sounds import Sound

Rows = NDArray[np.float32]


class Batched(ABC):
    """A backbone that encodes batch by batch; a subclass says how one batch becomes rows.

    Attributes:
        name, views, aligned, prompts: as for `Backbone`.
        note: what a user should be told about this backbone; empty where there is nothing to say.
    """

    name: str
    views: tuple[str, ...]
    aligned: bool = False
    prompts: tuple[str, ...] = ()
    note: str = ""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ready = False

    @abstractmethod
    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""

    @abstractmethod
    def width(self, view: str) -> int:
        """Number of columns of this view's rows."""

    @abstractmethod
    def _load(self) -> None:
        """Read the weights; called once, by the first `encode` that has an input."""

    @abstractmethod
    def _batch_size(self, view: str) -> int: ...

    def _prepare(self, view: str, batch: list[Any]) -> Any:
        """What `_encode_batch` takes, made of checked inputs; several threads may be in here at once."""
        return batch

    @abstractmethod
    def _encode_batch(self, view: str, batch: Any) -> Rows:
        """The rows of one batch, prepared."""

    def encode(self, view: str, inputs: Sequence[Any], *, batch_size: int | None = None) -> Rows:
        """Encode RGB images, texts, sounds or frames; see `Backbone.encode`.

        A text longer than the model takes is cut at its end, and so is a sound.

        Raises:
            UnknownName: a view that this backbone does not encode.
            InputError: an input that is not of this view's kind.
            DamagedFile: weights that do not fit their configuration, or that give values that are not finite.
        """
        features = np.empty((len(inputs), self.width(view)), np.float32)
        check_inputs(view, inputs)
        if not len(inputs):
            return features
        self._make_ready()
        size = batch_size or self._batch_size(view)
        order = list(range(len(inputs)))
        if view == "text":  # a batch of texts is as slow as its longest one, so like lengths go together
            order.sort(key=lambda i: len(inputs[i]))
        for at in range(0, len(order), size):
            rows = order[at : at + size]
            found = self._encode_batch(view, self._prepare(view, [inputs[i] for i in rows]))
            if found.shape != (len(rows), features.shape[1]):
                raise DamagedFile(f"{self.name!r} gave {view} rows {found.shape}, not of width {self.width(view)}")
            features[rows] = found
        if not np.isfinite(features).all():
            raise DamagedFile(f"{self.name!r} gave {view} features that are not finite; fetch the checkpoint again")
        return features

    def at_once(self, view: str) -> int:
        """See `Staged.at_once`."""
        self._make_ready()
        return self._batch_size(view)

    def stage(self, view: str, inputs: Sequence[Any]) -> Any:
        """See `Staged.stage`; errors as for `encode`."""
        check_inputs(view, inputs)
        self._make_ready()
        return self._prepare(view, list(inputs))

    def forward(self, view: str, staged: Any) -> Rows:
        """See `Staged.forward`."""
        return self._encode_batch(view, staged)

    def _make_ready(self) -> None:
        with self._lock:
            if not self._ready:
                self._load()
                self._ready = True

    def _require(self, view: str) -> None:
        if view not in self.views:
            raise UnknownName("view", view, self.views)


def check_inputs(view: str, inputs: Sequence[Any]) -> None:
    """Raise `InputError` for the first input that is not what this view takes."""
    for row, given in enumerate(inputs):
        if view == "text" and not (isinstance(given, str) and given.strip()):
            raise InputError(f"text {row} is blank or no text: {given!r}; leave such rows out, they lack the view")
        if view == "image" and getattr(given, "mode", None) != "RGB":
            raise InputError(f"image {row} is not an RGB picture: {given!r}; open it with features.images.open_image")
        if view == "sound" and not isinstance(given, Sound):
            raise InputError(
                f"sound {row} is no Sound: {type(given).__name__}; open it with features.sounds.open_sound"
            )
        if view == "frames" and not _are_frames(given):
            raise InputError(f"frames {row} are no list of RGB pictures; open them with features.moving.open_frames")


def _are_frames(given: Any) -> bool:
    listed = isinstance(given, Sequence) and not isinstance(given, str | bytes) and len(given) > 0
    return listed and all(getattr(frame, "mode", None) == "RGB" for frame in given)

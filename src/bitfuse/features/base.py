"""The Backbone protocol: what turns images and texts into feature rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Backbone(Protocol):
    """An encoder of one or more views. Lazy: making one reads its configuration, the first `encode` its weights.

    Attributes:
        name: the name that `bitfuse.backbone` takes (a hub id, a directory, `"pocket"`).
        views: the views it encodes, for example `("image", "text")`.
        aligned: whether its views share one space, so that a text row can be compared with an image row.
        prompts: texts typical of what users type; their mean stands for the mean of the text view where no text
            is known.
    """

    name: str
    views: tuple[str, ...]
    aligned: bool
    prompts: tuple[str, ...]

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features: backbone, revision, hashes of weights and preprocessing, width.

        They are saved with a model, compared when a collection is opened, and hashed into cache keys.
        """
        ...

    def width(self, view: str) -> int:
        """Number of columns of this view's rows."""
        ...

    def encode(self, view: str, inputs: Sequence[Any], *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Encode decoded inputs.

        Args:
            view: one of `views`.
            inputs: RGB `PIL.Image.Image` for images, non-empty `str` for texts.
            batch_size: inputs at a time; None leaves it to the backbone.

        Returns:
            (n, width) float32, finite, not normalised, in the order of the inputs.
        """
        ...


@runtime_checkable
class Staged(Backbone, Protocol):
    """A backbone whose inputs can be made ready in other threads while the model works on those before them.

    `forward(view, stage(view, inputs))` gives the rows of `encode(view, inputs)` where there are at most
    `at_once(view)` inputs; rows that are not finite are given as they are.
    """

    def at_once(self, view: str) -> int:
        """How many inputs the model takes at once where it computes."""
        ...

    def stage(self, view: str, inputs: Sequence[Any]) -> Any:
        """What `forward` takes; safe in several threads."""
        ...

    def forward(self, view: str, staged: Any) -> NDArray[np.float32]:
        """The rows, (n, width) float32."""
        ...


@runtime_checkable
class Parallel(Staged, Protocol):
    """A backbone of torch whose `forward` several threads may call at once."""

    def cores(self) -> int:
        """How many cores it computes on, to be shared among these threads; 1 where they would not help, as on a GPU."""
        ...

"""One view from one checkpoint through `transformers`: what the image, text, sound and frame models share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitfuse.errors import InputError
from bitfuse.features.batches import Batched
from bitfuse.features.checkpoints import Needs, find
from bitfuse.features.loading import check_installed, load_model, load_part


class Tower(Batched):
    """A model of one view, from a directory in the layout of `transformers` or a hub id.

    A subclass names the view, the files that it needs beside config.json and weights, the part that makes tensors of
    inputs (`bitfuse.features.loading.load_part`) and the tensors that may be missing.

    Args:
        checkpoint: directory or hub id.
        name: what names the whole backbone.
        revision: commit, tag or branch of a hub id; None takes `main`.
        device: where to compute, as torch names it.

    Raises:
        MissingDependency: torch or transformers is not installed.
        UnknownName, MissingWeights, DamagedFile: as `bitfuse.features.checkpoints.find` says.
        InputError: a model of a kind that gives no features of this view.
    """

    view: str
    needs: Needs
    part: str
    unused: tuple[str, ...] = ("pooler.",)  # checkpoints of a pre-training task lack it, and here it is never read

    def __init__(self, checkpoint: str, *, name: str, revision: str | None = None, device: str = "cpu") -> None:
        super().__init__()
        check_installed(f"backbone {name!r}")
        self.views = (self.view,)
        self.checkpoint = find(checkpoint, revision=revision, needs=self.needs)
        self.name = name
        self.device = device
        self.width(self.view)

    @property
    def kind(self) -> str:
        """What config.json calls this kind of model: `"vit"`, `"bert"`, `"clap"`, ..."""
        return str(self.checkpoint.config.get("model_type"))

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""
        self._require(view)
        return {
            "backbone": self.name,
            "revision": self.checkpoint.revision,
            "weights": self.checkpoint.weights_hash(),
            "preprocessing": self.checkpoint.preprocessing_hash(view),
            "width": self.width(view),
            "normalised": False,
        }

    def width(self, view: str) -> int:
        """Number of columns of this view's rows."""
        self._require(view)
        config = self.checkpoint.config
        width = config.get("hidden_size") or config.get("dim") or (config.get("hidden_sizes") or [None])[-1]
        if not width:
            raise InputError(
                f"{self.checkpoint.name!r} is a model of type {self.kind!r}, whose config.json names no hidden_size; "
                f"it gives no features of the view {view!r}"
            )
        return int(width)

    def _load(self) -> None:
        self._processor = load_part(self.checkpoint, self.part)
        self._model, _ = load_model(self.checkpoint, self.device, unused=self.unused)

    def _batch_size(self, view: str) -> int:
        return 32 if self._model.device.type == "cpu" else 256

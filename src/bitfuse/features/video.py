"""Frames of a moving picture through a backbone: `video:<model>`, the pocket CLIP among them (`video:pocket`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitfuse.features.batches import Batched, Rows
from bitfuse.features.checkpoints import PIXELS, find
from bitfuse.features.clip import CLIPBackbone
from bitfuse.features.loading import run
from bitfuse.features.moving import spread
from bitfuse.features.towers import Tower

_VIDEO = ("videomae", "xclip")


def load(model: str, *, revision: str | None = None, device: str = "cpu") -> Batched:
    """The backbone `video:<model>`: a model of films where config.json says so, else the mean of a CLIP over frames."""
    kind = find(model, revision=revision, needs=(PIXELS,)).config.get("model_type")
    if kind in _VIDEO:
        return VideoBackbone(model, name=f"video:{model}", revision=revision, device=device)
    return FrameMean(CLIPBackbone(model, revision=revision, device=device))


class VideoBackbone(Tower):
    """A published model of films: VideoMAE (mean over all patches of all frames) or X-CLIP (its row of the film).

    Of a film, as many frames are read as the model was trained with, evenly over the whole; of one with fewer, some
    are read twice.
    """

    view, needs, part = "frames", (PIXELS,), "images"
    unused = ()

    def __init__(self, checkpoint: str, *, name: str, revision: str | None = None, device: str = "cpu") -> None:
        super().__init__(checkpoint, name=name, revision=revision, device=device)
        self.name = f"video:{self.checkpoint.name}"

    def width(self, view: str) -> int:
        """Number of columns of this view's rows."""
        self._require(view)
        return int(self.checkpoint.config["projection_dim"]) if self.kind == "xclip" else super().width(view)

    def _batch_size(self, view: str) -> int:
        return super()._batch_size(view) // 8

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        config = self._model.config
        wanted = int(config.vision_config.num_frames if self.kind == "xclip" else config.num_frames)
        films = [[frames[i] for i in spread(len(frames), wanted)] for frames in batch]
        inputs = self._processor(films, return_tensors="pt")
        if self.kind == "xclip":
            return run(self._model, inputs, lambda given: self._model.get_video_features(**given).pooler_output)
        return run(self._model, inputs, lambda given: self._model(**given).last_hidden_state.mean(dim=1))


class FrameMean(Batched):
    """A film as the mean of what an image model makes of its frames: at most 16, evenly over the whole.

    The rows of a CLIP's frames lie in the space of its texts, so those can be compared with films too.
    """

    views: tuple[str, ...] = ("frames",)

    MOST = 16

    def __init__(self, images: CLIPBackbone) -> None:
        super().__init__()
        self._images = images
        self.name, self.note, self.prompts = f"video:{images.name}", images.note, images.prompts

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""
        self._require(view)
        facts = self._images.describe("image")
        how = json.dumps({"images": facts["preprocessing"], "mean of": self.MOST})
        return {**facts, "backbone": self.name, "preprocessing": how}

    def width(self, view: str) -> int:
        """Number of columns of this view's rows."""
        self._require(view)
        return self._images.width("image")

    def _load(self) -> None:
        """Nothing of its own: the image model loads itself."""

    def _batch_size(self, view: str) -> int:
        return 64

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        films = [[frames[i] for i in spread(len(frames), min(len(frames), self.MOST))] for frames in batch]
        rows = self._images.encode("image", [frame for frames in films for frame in frames])
        starts = np.cumsum([0, *(len(frames) for frames in films[:-1])])
        means = np.add.reduceat(rows, starts) / np.array([[len(frames)] for frames in films])
        return np.asarray(means, np.float32)

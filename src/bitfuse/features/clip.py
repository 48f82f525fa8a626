"""The CLIP family as backbones: CLIP, SigLIP, SigLIP 2 and kin, from a hub id, a directory or the shipped pocket."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError
from bitfuse.features.batches import Batched
from bitfuse.features.checkpoints import find
from bitfuse.features.loading import check_installed, device_of, load_model, load_part, run
from bitfuse.features.pixels import pixel_values, plain
from bitfuse.features.prompts import GENERIC

if TYPE_CHECKING:
    from PIL.Image import Image

POCKET_NOTE = "the pocket backbone knows only the generated shapes world; what it says of photographs means little"


class CheckpointBackbone(Batched):
    """A backbone of images and texts in one space, given by a checkpoint; how it is run is left to the subclass.

    Args:
        name: `"pocket"`, a directory in the layout of `transformers`, or a hub id.
        revision: commit, tag or branch of a hub id; None takes the pinned commit, or `main`.

    Raises:
        UnknownName, InputError, DamagedFile: as `bitfuse.features.checkpoints.find` says; also InputError for a
            checkpoint of another kind of model.
    """

    views: tuple[str, ...] = ("image", "text")
    aligned = True

    def __init__(self, name: str, *, revision: str | None = None) -> None:
        super().__init__()
        self.checkpoint = find(name, revision=revision)
        self.name = self.checkpoint.name
        self.note = POCKET_NOTE if name == "pocket" else ""
        self.prompts = _pocket_prompts() if name == "pocket" else GENERIC
        self.width("image")

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; see `Backbone.describe`."""
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
        if "projection_dim" in config:
            return int(config["projection_dim"])
        if str(config.get("model_type")).startswith("siglip"):
            tower = config.get("vision_config" if view == "image" else "text_config") or {}
            # 768 is the default of these configurations, which leave out what equals it.
            return int(tower.get("projection_size") or tower.get("hidden_size", 768))
        raise InputError(
            f"{self.name!r} is a model of type {config.get('model_type')!r}; a backbone must encode images and texts "
            "into one space, as CLIP and SigLIP do"
        )


class CLIPBackbone(CheckpointBackbone):
    """A checkpoint run by `transformers`: CLIP, SigLIP, SigLIP 2 and whatever else has both kinds of features.

    Weights are safetensors, or pickled tensors read with `weights_only=True`; code from the hub is never run. On a
    CPU it computes in float32, on a GPU in half precision; rows come back in float32.

    Args:
        name, revision: as for `CheckpointBackbone`.
        device: where to compute, as torch names it.

    Raises:
        MissingDependency: torch or transformers is not installed.
    """

    def __init__(self, name: str, *, revision: str | None = None, device: str = "cpu") -> None:
        check_installed(f"backbone {name!r}")
        super().__init__(name, revision=revision)
        self.device = device
        self._words = threading.Lock()  # a tokenizer sets itself up anew when it is called, which bears no company

    def _load(self) -> None:
        model, place = load_model(self.checkpoint, self.device)
        self._tokenizer, self._processor = (load_part(self.checkpoint, part) for part in ("tokenizer", "images"))
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise InputError(f"{self.name!r} is a {type(model).__name__}, which does not encode both images and texts")
        self._model, self._place = model, place
        processing = self._processor.to_dict()
        self._plain = processing if plain(processing) else None
        self._max_tokens = min(self._tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to the full length, whose padding takes part in attention.
        self._full_length = str(model.config.model_type).startswith("siglip")

    def _batch_size(self, view: str) -> int:
        on_cpu = self._place.type == "cpu"
        return (32 if on_cpu else 256) if view == "image" else (64 if on_cpu else 1024)

    def cores(self) -> int:
        """See `Parallel.cores`."""
        import torch

        return torch.get_num_threads() if device_of(self.device).type == "cpu" else 1

    def _prepare(self, view: str, batch: list[Any]) -> Mapping[str, Any]:
        if view == "image":
            return self._pixels(batch)
        with self._words:
            return self._tokens(batch)

    def _encode_batch(self, view: str, batch: Mapping[str, Any]) -> NDArray[np.float32]:
        return self._features(f"get_{view}_features", batch)

    def _pixels(self, batch: list[Image]) -> Mapping[str, Any]:
        if not self._plain:
            processed: Mapping[str, Any] = self._processor(images=batch, return_tensors="pt")
            return processed
        import torch

        return {"pixel_values": torch.from_numpy(pixel_values(batch, self._plain))}

    def _tokens(self, batch: list[str]) -> Mapping[str, Any]:
        tokens: Mapping[str, Any] = self._tokenizer(
            batch,
            truncation=True,
            max_length=self._max_tokens,
            padding="max_length" if self._full_length else "longest",
            return_attention_mask=not self._full_length,
            return_tensors="pt",
        )
        return tokens

    def trainable(self) -> Any:
        """The model itself in float32, its weights frozen: what `bitfuse.tune` adds to. Later rows come from it.

        Raises:
            InputError: not a plain CLIP.
        """
        self._make_ready()
        if self.checkpoint.config.get("model_type") != "clip":
            raise InputError(f"{self.name!r} is a {type(self._model).__name__}; only a CLIP can be tuned")
        return self._model.float().requires_grad_(False)

    def prepare(self, images: list[Image], texts: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the model takes: the tensors of RGB images and of texts, on its device."""
        self._make_ready()
        inputs = self._pixels(images), self._tokens(texts)
        pixels, tokens = ({k: v.to(self._place) for k, v in part.items()} for part in inputs)
        return pixels, tokens

    def _features(self, method: str, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        return run(self._model, inputs, lambda given: getattr(self._model, method)(**given).pooler_output)


def _pocket_prompts() -> tuple[str, ...]:
    from bitfuse.data.shapes import prompts

    return prompts()

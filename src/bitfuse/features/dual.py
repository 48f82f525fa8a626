"""Separate models of images and texts, such as ViT and BERT, side by side: `dual:<image model>+<text model>`.

Their spaces have nothing to do with each other (`aligned` is False): what the CLIP family is compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bitfuse.errors import InputError, UnknownName
from bitfuse.features.batches import Rows
from bitfuse.features.checkpoints import PIXELS, VOCABULARIES
from bitfuse.features.loading import run
from bitfuse.features.prompts import GENERIC
from bitfuse.features.towers import Tower


class ImageTower(Tower):
    """An image model: the last layer's [CLS] row where the model has one (ViT, DeiT, DINOv2), else its pooled row."""

    view, needs, part = "image", (PIXELS,), "images"

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        inputs = self._processor(images=batch, return_tensors="pt")
        if hasattr(getattr(self._model, "embeddings", None), "cls_token"):
            return run(self._model, inputs, lambda given: self._model(**given).last_hidden_state[:, 0])
        return run(self._model, inputs, lambda given: self._model(**given).pooler_output.flatten(1))


class TextTower(Tower):
    """A text model of the BERT family: the last layer's [CLS] row."""

    view, needs, part = "text", (VOCABULARIES,), "tokenizer"

    def _load(self) -> None:
        super()._load()
        if self._processor.cls_token_id is None or self._model.config.is_encoder_decoder:
            raise InputError(f"{self.checkpoint.name!r} ({self.kind}) has no [CLS] token; give a model such as BERT")
        positions = self._model.config.max_position_embeddings
        if "roberta" in self.kind:  # counts its positions from behind the padding token's number
            positions -= self._model.config.pad_token_id + 1
        self._max_tokens = min(self._processor.model_max_length, positions)

    def _encode_batch(self, view: str, batch: list[Any]) -> Rows:
        tokens = self._processor(
            batch, truncation=True, max_length=self._max_tokens, padding="longest", return_tensors="pt"
        )
        return run(self._model, tokens, lambda given: self._model(**given).last_hidden_state[:, 0])


class DualBackbone:
    """An image model and a text model that were trained apart.

    Args:
        models: `<image model>+<text model>`, each a directory or a hub id.
        revision: refused: each model has its own.
        device: where to compute, as torch names it.

    Raises:
        InputError: not two models, a revision, or a model of another kind.
        UnknownName, MissingWeights, DamagedFile, MissingDependency: as for `Tower`.
    """

    views: tuple[str, ...] = ("image", "text")
    aligned = False
    prompts: tuple[str, ...] = GENERIC
    note = ""

    def __init__(self, models: str, *, revision: str | None = None, device: str = "cpu") -> None:
        image, plus, text = models.partition("+")
        if not (image and plus and text) or "+" in text:
            raise InputError(f"'dual:' takes <image model>+<text model>, got {models!r}")
        if revision is not None:
            raise InputError(f"'dual:' names two models, each with its own revision; drop revision={revision!r}")
        towers = [cls(given, name="", device=device) for cls, given in ((ImageTower, image), (TextTower, text))]
        self.name = "dual:" + "+".join(tower.checkpoint.name for tower in towers)
        self._towers = {tower.view: tower for tower in towers}
        for tower in towers:
            tower.name = self.name

    def describe(self, view: str) -> Mapping[str, Any]:
        """The facts that fix this view's features; the model of a hub id has its commit in `model_revision`."""
        facts = dict(self._tower(view).describe(view))
        return {**facts, "revision": None, "model_revision": facts["revision"]}

    def width(self, view: str) -> int:
        """Number of columns of this view's rows: 768 for both of ViT-B and BERT-base."""
        return self._tower(view).width(view)

    def encode(self, view: str, inputs: Sequence[Any], *, batch_size: int | None = None) -> Rows:
        """Encode RGB images or texts; see `Backbone.encode`. Only the model of this view is loaded."""
        return self._tower(view).encode(view, inputs, batch_size=batch_size)

    def _tower(self, view: str) -> Tower:
        if view not in self._towers:
            raise UnknownName("view", view, self.views)
        return self._towers[view]

"""The two ways of tuning: a linear adapter behind the projections, and LoRA inside both towers.

Each trains few numbers beside frozen weights and then adds them to the weights themselves, so that what is saved is
a CLIP as any other.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitfuse.errors import MissingDependency
from bitfuse.features.clip import CLIPBackbone
from bitfuse.tune.contrastive import Pairs, tensors

Rows = NDArray[np.intp]


class Tuning(ABC):
    """What is trained, and what it makes of rows.

    Attributes:
        parameters: all that is trained, the logarithm of the loss's scale among it, under names.
    """

    parameters: nn.ParameterDict

    @abstractmethod
    def encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Features of the pictures and of the texts of these rows, (m, d) each, not normalised."""

    @abstractmethod
    def merge(self) -> nn.Module:
        """The model with all that was learned added to its weights."""


class Adapter(Tuning):
    """A linear map of the features of either view, x + x A with A = 0 at first; merged into the projections.

    The features are encoded once, so an epoch takes a moment whatever the backbone.
    """

    def __init__(self, encoder: CLIPBackbone, model: Any, pairs: Pairs, *, rank: int) -> None:
        everything = np.arange(len(pairs.ids))
        with_pictures = [encoder.encode("image", pairs.pictures(part)) for part in _blocks(everything)]
        device = next(model.parameters()).device
        self._model = model
        self._x, self._y = (
            x.to(device) for x in tensors(np.concatenate(with_pictures), encoder.encode("text", pairs.texts))
        )
        d = self._x.shape[1]
        zero = {name: nn.Parameter(torch.zeros(d, d, device=device)) for name in ("image", "text")}
        self.parameters = nn.ParameterDict({**zero, "scale": nn.Parameter(model.logit_scale.detach().clone())})

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The mapped features; see `Tuning`."""
        x, y = self._x[rows], self._y[rows]
        return x + x @ self.parameters["image"], y + y @ self.parameters["text"]

    def merge(self) -> nn.Module:
        """The model with both maps in its projections."""
        with torch.no_grad():
            for view, layer in (("image", self._model.visual_projection), ("text", self._model.text_projection)):
                layer.weight += self.parameters[view].T @ layer.weight  # x W^T + x W^T A = x (W + A^T W)^T
            self._model.logit_scale.copy_(self.parameters["scale"])
        return self._model  # type: ignore[no-any-return]


class LoRA(Tuning):
    """Low-rank additions to the queries, values and perceptrons of both towers and to both projections.

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022; through the library `peft`.
    """

    _TARGETS = ("q_proj", "v_proj", "fc1", "fc2", "visual_projection", "text_projection")

    def __init__(self, encoder: CLIPBackbone, model: Any, pairs: Pairs, *, rank: int) -> None:
        if importlib.util.find_spec("peft") is None:
            raise MissingDependency("peft", "tune", "tuning by LoRA")
        peft: Any = importlib.import_module("peft")
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(self._TARGETS))
        with warnings.catch_warnings():
            # peft 0.21 reads an attribute that transformers 5.23 is about to rename.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            self._model = peft.get_peft_model(model, config).eval()
        self._encoder, self._pairs = encoder, pairs
        trained = {n.replace(".", "/"): p for n, p in self._model.named_parameters() if p.requires_grad}
        scale = nn.Parameter(model.logit_scale.detach().clone())
        self.parameters = nn.ParameterDict({**trained, "scale": scale})

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Features of the decoded pictures and the tokens; see `Tuning`."""
        clip = self._model.base_model.model
        pixels, tokens = self._encoder.prepare(self._pairs.pictures(rows), self._pairs.words(rows))
        images: Tensor = clip.get_image_features(**pixels).pooler_output
        texts: Tensor = clip.get_text_features(**tokens).pooler_output
        return images, texts

    def merge(self) -> nn.Module:
        """The model with the additions in its weights."""
        merged = self._model.merge_and_unload()
        with torch.no_grad():
            merged.logit_scale.copy_(self.parameters["scale"])
        return merged  # type: ignore[no-any-return]


def _blocks(rows: Rows, size: int = 256) -> list[Rows]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]

"""A plain CLIP run by NumPy: for a few queries in a new process, where importing torch would take longest of all."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import DamagedFile, MissingDependency
from bitfuse.features.clip import CheckpointBackbone
from bitfuse.features.pixels import pixel_values, plain

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[np.float32]
_EPS = 1e-5


def _quick_gelu(x: Array) -> Array:
    return np.asarray(x / (1 + np.exp(-1.702 * x)), np.float32)


def _gelu(x: Array) -> Array:
    from scipy.special import erf

    return np.asarray(x * (0.5 + 0.5 * erf(x * math.sqrt(0.5))), np.float32)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"quick_gelu": _quick_gelu, "gelu": _gelu}


class LightCLIP(CheckpointBackbone):
    """The features of `CLIPBackbone` on the same checkpoint, to about 1e-5, computed in NumPy one input at a time.

    It needs neither torch nor `transformers`, only `tokenizers`, and is ready in a tenth of the time; for more than
    a few dozen inputs `CLIPBackbone` is faster. `runs` says which checkpoints it takes.

    Args:
        name, revision: as for `CheckpointBackbone`.

    Raises:
        MissingDependency: tokenizers is not installed.
    """

    def __init__(self, name: str, *, revision: str | None = None) -> None:
        if importlib.util.find_spec("tokenizers") is None:
            raise MissingDependency("tokenizers", "clip", f"backbone {name!r}")
        super().__init__(name, revision=revision)

    def runs(self) -> bool:
        """Whether this checkpoint is what is written here: CLIP itself, in safetensors, with its own preprocessing."""
        config, folder = self.checkpoint.config, self.checkpoint.directory
        if config.get("model_type") != "clip" or not self.checkpoint.safe or len(self.checkpoint.weights) > 1:
            return False
        if not (folder / "tokenizer.json").is_file() or not (folder / "preprocessor_config.json").is_file():
            return False
        towers = [config.get("text_config", {}), config.get("vision_config", {})]
        return (
            plain(_json(folder / "preprocessor_config.json"))
            and all(tower.get("hidden_act", "quick_gelu") in _ACTIVATIONS for tower in towers)
            and all(tower.get("layer_norm_eps", _EPS) == _EPS for tower in towers)
        )

    def _load(self) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        folder = self.checkpoint.directory
        try:
            self._tensors = {k: v.astype(np.float32) for k, v in load_file(self.checkpoint.weights[0]).items()}
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except (OSError, SafetensorError) as error:
            raise DamagedFile(f"{folder} cannot be loaded: {error}; fetch {self.name!r} again") from error
        # What a configuration leaves out equals the defaults of CLIP in transformers: those of ViT-B/32.
        text = {"num_hidden_layers": 12, "num_attention_heads": 8, "eos_token_id": 49407, "max_position_embeddings": 77}
        vision = {"num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32}
        self._text_config = text | self.checkpoint.config.get("text_config", {})
        self._vision_config = vision | self.checkpoint.config.get("vision_config", {})
        self._pixels = _json(folder / "preprocessor_config.json")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self._text_config["max_position_embeddings"])

    def _batch_size(self, view: str) -> int:
        return 64

    def _encode_batch(self, view: str, batch: list[Any]) -> Array:
        encode: Callable[[Any], Array] = self._image if view == "image" else self._text
        try:
            return np.vstack([encode(given) for given in batch])
        except (ValueError, IndexError) as error:
            raise DamagedFile(
                f"{self.checkpoint.directory}: tensors are of another shape than config.json says ({error}); "
                f"fetch {self.name!r} again"
            ) from error

    def _image(self, image: Image) -> Array:
        # (3, s, s) -> (patches, 3 p p), patch by patch, row by row
        pixels, p = pixel_values([image], self._pixels)[0], int(self._vision_config["patch_size"])
        grid = pixels.shape[1] // p
        patches = pixels.reshape(3, grid, p, grid, p).transpose(1, 3, 0, 2, 4).reshape(grid * grid, -1)
        kernel = self._tensor("vision_model.embeddings.patch_embedding.weight")
        first = self._tensor("vision_model.embeddings.class_embedding")
        x = np.vstack([first, patches @ kernel.reshape(len(kernel), -1).T])
        x = self._norm(
            x + self._tensor("vision_model.embeddings.position_embedding.weight"), "vision_model.pre_layrnorm"
        )
        x = self._layers(x, "vision_model", self._vision_config, causal=False)
        return self._norm(x[:1], "vision_model.post_layernorm") @ self._tensor("visual_projection.weight").T

    def _text(self, text: str) -> Array:
        ids = self._tokenizer.encode(text).ids
        words = self._tensor("text_model.embeddings.token_embedding.weight")
        x = words[ids] + self._tensor("text_model.embeddings.position_embedding.weight")[: len(ids)]
        x = self._layers(x, "text_model", self._text_config, causal=True)
        # An end token of 2 marks the old configurations, whose number is wrong: there the highest token is the end.
        end = self._text_config["eos_token_id"]
        at = int(np.argmax(ids)) if end == 2 else ids.index(end)
        return self._norm(x[at : at + 1], "text_model.final_layer_norm") @ self._tensor("text_projection.weight").T

    def _layers(self, x: Array, tower: str, config: dict[str, Any], *, causal: bool) -> Array:
        """The transformer: x (n, d) plus attention, plus a perceptron, each on normalised x, layer after layer."""
        n, heads = len(x), int(config["num_attention_heads"])
        later = np.triu(np.full((n, n), -np.inf, np.float32), 1) if causal else np.zeros((n, n), np.float32)
        activation = _ACTIVATIONS[config.get("hidden_act", "quick_gelu")]
        for i in range(int(config["num_hidden_layers"])):
            layer = f"{tower}.encoder.layers.{i}"
            y = self._norm(x, f"{layer}.layer_norm1")
            q, k, v = (
                self._linear(y, f"{layer}.self_attn.{which}_proj").reshape(n, heads, -1).transpose(1, 0, 2)
                for which in "qkv"
            )  # (heads, n, d / heads) each
            scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(q.shape[2])) + later
            scores = np.exp(scores - scores.max(axis=2, keepdims=True))
            mixed = (scores / scores.sum(axis=2, keepdims=True)) @ v
            x = x + self._linear(mixed.transpose(1, 0, 2).reshape(n, -1), f"{layer}.self_attn.out_proj")
            y = self._linear(self._norm(x, f"{layer}.layer_norm2"), f"{layer}.mlp.fc1")
            x = x + self._linear(activation(y), f"{layer}.mlp.fc2")
        return x

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + np.float32(_EPS))
        return x * self._tensor(f"{name}.weight") + self._tensor(f"{name}.bias")

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._tensor(f"{name}.weight").T + self._tensor(f"{name}.bias")

    def _tensor(self, name: str) -> Array:
        if name not in self._tensors:
            raise DamagedFile(f"{self.checkpoint.weights[0]} lacks the tensor {name}; fetch {self.name!r} again")
        return self._tensors[name]


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DamagedFile(f"{path} cannot be read as JSON ({error}); fetch the checkpoint again") from error

"""The CLIP family as backbones: CLIP, SigLIP, SigLIP 2 and kin, from a hub id, a directory or the shipped pocket."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import DamagedFile, InputError, MissingDependency, UnknownName
from bitfuse.features.checkpoints import find
from bitfuse.features.prompts import GENERIC

if TYPE_CHECKING:
    from PIL.Image import Image

POCKET_NOTE = "the pocket backbone knows only the generated shapes world; what it says of photographs means little"


class CheckpointBackbone(ABC):
    """A backbone of images and texts in one space, given by a checkpoint; how it is run is left to the subclass.

    Args:
        name: `"pocket"`, a directory in the layout of `transformers`, or a hub id.
        revision: commit, tag or branch of a hub id; None takes the pinned commit, or `main`.

    Attributes:
        note: what a user should be told about this backbone; empty where there is nothing to say.

    Raises:
        UnknownName, InputError, DamagedFile: as `bitfuse.features.checkpoints.find` says; also InputError for a
            checkpoint of another kind of model.
    """

    views: tuple[str, ...] = ("image", "text")
    aligned = True

    def __init__(self, name: str, *, revision: str | None = None) -> None:
        self.checkpoint = find(name, revision=revision)
        self.name = self.checkpoint.name
        self.note = POCKET_NOTE if name == "pocket" else ""
        self.prompts = _pocket_prompts() if name == "pocket" else GENERIC
        self.width("image")
        self._lock = threading.Lock()
        self._ready = False

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
        if view not in self.views:
            raise UnknownName("view", view, self.views)
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

    def encode(self, view: str, inputs: Sequence[Any], *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Encode RGB images or texts; see `Backbone.encode`. A text longer than the model takes is cut at its end.

        Raises:
            InputError: an image that is not RGB, or a blank text.
            DamagedFile: weights that do not fit their configuration, or that give values that are not finite.
        """
        features = np.empty((len(inputs), self.width(view)), np.float32)
        self._check(view, inputs)
        if not len(inputs):
            return features
        with self._lock:
            if not self._ready:
                self._load()
                self._ready = True
        size = batch_size or self._batch_size(view)
        # A batch of texts is as slow as its longest one, so like lengths go together.
        order = (
            list(range(len(inputs))) if view == "image" else sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
        )
        for at in range(0, len(order), size):
            rows = order[at : at + size]
            batch = [inputs[i] for i in rows]
            found = self._images(batch) if view == "image" else self._texts(batch)
            if found.shape != (len(rows), features.shape[1]):
                raise DamagedFile(f"{self.name!r} gave {view} rows {found.shape}, not of width {self.width(view)}")
            features[rows] = found
        if not np.isfinite(features).all():
            raise DamagedFile(f"{self.name!r} gave {view} features that are not finite; fetch the checkpoint again")
        return features

    @staticmethod
    def _check(view: str, inputs: Sequence[Any]) -> None:
        for i, given in enumerate(inputs):
            if view == "text" and not (isinstance(given, str) and given.strip()):
                raise InputError(f"text {i} is blank or no text: {given!r}; leave such rows out, they lack the view")
            if view == "image" and getattr(given, "mode", None) != "RGB":
                raise InputError(f"image {i} is not an RGB picture: {given!r}; open it with features.images.open_image")

    @abstractmethod
    def _load(self) -> None: ...

    @abstractmethod
    def _batch_size(self, view: str) -> int: ...

    @abstractmethod
    def _images(self, batch: list[Image]) -> NDArray[np.float32]: ...

    @abstractmethod
    def _texts(self, batch: list[str]) -> NDArray[np.float32]: ...


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
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise MissingDependency(package, "clip", f"backbone {name!r}")
        super().__init__(name, revision=revision)
        self.device = device

    def _load(self) -> None:
        import torch
        from safetensors import SafetensorError

        transformers: Any = importlib.import_module("transformers")

        place = _device(self.device)
        half = place.type == "cuda"
        folder, local = str(self.checkpoint.directory), {"local_files_only": True, "trust_remote_code": False}
        try:
            with _quiet():
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
                self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **local)
                model, report = transformers.AutoModel.from_pretrained(
                    folder,
                    **local,
                    dtype=torch.float16 if half else torch.float32,
                    use_safetensors=self.checkpoint.safe,
                    weights_only=True,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DamagedFile(f"{folder} cannot be loaded: {reason}; fetch {self.name!r} again") from error
        unfit = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
        if unfit:
            raise DamagedFile(
                f"{folder}: {len(unfit)} tensor(s) are missing or of another shape than config.json says, for example "
                f"{min(unfit)}; fetch {self.name!r} again"
            )
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise InputError(f"{self.name!r} is a {type(model).__name__}, which does not encode both images and texts")
        self._model, self._place = model.eval().to(place), place
        self._max_tokens = min(self._tokenizer.model_max_length, model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts padded to the full length, whose padding takes part in attention.
        self._full_length = str(model.config.model_type).startswith("siglip")

    def _batch_size(self, view: str) -> int:
        on_cpu = self._place.type == "cpu"
        return (32 if on_cpu else 256) if view == "image" else (64 if on_cpu else 1024)

    def _images(self, batch: list[Image]) -> NDArray[np.float32]:
        return self._features("get_image_features", self._processor(images=batch, return_tensors="pt"))

    def _texts(self, batch: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(
            batch,
            truncation=True,
            max_length=self._max_tokens,
            padding="max_length" if self._full_length else "longest",
            return_attention_mask=not self._full_length,
            return_tensors="pt",
        )
        return self._features("get_text_features", tokens)

    def _features(self, method: str, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
        import torch

        dtype = self._model.dtype
        placed = {k: v.to(self._place, dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}
        with torch.inference_mode():
            found = getattr(self._model, method)(**placed).pooler_output
        return np.asarray(found.float().cpu().numpy(), np.float32)


def _device(name: str) -> Any:
    import torch

    try:
        place = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; give cpu, cuda, cuda:1 or mps") from error
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(place.type, True):
        raise InputError(f"device {name!r} is not available on this machine; give device='cpu'")
    return place


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar and reports of `transformers` while it loads: what matters in them is raised here."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _pocket_prompts() -> tuple[str, ...]:
    from bitfuse.data.shapes import prompts

    return prompts()

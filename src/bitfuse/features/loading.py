"""Models through `transformers`: loaded from a checkpoint's directory, checked, run. Code from the hub is never run."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import DamagedFile, InputError, MissingDependency
from bitfuse.features.checkpoints import Checkpoint

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_PARTS: dict[str, tuple[str, dict[str, str]]] = {
    "tokenizer": ("AutoTokenizer", {}),
    "images": ("AutoImageProcessor", {"backend": "pil"}),
    "sounds": ("AutoFeatureExtractor", {}),
}


def check_installed(purpose: str) -> None:
    """Raise `MissingDependency` where torch or transformers is not installed."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(package, "clip", purpose)


def load_part(checkpoint: Checkpoint, part: str) -> Any:
    """What makes tensors of inputs: the `"tokenizer"`, the processor of `"images"` or that of `"sounds"`."""
    name, options = _PARTS[part]
    with _loading(checkpoint):
        transformers: Any = importlib.import_module("transformers")
        return getattr(transformers, name).from_pretrained(str(checkpoint.directory), **_LOCAL, **options)


def load_model(checkpoint: Checkpoint, device: str, *, unused: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """The model in evaluation mode, and the torch device it is on.

    Weights are safetensors, or pickled tensors read with `weights_only=True`; in float32 on a CPU, in half precision
    on a GPU.

    Args:
        checkpoint: with its directory.
        device: as torch names it.
        unused: beginnings of tensor names that may be missing, as nothing that is read of the model depends on them.

    Raises:
        DamagedFile: the checkpoint cannot be loaded, or lacks tensors, or has some of another shape.
        InputError: no such device.
    """
    import torch

    transformers: Any = importlib.import_module("transformers")

    place = device_of(device)
    with _loading(checkpoint):
        model, report = transformers.AutoModel.from_pretrained(
            str(checkpoint.directory),
            **_LOCAL,
            dtype=torch.float16 if place.type == "cuda" else torch.float32,
            use_safetensors=checkpoint.safe,
            weights_only=True,
            output_loading_info=True,
        )
    keys = [str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind]]
    unfit = [key for key in keys if not key.startswith(unused)]
    if unfit:
        raise DamagedFile(
            f"{checkpoint.directory}: {len(unfit)} tensor(s) are missing or of another shape than config.json says, "
            f"for example {min(unfit)}; fetch {checkpoint.name!r} again"
        )
    return model.eval().to(place), place


def run(model: Any, inputs: Mapping[str, Any], forward: Callable[[dict[str, Any]], Any]) -> NDArray[np.float32]:
    """Inputs moved to where the model is, `forward` of them without gradients, and the result as float32."""
    import torch

    like = next(model.parameters())
    placed = {k: v.to(like.device, like.dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}
    with torch.inference_mode():
        return np.asarray(forward(placed).float().cpu().numpy(), np.float32)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports of `transformers`, which come back afterwards."""
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


@contextmanager
def _loading(checkpoint: Checkpoint) -> Iterator[None]:
    """Quiet; what the reports would say is raised, as a damaged file."""
    from safetensors import SafetensorError

    try:
        with quiet():
            yield
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        where = checkpoint.directory
        raise DamagedFile(f"{where} cannot be loaded: {reason}; fetch {checkpoint.name!r} again") from error


def device_of(name: str) -> Any:
    """The torch device of this name.

    Raises:
        InputError: no such device, or not on this machine.
    """
    import torch

    try:
        place = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}; give cpu, cuda, cuda:1 or mps") from error
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(place.type, True):
        raise InputError(f"device {name!r} is not available on this machine; give device='cpu'")
    return place

"""A model and its backbone as one ONNX graph per modality: from pixels, or tokens, to packed codes."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bitfuse.errors import InputError, MissingDependency
from bitfuse.hashers import _persist
from bitfuse.hashers._deep import FusedNetwork
from bitfuse.hashers.base import Hasher
from bitfuse.hashers.itq import ITQ
from bitfuse.hashers.lsh import LSH
from bitfuse.hashers.ucmfh import UCMFH
from bitfuse.pipeline.coding import model_digest, recorded_backbone

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
METHODS = ("CLIPMH", "DMMVH", "ITQ", "LSH", "UCMFH")
OPSET = 18
_INPUTS = {"image": ["pixel_values"], "text": ["input_ids", "attention_mask"]}
_LARGEST = 1_900_000_000  # bytes; an ONNX file ends at 2 GiB

Head = Callable[["Tensor"], "Tensor"]
"""Features of one view (n, d) -> values before the sign (n, b)."""


def export(
    model: str | os.PathLike[str], out: str | os.PathLike[str], *, backbone: str | None = None, int8: bool = True
) -> dict[str, Any]:
    """Write `image.onnx`, `text.onnx`, with `int8` also `image.int8.onnx`, `text.int8.onnx`, and `onnx.json`.

    A graph gives the code of its view alone: `code`, (n, ceil(n_bits / 8)) uint8, packed as `bitfuse.Codes`. It takes
    `pixel_values` (n, 3, s, s) float32, or `input_ids` and `attention_mask` (n, t) int64, as the checkpoint's own
    processor and tokenizer give them; their files are copied beside it. Bits equal those of the model wherever its
    value before the sign is not within 1e-5 of zero; the int8 graphs, whose backbone alone has 8-bit weights, differ in
    more (`benchmarks/onnx_speed.py`).

    Args:
        model: a directory that `fit` wrote, of one of `METHODS` on a backbone of plain CLIP.
        out: a new directory.
        backbone: its name, where the model does not record it.
        int8: whether to write the int8 graphs as well.

    Returns:
        The content of `onnx.json`.

    Raises:
        InputError: another method or kind of backbone, a model too large for one file, or `out` exists.
        CollectionError: another backbone than the model's.
        MissingDependency: onnx, onnxruntime, onnxscript or torch is not installed.
    """
    for package in ("onnx", "onnxruntime", "onnxscript", "torch"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependency(package, "onnx", "exporting to ONNX")
    from bitfuse.features.clip import CLIPBackbone

    source, target = Path(model), Path(out)
    if target.exists():
        raise InputError(f"{target} exists; name a new directory")
    hasher = _persist.load(source)
    if type(hasher).__name__ not in METHODS:
        raise InputError(f"{type(hasher).__name__} is not exported, only {', '.join(METHODS)} are")
    encoder = recorded_backbone(hasher.sources, backbone)
    if not isinstance(encoder, CLIPBackbone) or encoder.checkpoint.config.get("model_type") != "clip":
        raise InputError(f"backbone {encoder.name!r} is not exported, only those of plain CLIP are")
    views = [view for view in _INPUTS if view in hasher.widths]
    clip = encoder.trainable()
    if sum(p.numel() for p in clip.parameters()) * 4 > _LARGEST:
        raise InputError(f"backbone {encoder.name!r} is too large for one ONNX file of 2 GiB")
    card: dict[str, Any] = {
        "format": FORMAT, "kind": "onnx", "model": model_digest(source), "method": type(hasher).__name__,
        "n_bits": hasher.n_bits, "opset": OPSET, "graphs": {},
        "backbone": {view: dict(encoder.describe(view)) for view in views},
    }  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for view in views:
            _export_view(clip, head(hasher, view), view, hasher.n_bits, partial / f"{view}.onnx")
            files = {"fp32": f"{view}.onnx"}
            if int8:
                files["int8"] = f"{view}.int8.onnx"
                _quantise(partial / files["fp32"], partial / files["int8"])
            card["graphs"][view] = {"inputs": _INPUTS[view], "output": "code", "files": files}
        for file in sorted(encoder.checkpoint.directory.iterdir()):
            if file.name.startswith(("preprocessor", "processor", "tokenizer", "vocab", "merges", "special_tokens")):
                shutil.copyfile(file, partial / file.name)
        (partial / "onnx.json").write_text(json.dumps(card, indent=1))
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return card


def head(hasher: Hasher, view: str) -> Head:
    """What a fitted hasher makes of the features of one view alone, in torch."""
    import torch
    from torch.nn import functional

    state, widths = hasher._get("state"), hasher.widths

    def constant(array: Any) -> Tensor:
        return torch.from_numpy(np.asarray(array, np.float32).copy())

    def scaled(scaling: str) -> Head:
        mean = constant(state[f"mean.{view}"])

        def rows(x: Tensor) -> Tensor:
            x = functional.normalize(x, dim=1) if scaling in ("centred", "unit") else x
            return functional.normalize(x - mean, dim=1) if scaling == "centred" else x - mean

        return rows

    if isinstance(hasher, LSH):
        W = constant(state[f"W.{view}"])
        return lambda x: functional.normalize(x, dim=1) @ W
    if isinstance(hasher, ITQ):
        at = (
            0
            if hasher.aligned
            else sum(width for name, width in widths.items() if [*widths].index(name) < [*widths].index(view))
        )
        W, rows = constant(state["W"][at : at + widths[view]]), scaled("centred")
        return lambda x: rows(x) @ W
    if isinstance(hasher, UCMFH):
        return _ucmfh(hasher, view, scaled(hasher.scaling), constant)
    if isinstance(hasher, FusedNetwork):
        return _fused(hasher, view, scaled(hasher.scaling))
    raise InputError(f"{type(hasher).__name__} is not exported, only {', '.join(METHODS)} are")


def _ucmfh(hasher: UCMFH, view: str, rows: Head, constant: Callable[[Any], Tensor]) -> Head:
    from bitfuse.hashers import _train

    state = hasher._get("state")
    weights = {k: array for k, array in state.items() if k.startswith(("fusion.", "hash."))}
    network = _train.with_weights(lambda: hasher._network(hasher.widths), weights, "cpu")
    start = [constant(state[f"{k}.{view}"]) for k in ("start", "offset")] if f"start.{view}" in state else None

    def values(x: Tensor) -> Tensor:
        x = rows(x)
        change: Tensor = network({view: x}, [view])[1][view]
        return change if start is None else x @ start[0] + start[1] + change

    return values


def _fused(hasher: FusedNetwork, view: str, rows: Head) -> Head:
    import torch

    from bitfuse.hashers import _train
    from bitfuse.hashers._deep import _SIZES

    state, widths = hasher._get("state"), hasher.widths
    n, c = (int(size) for size in state[_SIZES])
    weights = {k: array for k, array in state.items() if k != _SIZES and not k.startswith("mean.")}
    network = _train.with_weights(lambda: hasher._network(widths, n, c), weights, "cpu")
    names = list(widths)
    here = names.index(view)
    before, after = sum(widths[k] for k in names[:here]), sum(widths[k] for k in names[here + 1 :])
    shown = torch.zeros(1, len(names))
    shown[0, here] = 1

    def values(x: Tensor) -> Tensor:
        x = torch.nn.functional.pad(rows(x), (before, after))
        z: Tensor = network(x, shown.expand(x.shape[0], -1))
        return z

    return values


def _graph(clip: Any, values: Head, view: str, n_bits: int) -> nn.Module:
    import torch
    from torch import nn

    class Graph(nn.Module):
        """Backbone, hasher, sign and packing."""

        places: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.clip = clip
            self.register_buffer("places", 2 ** torch.arange(7, -1, -1, dtype=torch.int32))

        def forward(self, *inputs: Tensor) -> Tensor:
            features = getattr(self.clip, f"get_{view}_features")(**dict(zip(_INPUTS[view], inputs))).pooler_output
            bits = (values(features) > 0).to(torch.int32)
            bits = nn.functional.pad(bits, (0, -n_bits % 8)).reshape(-1, -(-n_bits // 8), 8)
            return (bits * self.places).sum(dim=2).to(torch.uint8)

    return Graph().eval()


def _export_view(clip: Any, values: Head, view: str, n_bits: int, file: Path) -> None:
    import torch

    side = clip.config.vision_config.image_size
    if view == "image":
        given: tuple[Any, ...] = (torch.zeros(2, 3, side, side),)
        shapes: Any = (({0: torch.export.Dim("n")},),)
    else:
        ids = torch.full((2, 7), int(clip.config.text_config.eos_token_id))
        given = (ids, torch.ones_like(ids))
        most = clip.config.text_config.max_position_embeddings
        axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("t", min=2, max=most)}
        shapes = ((axes, axes),)
    attention = clip.config._attn_implementation
    clip.set_attn_implementation("eager")
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                _graph(clip, values, view, n_bits), given, str(file), dynamo=True, opset_version=OPSET,
                input_names=_INPUTS[view], output_names=["code"], dynamic_shapes=shapes, external_data=False,
            )  # fmt: skip
    finally:
        clip.set_attn_implementation(attention)


def _quantise(source: Path, target: Path) -> None:
    """Weights of the backbone's matrix products to 8 bits. The hasher keeps its own: every bit hangs on it."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    del graph.graph.value_info[:]  # shapes of the exporter that the quantiser takes amiss
    nodes = list(graph.graph.node)  # in the order of their computation
    last = next(i for i, node in enumerate(nodes) if any(name.endswith("projection.weight") for name in node.input))
    kept = [node.name for node in nodes[last + 1 :]]
    with _quiet():
        quantize_dynamic(
            graph, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True,
            nodes_to_exclude=kept,
        )  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress, which goes to standard output, and its warnings of things that are its own."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)

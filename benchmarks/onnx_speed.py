"""Graphs in onnxruntime beside PyTorch on two cores: equal bits, flipped bits of int8, items a second.

    python benchmarks/onnx_speed.py [--items 1000] [--rounds 3] [--bits 64] [--cores 2] [--vit]
        [--methods itq ucmfh] [--out benchmarks/results/onnx_speed.json]

For each method and modality the prepared inputs of `--items` held-out scenes go, 32 images or 64 texts at a time,
through backbone and hasher: Bitfuse on PyTorch, the fp32 graph, the int8 graph. Rounds alternate; figures are medians.
With `--vit` the backbone is a ViT-B/32 CLIP with random weights (no download): its speed is that of the real one, its
bits say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import bitfuse as bf
from bitfuse.bench.facts import environment
from bitfuse.data.shapes import HELD_OUT_SEED, generate
from bitfuse.features.images import open_image
from bitfuse.pipeline.onnx import export, head


def random_vit(folder: Path) -> str:
    """A CLIP of the size of ViT-B/32 with pocket's tokenizer."""
    import shutil

    from transformers import CLIPConfig, CLIPModel

    pocket = Path(bf.__file__).parent / "features" / "pocket"
    config = CLIPConfig.from_pretrained(pocket)
    small = json.loads((pocket / "config.json").read_text())["text_config"]
    vocabulary = {k: small[k] for k in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**vocabulary, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 8, "max_position_embeddings": 77}  # fmt: skip
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
              "image_size": 224, "patch_size": 32}  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(pocket / name, folder / name)
    pixels = json.loads((pocket / "preprocessor_config.json").read_text())
    pixels |= {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    return str(folder)


def batches(encoder: Any, view: str, inputs: list[Any], size: int) -> list[dict[str, Any]]:
    return [dict(encoder.stage(view, inputs[at : at + size])) for at in range(0, len(inputs), size)]


def pictures(samples: Any) -> list[Any]:
    return [open_image(image) for image in samples.images]


def by_torch(encoder: Any, view: str, values: Any) -> Any:
    return lambda batch: values(torch.from_numpy(encoder.forward(view, batch))) > 0


def by_graph(session: Any, names: list[str]) -> Any:
    return lambda batch: session.run(None, {name: batch[name].numpy() for name in names})[0]


def fitted(method: str, n_bits: int, views: dict[str, Any], facts: dict[str, Any]) -> Any:
    options = {"aligned": True} if method == "itq" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bf.hasher(method, n_bits=n_bits, **options).fit(views, sources=facts)


def measured(
    encoder: Any, model: Any, graphs: Path, card: Any, view: str, given: list[Any], cores: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Of PyTorch and of each graph: items a second, and for a graph the bits that differ."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    prepared = batches(encoder, view, given, 32 if view == "image" else 64)
    z = model.project({view: np.concatenate([encoder.forward(view, batch) for batch in prepared])})
    runners: dict[str, Any] = {"torch": by_torch(encoder, view, head(model, view))}
    for kind, file in card["graphs"][view]["files"].items():
        session = onnxruntime.InferenceSession(graphs / file, options, ["CPUExecutionProvider"])
        runners[kind] = by_graph(session, card["graphs"][view]["inputs"])
    taken: dict[str, list[float]] = {kind: [] for kind in runners}
    found: dict[str, dict[str, float]] = {kind: {} for kind in runners}
    for number in range(rounds + 1):  # the first warms up
        for kind, one in runners.items():
            started = time.perf_counter()
            codes = [one(batch) for batch in prepared]
            if number:
                taken[kind].append(time.perf_counter() - started)
            elif kind != "torch":
                wrong = np.unpackbits(np.concatenate(codes), axis=1, count=model.n_bits) != (z > 0)
                found[kind] = {
                    "bits": wrong.size, "differ": int(wrong.sum()), "differ_share": float(wrong.mean()),
                    "differ_where_certain": int((wrong & (np.abs(z) >= 1e-5)).sum()),
                }  # fmt: skip
    base = statistics.median(taken["torch"])
    for kind, seconds in taken.items():
        median = statistics.median(seconds)
        found[kind] |= {"items_per_s": len(given) / median, "times_torch": base / median}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["itq", "ucmfh"])
    parser.add_argument("--vit", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.cores)
    started, results = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        encoder: Any = bf.backbone(random_vit(root / "vit") if asked.vit else "pocket")
        few = generate(200 if asked.vit else 2000, seed=5)
        samples = generate(asked.items, seed=HELD_OUT_SEED)
        views = {"image": encoder.encode("image", pictures(few)), "text": encoder.encode("text", list(few.texts or ()))}
        facts = {view: dict(encoder.describe(view)) for view in views}
        inputs = {"image": pictures(samples), "text": sorted(map(str, samples.texts or ()), key=len)}
        for method in asked.methods:
            model = fitted(method, min(asked.bits, 50) if asked.vit else asked.bits, views, facts)
            model.save(root / method)
            card = export(root / method, root / f"{method}-graphs")
            for view, given in inputs.items():
                found = measured(
                    encoder, model, root / f"{method}-graphs", card, view, given, asked.cores, asked.rounds
                )
                for kind, figures in found.items():
                    results.append({"method": method, "view": view, "kind": kind, **figures})
                    print(json.dumps(results[-1]), flush=True)
    if asked.out:
        seconds = {"all": time.perf_counter() - started}
        content = {
            **environment(asked.cores, seconds), "onnxruntime": onnxruntime.__version__, "items": asked.items,
            "rounds": asked.rounds, "backbone": "ViT-B/32, random weights" if asked.vit else "pocket",
            "results": results,
        }  # fmt: skip
        asked.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

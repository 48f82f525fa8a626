"""Graphs in onnxruntime beside PyTorch on two cores: equal bits, flipped bits of int8, items a second.

    python benchmarks/onnx_speed.py [--items 1000] [--rounds 3] [--bits 64] [--cores 2] [--vit]

For each modality the prepared inputs of `--items` held-out scenes go, 32 images or 64 texts at a time, through backbone
and hasher: Bitfuse on PyTorch, the fp32 graph, the int8 graph. Rounds alternate; figures are medians. With `--vit` the
backbone is a ViT-B/32 CLIP with random weights (no download): its speed is that of the real one, its bits say little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import bitfuse as bf
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


def by_torch(encoder: Any, view: str, values: Any) -> Any:
    return lambda batch: values(torch.from_numpy(encoder.forward(view, batch))) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--vit", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.cores)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        name = random_vit(root / "vit") if asked.vit else "pocket"
        encoder: Any = bf.backbone(name)
        few = generate(200 if asked.vit else 2000, seed=5)
        assert few.images is not None
        assert few.texts is not None
        views = {"image": encoder.encode("image", [open_image(i) for i in few.images]),
                 "text": encoder.encode("text", list(few.texts))}  # fmt: skip
        facts = {view: dict(encoder.describe(view)) for view in views}
        model = bf.hasher("itq", n_bits=min(asked.bits, 50 if asked.vit else asked.bits), aligned=True)
        model.fit(views, sources=facts).save(root / "model")
        card = export(root / "model", root / "graphs")
        n = asked.items
        samples = generate(n, seed=HELD_OUT_SEED)
        assert samples.images is not None
        assert samples.texts is not None
        inputs = {"image": [open_image(i) for i in samples.images], "text": sorted(map(str, samples.texts), key=len)}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = asked.cores
        for view, given in inputs.items():
            prepared = batches(encoder, view, given, 32 if view == "image" else 64)
            z = model.project({view: np.concatenate([encoder.forward(view, batch) for batch in prepared])})
            runners: dict[str, Any] = {"torch": by_torch(encoder, view, head(model, view))}
            for kind, file in card["graphs"][view]["files"].items():
                session = onnxruntime.InferenceSession(root / "graphs" / file, options, ["CPUExecutionProvider"])
                names = card["graphs"][view]["inputs"]
                runners[kind] = lambda batch, s=session, names=names: s.run(None, {k: batch[k].numpy() for k in names})[
                    0
                ]
            taken: dict[str, list[float]] = {kind: [] for kind in runners}
            for number in range(asked.rounds + 1):
                for kind, one in runners.items():
                    started = time.perf_counter()
                    found = [one(batch) for batch in prepared]
                    if number:
                        taken[kind].append(time.perf_counter() - started)
                    elif kind != "torch":
                        bits = np.unpackbits(np.concatenate(found), axis=1, count=model.n_bits)
                        wrong = bits != (z > 0)
                        print(
                            f"{view} {kind}: {int(wrong.sum())} of {wrong.size} bits differ ({wrong.mean():.3%}), "
                            f"{int((wrong & (np.abs(z) >= 1e-5)).sum())} of them where |z| >= 1e-5"
                        )
            base = statistics.median(taken["torch"])
            for kind, seconds in taken.items():
                median = statistics.median(seconds)
                print(f"{view} {kind}: {n / median:.0f} a second, {base / median:.2f} x PyTorch")


if __name__ == "__main__":
    main()

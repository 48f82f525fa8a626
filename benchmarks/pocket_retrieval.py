"""How well the pocket CLIP finds the caption of a held-out scene, and the scene of a caption.

    python benchmarks/pocket_retrieval.py

The claim: image to text R@1 >= 0.75 among 500 held-out scenes with distinct captions (chance: 0.002). Writes
results/pocket_retrieval.json beside itself; with `--json` it prints the figures and writes nothing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
from pathlib import Path

import numpy as np
from PIL import Image

from bitfuse.data.scenes import Scene, scene
from bitfuse.data.shapes import HELD_OUT_SEED, TRAINING_SEED, generate
from bitfuse.features.clip import CLIPBackbone

BATCH = 256


def held_out(n: int) -> list[int]:
    """Numbers of the first n held-out scenes whose captions differ from one another."""
    seen: dict[str, int] = {}
    item = 0
    while len(seen) < n:
        seen.setdefault(scene(HELD_OUT_SEED, item).caption, item)
        item += 1
    return list(seen.values())


def shown(of: Scene) -> tuple[object, ...]:
    """What the picture of a scene depends on: two scenes that agree in it look alike."""
    return (of.background, frozenset(of.things))


def ranks(similarity: np.ndarray) -> np.ndarray:
    """Place (from 0) of the right column in each row; a tie with a wrong one counts against the model."""
    right = np.diag(similarity)[:, None]
    return (similarity >= right).sum(axis=1) - 1


def measure(model: str, n: int, steps: int, seed: int) -> dict[str, float]:
    """The figures of a checkpoint that was trained for `steps` steps from this seed."""
    encoder = CLIPBackbone(model)
    items = held_out(n)
    samples = generate(items[-1] + 1, seed=HELD_OUT_SEED).take(items)
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in samples.images]
    images, texts = encoder.encode("image", pictures), encoder.encode("text", list(samples.texts))
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    to_text, to_image = ranks(images @ texts.T), ranks(texts @ images.T)
    trained_on = {shown(scene(TRAINING_SEED + seed, item)) for item in range(steps * BATCH)}
    met = np.array([shown(scene(HELD_OUT_SEED, item)) in trained_on for item in items])
    figures = {f"image_to_text_r{k}": float((to_text < k).mean()) for k in (1, 5, 10)}
    figures |= {f"text_to_image_r{k}": float((to_image < k).mean()) for k in (1, 5, 10)}
    return {
        **figures,
        "image_to_text_r1_unmet": float((to_text[~met] < 1).mean()),
        "scenes": n,
        "met": int(met.sum()),
        "parameters": sum(p.numel() for p in encoder._model.parameters()),
    }


def environment() -> dict[str, str | int | None]:
    """Where the figures were measured."""
    import torch
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="pocket")
    arguments.add_argument("--scenes", type=int, default=500)
    arguments.add_argument("--steps", type=int, default=500, help="steps of its training: which scenes it has met")
    arguments.add_argument("--seed", type=int, default=0, help="seed of its training")
    arguments.add_argument("--json", action="store_true", help="print the figures as JSON and write no file")
    given = arguments.parse_args()
    figures = measure(given.model, given.scenes, given.steps, given.seed)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:24s} {value:.3f}" if isinstance(value, float) else f"{name:24s} {value:,}")
        print("bar: image_to_text_r1 >= 0.75:", "met" if figures["image_to_text_r1"] >= 0.75 else "NOT met")
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        (results / "pocket_retrieval.json").write_text(
            json.dumps({"figures": figures, "environment": environment()}, indent=2) + "\n"
        )

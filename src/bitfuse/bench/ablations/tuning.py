"""Ablation (d): does it pay to tune the backbone before hashing?"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from bitfuse.bench.ablations._features import cosine, encoded_by, paired
from bitfuse.bench.ablations._findings import SMALL, Findings, asked, fitted, quietly, setting
from bitfuse.bench.sections import Section
from bitfuse.data.base import Dataset
from bitfuse.features import backbone as load
from bitfuse.hashers import hasher

SIZES = {"n_train": 600, "n_query": 300, "n_gallery": 1000}
BEFORE, KNOWN = "as it was", "as it was, in the style it knows"
METHODS: dict[str, Literal["adapter", "lora"]] = {"adapter": "adapter", "LoRA": "lora"}
R1, FLOAT = "R@1 image→text", "float"


def run(
    *,
    data: Dataset | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    quick: bool = False,
    n_bits: int = 64,
    backbone: str = "pocket",
    style: str = "outline",
    epochs: int = 6,
) -> Section:
    """Tune a CLIP on the training pairs, encode everything anew, and fit ITQ and CLIPMH on that.

    Args:
        data: with pictures, texts and labels; None is the shapes world in another style.
        seeds: of tuning and of the methods.
        quick: a trial on small data: one seed, one epoch, 16 bits.
        n_bits: code length.
        backbone: a CLIP.
        style: how the scenes are drawn where `data` is None.
        epochs: of tuning, at most.

    Raises:
        InputError: data without pictures or texts, or without labels.
    """
    from bitfuse.pipeline.datasets import dataset
    from bitfuse.tune.run import tune

    changes: dict[str, Any] = {"epochs": 5} if quick else {}
    seeds = seeds[:1] if quick else seeds
    n_bits, epochs = (16, 1) if quick else (n_bits, epochs)
    sizes = SMALL if quick else SIZES
    drawn = data is None
    if data is None:
        data = dataset("shapes", style=style, backbone=backbone, **sizes)
    found = Findings()

    def judge(row: str, encoded: Dataset, seed: int) -> None:
        scores = {R1: paired(encoded.query), FLOAT: cosine(encoded)}
        for name in ("itq", "clipmh"):
            more = changes if name == "clipmh" else {}
            model = fitted(hasher(name, n_bits=n_bits, seed=seed, **more), encoded.train)
            shown = "ITQ" if name == "itq" else "CLIPMH"
            scores |= {f"{shown}, {m}": v for m, v in asked(model, encoded.query, encoded.gallery).items()}
        found.add(row, scores)

    untouched = encoded_by(load(backbone), data)
    for seed in seeds:
        judge(BEFORE, untouched, seed)
        if drawn:
            judge(KNOWN, dataset("shapes", backbone=backbone, **sizes), seed)
        for row, method in METHODS.items():
            with TemporaryDirectory() as folder, quietly():
                tune(data.train, backbone, Path(folder) / "tuned", method=method, epochs=epochs, seed=seed)
                judge(row, encoded_by(load(str(Path(folder) / "tuned")), data, cache=False), seed)
    columns = list(found.rows[BEFORE])
    table = found.table(f"With and without tuning of {backbone}, {n_bits} bits: mAP", "backbone", columns)
    about = (
        f" The scenes are drawn in the style {style!r}, which the pocket backbone has never seen; {KNOWN!r} has the "
        "same scenes as it was trained to see them, as a ceiling."
        if drawn
        else ""
    )
    varied = (
        "Varied: the backbone. The adapter is a linear map behind both projections, LoRA (rank 8) goes into both "
        "towers; both are trained by the contrastive loss on the pairs of the training part, without labels, at most "
        f"{epochs} epochs, stopped by a tenth of those pairs, and merged. Then everything is encoded anew.{about}"
    )
    rows = [BEFORE, *METHODS]
    verdicts = " ".join(found.verdict(c, rows) for c in columns if c in (R1, FLOAT) or "both" in c or "image" in c)
    text = "\n\n".join([varied, setting(data, seeds, f"{n_bits} bits"), verdicts])
    return Section("Does tuning the backbone pay?", text, table, numbers=found.numbers())

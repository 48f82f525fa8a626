"""`tune`: a CLIP backbone and one's own pairs in, an ordinary checkpoint directory out."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import numpy as np

from bitfuse.data.base import Samples
from bitfuse.errors import ConvergenceWarning, InputError, UnknownName
from bitfuse.features.checkpoints import PIXELS, WORDS
from bitfuse.features.loading import quiet

Method = Literal["adapter", "lora"]
METHODS: tuple[str, ...] = ("adapter", "lora")
RATES: Mapping[str, float] = {"adapter": 1e-3, "lora": 1e-3}
RECORD = "tuning.json"


@dataclass(frozen=True)
class Tuned:
    """What came of tuning.

    Attributes:
        path: of the checkpoint.
        method, backbone: as asked for.
        pairs, held_out: pairs that were learned from, and that were judged by.
        epochs, best_epoch: run, and kept; a `best_epoch` of 0 keeps the weights as they were.
        losses, validation: contrastive loss by epoch, of the training batches and of the held-out pairs;
            `validation` begins with the loss before the first epoch.
        before, after: R@1 among the held-out pairs, both ways, under the names of `contrastive.found`.
        skipped: (id, reason) of samples that were no usable pair.
    """

    path: str
    method: str
    backbone: str
    pairs: int
    held_out: int
    epochs: int
    best_epoch: int
    losses: list[float]
    validation: list[float]
    before: dict[str, float]
    after: dict[str, float]
    skipped: list[tuple[str, str]]


def tune(
    samples: Samples,
    backbone: str,
    out: str | Path,
    *,
    method: Method = "lora",
    rank: int = 8,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float | None = None,
    share: float = 0.1,
    patience: int = 2,
    seed: int = 0,
    device: str = "cpu",
) -> Tuned:
    """Tune a CLIP on pairs of picture and text, and save it as an ordinary checkpoint that `bf.backbone(out)` loads.

    The pairs of a batch are told apart by the contrastive loss of CLIP. Some pairs, by hash of their ids, are held
    out; the epoch with the lowest loss on them is kept, and the weights as they were if none is lower. The directory
    appears whole or not at all.

    Args:
        samples: with images and texts; rows without one of them are skipped.
        backbone: `"pocket"`, a directory or a hub id of a CLIP.
        out: directory to make; must not exist.
        method: `"lora"` changes both towers, `"adapter"` only the last linear layer of each.
        rank: of LoRA's additions.
        epochs: at most.
        batch_size: pairs a step, about; more of them make the task harder, and better.
        learning_rate: of Adam; None is 1e-3.
        share: of the pairs, held out.
        patience: epochs without a lower loss on the held-out pairs before it stops.
        seed: of weights and batches; the same seed, machine and number of threads give the same checkpoint.
        device: where to compute, as torch names it.

    Returns:
        What came of it; also written into `tuning.json` there.

    Raises:
        InputError: too few pairs, numbers out of range, `out` exists, or a model that is not a plain CLIP.
        UnknownName: no such method.
        MissingDependency: `peft` is not installed (extra `tune`; LoRA only).

    Warns:
        ConvergenceWarning: no epoch was better than the weights as they were.
    """
    if method not in METHODS:
        raise UnknownName("method of tuning", method, METHODS)
    if rank < 1:
        raise InputError(f"rank must be at least 1, got {rank}")
    target = Path(out)
    if target.exists():
        raise InputError(f"{target} exists; name a directory that does not, or remove it")

    import torch

    from bitfuse.features.clip import CLIPBackbone
    from bitfuse.hashers import _train
    from bitfuse.tune import contrastive
    from bitfuse.tune.methods import Adapter, LoRA, Rows

    rate = RATES[method] if learning_rate is None else learning_rate
    schedule = _train.Schedule(epochs, batch_size, rate, patience)
    pairs = contrastive.pairs_of(samples, share)
    encoder = CLIPBackbone(backbone, device=device)
    model = encoder.trainable()
    rng = np.random.default_rng(seed)
    held = pairs.held[: contrastive.MOST_JUDGES]

    with _train.seeded(seed, device):
        tuning = (LoRA if method == "lora" else Adapter)(encoder, model, pairs, rank=rank)

        def loss(rows: Rows) -> torch.Tensor:
            images, texts = tuning.encode(rows)
            scale = tuning.parameters["scale"].clamp(max=float(np.log(100.0))).exp()
            return contrastive.contrastive(images, texts, scale, contrastive.same_text(pairs.words(rows)))

        def judge() -> tuple[float, dict[str, float]]:
            with torch.no_grad():
                parts = [tuning.encode(part) for part in np.array_split(held, -(-len(held) // batch_size))]
                images, texts = (torch.cat(side) for side in zip(*parts))
                same = contrastive.same_text(pairs.words(held))
                scale = tuning.parameters["scale"].clamp(max=float(np.log(100.0))).exp()
                value = float(contrastive.contrastive(images, texts, scale, same))
                return value, contrastive.found(images, texts, same)

        first, before = judge()
        untouched = {k: v.detach().clone() for k, v in tuning.parameters.items()}
        log = _train.train(tuning.parameters, loss, pairs.train, schedule, rng, lambda: judge()[0])
        if min(log["validation"]) >= first:
            tuning.parameters.load_state_dict(untouched)
            log["best_epoch"] = 0
            warnings.warn(
                f"no epoch was better than the weights as they were on {len(held)} held-out pairs (loss {first:.3f}); "
                "the checkpoint equals the backbone; give more pairs or a smaller learning_rate",
                ConvergenceWarning,
                stacklevel=2,
            )
        _, after = judge()
        merged = tuning.merge()
    report = Tuned(
        path=str(target),
        method=method,
        backbone=encoder.name,
        pairs=len(pairs.train),
        held_out=len(held),
        epochs=log["epochs"],
        best_epoch=log["best_epoch"],
        losses=log["losses"],
        validation=[first, *log["validation"]],
        before=before,
        after=after,
        skipped=pairs.skipped,
    )
    given = {"rank": rank, "batch_size": batch_size, "learning_rate": rate, "share": share, "seed": seed}
    _save(merged, encoder, target, {**asdict(report), **given, "weights_before": encoder.checkpoint.weights_hash()})
    return report


def _save(model: Any, encoder: Any, target: Path, record: dict[str, Any]) -> None:
    """Weights in float32, the tokenizer and preprocessing of the backbone, and the record; renamed when whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        with quiet():
            model.float().cpu().save_pretrained(temporary)
        source = encoder.checkpoint.directory
        for name in (*PIXELS, *WORDS):
            if (source / name).is_file():
                shutil.copyfile(source / name, temporary / name)
        (temporary / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        temporary.chmod(0o755)  # both were made for the owner alone
        for file in temporary.glob("*.safetensors"):
            file.chmod(0o644)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

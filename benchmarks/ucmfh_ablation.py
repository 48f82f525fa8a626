"""What each part of UCMFH is worth, from image to text and from text to image, on real features and on shapes.

    python benchmarks/ucmfh_ablation.py [--data DIR] [--sets hm shapes wikipedia] [--seeds N] [--bits N] [--out FILE]

`hm` is FashionCLIP's features of 1,060 articles of clothing, split as `hm_fashionclip.py` (a) does: 200 queries, the
training set is the gallery. `shapes` are 1,000 generated scenes to train on, 200 queries and 1,000 others to search
in, as the pocket backbone sees them. `wikipedia` are 2,173 training and 693 query pairs (Rasiwasia et al., 2010) by
the features from before CLIP, 128 words of SIFT and 10 topics, whose views have no space in common: what compares or
averages views as they are is left out. Mean of the seeds; mAP over the whole gallery (`strict`) and mAP@50
(`ucmfh2023`, without the dropped batches); every code of an image is made from the image alone. `--sets hm` may name
other features of the same rows, for example VGG and word vectors, by a `features.npz` of the same layout in `--data`.
Sets that are not on disk are left out and named. With --out (.json) those of other runs stay in the file.

Under the tables each claim with PASS or FAIL; the exit code is the number of claims that failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import bitfuse as bf
from bitfuse import metrics
from bitfuse.data.base import Dataset
from bitfuse.errors import BitfuseWarning

SETS = ["hm", "shapes", "wikipedia"]
COLUMNS = ("image→text", "text→image", "image→text @50", "text→image @50", "both")
FLOAT, ITQ, OURS = "float cosine, centred", "itq, aligned, from images", "ucmfh"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lsh": ("lsh", {}),
    ITQ: ("itq", {"aligned": True, "rotation_from": "image"}),
    "djsrh": ("djsrh", {}),
    "ucch": ("ucch", {}),
    OURS: ("ucmfh", {}),
    "ucmfh: the start alone (no hash loss)": ("ucmfh", {"hash_loss": 0.0, "epochs": 1}),
    "ucmfh: no fusion loss": ("ucmfh", {"fusion_loss": 0.0}),
    "ucmfh: no transformer": ("ucmfh", {"fusion": "none"}),
    "ucmfh: zeros for a missing view": ("ucmfh", {"missing": "zeros"}),
    "ucmfh: trained on pairs alone": ("ucmfh", {"single_views": False}),
    "ucmfh: positives are pairs alone": ("ucmfh", {"targets": 0.0}),
    "ucmfh: start from aligned itq": ("ucmfh", {"start": "aligned"}),
    "ucmfh: no start": ("ucmfh", {"start": "none"}),
    "ucmfh, published, 20 epochs": ("ucmfh", {"preset": "published", "epochs": 20}),
}

COMMON = {FLOAT, ITQ, "ucmfh: start from aligned itq", "ucmfh, published, 20 epochs"}  # compare views as they are

Part = tuple[dict[str, np.ndarray], np.ndarray]
Split = tuple[Part, Part, Part]


def clothes(folder: Path) -> Callable[[int], Split]:
    """Splits of the features of clothing by seed: train, query, gallery."""
    with np.load(folder / "features.npz") as file:
        views = {name: file[name] for name in ("image", "text")}
        labels = file["labels"][:, [str(n).startswith("product_type_name") for n in file["label_names"]]]
    labels = labels[:, labels.sum(axis=0) >= 15]

    def split(seed: int) -> Split:
        order = np.random.default_rng(seed).permutation(np.flatnonzero(labels.any(axis=1)))
        query, rest = (({v: x[rows] for v, x in views.items()}, labels[rows]) for rows in (order[:200], order[200:]))
        return rest, query, rest

    return split


def published(data: Dataset) -> Callable[[int], Split]:
    """The one split that a data set has; seeds change the methods alone."""
    parts = tuple((part.views, part.labels) for part in (data.train, data.query, data.gallery))
    return lambda seed: parts


def judged(model: Any, query: Part, gallery: Part) -> dict[str, float]:
    """The columns that a fitted method answers."""

    def codes(part: Part, view: str) -> bf.Codes:
        return model.encode({view: part[0][view]}, view if view in model.spaces else None)

    found = {}
    for asked, sought in (("image", "text"), ("text", "image")):
        pair = codes(query, asked), codes(gallery, sought), query[1], gallery[1]
        found[f"{asked}→{sought}"] = bf.score(*pair).map
        found[f"{asked}→{sought} @50"] = bf.score(*pair, protocol="ucmfh2023").map
    if "fused" in model.spaces:
        found["both"] = bf.score(model.encode(query[0]), model.encode(gallery[0]), query[1], gallery[1]).map
    return found


def cosines(train: Part, query: Part, gallery: Part) -> dict[str, float]:
    """mAP of the features themselves, each view at unit length and centred on its mean over the training rows."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def seen(part: Part, view: str) -> np.ndarray:
        return unit(unit(part[0][view]) - unit(train[0][view]).mean(axis=0))

    relevant = query[1].astype(int) @ gallery[1].T.astype(int) > 0
    found = {}
    for asked, sought in (("image", "text"), ("text", "image")):
        order = np.argsort(-seen(query, asked) @ seen(gallery, sought).T, axis=1, kind="stable")
        ranked = np.take_along_axis(relevant, order, axis=1)
        found[f"{asked}→{sought}"] = metrics.mean(metrics.average_precision_of_ranking(ranked))
        at_50 = metrics.average_precision_of_ranking(ranked, 50, "hits")
        found[f"{asked}→{sought} @50"] = metrics.mean(at_50, "zero")
    return found


def splits(name: str, folder: Path) -> Callable[[int], Split] | None:
    """Splits of a set by seed, or None where it is not on this disk."""
    if name == "shapes":
        return published(bf.dataset("shapes", n_train=1000, n_query=200, n_gallery=1000))
    path = folder / "features.npz" if name == "hm" else folder.parent / "wikipedia" / "wikiData.mat"
    if not path.is_file():
        return None
    return clothes(folder) if name == "hm" else published(bf.dataset(path))


def claims(name: str, scores: dict[str, dict[str, float]]) -> Iterator[tuple[str, float, float]]:
    for method in (OURS, "djsrh", "ucch"):
        yield f"{name}: {method} above lsh", scores[method][COLUMNS[0]], scores["lsh"][COLUMNS[0]]
    if name == "wikipedia":
        return
    for column in COLUMNS[:4]:
        yield f"{name}: ucmfh, {column}, at least aligned itq + .01", scores[OURS][column], scores[ITQ][column] + 0.01
    for column in COLUMNS[:2]:
        yield f"{name}: ucmfh, {column}, at least .97 of float", scores[OURS][column], 0.97 * scores[FLOAT][column]


def main() -> int:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data" / "hm-fashionclip")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--out", type=Path, help="also write the mean scores here")
    options = parser.parse_args()
    warnings.simplefilter("ignore", BitfuseWarning)
    console, failed = Console(width=130), 0
    kept = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for name in options.sets:
        split = splits(name, options.data)
        if split is None:
            console.print(f"{name} is not beside {options.data}: left out")
            continue
        scores: dict[str, dict[str, float]] = {}
        table = Table(
            "method", *COLUMNS, "seconds", title=f"{name}, {options.bits} bits, mean of {options.seeds} seeds"
        )
        for title in (FLOAT, *METHODS):
            if name == "wikipedia" and title in COMMON:
                continue
            start, of_seeds = time.perf_counter(), []
            for seed in range(options.seeds):
                train, query, gallery = split(seed)
                if title == FLOAT:
                    of_seeds.append(cosines(train, query, gallery))
                    continue
                method, parameters = METHODS[title]
                model = bf.hasher(method, n_bits=options.bits, seed=seed, **parameters).fit(train[0])
                of_seeds.append(judged(model, query, gallery))
            scores[title] = {column: float(np.mean([s[column] for s in of_seeds])) for column in of_seeds[0]}
            shown = [f"{scores[title][c]:.3f}" if c in scores[title] else "-" for c in COLUMNS]
            table.add_row(title, *shown, f"{(time.perf_counter() - start) / options.seeds:.1f}")
            console.log(title, *shown, style="dim")
        console.print(table)
        for sentence, value, least in claims(name, scores):
            failed += value < least
            console.print(f"{'PASS' if value >= least else 'FAIL'}  {sentence}: {value:.3f} (at least {least:.3f})")
        kept[name] = {"bits": options.bits, "seeds": options.seeds, "mAP": scores}
    if options.out:
        options.out.write_text(json.dumps(kept, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())

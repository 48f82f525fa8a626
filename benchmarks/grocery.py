"""Photographs of groceries through `bitfuse index` and `bitfuse search`, with the pocket backbone.

    python benchmarks/grocery.py [--data DIR] [--queries 200] [--out FILE.json]

972 phone photos of 42 kinds of products with the shop's descriptions. Every photo is an item of its own,
labels are not used; queries are photos, the photo itself is left out of its answers. Printed: precision@10 by kind,
by picture alone and by picture and text, beside chance (what a random order gives). The pocket backbone has seen
nothing but generated shapes, so this shows that the way of the data holds, not what a real backbone finds. The
exit code is 1 if the picture alone is not above chance.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import bitfuse as bf
from bitfuse.bench.facts import environment
from bitfuse.bench.histograms import usable_threads

K = 10


def main() -> int:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data" / "grocery")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not (options.data / "items.csv").is_file():
        print(f"{options.data} has no items.csv: skipped; name the folder of the set with --data")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder) / "shop"
        bitfuse = [sys.executable, "-m", "bitfuse"]
        table = options.data / "items.csv"
        subprocess.run([*bitfuse, "index", table, "--backbone", "pocket", "--out", shop], check=True)
        first = options.data / "images" / "Golden-Delicious_001.jpg"
        subprocess.run([*bitfuse, "search", shop, "--image", first, "-k", "5"], check=True)
        found = precision(shop, options.queries)
    print(f"precision@{K} by kind over {options.queries} photos:", ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
    print("the pocket backbone knows only generated shapes: these figures say nothing of a real one")
    if options.out:
        options.out.write_text(json.dumps({**found, **environment(usable_threads(), {})}, indent=1) + "\n")
    return int(found["picture"] <= found["chance"])


def precision(shop: Path, n_queries: int) -> dict[str, float]:
    """Share of the first ten that are of the query's kind, and what a random order would give."""
    with bf.Collection.open(shop) as collection:
        items = [hit.item for hit in collection.search(text="food", k=len(collection))]
        kinds = np.array([item["kind"] for item in items])
        asked = np.random.default_rng(0).permutation(len(items))[:n_queries]
        scores: dict[str, list[float]] = {"picture": [], "picture and text": [], "chance": []}
        for item in (items[i] for i in asked):
            for name, words in (("picture", None), ("picture and text", item["text"])):
                hits = collection.search(image=Path(item["image"]), text=words, k=K + 1)
                others = [hit.item["kind"] for hit in hits if hit.id != item["id"]][:K]
                scores[name].append(float(np.mean([kind == item["kind"] for kind in others])))
            scores["chance"].append(((kinds == item["kind"]).sum() - 1) / (len(items) - 1))
    return {name: float(np.mean(values)) for name, values in scores.items()}


if __name__ == "__main__":
    sys.exit(main())

"""Every registered method on the same features: the ranking, and what their papers' failures must not bring back.

    python benchmarks/methods.py [--sets hm wikipedia shapes] [--methods NAME ...] [--seeds 3] [--out FILE.json]

`hm` is FashionCLIP's features of 1,060 articles of clothing with one product type each, 200 queries, the training
set is the gallery (bar (a) of `hm_fashionclip.py`); `wikipedia` are 2,173 training and 693 query pairs (Rasiwasia
et al., 2010); `shapes` are 2,000 generated scenes to train on, 300 queries and 2,000 others to search in. 64 bits,
defaults, `Protocol("strict")`, mean of the seeds. A method that codes one view at a time is ranked by image to text
and text to image and compared with ITQ over both views there. Sets that are not on disk are left out and named.

Under the tables each claim with PASS or FAIL; the exit code is the number of claims that failed:

    hm      each method without labels beats LSH, two of MFH, MAH, MVLH, MvDH reach ITQ - .05; each with labels
            beats ITQ; FOMH by 20 chunks of `partial_fit` ends within .02 of one chunk
    hm, shapes   SAPMH loses less than .05 when half of the training rows lack one view
    each    MFH is above random codes
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hm_fashionclip import Clothes, tasks
from rich.console import Console

import bitfuse as bf
from bitfuse.bench import tables
from bitfuse.bench.facts import environment
from bitfuse.bench.histograms import usable_threads
from bitfuse.bench.run import Result
from bitfuse.data.base import Dataset, Samples
from bitfuse.errors import BitfuseWarning
from bitfuse.hashers import hasher_class, hashers

BITS = 64
FOUR = ("mfh", "mah", "mvlh", "mvdh")
CROSS = ("image→text", "text→image")
UNLABELLED, HALVED, CHUNKS = "hm", ("hm", "shapes"), 20


def clothes(folder: Path, seed: int) -> Dataset:
    data = Clothes.read(folder)
    (task,) = (t for t in tasks(data, "a", seed) if t.bar == "a")

    def part(rows: np.ndarray) -> Samples:
        return Samples(ids=tuple(map(str, rows)), views=data.rows(rows), labels=task.labels[rows])

    gallery = part(task.gallery)
    return Dataset(name="hm", train=gallery, query=part(task.query), gallery=gallery)


def read(name: str, shared: Path, seed: int) -> Dataset | None:
    """One split of a set, or None where it is not on this disk."""
    if name == "shapes":
        return bf.dataset("shapes")
    path = shared / {"hm": "hm-fashionclip/features.npz", "wikipedia": "wikipedia/wikiData.mat"}[name]
    if not path.is_file():
        return None
    return clothes(path.parent, seed) if name == "hm" else bf.dataset(path)


def one(name: str, data: Dataset, seed: int, **parameters: Any) -> Result:
    """A method fitted on the training part and judged."""
    model = bf.hasher(name, n_bits=BITS, seed=seed, **parameters)
    return bf.evaluate(model.fit(data.train.views, data.train.labels), data)


def halved(data: Dataset, seed: int) -> Result:
    """SAPMH where half of the training rows lack one of their views."""
    rng = np.random.default_rng(seed)
    lacking = rng.random(len(data.train)) < 0.5
    which = rng.integers(0, len(data.train.views), len(data.train))
    views = {}
    for i, (name, x) in enumerate(data.train.views.items()):
        views[name] = np.where((lacking & (which == i))[:, None], np.float32(np.nan), x)
    return bf.evaluate(bf.hasher("sapmh", n_bits=BITS, seed=seed).fit(views, data.train.labels), data)


def chunked(data: Dataset, seed: int) -> Result:
    """FOMH fed in chunks."""
    model = bf.hasher("fomh", n_bits=BITS, seed=seed)
    for rows in np.array_split(np.arange(len(data.train)), CHUNKS):
        model.partial_fit({v: x[rows] for v, x in data.train.views.items()}, data.train.labels[rows])
    return bf.evaluate(model, data)


def value(results: list[Result], mode: str) -> float | None:
    """Mean over the seeds of one query mode, None where the method does not answer it."""
    answers = [r.modes.get(mode) for r in results]
    return float(np.mean([a.scores.map for a in answers])) if all(answers) else None


def standing(results: list[Result]) -> float:
    """What a method is ranked by: both views, or the mean of both directions across."""
    both = value(results, "both")
    return float(np.mean([value(results, m) or 0.0 for m in CROSS])) if both is None else both


def claims(
    of: dict[str, dict[str, list[Result]]], extra: dict[str, list[Result]]
) -> Iterator[tuple[str, float, float]]:
    """What was promised: (sentence, value, least value)."""
    for name, methods in of.items():
        if "mfh" in methods:
            floor = float(np.mean([r.floors["random codes"] for r in methods["mfh"]]))
            yield f"{name}: mfh above random codes", standing(methods["mfh"]), floor
        if name == "hm" and {"lsh", "itq"} <= methods.keys():
            for method, results in methods.items():
                supervised = hasher_class(method).supervised
                against = "itq" if supervised else "lsh"
                if method in ("lsh", "itq", "pcarr"):
                    continue
                for mode in ("both",) if value(results, "both") is not None else CROSS:
                    least = value(methods[against], mode)
                    yield f"hm: {method} above {against}, {mode}", value(results, mode) or 0.0, least or 0.0
            if set(FOUR) <= methods.keys():
                second = sorted((standing(methods[m]) for m in FOUR), reverse=True)[1]
                yield f"hm: two of {', '.join(FOUR)} reach itq - .05", second, standing(methods["itq"]) - 0.05
        for title, whole, most in (("chunks", "fomh", 0.02), ("halved", "sapmh", 0.05)):
            if (fed := extra.get(f"{name} {title}")) and whole in methods:
                yield f"{name}: {whole}, {title}", standing(fed), standing(methods[whole]) - most


def main() -> int:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=here.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", default=["hm", "wikipedia", "shapes"])
    parser.add_argument("--methods", nargs="+", default=hashers())
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write every seed's numbers, and the environment, here")
    options = parser.parse_args()
    warnings.simplefilter("ignore", BitfuseWarning)  # said in the tables: collapse, queries equal to gallery rows
    console, start = Console(width=150), time.perf_counter()
    of: dict[str, dict[str, list[Result]]] = {}
    extra: dict[str, list[Result]] = {}
    seconds: dict[str, list[float]] = {}
    for name in options.sets:
        for seed in range(options.seeds):
            data = read(name, options.data, seed)
            if data is None:
                console.print(f"{name} is not under {options.data}: left out")
                break
            for method in options.methods:
                began = time.perf_counter()
                of.setdefault(name, {}).setdefault(method, []).append(one(method, data, seed))
                seconds.setdefault(f"{name} | {method}", []).append(time.perf_counter() - began)
                said = f"{name} {seed} {method}: {of[name][method][-1].map:.3f}"
                print(f"{said}, {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
            if name == "hm" and "fomh" in options.methods:
                extra.setdefault("hm chunks", []).append(chunked(data, seed))
            if name in HALVED and "sapmh" in options.methods:
                extra.setdefault(f"{name} halved", []).append(halved(data, seed))
        if name in of:
            ranked = sorted(of[name].values(), key=standing, reverse=True)
            console.print(tables.of_results([r for results in ranked for r in results]))
    failed, claimed = 0, {}
    for sentence, found, least in claims(of, extra):
        failed += found < least
        claimed[sentence] = {"value": found, "least": least}
        console.print(f"{'PASS' if found >= least else 'FAIL'}  {sentence}: {found:.3f} (at least {least:.3f})")
    if options.out:
        every = {f"{name} | {m}": results for name, methods in of.items() for m, results in methods.items()}
        maps = {
            key: [{mode: a.scores.map for mode, a in r.modes.items() if a} for r in results]
            for key, results in (every | extra).items()
        }
        facts = environment(usable_threads(), {"all": time.perf_counter() - start})
        found = {"claims": claimed, "mAP by seed": maps, "seconds to fit and judge": seconds, **facts}
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""`bitfuse demo`: the whole way of the data on generated pictures, from an empty folder to a report."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitfuse.cli import app
from bitfuse.cli.collections import items_of, print_hits
from bitfuse.cli.inputs import err, out
from bitfuse.errors import InputError

if TYPE_CHECKING:
    from bitfuse.bench.report import Retrieved
    from bitfuse.bench.run import Result
    from bitfuse.data.base import Dataset
    from bitfuse.features.base import Backbone
    from bitfuse.hashers.base import Hasher
    from bitfuse.search.collection import Collection

N_TRAIN, N_QUERY, N_GALLERY = 2000, 300, 2000
BITS = (16, 32, 64, 128)
FLOORS = ("lsh", "itq", "onehot")
MARK = ".bitfuse-demo"
WORDS = "big red arrow, over grey"


@app.command()
def demo(
    out_dir: Annotated[
        Path, typer.Option("--out", help="Where everything goes; an earlier demo there is replaced.")
    ] = Path("demo"),
) -> None:
    """Generate pictures, train CLIPMH, judge it beside its floors, build a collection, search it, write a report."""
    from bitfuse.bench.report import terminal, write_html
    from bitfuse.features import backbone

    started = time.perf_counter()
    _clear(out_dir)
    pocket = backbone("pocket")
    _step(1, f"{N_TRAIN + N_QUERY + N_GALLERY} generated scenes with captions, labels and attributes")
    dataset = _world(out_dir / "shapes", pocket)
    out.print(f"{len(dataset.train)} to train on, {len(dataset.query)} queries, {len(dataset.gallery)} to search in")

    _step(2, f"CLIPMH at {', '.join(map(str, BITS))} bits, beside {', '.join(FLOORS)} at 64")
    results, model = _judged(dataset)
    out.print(terminal(results))

    _step(3, "a collection, and three searches")
    model.save(out_dir / "model")
    searches = _searches(out_dir / "shop", model, pocket, dataset)

    report = write_html(results, out_dir / "report.html", title="Bitfuse demo: generated scenes", grids=searches)
    _step(4, f"report: {report}")
    out.print(
        f"done in {time.perf_counter() - started:.0f} s. Try: bitfuse search {out_dir / 'shop'} "
        f'"two blue circles" --where "price<50"'
    )


def _step(number: int, what: str) -> None:
    out.print(f"\n[bold]{number}. {what}[/]")


def _clear(out_dir: Path) -> None:
    if out_dir.exists():
        if not (out_dir / MARK).is_file() and any(out_dir.iterdir()):
            raise InputError(f"{out_dir} exists and no demo made it; choose another --out")
        shutil.rmtree(out_dir)
    out_dir.mkdir(parents=True)
    (out_dir / MARK).touch()


def _world(folder: Path, pocket: Backbone) -> Dataset:
    """Scenes written as a table with pictures, and read back as a user's own table would be."""
    import numpy as np

    from bitfuse.data.base import Dataset
    from bitfuse.data.shapes import write
    from bitfuse.data.table import read_table
    from bitfuse.pipeline.extract import extract

    table = write(folder, N_TRAIN + N_QUERY + N_GALLERY)
    samples, skipped = extract(read_table(table), pocket, cache=True, progress=True)
    for name, reason in skipped:
        err.print(f"skipped {name}: {reason}")
    # Scenes that look exactly alike are kept once: a query must not be in the gallery under another id.
    _, first = np.unique(samples.views["image"], axis=0, return_index=True)
    rows = np.sort(first)
    return Dataset(
        name="shapes",
        train=samples.take(rows[:N_TRAIN]),
        query=samples.take(rows[N_TRAIN : N_TRAIN + N_QUERY]),
        gallery=samples.take(rows[N_TRAIN + N_QUERY :]),
    )


def _judged(dataset: Dataset) -> tuple[list[Result], Hasher]:
    from bitfuse.bench.run import evaluate
    from bitfuse.hashers import hasher

    results, models = [], {}
    train = dataset.train
    for name, bits in [*(("clipmh", bits) for bits in BITS), *((name, 64) for name in FLOORS)]:
        with err.status(f"{name}, {bits} bits"):
            models[name, bits] = hasher(name, n_bits=bits).fit(train.views, train.labels, sources=train.sources)
            results.append(evaluate(models[name, bits], dataset))
    return results, models["clipmh", 64]


def _searches(shop: Path, model: Hasher, pocket: Backbone, dataset: Dataset) -> list[Retrieved]:
    from bitfuse.search.collection import Collection
    from bitfuse.search.columns import infer_types

    picture = dataset.query.images[0] if dataset.query.images else None
    asked: list[tuple[str, dict[str, Any]]] = [
        ("words", {"text": WORDS}),
        ("picture", {"image": picture}),
        ("picture and words", {"image": picture, "text": dataset.query.texts[0] if dataset.query.texts else None}),
    ]
    attributes = infer_types(dataset.gallery.attributes)
    with Collection.create(shop, model=model, backbone=pocket, filterable=attributes) as collection:
        report = collection.add(items_of(dataset.gallery))
        collection.compact()
        out.print(f"{report.added} items in {shop}")
        return [_asked(collection, how, question, dataset) for how, question in asked]


def _asked(collection: Collection, how: str, question: dict[str, Any], dataset: Dataset) -> Retrieved:
    """One search, printed, and drawn for the report; a hit is right if it carries a label of what was asked."""
    from bitfuse.bench.report import Card, Retrieved

    hits = collection.search(**question, k=6, rerank=True)
    words = question.get("text") or ""
    print_hits(hits[:5], f"{how}, reranked by the float views: {words or question['image'].name}")
    names = dataset.gallery.label_names
    if "image" in question:
        wanted = (
            {n for n, yes in zip(names, dataset.query.labels[0]) if yes} if dataset.query.labels is not None else set()
        )
    else:
        wanted = {n for n in names if n in words.replace(",", "").split()}
    shown = [
        (
            Card(str(hit.item.get("text") or ""), Path(hit.item["image"])),
            round(hit.distance),
            bool(wanted & set(str(hit.item.get("labels") or "").split("|"))),
        )
        for hit in hits
    ]
    return Retrieved(how, Card(words, question.get("image")), tuple(shown))

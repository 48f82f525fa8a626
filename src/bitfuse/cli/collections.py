"""The verbs about collections: index, search, add, delete, stats and their kin."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from bitfuse.cli import app
from bitfuse.cli.inputs import (
    BackboneOpt,
    Columns,
    DataArg,
    DeviceOpt,
    IdCol,
    ImageCol,
    JsonOpt,
    LabelCol,
    LabelSep,
    TextCol,
    err,
    out,
    read,
    show_json,
    with_features,
)
from bitfuse.cli.models import named_backbone
from bitfuse.errors import CollectionError, InputError

if TYPE_CHECKING:
    from bitfuse.data.base import Samples
    from bitfuse.features.base import Backbone
    from bitfuse.hashers.base import Hasher
    from bitfuse.search.collection import Hit

ShopArg = Annotated[
    str,
    typer.Argument(
        help="A collection that `index` made: a directory, or 'milvus://host:port/name?model=DIR'.", show_default=False
    ),
]


def items_of(samples: Samples) -> Iterator[dict[str, Any]]:
    """The samples as the items that `Collection.add` takes; labels become the attribute `labels`, joined by |."""
    names = np.array(samples.label_names, object)
    for i, name in enumerate(samples.ids):
        item: dict[str, Any] = {"id": name, **{k: v[i] for k, v in samples.attributes.items()}}
        if samples.images is not None and isinstance(samples.images[i], Path):
            item["image"] = samples.images[i]
        if samples.texts is not None and samples.texts[i]:
            item["text"] = samples.texts[i]
        if samples.labels is not None and len(names):
            item["labels"] = "|".join(names[samples.labels[i]]) or None
        if samples.views:
            item["views"] = {k: v[i] for k, v in samples.views.items() if not np.isnan(v[i]).all()}
        yield item


@app.command()
def index(
    data: DataArg,
    out_dir: Annotated[Path | None, typer.Option("--out", help="The collection to make, a directory.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Make it on a server instead: milvus://host:port/name; needs --model.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model that `fit` wrote; without one, a default is fitted.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Code length where a default model is fitted.")] = 64,
    backbone: BackboneOpt = None,
    image: ImageCol = None,
    text: TextCol = None,
    label: LabelCol = None,
    label_sep: LabelSep = None,
    id_column: IdCol = None,
    device: DeviceOpt = "cpu",
    json_out: JsonOpt = False,
) -> None:
    """Make a searchable collection. Without --model, the default for what the data holds is fitted, and named."""
    from bitfuse.cli.encode import index_shards
    from bitfuse.data.base import Dataset
    from bitfuse.hashers import _persist
    from bitfuse.pipeline import training
    from bitfuse.pipeline.shards import Shards

    if (out_dir is None) == (store is None):
        raise InputError("name where the collection is to be made: --out DIR, or --store milvus://host:port/name")
    if Shards.at(data):
        index_shards(data, out_dir, json_out)
        return
    if store is not None and model is None:
        raise InputError(
            "--store needs --model: a server does not hold the model, so fit one first "
            "(bitfuse fit DATA --out model/) and keep its directory"
        )
    if out_dir is not None and out_dir.exists():
        raise CollectionError(
            f"{out_dir} exists; `bitfuse add` puts items into a collection, or choose a new directory"
        )
    samples = read(data, Columns(image, text, label or None, label_sep, id_column))
    if isinstance(samples, Dataset):
        raise InputError(f"{data} holds a data set of train, query and gallery; `index` takes one set of items")
    known = None if model is None else _persist.load(model)
    if known is not None and backbone is None:
        names = {str(f["backbone"]) for f in known.sources.values()} - {"arrays only"}
        backbone = names.pop() if len(names) == 1 else None
    encoder = named_backbone(backbone, samples, data, device)
    if encoder is not None:
        samples = with_features(samples, encoder, data)
    if known is None:
        choice = training.default_choice(samples, encoder)
        err.print(f"no model given: fitting {choice.method} with {bits} bits ({choice.reason})")
        with err.status("fitting"):
            known = training.fit(samples, choice, n_bits=bits, backbone=encoder, device=device)
    if store is not None and model is not None:
        _index_on_server(store, samples, model, encoder, json_out)
    elif out_dir is not None:
        _index_in_directory(out_dir, samples, known, encoder, json_out)


def _index_in_directory(
    out_dir: Path, samples: Samples, model: Hasher, backbone: Backbone | None, json_out: bool
) -> None:
    from bitfuse.search.collection import Collection
    from bitfuse.search.columns import infer_types

    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        attributes = infer_types(samples.attributes)
        with Collection.create(partial / "new", model=model, backbone=backbone, filterable=attributes) as collection:
            with err.status(f"indexing {len(samples)} items"):
                report = collection.add(items_of(samples))
                collection.compact()
            facts = {"collection": str(out_dir), "added": report.added, "skipped": report.skipped, **collection.stats()}
        (partial / "new").rename(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if json_out:
        show_json(facts)
        return
    out.print(f"{report.added} items in {out_dir}, {model.n_bits} bits each, by {type(model).__name__}")
    out.print(f'next: bitfuse search {out_dir} "words" ; bitfuse search {out_dir} --image picture.jpg')


def _index_on_server(store: str, samples: Samples, model: Path, backbone: Backbone | None, json_out: bool) -> None:
    from bitfuse.search.collection import Collection
    from bitfuse.search.columns import infer_types

    attributes = infer_types(samples.attributes)
    with Collection.create(store, model=model, backbone=backbone, filterable=attributes) as collection:
        with err.status(f"indexing {len(samples)} items"):
            report = collection.add(items_of(samples))
        facts = {"collection": store, "added": report.added, "skipped": report.skipped, **collection.stats()}
    if json_out:
        show_json(facts)
        return
    address = store if "model=" in store else f"{store}{'&' if '?' in store else '?'}model={model}"
    out.print(f"{report.added} items in {store}, {facts['n_bits']} bits each, by {facts['method']}", markup=False)
    out.print(f'next: bitfuse search "{address}" "words"', markup=False)


def print_hits(hits: list[Hit], title: str) -> None:
    """The hits as a table: rank, distance, id, text and the attributes that have a value."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, expand=True)
    for column, style in (("#", "dim"), ("distance", ""), ("id", "bold")):
        table.add_column(column, style=style)
    for column, style, ratio in (("text", "", 3), ("attributes", "dim", 2)):
        table.add_column(column, style=style, ratio=ratio, no_wrap=True, overflow="ellipsis")
    for rank, hit in enumerate(hits, 1):
        item = hit.item
        shown = {k: v for k, v in item.items() if k not in ("id", "text", "image") and v is not None}
        described = ", ".join(f"{k}={v}" for k, v in shown.items())
        table.add_row(str(rank), f"{hit.distance:g}", hit.id, item.get("text") or "", described)
    out.print(table)


@app.command()
def search(
    shop: ShopArg,
    words: Annotated[str | None, typer.Argument(help="What to look for.", show_default=False)] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to look for, alone or beside the words.")] = None,
    like: Annotated[str | None, typer.Option(help="The id of an item: more like this.")] = None,
    weight: Annotated[float | None, typer.Option(help="0 to 1: how much the picture counts beside the words.")] = None,
    where: Annotated[str | None, typer.Option(help="A filter on attributes, for example 'price<50'.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    radius: Annotated[int | None, typer.Option(help="Only items within this Hamming distance.")] = None,
    rerank: Annotated[bool, typer.Option(help="Order the candidates by the stored float vectors.")] = False,
    asymmetric: Annotated[bool, typer.Option(help="Weigh each bit by how sure the query is of it: finer.")] = False,
    approximate: Annotated[bool, typer.Option(help="Look where the nearest are likely; see `approximate`.")] = False,
    explain: Annotated[bool, typer.Option(help="Say how each hit was found.")] = False,
    json_out: JsonOpt = False,
) -> None:
    """Search by words, by a picture, by both, or by an item."""
    from bitfuse.search.collection import Collection

    weights = None if weight is None else {"image": weight, "text": 1 - weight}
    with Collection.open(shop) as collection:
        hits = collection.search(
            text=words, image=image, like=like, weights=weights, k=k, radius=radius, where=where, rerank=rerank,
            explain=explain, asymmetric=asymmetric, approximate=approximate,
        )  # fmt: skip
    if json_out:
        show_json([hit.to_dict() for hit in hits])
        return
    asked = " + ".join(s for s in (words and f'"{words}"', image and image.name, like and f"like {like}") if s)
    if not hits:
        out.print(f"nothing found for {asked}; widen --radius or loosen --where")
        return
    print_hits(hits, asked)
    if explain:
        for hit in hits:
            out.print(f"{hit.id}: {hit.explanation}")

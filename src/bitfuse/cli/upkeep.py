"""The verbs that keep a collection: add, delete, stats, approximate, compact, verify, backup, export, reencode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bitfuse.cli import app
from bitfuse.cli.collections import ShopArg, items_of
from bitfuse.cli.inputs import (
    Columns,
    DataArg,
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
)
from bitfuse.errors import InputError


@app.command()
def add(
    shop: ShopArg,
    data: DataArg,
    image: ImageCol = None,
    text: TextCol = None,
    label: LabelCol = None,
    label_sep: LabelSep = None,
    id_column: IdCol = None,
    on_conflict: Annotated[str, typer.Option(help="An id that is there: replace, skip or error.")] = "replace",
    json_out: JsonOpt = False,
) -> None:
    """Add items to a collection; those that are there with the same content are left alone."""
    from bitfuse.cli.encode import shards_for
    from bitfuse.data.base import Dataset
    from bitfuse.pipeline.shards import Shards
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        if Shards.at(data):
            items, n = shards_for(collection, data)
        else:
            samples = read(data, Columns(image, text, label or None, label_sep, id_column))
            if isinstance(samples, Dataset):
                raise InputError(f"{data} holds a data set of train, query and gallery; `add` takes one set of items")
            items, n = items_of(samples), len(samples)
        with err.status(f"adding {n} items"):
            report = collection.add(items, on_conflict=on_conflict)
            collection.compact()
        total = len(collection)
    if json_out:
        show_json({"added": report.added, "replaced": report.replaced, "skipped": report.skipped, "items": total})
        return
    for name, reason in report.skipped[:20]:
        err.print(f"skipped {name}: {reason}", markup=False)
    out.print(
        f"{report.added} added, {report.replaced} replaced, {len(report.skipped)} skipped; {total} items in {shop}"
    )


@app.command()
def delete(shop: ShopArg, ids: Annotated[list[str], typer.Argument(help="Ids of the items to delete.")]) -> None:
    """Delete items by id."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        gone = collection.delete(ids)
        out.print(f"{gone} deleted, {len(ids) - gone} not there; {len(collection)} items in {shop}")


@app.command()
def stats(shop: ShopArg, json_out: JsonOpt = False) -> None:
    """Say how large a collection is, how its codes spread, and how long a search takes."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        facts: dict[str, Any] = collection.stats()
    if json_out:
        show_json(facts)
        return
    for name, value in facts.items():
        out.print(f"{name:>24}  {value:.4g}" if isinstance(value, float) else f"{name:>24}  {value}", markup=False)


@app.command()
def approximate(
    shop: ShopArg,
    lists: Annotated[int | None, typer.Option(help="Into how many the codes are parted.")] = None,
    probes: Annotated[int | None, typer.Option(help="Lists that a query reads: more find more.")] = None,
    json_out: JsonOpt = False,
) -> None:
    """Prepare `search --approximate`, for many millions of items, and say how much it finds."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection, err.status("parting the codes into lists"):
        facts = collection.build_approximate(lists, probes)
    if json_out:
        show_json(facts)
        return
    out.print(
        f"{shop}: {facts['items']} items in {facts['lists']} lists, {facts['probes']} of them read by a query; "
        f"finds {facts['recall_at_10']:.1%} of the ten nearest, {facts['times_faster']:.3g} times as fast as exactly"
    )


@app.command()
def verify(shop: ShopArg) -> None:
    """Check everything on disk; exit code 3 where something is wrong."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        problems = collection.verify()
    for problem in problems:
        err.print(problem, markup=False)
    if problems:
        raise typer.Exit(3)
    out.print(f"{shop}: nothing is wrong")


@app.command()
def compact(shop: ShopArg) -> None:
    """Write the code file, from which opening is fast, and give the space of deleted items back."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        collection.compact()
        out.print(f"{shop}: {len(collection)} items")


@app.command()
def backup(shop: ShopArg, to: Annotated[Path, typer.Argument(help="A new directory.")]) -> None:
    """Copy a collection as it is now, also while it is written."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        collection.backup(to)
    out.print(f"{to}: a copy of {shop}")


@app.command()
def export(
    shop: ShopArg,
    to: Annotated[Path, typer.Argument(help="The Parquet file to write.")],
    views: Annotated[bool, typer.Option(help="Write the stored float vectors too.")] = False,
) -> None:
    """Write all items and codes to a Parquet file."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        n = collection.export(to, views)
    out.print(f"{n} items in {to}")


@app.command()
def reencode(shop: ShopArg, model: Annotated[Path, typer.Argument(help="A model that `fit` wrote.")]) -> None:
    """Give a collection another model; the old one serves until all codes are made."""
    from bitfuse.search.collection import Collection

    with Collection.open(shop) as collection:
        with err.status("re-encoding"):
            collection.reencode(model)
            collection.compact()
        out.print(f"{shop}: {len(collection)} items by {model}")

"""The verbs that keep a collection: add, delete, stats, compact, verify, backup, export, reencode."""

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
    from bitfuse.data.base import Dataset
    from bitfuse.search.collection import Collection

    samples = read(data, Columns(image, text, label or None, label_sep, id_column))
    if isinstance(samples, Dataset):
        raise InputError(f"{data} holds a data set of train, query and gallery; `add` takes one set of items")
    with Collection.open(shop) as collection:
        with err.status(f"adding {len(samples)} items"):
            report = collection.add(items_of(samples), on_conflict=on_conflict)
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

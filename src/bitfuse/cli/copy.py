"""The verb that moves a collection between directories and servers."""

from __future__ import annotations

from typing import Annotated

import typer

from bitfuse.cli import app
from bitfuse.cli.collections import ShopArg
from bitfuse.cli.inputs import JsonOpt, err, out, show_json


@app.command()
def copy(
    shop: ShopArg,
    to: Annotated[
        str, typer.Argument(help="A new directory, or 'milvus://host:port/name' that is not there.", show_default=False)
    ],
    searches: Annotated[int, typer.Option(help="How many sampled searches are compared.", min=0)] = 20,
    json_out: JsonOpt = False,
) -> None:
    """Copy a collection, between directories and Milvus servers; counts and sampled searches are compared."""
    from bitfuse.search.collection import Collection
    from bitfuse.search.copying import copy as copy_collection

    with Collection.open(shop) as source, err.status(f"copying {len(source)} items"):
        report = copy_collection(source, to, searches)
    if json_out:
        show_json({**vars(report), "model": str(report.model)})
        return
    out.print(f"{report.items} items in {to}; {report.searches} sampled searches answer alike", markup=False)
    if report.left_behind:
        out.print(f"left behind, which {to} cannot keep: {', '.join(report.left_behind)}", markup=False)
    if "://" in to:
        out.print(f"keep its model: open it with ?model={report.model}", markup=False)

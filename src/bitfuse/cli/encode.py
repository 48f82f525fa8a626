"""The verb `encode`: any number of items to shards of codes; and shards into collections."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitfuse.cli import app
from bitfuse.cli.inputs import BackboneOpt, DeviceOpt, IdCol, ImageCol, JsonOpt, TextCol, err, out, show_json
from bitfuse.errors import CollectionError, InputError

if TYPE_CHECKING:
    from bitfuse.search.collection import Collection


@app.command()
def encode(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Tables (CSV, TSV, JSONL, Parquet), webdataset tars, folders of pictures, or folders of Parquet files "
            "or tars; URLs with --allow-remote.",
        ),
    ],
    model: Annotated[Path, typer.Option(help="A model that `fit` wrote.")],
    out_dir: Annotated[Path, typer.Option("--out", help="The directory of shards; one that was begun is finished.")],
    backbone: BackboneOpt = None,
    views: Annotated[str | None, typer.Option(help="Keep the features beside the codes: float16.")] = None,
    image: ImageCol = None,
    text: TextCol = None,
    id_column: IdCol = None,
    root: Annotated[
        str | None, typer.Option(help="The folder that image paths start from.", show_default="each table's own")
    ] = None,
    shard_rows: Annotated[int, typer.Option(help="Input rows of a shard: what a kill can cost.")] = 8192,
    batch_size: Annotated[int | None, typer.Option(help="Rows at a time.", show_default="by the backbone")] = None,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Let sources be URLs (fsspec).")] = False,
    engine: Annotated[str, typer.Option(help="local, or ray: a cluster that sees the same paths.")] = "local",
    actors: Annotated[int | None, typer.Option(help="Of ray: processes that hold the backbone.")] = None,
    address: Annotated[str | None, typer.Option(help="Of ray: the cluster; without it, one on this machine.")] = None,
    device: DeviceOpt = "cpu",
    json_out: JsonOpt = False,
) -> None:
    """Encode items to shards of codes, in bounded memory; killed and called again, it goes on where it was."""
    from bitfuse.pipeline.shards import SKIPPED, Shards
    from bitfuse.pipeline.shards import encode as run
    from bitfuse.pipeline.sources import Roles

    if views not in (None, "float16"):
        raise InputError(f"--views takes float16, got {views!r}")
    options = {k: v for k, v in (("actors", actors), ("address", address)) if v is not None}
    with err.status("surveying the sources") as status:
        report = run(
            sources, model, out_dir, backbone=backbone, views=views is not None, shard_rows=shard_rows,
            roles=Roles(image, text, id_column, root), batch_size=batch_size, allow_remote=allow_remote, device=device,
            engine="ray" if engine == "ray" else "local" if engine == "local" else _unknown(engine), options=options,
            on_shard=lambda done, rows: status.update(f"encoding: {done} of {rows} rows"),
        )  # fmt: skip
    if json_out:
        show_json({"out": str(out_dir), **asdict(report)})
        return
    rate = f"{report.seconds:.1f} s" + (f", {report.resumed} shards were there" if report.resumed else "")
    out.print(f"{report.coded} of {report.rows} rows coded in {report.shards} shards in {out_dir} ({rate})")
    if report.skipped:
        out.print(f"{report.skipped} rows with inputs that could not be used: {out_dir / SKIPPED}")
    bits = Shards(out_dir).manifest["n_bits"]
    out.print(f"{bits} bits each; next: bitfuse index {out_dir} --out shop/")


def _unknown(engine: str) -> Any:
    raise InputError(f"--engine takes local or ray, got {engine!r}")


def index_shards(data: str, out_dir: Path | None, json_out: bool) -> None:
    """Make a collection of a directory of shards, with the model that made them."""
    from bitfuse.pipeline.shards import Shards
    from bitfuse.search.collection import Collection

    if out_dir is None:
        raise InputError("shards go into a directory (--out); `bitfuse copy` takes that to a server")
    if out_dir.exists():
        raise CollectionError(f"{out_dir} exists; `bitfuse add` puts shards into it, or choose a new directory")
    shards = Shards(data)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        with Collection.create(
            partial / "new", model=shards.model, filterable=shards.manifest["attributes"],
            store_views=shards.manifest["stored_views"] is not None,
        ) as collection:  # fmt: skip
            with err.status(f"indexing {len(shards)} items"):
                report = collection.add(shards.items())
                collection.compact()
            facts = {"collection": str(out_dir), "added": report.added, "skipped": report.skipped, **collection.stats()}
        (partial / "new").rename(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if json_out:
        show_json(facts)
        return
    out.print(
        f"{report.added} items in {out_dir}, {shards.manifest['n_bits']} bits each, by {shards.manifest['method']}"
    )
    out.print(f'next: bitfuse search {out_dir} "words"')


def shards_for(collection: Collection, data: str) -> tuple[Iterator[dict[str, Any]], int]:
    """The items of a directory of shards, and how many there are, for a collection of the same model."""
    from bitfuse.pipeline.shards import Shards

    shards = Shards(data)
    if collection.encoder.digest != shards.manifest["model"]:
        raise CollectionError(f"{data} holds codes of another model than the collection; encode with its model")
    return shards.items(), len(shards)

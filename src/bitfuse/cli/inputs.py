"""What several verbs share: the options that name columns, reading with progress, printing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bitfuse.errors import InputError

if TYPE_CHECKING:
    from bitfuse.data.base import Dataset, Samples
    from bitfuse.features.base import Backbone

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

DataArg = Annotated[
    str,
    typer.Argument(
        help="A table (CSV, TSV, JSONL, Parquet), a folder of pictures, arrays (npz, mat, HDF5), 'shapes', or a "
        "published set in its official layout as NAME:FOLDER (flickr25k, nuswide, coco, roco, rsicd).",
        show_default=False,
    ),
]
ImageCol = Annotated[str | None, typer.Option("--image-column", help="Column of image paths.", show_default="image")]
TextCol = Annotated[str | None, typer.Option("--text-column", help="Column of texts.", show_default="text")]
LabelCol = Annotated[list[str] | None, typer.Option("--label", help="Column of labels; repeatable.")]
LabelSep = Annotated[str | None, typer.Option("--label-sep", help="What separates labels.", show_default="|")]
IdCol = Annotated[str | None, typer.Option("--id-column", help="Column of ids.", show_default="id")]
BackboneOpt = Annotated[
    str | None, typer.Option("--backbone", help="'pocket', a hub id, or a local directory.", show_default=False)
]
VariantOpt = Annotated[
    str | None,
    typer.Option(
        "--variant", help="Of a published set: 24 or 38 (flickr25k), tc21, tc10 or tc81 (nuswide), 2014 or 2017 (coco)."
    ),
]
SplitSeed = Annotated[
    int | None,
    typer.Option(
        "--split-seed", help="Of the split of flickr25k, nuswide and coco; no paper gives its own.", show_default="0"
    ),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="Where torch computes: cpu, cuda, ...")]


@dataclass(frozen=True)
class Columns:
    """How a table's columns, or a published set's variant, are to be read; None means the reader's default."""

    image: str | None = None
    text: str | None = None
    labels: list[str] | None = None
    label_sep: str | None = None
    id: str | None = None
    variant: str | None = None
    split_seed: int | None = None

    def given(self) -> dict[str, Any]:
        """What the user named, as keyword arguments of the readers."""
        return {k: v for k, v in asdict(self).items() if v is not None}


def show_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def read(data: str, columns: Columns) -> Samples | Dataset:
    """Read what the user pointed at, without features. `shapes` is the generated world, `./shapes` a folder."""
    from bitfuse.data.read import read as read_path
    from bitfuse.data.sets import named, read_published

    if data == "shapes":
        from bitfuse.data.shapes import generate

        return generate(2000)
    if (known := named(data)) is not None:
        if unknown := set(columns.given()) - {"variant", "split_seed"}:
            raise InputError(
                f"{data} is a published data set, which has no columns to name; leave {sorted(unknown)} out"
            )
        return read_published(*known, variant=columns.variant, seed=columns.split_seed)
    return read_path(data, **columns.given())


def with_features(samples: Samples, backbone: Backbone, data: str) -> Samples:
    """Extract the views with a progress bar; report every row that was skipped or lost its picture."""
    from bitfuse.pipeline.extract import extract

    note = getattr(backbone, "note", "")
    if note and data != "shapes":
        err.print(f"[yellow]note:[/] {note}")
    extracted, skipped = extract(samples, backbone, cache=True, progress=True)
    for name, reason in skipped[:20]:
        err.print(f"[yellow]skipped[/] {name}: {reason}", markup=True)
    if len(skipped) > 20:
        err.print(f"[yellow]skipped[/] {len(skipped) - 20} more")
    return extracted

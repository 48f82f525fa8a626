"""The verb `tune`: a backbone fine-tuned on one's own pairs."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from bitfuse.cli import app
from bitfuse.cli.inputs import (
    BackboneOpt,
    Columns,
    DataArg,
    DeviceOpt,
    IdCol,
    ImageCol,
    JsonOpt,
    TextCol,
    err,
    out,
    read,
    show_json,
)
from bitfuse.errors import InputError


@app.command()
def tune(
    data: DataArg,
    out_dir: Annotated[Path, typer.Option("--out", help="The checkpoint directory to write; must not exist.")],
    backbone: BackboneOpt = None,
    method: Annotated[str, typer.Option(help="'lora' (both towers) or 'adapter' (their last layers).")] = "lora",
    rank: Annotated[int, typer.Option(help="Of LoRA's additions.")] = 8,
    epochs: Annotated[int, typer.Option(help="At most; it stops early on held-out pairs.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Pairs a step.")] = 128,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam.", show_default="0.001")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    image: ImageCol = None,
    text: TextCol = None,
    id_column: IdCol = None,
    device: DeviceOpt = "cpu",
    json_out: JsonOpt = False,
) -> None:
    """Tune a CLIP on your own pairs of picture and text; the directory it writes is a --backbone as any other."""
    from bitfuse.data.base import Dataset
    from bitfuse.features import DEFAULT
    from bitfuse.tune.run import tune as run

    source = read(data, Columns(image=image, text=text, id=id_column))
    if isinstance(source, Dataset):
        raise InputError(f"{data} holds feature arrays; tuning needs the pictures and texts themselves")
    started = time.perf_counter()
    with err.status(f"tuning on {len(source)} rows"):
        tuned = run(
            source,
            backbone or ("pocket" if data == "shapes" else DEFAULT),
            out_dir,
            method=cast(Literal["adapter", "lora"], method),
            rank=rank,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            device=device,
        )
    if json_out:
        show_json(asdict(tuned))
        return
    for name, reason in tuned.skipped[:20]:
        err.print(f"[yellow]skipped[/] {name}: {reason}")
    if len(tuned.skipped) > 20:
        err.print(f"[yellow]skipped[/] {len(tuned.skipped) - 20} more")
    out.print(
        f"tuned on {tuned.pairs} pairs in {time.perf_counter() - started:.0f} s: epoch {tuned.best_epoch} of "
        f"{tuned.epochs} kept by its loss on {tuned.held_out} held-out pairs"
    )
    for name, way in (("image_to_text_r1", "image to text"), ("text_to_image_r1", "text to image")):
        out.print(f"R@1 of the held-out pairs, {way}: {tuned.before[name]:.3f} before, {tuned.after[name]:.3f} after")
    out.print(f"saved to {out_dir}; next: bitfuse fit {data} --backbone {out_dir} --out model/")

"""The verb `export-onnx`: a model and its backbone as graphs that run without Bitfuse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitfuse.cli import app
from bitfuse.cli.inputs import BackboneOpt, JsonOpt, err, out, show_json


@app.command("export-onnx")
def export_onnx(
    model: Annotated[Path, typer.Argument(help="A model that `fit` wrote: CLIPMH, DMMVH, ITQ, LSH or UCMFH.")],
    out_dir: Annotated[Path, typer.Option("--out", help="The directory to write.")],
    backbone: BackboneOpt = None,
    int8: Annotated[bool, typer.Option(help="Write graphs with 8-bit weights as well.")] = True,
    json_out: JsonOpt = False,
) -> None:
    """Write backbone and hasher as one ONNX graph per modality: pixels, or tokens, in; packed code out."""
    from bitfuse.pipeline.onnx import export

    with err.status("exporting"):
        card = export(model, out_dir, backbone=backbone, int8=int8)
    if json_out:
        show_json(card)
        return
    for view, graph in card["graphs"].items():
        out.print(f"{view}: {', '.join(graph['inputs'])} -> code, uint8; {', '.join(graph['files'].values())}")
    out.print(f"{card['n_bits']} bits by {card['method']}, in {out_dir}")

"""The verbs about models: fit, evaluate, methods."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from bitfuse.errors import InputError

if TYPE_CHECKING:
    from bitfuse.data.base import Dataset, Samples
    from bitfuse.features.base import Backbone

COLUMNS = "columns.json"
"""The attachment of a model that keeps how its table was read, so that `evaluate` need not be told again."""


def named_backbone(name: str | None, samples: Samples, data: str, device: str) -> Backbone | None:
    """The backbone to extract with; None where the data comes with features of its own."""
    if samples.views and samples.images is None and samples.texts is None:
        if name is not None:
            raise InputError(f"{data} holds feature arrays; --backbone {name} has nothing to encode, leave it out")
        return None
    from bitfuse.features import DEFAULT, backbone

    return backbone(name or ("pocket" if data == "shapes" else DEFAULT), device=device)


def _parameters(assignments: list[str]) -> dict[str, Any]:
    parsed = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set takes name=value, got {text!r}; for example --set epochs=50")
        try:
            parsed[name] = json.loads(value)
        except ValueError:
            parsed[name] = value
    return parsed


@app.command()
def fit(
    data: DataArg,
    out_dir: Annotated[Path, typer.Option("--out", help="The model directory to write.")],
    method: Annotated[
        str | None, typer.Option(help="One of `bitfuse methods`; default: by what the data holds.")
    ] = None,
    bits: Annotated[int, typer.Option(help="Code length, 1 to 4096.")] = 64,
    preset: Annotated[
        str, typer.Option(help="'default', or 'published' where a paper fixes the parameters.")
    ] = "default",
    parameter: Annotated[
        list[str] | None, typer.Option("--set", help="A hyper-parameter, name=value; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    backbone: BackboneOpt = None,
    image: ImageCol = None,
    text: TextCol = None,
    label: LabelCol = None,
    label_sep: LabelSep = None,
    id_column: IdCol = None,
    device: DeviceOpt = "cpu",
    json_out: JsonOpt = False,
) -> None:
    """Learn a model. A tenth of the rows, by hash of their ids, is held out for `evaluate`; the list is saved too."""
    from bitfuse.data.base import Dataset
    from bitfuse.pipeline import training

    columns = Columns(image, text, label or None, label_sep, id_column)
    source = read(data, columns)
    if isinstance(source, Dataset):
        if backbone is not None:
            raise InputError(f"{data} holds feature arrays; --backbone {backbone} has nothing to encode, leave it out")
        encoder, train, heldout = None, source.train, source.query
    else:
        encoder = named_backbone(backbone, source, data, device)
        samples = source if encoder is None else with_features(source, encoder, data)
        train, heldout = training.hold_out(samples)
    if method is None:
        choice = training.default_choice(train, encoder)
        err.print(f"method: {choice.method} ({choice.reason}); --method names another")
    else:
        choice = training.Choice(method, {}, "named by the user")
    choice = training.Choice(choice.method, {**choice.parameters, **_parameters(parameter or [])}, choice.reason)
    started = time.perf_counter()
    with err.status(f"fitting {choice.method} with {bits} bits on {len(train)} rows"):
        model = training.fit(
            train, choice, n_bits=bits, seed=seed, preset=preset, backbone=encoder, device=device
        )  # fmt: skip
    seconds = time.perf_counter() - started
    kept = {**training.ids_attachment(train, heldout), COLUMNS: json.dumps(columns.given()).encode()}
    model.save(out_dir, attachments=kept)
    facts = {
        "model": str(out_dir),
        "method": choice.method,
        "bits": bits,
        "rows": model.log["rows"],
        "unlabelled": int((~train.labelled).sum()) if model.supervised else 0,
        "held_out": len(heldout),
        "views": model.widths,
        "seconds": round(seconds, 2),
    }
    if json_out:
        show_json({**facts, "log": model.log})
        return
    out.print(f"{model!r}")
    left_out = f", {facts['unlabelled']} without a label left out" if facts["unlabelled"] else ""
    out.print(
        f"fitted on {facts['rows']} rows in {seconds:.1f} s{left_out}; {len(heldout)} held out; views {model.widths}"
    )
    out.print(f"saved to {out_dir}; next: bitfuse evaluate {out_dir} {data}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model directory that `fit` wrote.")],
    data: DataArg,
    protocol: Annotated[str, typer.Option(help="strict, clipmh2023 or ucmfh2023.")] = "strict",
    image: ImageCol = None,
    text: TextCol = None,
    label: LabelCol = None,
    label_sep: LabelSep = None,
    id_column: IdCol = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report here.")] = None,
    device: DeviceOpt = "cpu",
    json_out: JsonOpt = False,
) -> None:
    """Judge a model on its held-out rows: every query mode it answers, beside floors and the float reference."""
    from bitfuse.bench.run import evaluate as run
    from bitfuse.hashers import _persist

    hasher = _persist.load(model)
    saved = json.loads(_persist.attachment(model, COLUMNS) or b"{}")
    given = Columns(image, text, label or None, label_sep, id_column).given()
    dataset = _judged(model, data, Columns(**{**saved, **given}), hasher.sources, device)
    result = run(hasher, dataset, protocol)
    if report is not None:
        from bitfuse.bench.report import write_html

        write_html([result], report)
        err.print(f"report: {report}")
    if json_out:
        show_json(result.to_dict())
    else:
        out.print(result.table())


def _judged(model: Path, data: str, columns: Columns, sources: dict[str, dict[str, Any]], device: str) -> Dataset:
    from bitfuse.data.base import Dataset
    from bitfuse.pipeline import training

    source = read(data, columns)
    if isinstance(source, Dataset):
        return source
    names = {str(facts["backbone"]) for facts in sources.values()} - {"arrays only"}
    if not names:
        return training.judged_split(model, source)
    if len(names) > 1:
        raise InputError(f"the views of {model} come from several backbones ({sorted(names)}); evaluate it from Python")
    encoder = named_backbone(names.pop(), source, data, device)
    samples = source if encoder is None else with_features(source, encoder, data)
    return training.judged_split(model, samples)


@app.command()
def methods(json_out: JsonOpt = False) -> None:
    """List the methods and what each can do."""
    from bitfuse.hashers import method_table

    rows = method_table()
    if json_out:
        show_json(rows)
        return
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, caption="cost: of training, in the number n of training rows"
    )
    for column in list(rows[0])[:-1]:
        table.add_column(column, no_wrap=column != "spaces")
    for row in rows:
        table.add_row(*(("yes" if v else "-") if isinstance(v, bool) else str(v) for v in list(row.values())[:-1]))
    out.print(table)
    for row in rows:
        out.print(f"{row['name']:>8}  {row['reference']}", style="dim")

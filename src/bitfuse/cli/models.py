"""The verbs about models: fit, evaluate, methods."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    SplitSeed,
    TextCol,
    VariantOpt,
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
    from bitfuse.hashers.base import Hasher

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
    variant: VariantOpt = None,
    split_seed: SplitSeed = None,
    sweep: Annotated[
        bool, typer.Option(help="Also measure codes of a quarter to four times the length, and keep the figures.")
    ] = False,
    processes: Annotated[int, typer.Option(help="That share the batches of a deep method.")] = 1,
    sample: Annotated[
        int | None,
        typer.Option(help="Rows, of shards, for what cannot be learned in passes.", show_default="10000"),
    ] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="Where features of shards are copied.", show_default="beside them")
    ] = None,
    device: DeviceOpt = "cpu",
    json_out: JsonOpt = False,
) -> None:
    """Learn a model. What `evaluate` will ask is held out, and the list is saved too: a tenth of the rows, by hash of
    their ids; of a published set (flickr25k:FOLDER, ...) the queries that its split draws. DATA may also be a folder of
    feature shards (`encode --views float16`, or Parquet with a column of number lists a view) beyond the memory's size.
    """
    from bitfuse.data.base import Dataset, Samples
    from bitfuse.pipeline import training

    columns = Columns(image, text, label or None, label_sep, id_column, variant, split_seed)
    with _opened(data, columns, sample, scratch) as source:
        train, heldout, gallery, encoder = _divided(source, data, backbone, device)
        if method is None:
            choice = training.default_choice(train, encoder)
            err.print(f"method: {choice.method} ({choice.reason}); --method names another")
        else:
            choice = training.Choice(method, {}, "named by the user")
        choice = training.Choice(choice.method, {**choice.parameters, **_parameters(parameter or [])}, choice.reason)
        started = time.perf_counter()

        def fitted(n_bits: int) -> Hasher:
            with err.status(f"fitting {choice.method} with {n_bits} bits on {len(train)} rows"):
                return training.fit(
                    train, choice, n_bits=n_bits, seed=seed, preset=preset, backbone=encoder, device=device,
                    processes=processes,
                )  # fmt: skip

        model = fitted(bits)
        seconds = time.perf_counter() - started
        kept = {**training.ids_attachment(train, heldout), COLUMNS: json.dumps(columns.given()).encode()}
        lengths = None
        if sweep:
            from bitfuse.bench.lengths import PAGE
            from bitfuse.bench.lengths import sweep as measure

            if not isinstance(train, Samples) or not isinstance(heldout, Samples) or not isinstance(gallery, Samples):
                raise InputError(f"{data} holds shards, whose rows are not all in memory; leave --sweep out")
            if encoder is not None and not heldout.views:
                heldout = with_features(heldout, encoder, data)
            lengths = measure(model, fitted, Dataset(Path(data).stem, train, heldout, gallery), device=device)
            kept |= lengths.attachments()
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
        show_json({**facts, "log": model.log, **({"sweep": lengths.to_dict()} if lengths else {})})
        return
    out.print(f"{model!r}")
    left_out = f", {facts['unlabelled']} without a label left out" if facts["unlabelled"] else ""
    out.print(
        f"fitted on {facts['rows']} rows in {seconds:.1f} s{left_out}; {len(heldout)} held out; views {model.widths}"
    )
    if lengths:
        section = lengths.section()
        out.print(section.table, section.text, f"plotted in {out_dir / PAGE}")
    if at_scale := model.log.get("at_scale"):
        out.print(f"at scale: {at_scale['meaning']} ({at_scale['sampled']} of {at_scale['rows']} rows in the sample)")
        out.print(f"saved to {out_dir}; next: bitfuse encode SOURCE --model {out_dir} --out codes/")
    else:
        out.print(f"saved to {out_dir}; next: bitfuse evaluate {out_dir} {data}")


@contextmanager
def _opened(data: str, columns: Columns, sample: int | None, scratch: Path | None) -> Iterator[Any]:
    """What the user pointed at; shards of features stay on disk while the block lasts."""
    from bitfuse.data.stored import SAMPLE
    from bitfuse.pipeline.spool import holds_features, spool

    if not holds_features(data):
        if sample is not None or scratch is not None:
            raise InputError(f"--sample and --scratch are for shards of features, which {data} does not hold")
        yield read(data, columns)
        return
    given = columns.given()
    if unknown := set(given) - {"labels", "label_sep", "id"}:
        raise InputError(f"{data} holds shards of features, for which {sorted(unknown)} cannot be named")
    with ExitStack() as stack:
        with err.status(f"copying the features of {data} to where any row can be read"):
            samples = stack.enter_context(
                spool(data, **given, sample=SAMPLE if sample is None else sample, scratch=scratch)
            )
        yield samples


def _divided(source: Any, data: str, backbone: str | None, device: str) -> tuple[Any, Any, Any, Backbone | None]:
    """The rows to train on, those held out, the gallery, and what encodes them where that is still to be done."""
    from bitfuse.data.base import Dataset
    from bitfuse.data.stored import StoredSamples
    from bitfuse.pipeline import training

    if isinstance(source, StoredSamples):
        if backbone is not None:
            raise InputError(f"{data} holds features; --backbone {backbone} has nothing to encode, leave it out")
        train, heldout = training.hold_out(source)
        return train, heldout, train, None
    if isinstance(source, Dataset):
        encoder = named_backbone(backbone, source.train, data, device)
        learned = source.train if encoder is None else with_features(source.train, encoder, data)
        return learned, source.query, source.gallery if encoder is None else learned, encoder
    encoder = named_backbone(backbone, source, data, device)
    learned, kept = training.hold_out(source if encoder is None else with_features(source, encoder, data))
    return learned, kept, learned, encoder


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
    variant: VariantOpt = None,
    split_seed: SplitSeed = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report here.")] = None,
    device: DeviceOpt = "cpu",
    json_out: JsonOpt = False,
) -> None:
    """Judge a model on its held-out rows: every query mode it answers, beside floors and the float reference."""
    from bitfuse.bench.run import evaluate as run
    from bitfuse.hashers import _persist

    hasher = _persist.load(model)
    saved = json.loads(_persist.attachment(model, COLUMNS) or b"{}")
    given = Columns(image, text, label or None, label_sep, id_column, variant, split_seed).given()
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
    from bitfuse.pipeline.published import with_parts

    source = read(data, columns)
    names = {str(facts["backbone"]) for facts in sources.values()} - {"arrays only"}
    if isinstance(source, Dataset):
        training.refuse_trained_queries(model, source)
        if source.query.views or not names:
            return source
    elif not names:
        return training.judged_split(model, source, Path(data).stem)
    if len(names) > 1:
        raise InputError(f"the views of {model} come from several backbones ({sorted(names)}); evaluate it from Python")
    encoder = named_backbone(names.pop(), source.query if isinstance(source, Dataset) else source, data, device)

    def encoded(samples: Samples) -> Samples:
        return samples if encoder is None else with_features(samples, encoder, data)

    if isinstance(source, Dataset):
        return with_parts(source, encoded(source.query), encoded(source.gallery))
    return training.judged_split(model, encoded(source), Path(data).stem)


@app.command()
def methods(json_out: JsonOpt = False) -> None:
    """List the methods and what each can do."""
    from bitfuse.hashers import method_table

    rows = method_table()
    if json_out:
        show_json(rows)
        return
    table = Table(
        box=SIMPLE_HEAD,
        padding=0,  # every column fits into 80
        show_edge=False,
        caption="cost: of training, in the number n of training rows; at scale: what it learns from features on disk",
    )
    for column in list(rows[0])[:-1]:
        spaces = column == "spaces"  # the widest
        table.add_column(column, no_wrap=not spaces, min_width=13 if spaces else None)
    for row in rows:
        table.add_row(*(("yes" if v else "-") if isinstance(v, bool) else str(v) for v in list(row.values())[:-1]))
    out.print(table)
    for row in rows:
        out.print(f"{row['name']:>8}  {row['reference']}", style="dim")

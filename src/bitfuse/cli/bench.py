"""`bitfuse bench`: grids of methods, data sets, code lengths and seeds, their reports, and the papers' recipes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitfuse.cli import app
from bitfuse.cli.inputs import BackboneOpt, Columns, DeviceOpt, JsonOpt, LabelCol, LabelSep, err, out, read, show_json
from bitfuse.errors import InputError, UnknownName

if TYPE_CHECKING:
    from bitfuse.bench.cells import Spec
    from bitfuse.bench.recipes import Recipe
    from bitfuse.bench.sources import Splitting
    from bitfuse.data.base import Dataset

bench_app = typer.Typer(
    help="Run grids of methods, resume them, write their reports; list the recipes of published tables.",
    no_args_is_help=True,
)
app.add_typer(bench_app, name="bench")

OutOpt = Annotated[Path, typer.Option("--out", help="The grid's directory; a run that stopped goes on there.")]


@bench_app.command()
def run(
    what: Annotated[
        list[str],
        typer.Argument(
            help="'shapes', flickr25k:DIR, tables, folders, arrays; or recipes by name or pattern, with --data."
        ),
    ],
    out_dir: OutOpt = Path("grid"),
    data: Annotated[str | None, typer.Option(help="Of recipes: the data set that they name, on this disk.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="A method, or method:published; repeatable.", show_default="all methods"),
    ] = None,
    bits: Annotated[str, typer.Option(help="Code lengths, separated by commas.", show_default="64")] = "",
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ...: of training, and of the split where it is ours.")] = 3,
    jobs: Annotated[int | None, typer.Option(help="Processes at once.", show_default="one a processor")] = None,
    queries: Annotated[
        int | None, typer.Option(help="Queries, where the split is ours.", show_default="a tenth, at most 1000")
    ] = None,
    train: Annotated[
        int | None, typer.Option(help="Gallery rows to train on, where the split is ours.", show_default="at most 5000")
    ] = None,
    only_labels: Annotated[
        list[str] | None, typer.Option("--only-labels", help="Pattern of label names that count; repeatable.")
    ] = None,
    backbone: BackboneOpt = None,
    label: LabelCol = None,
    label_sep: LabelSep = None,
    device: DeviceOpt = "cpu",
) -> None:
    """Train and encode every cell of a grid, and store the codes; `bench report` scores them.

    Finished cells are kept, so the same command resumes a run that was stopped or killed. A cell that fails is recorded
    with its error, and the others go on.
    """
    from bitfuse.bench import cells, grid, stored
    from bitfuse.bench.sources import Splitting

    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {seeds}")
    splitting = Splitting(n_query=queries, n_train=train, labels=tuple(only_labels or ()))
    columns, numbers = Columns(labels=label or None, label_sep=label_sep), range(seeds)
    chosen = _recipes(what, data)
    specs: list[Spec] = []
    for name in [data] if chosen and data else what:
        found = _datasets(name, chosen, list(numbers), splitting, columns, backbone, device)
        prints = {seed: stored.keep(dataset, cells.datasets_of(out_dir)) for seed, dataset in found.items()}
        specs += _of_recipes(chosen, bits, prints) if chosen else _of_methods(method or [], bits, prints)
    todo = [spec for spec in specs if not cells.finished(spec, out_dir)]
    err.print(f"{len(specs)} cells in {out_dir}, {len(specs) - len(todo)} of them finished already")
    started, failed = time.perf_counter(), 0
    for i, done in enumerate(grid.run(out_dir, specs, jobs=jobs, device=device), 1):
        failed += done.error is not None
        left = (time.perf_counter() - started) / i * (len(todo) - i)
        how = f"[red]failed[/]: {done.error}" if done.error else f"{done.seconds:.1f} s"
        err.print(f"{i}/{len(todo)} {done.spec.name}: {how} [dim](about {left / 60:.0f} min left)[/]")
    out.print(f"{len(specs) - failed} of {len(specs)} cells are finished; next: bitfuse bench report {out_dir}")


@bench_app.command()
def report(
    grid: Annotated[Path, typer.Argument(help="The directory of a grid.")],
    protocol: Annotated[str, typer.Option(help="strict, clipmh2023 or ucmfh2023.")] = "strict",
    to: Annotated[Path | None, typer.Option("--to", help="Where to write.", show_default="GRID/report")] = None,
    title: Annotated[str, typer.Option(help="Of the HTML page.")] = "Bitfuse: methods compared",
) -> None:
    """Score a grid's stored codes under a protocol, print the table, and write HTML, Markdown, LaTeX and CSV."""
    from bitfuse.bench.report import terminal
    from bitfuse.bench.summary import summarise

    with err.status("scoring the stored codes"):
        summary = summarise(grid, protocol)
        written = summary.write(to or grid / "report", title)
    out.print(terminal(summary.results))
    for failure in summary.failures:
        err.print(f"[red]failed[/] {failure.spec.name} on {failure.dataset}: {failure.error}")
    for path in written.values():
        out.print(f"wrote {path}")


@bench_app.command()
def recipes(
    pattern: Annotated[str, typer.Argument(help="Of names, such as '*_clipmh_*'.")] = "*",
    json_out: JsonOpt = False,
) -> None:
    """List the recipes of published tables, with their numbers."""
    import dataclasses

    from bitfuse.bench.recipes import matching
    from bitfuse.bench.tables import Table

    found = matching(pattern)
    if json_out:
        show_json([dataclasses.asdict(r) for r in found])
        return
    lengths = sorted({n_bits for r in found for n_bits in r.published})
    rows = []
    for r in found:
        cells = (f"{r.published[b]:.4f}{'?' * (b in r.suspected_typos)}" if b in r.published else "-" for b in lengths)
        rows.append((r.name, r.source, r.protocol, *cells))
    headings = ("recipe", "source", "protocol", *(f"{b} bits" for b in lengths))
    out.print(Table(f"{len(found)} recipes; published mAP (?: suspected typo)", headings, rows))
    out.print("run one: bitfuse bench run NAME --data DIR", style="dim")


def _integers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found:
        raise InputError(f"--bits takes code lengths separated by commas, such as 16,32,64; got {text!r}")
    return found


def _recipes(what: list[str], data: str | None) -> list[Recipe]:
    """The recipes that the arguments name; none where they name data."""
    from bitfuse.bench import recipes

    found = [r for text in what for r in recipes.matching(text)]
    if not found:
        if data is not None:
            raise UnknownName("recipe", what[0], recipes.names(), "list them with: bitfuse bench recipes")
        return []
    if data is None:
        raise InputError(f"{found[0].name} is a recipe for {found[0].dataset}; name that data set with --data DIR")
    if len({r.dataset for r in found}) > 1:
        raise InputError(f"these recipes are for {sorted({r.dataset for r in found})}; run one data set at a time")
    return found


def _of_recipes(chosen: list[Recipe], bits: str, prints: dict[int, str]) -> list[Spec]:
    lengths = _integers(bits) if bits else None
    return [spec for seed, key in prints.items() for r in chosen for spec in r.specs(key, seed, lengths)]


def _of_methods(methods: list[str], bits: str, prints: dict[int, str]) -> list[Spec]:
    from bitfuse.bench.cells import Spec
    from bitfuse.hashers import hasher, hashers

    pairs = [tuple(name.split(":", 1)) if ":" in name else (name, "default") for name in methods or hashers()]
    specs = []
    for name, preset in pairs:
        for length in _integers(bits or "64"):
            hasher(name, preset=preset, n_bits=length)  # a wrong name or length is said before anything is trained
            specs.append((name, preset, length))
    return [
        Spec(method=name, preset=preset, n_bits=length, seed=seed, dataset=key)
        for seed, key in prints.items()
        for name, preset, length in specs
    ]


def _datasets(
    name: str,
    chosen: list[Recipe],
    seeds: list[int],
    splitting: Splitting,
    columns: Columns,
    backbone: str | None,
    device: str,
) -> dict[int, Dataset]:
    """One data set for each seed; the same one where its parts are given.

    Recipes read a folder as the published set that they name, and a file of arrays as the features that it holds.
    """
    from bitfuse.bench.recipes import LOADERS
    from bitfuse.bench.sources import of_each_seed
    from bitfuse.cli.inputs import with_features
    from bitfuse.cli.models import named_backbone
    from bitfuse.data.base import Dataset
    from bitfuse.data.sets import named
    from bitfuse.pipeline.datasets import dataset

    encoding = {"progress": True, **({"backbone": backbone} if backbone else {})}
    if name == "shapes":
        return dict.fromkeys(seeds, dataset("shapes", **encoding))
    published = named(name)
    if chosen and published is None and Path(name).is_dir():
        published = LOADERS[chosen[0].dataset], name
    if published:
        options = {**encoding, "root": published[1], **({"variant": chosen[0].variant} if chosen else {})}
        return of_each_seed(lambda seed: dataset(published[0], seed=seed, **options), seeds)
    source = read(name, columns)
    if isinstance(source, Dataset):
        return dict.fromkeys(seeds, source)
    encoder = named_backbone(backbone, source, name, device)
    samples = source if encoder is None else with_features(source, encoder, name)
    return splitting.datasets(samples, "/".join(Path(name).resolve().parts[-2:]), seeds)

"""`bitfuse bench ablation`: the questions that the paper leaves open, each measured and printed as a table."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from bitfuse.cli.bench import bench_app
from bitfuse.cli.inputs import err, out
from bitfuse.errors import InputError


@bench_app.command()
def ablation(
    names: Annotated[
        list[str],
        typer.Argument(
            help="backbones, bytes, fusion, hashlayer, labels, modalities, shift, sizes, tuning; or 'all'.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str, typer.Option(help="A table, folder or arrays with labels, split as `bitfuse.dataset` does it.")
    ] = "shapes",
    out_dir: Annotated[Path, typer.Option("--out", help="Where NAME.json and ablations.html go.")] = Path("ablations"),
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... of the methods.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="A trial on small data; its figures mean nothing.")] = False,
) -> None:
    """Measure what changes with one choice, all others fixed: prints tables, writes all numbers and one HTML page."""
    from bitfuse.bench.ablations import ablation as run_of
    from bitfuse.bench.ablations import ablations, save
    from bitfuse.bench.report import write_html
    from bitfuse.pipeline.datasets import dataset

    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {seeds}")
    chosen = ablations() if names == ["all"] else names
    runs = {name: run_of(name) for name in chosen}
    given = None if data == "shapes" else dataset(data)
    sections = []
    for name, run in runs.items():
        started = time.perf_counter()
        with err.status(f"{name}"):
            section = run(data=given, seeds=tuple(range(seeds)), quick=quick)
        seconds = time.perf_counter() - started
        save(name, section, out_dir, seconds)
        sections.append(section)
        out.print(section.table)
        out.print(f"{section.text}\n", markup=False, style="dim")
        err.print(f"{name}: {seconds:.0f} s")
    page = write_html([], out_dir / "ablations.html", title="Bitfuse: ablations", sections=sections)
    out.print(f"wrote {page}")

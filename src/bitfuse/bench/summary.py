"""The report of a grid: its cells scored, and written as terminal table, HTML, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitfuse.bench import findings, latex, report
from bitfuse.bench.cells import Cell, Failure, read_cells
from bitfuse.bench.protocol import Protocol
from bitfuse.bench.run import Result
from bitfuse.bench.sections import Section
from bitfuse.bench.showcase import showcase
from bitfuse.bench.tables import by_setting
from bitfuse.errors import InputError

_METRICS = (
    "map", "map_worst", "map_best", "float_map", "projected_map", "precision_at_1", "precision_at_10",
    "precision_at_100", "precision_within_2", "ndcg", "recall_of_10_neighbours",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judged:
    """A cell with its score."""

    cell: Cell
    result: Result


@dataclass(frozen=True, eq=False)
class Summary:
    """A grid under one protocol.

    Attributes:
        judged: cells with their scores: data sets in the order of their names, best method first.
        failures: cells that did not come about.
    """

    judged: list[Judged]
    failures: list[Failure]

    @property
    def results(self) -> list[Result]:
        """The scores."""
        return [j.result for j in self.judged]

    def sections(self) -> list[Section]:
        """What a report shows beside the tables of results."""
        found: list[Section] = []
        settings = by_setting(self.results)
        for group in settings:
            where = f" ({group[0].dataset})" if len(settings) > 1 else ""
            pairs = [(j.cell, j.result) for j in self.judged if any(j.result is r for r in group)]
            found += [s for s in findings.of_setting(pairs, where) if s is not None]
        published = findings.against_published([(j.cell, j.result) for j in self.judged])
        failed = findings.failed(self.failures)
        return found + [s for s in (published, failed) if s is not None]

    def csv(self) -> str:
        """One row for each cell and query mode."""
        out = io.StringIO()
        rows = [line for j in self.judged for line in _lines(j)]
        table = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        return out.getvalue()

    def write(self, folder: Path, title: str = "Bitfuse: methods compared") -> dict[str, Path]:
        """Write report.html, report.md, tables.tex and results.csv; each appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        sections = self.sections()
        shown = [s for group in by_setting(self.results) for s in self._showcase(group)]
        page = report.write_html(self.results, folder / "report.html", title=title, sections=sections, grids=shown)
        texts = {
            "report.md": report.markdown(self.results, sections),
            "tables.tex": latex.booktabs(self.results),
            "results.csv": self.csv(),
        }
        for name, text in texts.items():
            temporary = folder / f"{name}.partial"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / name)
        return {"report.html": page, **{name: folder / name for name in texts}}

    def _showcase(self, group: Sequence[Result]) -> list[report.Retrieved]:
        """Searches with the best method (the first), at the code length whose curves are drawn."""
        same = [r for r in group if r.method == group[0].method]
        lengths = [r.n_bits for r in same]
        shown = report.SHORT if report.SHORT in lengths else max(lengths)
        chosen = next(j for j in self.judged if any(j.result is r for r in same) and j.result.n_bits == shown)
        return showcase(chosen.cell, chosen.result)


def _lines(j: Judged) -> Iterator[dict[str, Any]]:
    """A cell as lines of a CSV file, one for each query mode that the method answers."""
    spec, r = j.cell.spec, j.result
    own = json.dumps(dict(spec.parameters), sort_keys=True) if spec.parameters else ""
    named = {"dataset": r.dataset, "method": spec.method, "preset": spec.preset, "parameters": own}
    named |= {"bits": str(r.n_bits), "seed": str(r.seed), "protocol": r.protocol.name}
    for mode, answer in r.modes.items():
        if answer is None:
            continue
        found = answer.to_dict()
        found["map_worst"], found["map_best"] = found["map_bounds"]
        found |= {f"precision_at_{n}": value for n, value in found["precision_at"].items()}
        yield {
            **named,
            "mode": mode,
            **{name: found.get(name) for name in _METRICS},
            "queries": answer.queries,
            "gallery": answer.gallery,
            "fit_seconds": r.environment["seconds"]["fit"],
            "encode_microseconds_per_item": findings.microseconds(r),
            "bytes_per_item": j.cell.card["bytes_per_item"],
            "version": j.cell.card["version"],
        }


def summarise(root: Path, protocol: str | Protocol = "strict", threads: int | None = None) -> Summary:
    """Score the stored codes of a grid; nothing is trained.

    Raises:
        InputError: the folder holds no finished cell.
        DamagedFile: a cell or a data set of the grid is damaged.
    """
    cells, failures = read_cells(root)
    if not cells:
        why = f"; all {len(failures)} failed, the first with: {failures[0].error}" if failures else ""
        raise InputError(f"{root} holds no finished cell{why}; run: bitfuse bench run DATA --out {root}")
    judged = [Judged(cell, cell.judge(protocol, threads)) for cell in cells]
    return Summary(_ranked(judged), failures)


def _ranked(judged: Sequence[Judged]) -> list[Judged]:
    """Data sets by name; in each, methods that answer the leading mode first, the best of them on top."""
    places: dict[tuple[str, str], list[Result]] = {}
    for j in judged:
        places.setdefault((j.result.dataset, j.result.method), []).append(j.result)

    def place(j: Judged) -> tuple[str, bool, float, str, int, int]:
        same = places[j.result.dataset, j.result.method]
        leading = next(iter(same[0].modes))
        answered = [a.scores.map if r.floors else a.neighbours for r in same if (a := r.modes[leading])]
        value = float(np.mean(answered)) if answered else float(np.mean([r.map for r in same if r.floors] or [0]))
        return j.result.dataset, not answered, -value, j.result.method, j.result.n_bits, j.result.seed

    return sorted(judged, key=place)

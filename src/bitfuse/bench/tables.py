"""Results as rows of text, once, for the terminal, for Markdown and for HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bitfuse.bench.run import Answer, Result
from bitfuse.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult

COLUMNS = (
    "float: cosine of the features; projected: cosine of the values before the sign; binary: the codes. "
    "worst, best: the bounds that the order of ties leaves open. 10-NN: share of the 10 items nearest by the features "
    "that the 10 nearest codes hold. R@1: share of queries whose own other view is the nearest of all queries'. "
    "constant: one code for every item. no training rows: the gallery without them. -: the method cannot answer that "
    "mode."
)
FEATURES = "the features"
_SHORT_NOTE = 40  # characters up to which notes share a line
_NAMED = 4  # rows named before a note that they share


@dataclass(frozen=True)
class Table:
    """Cells of text under headings. Printed by rich, one that is too wide for the terminal goes on underneath.

    Attributes:
        title: stands above.
        headings, rows: the first column is a name, the others hold numbers.
        keys: columns that say what a row is; they are repeated where the table goes on underneath.
    """

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    keys: int = 1

    def markdown(self) -> str:
        """A pipe table under its title."""
        rule = ["---", *("---:" for _ in self.headings[1:])]
        lines = [f"| {' | '.join(row)} |" for row in (self.headings, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable

        title: str | None = self.title
        for columns in self._parts(options.max_width):
            table = RichTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
            table.pad_edge, table.padding = False, (0, 1, 0, 0)
            for i in columns:
                table.add_column(self.headings[i], justify="left" if i == 0 else "right", overflow="fold")
            for row in self.rows:
                table.add_row(*(row[i] for i in columns))
            if title is None:
                yield ""
            yield table
            title = None

    def _parts(self, width: int) -> list[list[int]]:
        """Columns that fit side by side, two characters apart."""
        widths = [2 + max(map(len, column)) for column in zip(self.headings, *self.rows)]
        keys = list(range(self.keys))
        parts, room = [keys[:]], width + 2 - sum(widths[: self.keys])
        for i in range(self.keys, len(widths)):
            if widths[i] > room and len(parts[-1]) > len(keys):
                parts.append(keys[:])
                room = width + 2 - sum(widths[: self.keys])
            parts[-1].append(i)
            room -= widths[i]
        return parts


def number(values: float | Sequence[float | None] | None, digits: int = 3) -> str:
    """One number, or mean ± standard deviation of several; "-" where there is none."""
    listed = [values] if values is None or isinstance(values, float | int) else list(values)
    known = [float(v) for v in listed if v is not None and not math.isnan(v)]
    if not known:
        return "-"
    spread = f"±{np.std(known, ddof=1):.{digits}f}".replace("±0.", "±.") if len(known) > 1 else ""
    return f"{np.mean(known):.{digits}f}{spread}"


def _mean(values: Sequence[float], digits: int = 3) -> str:
    return number(float(np.mean(values)), digits)


def _middle(values: Mapping[int, float]) -> float | None:
    return float(np.mean(list(values.values()))) if values else None


def of_result(result: Result) -> Table:
    """One method: query modes down, the three columns and what the codes reach across."""
    tenth = bool(result.floors) and result.first.gallery >= 10
    headings = ["query", "float", "projected", "binary", "worst", "best"] if result.floors else ["query"]
    headings += ["P@10"] * tenth + ["NDCG"] * bool(result.floors) + ["10-NN", "R@1"]
    rows = []
    for name, answer in result.modes.items():
        if answer is None:
            rows.append((name,) + ("-",) * (len(headings) - 1))
            continue
        s = answer.scores
        cells = [name]
        if result.floors:
            cells += map(number, (answer.float_map, answer.projected_map, s.map, *s.map_bounds))
            cells += ([number(s.precision_at(10))] if tenth else []) + [number(s.ndcg())]
        rows.append((*cells, number(answer.neighbours), number(answer.pairs.get("binary", {}).get(1))))
    for name, value in {**result.floors, **result.beside}.items():
        rows.append((name, "", "", number(value)) + ("",) * (len(headings) - 4))
    metric = result.protocol.metric if result.floors else "neighbours and pairs (no labels)"
    return Table(f"{result.method}, {result.n_bits} bits, on {result.dataset}: {metric}", tuple(headings), rows)


def of_results(results: Sequence[Result]) -> Table:
    """Methods and code lengths down, query modes across; several seeds of one row give mean ± standard deviation.

    The columns float, projected, worst and best are those of the first mode that the method answers. Without labels
    the modes show 10-NN, and R@1 from one view to another.
    """
    first, labelled = results[0], any(r.floors for r in results)
    modes = list(dict.fromkeys(name for r in results for name in r.modes))
    headings = ("method", "bits", *(("float", "projected") if labelled else ()), *modes)
    headings += (("worst", "best") if labelled else ()) + ("distinct",)
    rows = []
    for (method, bits), group in grouped(results).items():
        firsts = [r.first for r in group]
        cells = [number([headline(r.modes.get(m), labelled) for r in group]) for m in modes]
        if labelled:
            before = [_mean([a.float_map for a in firsts]), _mean([a.projected_map for a in firsts])]
            cells = before + cells + [_mean([a.scores.map_bounds[i] for a in firsts]) for i in (0, 1)]
        rows.append((method, str(bits), *cells, _mean([r.diagnostics["distinct"] for r in group], 2)))
    if not labelled:
        return Table(f"{first.dataset}: 10-NN and R@1 (no labels)", headings, rows, keys=2)
    known: dict[str, dict[int, float]] = {}  # the same for all methods of a seed, save for rows that they cannot code
    for r in results:
        for m, a in r.modes.items():
            if a is not None:
                known.setdefault(m, {}).setdefault(r.seed, a.float_map)
    rows.append((FEATURES, "", "", "", *(number(_middle(known.get(m, {}))) for m in modes), "", "", ""))
    for floor in dict.fromkeys(name for r in results for name in r.floors):
        value = _mean([r.floors[floor] for r in results if floor in r.floors])  # nearly the same at any length
        rows.append((floor, "", "", "", value, *("",) * (len(modes) + 2)))
    return Table(f"{first.dataset}: {first.protocol.metric}", headings, rows, keys=2)


def headline(answer: Answer | None, labelled: bool) -> float | None:
    """The one number that stands for an answer: mAP; without labels 10-NN, or R@1 from one view to another."""
    if answer is None or labelled:
        return answer.scores.map if answer else None
    return answer.pairs["binary"][1] if answer.pairs else answer.neighbours


def grouped(results: Iterable[Result]) -> dict[tuple[str, int], list[Result]]:
    """Results by method, in the order of their first appearance, and code length, ascending."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for r in results:
        groups.setdefault((r.method, r.n_bits), []).append(r)
    methods = list(dict.fromkeys(method for method, _ in groups))
    return {key: groups[key] for key in sorted(groups, key=lambda key: (methods.index(key[0]), key[1]))}


def by_setting(results: Sequence[Result]) -> list[list[Result]]:
    """Results that one table may hold: same data set, same protocol, and for each seed of a split the same sizes."""
    if not results:
        raise InputError("a report needs at least one result; run bitfuse.evaluate first")
    settings: list[tuple[list[Result], dict[int, dict[str, int]]]] = []
    for r in results:
        for group, sizes in settings:
            same = (group[0].dataset, group[0].protocol) == (r.dataset, r.protocol)
            if same and sizes.setdefault(r.seed, r.sizes) == r.sizes:
                group.append(r)
                break
        else:
            settings.append(([r], {r.seed: r.sizes}))
    return [group for group, _ in settings]


def under(results: Sequence[Result]) -> list[str]:
    """What stands under a table: sizes, protocol, meaning of the columns, remarks, and where it was computed."""
    first = results[0]
    sizes = ", ".join(f"{_span([r.sizes[part] for r in results])} {part}" for part in first.sizes)
    shared = [note for note in first.notes if all(note in r.notes for r in results)]
    short = [note for note in shared if len(note) <= _SHORT_NOTE]
    own = _own([(f"{r.method}, {r.n_bits} bits", note) for r in results for note in r.notes if note not in shared])
    where = first.environment
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    return [
        f"{first.dataset}: {sizes}. {first.protocol.describe()}",
        COLUMNS,
        *(["; ".join(short)] if short else []),
        *(note for note in shared if note not in short),
        *own,
        f"Computed with {versions}, Python {where['python']}, on {where['processor']}, {where['threads']} thread(s).",
    ]


def _span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _own(notes: Sequence[tuple[str, str]]) -> list[str]:
    """Notes that not all rows share: each once, with the rows; those that differ in their numbers stand together."""
    alike: dict[str, dict[str, list[str]]] = {}
    for row, note in notes:
        alike.setdefault(re.sub(r"[0-9][0-9.,]*", "#", note), {}).setdefault(note, []).append(row)
    lines = []
    for variants in alike.values():
        rows = list(dict.fromkeys(row for found in variants.values() for row in found))
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        other = "; elsewhere with other numbers" if len(variants) > 1 else ""
        lines.append(f"{', '.join(rows[:_NAMED])}{more}: {next(iter(variants))}{other}")
    return lines


def result_table(result: Result) -> Group:
    """One result for the terminal."""
    from rich.console import Group
    from rich.text import Text

    d, seconds = result.diagnostics, result.environment["seconds"]
    codes = (
        f"Codes of the gallery: {d['distinct']:.1%} distinct, the most frequent covers {d['largest_bucket']:.1%}, "
        f"{d['dead_bits']:.0f} dead bits, {d['equal_bits']:.0f} equal bits. "
        f"Encoding took {seconds['encode']:.2f} s, scoring {seconds['score']:.2f} s."
    )
    return Group(of_result(result), Text(codes), *(Text(line, style="dim") for line in under([result])))

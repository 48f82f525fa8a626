"""Reports: tables for the terminal and Markdown, and one HTML page that stands alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from bitfuse.bench import plots, tables
from bitfuse.bench.run import Result
from bitfuse.bench.sections import Section
from bitfuse.bench.tables import Table

if TYPE_CHECKING:
    from rich.console import Group

_THUMBNAIL = 160  # pixels of the longer side of a picture on the page
SHORT = 64
"""The code length whose curves and searches are shown, where it was run; else the longest."""


@dataclass(frozen=True)
class Card:
    """One item on the page.

    Attributes:
        caption: its words; may be empty where there is a picture.
        image: path or encoded bytes, or None.
    """

    caption: str
    image: Path | bytes | None = None


@dataclass(frozen=True)
class Retrieved:
    """One search as it is shown.

    Attributes:
        asked: how, in words: `"words"`, `"picture"`, `"picture and words"`.
        query: what was asked.
        hits: the items found, nearest first, each with its Hamming distance and whether it is relevant (None where
            nobody knows).
    """

    asked: str
    query: Card
    hits: tuple[tuple[Card, int, bool | None], ...]


def terminal(results: Sequence[Result]) -> Group:
    """One table per data set and protocol, with the protocol under it, for `rich.console.Console.print`."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for group in tables.by_setting(results):
        parts += [tables.of_results(group), *(Text(line, style="dim") for line in tables.under(group))]
    return Group(*parts)


def markdown(results: Sequence[Result], sections: Sequence[Section] = ()) -> str:
    """The same tables and texts as Markdown, with further sections after them; one of the two must be there."""
    parts = []
    for group in tables.by_setting(results) if results or not sections else []:
        parts += [tables.of_results(group).markdown(), *tables.under(group)]
    return "\n\n".join(parts + [s.markdown().rstrip() for s in sections]) + "\n"


def write_html(
    results: Sequence[Result],
    path: str | Path,
    *,
    title: str = "Bitfuse report",
    grids: Sequence[Retrieved] = (),
    sections: Sequence[Section] = (),
) -> Path:
    """Write one HTML file that needs no other: tables, plots, searches with their pictures, protocol.

    Args:
        results: of any methods, code lengths, seeds, data sets and protocols.
        path: the file to write; it appears whole or not at all.
        title: of the page.
        grids: searches to show.
        sections: what else was measured; with these alone, `results` may be empty.

    Raises:
        InputError: neither a result nor a section, or a picture that cannot be read.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("bitfuse.bench"), autoescape=True, trim_blocks=True)
    settings = []
    for group in tables.by_setting(results) if results or not sections else []:
        table, labelled = tables.of_results(group), any(r.floors for r in group)
        lengths = sorted({r.n_bits for r in group})
        shown = SHORT if SHORT in lengths else lengths[-1]
        settings.append(
            {
                "name": group[0].dataset,
                "tiles": _tiles(group) if labelled else [],
                "table": table,
                "rows": _rows(table, group),
                "bits": Markup(plots.map_against_bits(group)) if labelled and len(lengths) > 1 else None,
                "pr": Markup(plots.pr_curves(group, shown)) if labelled else None,
                "shown": shown,
                "details": [tables.of_result(same[0]) for same in tables.grouped(group).values()],
                "several": len(group) > len(tables.grouped(group)),
                "under": tables.under(group),
            }
        )
    searches = [_search(grid) for grid in grids]
    page = environment.get_template("report.html").render(
        title=title, settings=settings, searches=searches, sections=[_drawn(s) for s in sections]
    )
    target = Path(path)
    temporary = target.with_name(target.name + ".partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(target)
    return target


def _drawn(section: Section) -> dict[str, Any]:
    from markupsafe import Markup

    paragraphs = [p for p in section.text.split("\n\n") if p.strip()]
    figures = [Markup(svg) for svg in section.figures]
    return {"title": section.title, "paragraphs": paragraphs, "table": section.table, "figures": figures}


def _tiles(group: Sequence[Result]) -> list[tuple[str, str, str]]:
    """What a hurried reader should take home: the best method, the features, chance. (label, number, note)."""
    runs = max(tables.grouped(group).values(), key=lambda same: sum(r.map for r in same) / len(same))
    best = runs[0]
    metric = best.protocol.metric
    n_bytes = -(-best.n_bits // 8)
    wide, number = 4 * sum(best.widths.values()), tables.number
    return [
        (f"{best.method}, {best.n_bits} bits", number([r.map for r in runs]), f"{metric}, {n_bytes} bytes an item"),
        (
            tables.FEATURES,
            number(mean([r.first.float_map for r in runs])),
            f"{metric} by cosine, {wide:,} bytes an item",
        ),
        (
            "random codes",
            number(mean([r.floors["random codes"] for r in runs])),
            f"{metric} that knowing nothing gives",
        ),
    ]


def _rows(table: Table, group: Sequence[Result]) -> list[dict[str, Any]]:
    """The rows of a table with what the page draws: groups set apart, a bar behind the number of each query mode."""
    modes = {name for r in group for name in r.modes}
    methods = {r.method for r in group}
    rows, last = [], ""
    for row in table.rows:
        split = [cell.partition("±") for cell in row]  # mean, sign, deviation
        bars = [float(m) if h in modes and m.strip("-") else None for h, (m, _, _) in zip(table.headings, split)]
        name = row[0] if row[0] in methods else "floors"
        kind = ["floor"] * (name == "floors") + ["first"] * (name != last)
        rows.append({"kind": " ".join(kind), "cells": [(m, s + d, b) for (m, s, d), b in zip(split, bars)]})
        last = name
    return rows


def _search(grid: Retrieved) -> dict[str, Any]:
    known = [ok for _, _, ok in grid.hits if ok is not None]
    return {
        "asked": grid.asked,
        "query": _shown(grid.query),
        "hits": [(_shown(card), distance, ok) for card, distance, ok in grid.hits],
        "known": len(known),
        "right": sum(known),
    }


def _shown(card: Card) -> dict[str, str | None]:
    return {"caption": card.caption, "image": None if card.image is None else _thumbnail(card.image)}


def _thumbnail(image: Path | bytes) -> str:
    """A picture as a data URL, scaled down, on white."""
    from bitfuse.features.images import open_image

    picture = open_image(image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    out = io.BytesIO()
    small = picture.width * picture.height <= 64 * 64  # PNG keeps small drawings sharp, JPEG keeps photographs small
    picture.save(out, format="PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(out.getvalue()).decode()}"

"""A few searches with the codes of a cell, as a report shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitfuse.bench import modes as asking
from bitfuse.bench.cells import Cell
from bitfuse.bench.report import Card, Retrieved
from bitfuse.bench.run import Result
from bitfuse.data.base import Samples

SEARCHES, HITS = 3, 7
_WORDS = {"image": "picture", "text": "words"}


def showcase(cell: Cell, result: Result) -> list[Retrieved]:
    """The first queries in the first mode that the method answers, with their nearest items, ties in row order.

    None where the data set has neither pictures nor texts to show.
    """
    query, gallery = cell.dataset.query, cell.dataset.gallery
    if query.images is None and query.texts is None:
        return []
    views = asking.views_of(cell.subject, query.views)
    mode = next(m for m in asking.modes(views) if result.modes[m.name] is not None)
    spaces = asking.spaces(cell.subject, mode)
    if spaces is None:
        return []
    rows = asking.rows_with(query, mode.query, cell.subject)
    shown = rows[np.linspace(0, len(rows) - 1, min(SEARCHES, len(rows))).astype(np.intp)]
    found_in = asking.rows_with(gallery, mode.gallery, cell.subject)
    asked, _ = cell.code(asking.Coding("query", spaces[0], mode.query), shown)
    searched, _ = cell.code(asking.Coding("gallery", spaces[1], mode.gallery), found_in)
    distances = asked.hamming(searched)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :HITS]
    how = " and ".join(_WORDS.get(view, view) for view in mode.query)
    found = []
    for row, line, places in zip(shown.tolist(), distances, nearest):
        hits = [
            (_card(gallery, mode.gallery, int(found_in[i])), int(line[i]), _relevant(cell, row, int(found_in[i])))
            for i in places
        ]
        asked_with = f"{how}; {result.method}, {result.n_bits} bits, on {result.dataset}"
        found.append(Retrieved(asked_with, _card(query, mode.query, row), tuple(hits)))
    return found


def _relevant(cell: Cell, row: int, item: int) -> bool | None:
    query, gallery = cell.dataset.query.labels, cell.dataset.gallery.labels
    return None if query is None or gallery is None else bool((query[row] & gallery[item]).any())


def _card(samples: Samples, views: tuple[str, ...], row: int) -> Card:
    """An item as far as the mode's views show it; a picture that is gone from the disk is left out."""
    text = samples.texts[row] if samples.texts is not None and "text" in views else None
    image = samples.images[row] if samples.images is not None and "image" in views else None
    if isinstance(image, Path) and not image.is_file():
        image = None
    return Card(text or ("" if image is not None else samples.ids[row]), image)

"""What shorter and longer codes would give on a user's own data: `bitfuse fit --sweep`."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitfuse.bench.plots import _empty, _svg
from bitfuse.bench.report import write_html
from bitfuse.bench.run import Result, evaluate
from bitfuse.bench.sections import Section
from bitfuse.bench.tables import Table
from bitfuse.codes import MAX_BITS
from bitfuse.data.base import Dataset
from bitfuse.hashers.base import Hasher

JSON, PAGE = "sweep.json", "sweep.html"
"""The attachments of a model that keep its sweep: the numbers, and a page that shows them."""

FORMAT = 1
_SHORTEST = 8


def around(bits: int) -> list[int]:
    """A quarter of a code length to four times it, by doubling, from 8 bits on, the length itself among them."""
    return sorted({bits, *(b for b in (bits // 4, bits // 2, 2 * bits, 4 * bits) if _SHORTEST <= b <= MAX_BITS)})


@dataclass(frozen=True)
class Sweep:
    """One method on the same data at several code lengths.

    Attributes:
        results: one a length, shortest first.
        seconds: that each fit took; NaN for the model that was there already.
    """

    results: list[Result]
    seconds: list[float]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON: of each length quality by query mode, distinct codes, bytes."""
        first = self.results[0]
        lengths = [
            {
                "bits": result.n_bits,
                "bytes_per_item": -(-result.n_bits // 8),
                "map": _number(result.map),
                "recall_of_10_neighbours": _number(result.first.neighbours),
                "modes": {
                    name: {"map": _number(answer.scores.map), "recall_of_10_neighbours": _number(answer.neighbours)}
                    for name, answer in result.modes.items()
                    if answer is not None
                },
                "distinct_share": _number(result.diagnostics["distinct"]),
                "fit_seconds": _number(seconds),
            }
            for result, seconds in zip(self.results, self.seconds)
        ]
        return {
            "format": FORMAT,
            "method": first.method,
            "metric": first.protocol.metric,
            "protocol": first.protocol.describe(),
            "float_map": _number(first.first.float_map),
            "queries": first.first.queries,
            "gallery": first.first.gallery,
            "lengths": lengths,
        }

    def section(self) -> Section:
        """Table and plot, for a report."""
        facts = self.to_dict()
        rows: list[tuple[str, ...]] = [
            (
                str(one["bits"]), str(one["bytes_per_item"]), _shown(one["map"]),
                _shown(one["recall_of_10_neighbours"]), f"{one['distinct_share']:.1%}", _shown(one["fit_seconds"], 1),
            )
            for one in facts["lengths"]
        ]  # fmt: skip
        headings = ("bits", "bytes an item", facts["metric"], "of 10 neighbours", "distinct codes", "s to fit")
        text = (
            f"{facts['method']} fitted anew at each length on the same rows, judged by {facts['queries']} held-out "
            f"queries among {facts['gallery']} items. The features themselves reach {_shown(facts['float_map'])}. "
            "Take the shortest length beyond which little is gained."
        )
        table = Table("Code length against quality on this data", headings, rows)
        return Section("What would shorter and longer codes give?", text, table, (self._figure(facts),), facts)

    def _figure(self, facts: dict[str, Any]) -> str:
        figure, axes = _empty("bytes per item", "quality")
        widths = [one["bytes_per_item"] for one in facts["lengths"]]
        for key, label in (("map", facts["metric"]), ("recall_of_10_neighbours", "of the 10 nearest by the features")):
            known = [(w, one[key]) for w, one in zip(widths, facts["lengths"]) if one[key] is not None]
            if known:
                axes.plot(*zip(*known), marker="o", label=label)
        if facts["float_map"] is not None:
            axes.axhline(facts["float_map"], color="#8a93a3", lw=1.2, ls="--", label="the features themselves")
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(w) for w in widths])
        axes.minorticks_off()
        axes.set_ylim(0, 1)
        return _svg(figure)

    def attachments(self) -> dict[str, bytes]:
        """What `Hasher.save` keeps with the model."""
        with tempfile.TemporaryDirectory() as place:
            page = write_html([], Path(place) / PAGE, title="Code lengths", sections=[self.section()])
            return {JSON: json.dumps(self.to_dict(), indent=1).encode(), PAGE: page.read_bytes()}


def sweep(model: Hasher, refit: Callable[[int], Hasher], dataset: Dataset, *, device: str = "cpu") -> Sweep:
    """Fit the method of a model at other lengths and judge all of them on the same held-out rows.

    Args:
        model: fitted; its own length is among those of the sweep.
        refit: fits the same method with so many bits.
        dataset: with features: `query` are the held-out rows.
        device: where a deep method computes.
    """
    results, seconds = [], []
    for bits in around(model.n_bits):
        start = time.perf_counter()
        fitted = model if bits == model.n_bits else refit(bits)
        seconds.append(math.nan if fitted is model else time.perf_counter() - start)
        results.append(evaluate(fitted, dataset, device=device))
    return Sweep(results, seconds)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


def _shown(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

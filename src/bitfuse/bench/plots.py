"""Plots as inline SVG: mAP against code length, and precision against recall."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bitfuse.bench.run import Result
from bitfuse.bench.tables import FEATURES, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#be185d")
_MARKS = "osD^vPX*"
_GREY = "#8a93a3"


def map_against_bits(results: Sequence[Result]) -> str:
    """mAP of the first mode of each method by code length, the features and a constant code as levels: SVG."""
    figure, axes = _empty("bits per item", results[0].protocol.metric)
    groups = grouped(results)
    lengths = sorted({bits for _, bits in groups})
    for i, method in enumerate(dict.fromkeys(m for m, _ in groups)):
        bits = [b for m, b in groups if m == method]
        values = np.array([[np.mean(v), np.std(v)] for b in bits if (v := [r.map for r in groups[method, b]])])
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKS[i % len(_MARKS)]
        line = axes.errorbar(bits, values[:, 0], values[:, 1], label=method, capsize=2, color=colour, marker=marker)
        line.lines[0].set(linewidth=1.8, markersize=5)
    levels = {FEATURES: results[0].first.float_map, **results[0].floors}
    for (name, value), dashes in zip(levels.items(), ("--", ":", "-.")):
        axes.axhline(value, color=_GREY, lw=1.2, ls=dashes, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(b) for b in lengths])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    return _svg(figure)


def pr_curves(results: Sequence[Result], n_bits: int) -> str:
    """Precision against recall as the Hamming radius grows, first mode, one code length: SVG."""
    figure, axes = _empty("recall", "precision")
    for (method, bits), group in grouped(results).items():
        if bits == n_bits:
            recall, precision = group[0].first.scores.pr_curve
            axes.plot(recall, precision, label=method, lw=1.8, color=_colour(results, method))
    share = results[0].first.scores.relevant_share
    axes.axhline(share, color=_GREY, lw=1.2, ls=":", label="by chance")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return _svg(figure)


def _colour(results: Sequence[Result], method: str) -> str:
    methods = list(dict.fromkeys(m for m, _ in grouped(results)))
    return _COLOURS[methods.index(method) % len(_COLOURS)]


def _empty(x: str, y: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.7), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e6e9ee", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c3c9d4")
    axes.tick_params(color="#c3c9d4", labelcolor="#4a5363")
    return figure, axes


def _svg(figure: Figure) -> str:
    """The drawing as an `<svg>` element with its text as text, the same at every run."""
    import matplotlib

    axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bitfuse", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]

"""Plots as inline SVG: mAP against code length, precision against recall, precision at the top, time."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bitfuse.bench.run import Result
from bitfuse.bench.tables import FEATURES, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#be185d")
_MARKS = "osD^vPX*"
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
_GREY = "#8a93a3"
_FEW = 8
"""Curves that a legend under the plot holds; more stand beside it, one below the other."""

_WIDE = 6.0  # inches from which a drawing has a row of the page to itself
_TOPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


class Style(NamedTuple):
    """How a method is drawn in every plot of a page: a colour with a dash that no other method has."""

    colour: str
    dash: Any
    mark: str


def styles(results: Sequence[Result]) -> dict[str, Style]:
    """One style for each method, in the order of their appearance."""
    found = {}
    for i, method in enumerate(dict.fromkeys(m for m, _ in grouped(results))):
        turn, colour = divmod(i, len(_COLOURS))
        found[method] = Style(_COLOURS[colour], _DASHES[turn % len(_DASHES)], _MARKS[(turn + colour) % len(_MARKS)])
    return found


def map_against_bits(results: Sequence[Result]) -> str:
    """mAP of the first mode of each method by code length, the features and a constant code as levels: SVG."""
    looks, groups = styles(results), grouped(results)
    figure, axes = _empty("bits per item", results[0].protocol.metric, len(looks))
    lengths = sorted({bits for _, bits in groups})
    for method, look in looks.items():
        bits = [b for m, b in groups if m == method]
        values = np.array([[np.mean(v), np.std(v)] for b in bits if (v := [r.map for r in groups[method, b]])])
        how = {"color": look.colour, "marker": look.mark, "linestyle": look.dash}
        label = _label(groups[method, bits[0]][0])
        line = axes.errorbar(bits, values[:, 0], values[:, 1], label=label, capsize=2, **how)
        line.lines[0].set(linewidth=1.8, markersize=5, gid=f"line:{label}")
    levels = {FEATURES: results[0].first.float_map, **results[0].floors}
    for (name, value), dashes in zip(levels.items(), ("--", ":", "-.")):
        axes.axhline(value, color=_GREY, lw=1.2, ls=dashes, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(b) for b in lengths])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    return _svg(figure)


def pr_curves(results: Sequence[Result], n_bits: int) -> str:
    """Precision against recall as the Hamming radius grows, first mode, one code length, first seed: SVG."""
    looks = styles(results)
    figure, axes = _empty("recall", "precision", len(looks))
    for (method, bits), group in grouped(results).items():
        if bits == n_bits:
            _curve(axes, *group[0].first.scores.pr_curve, looks[method], group[0])
    share = results[0].first.scores.relevant_share
    axes.axhline(share, color=_GREY, lw=1.2, ls=":", label="by chance")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return _svg(figure)


def precision_at_top(results: Sequence[Result], n_bits: int) -> str:
    """Precision among the first N, first mode, one code length, mean of the seeds: SVG."""
    looks = styles(results)
    figure, axes = _empty("items looked at, N", "precision among the first N", len(looks))
    last = 1
    for (method, bits), group in grouped(results).items():
        if bits == n_bits:
            tops = [n for n in _TOPS if all(n <= r.first.gallery for r in group)]
            values = np.mean([[r.first.scores.precision_at(n) for n in tops] for r in group], axis=0)
            _curve(axes, tops, values, looks[method], group[0])
            last = max(last, *tops)
    share = results[0].first.scores.relevant_share
    axes.axhline(share, color=_GREY, lw=1.2, ls=":", label="by chance")
    axes.set_xscale("log")
    ticks = [n for n in (1, 10, 100, 1000) if n <= last]
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.set_xlim(1, last)
    axes.set_ylim(0, 1)
    return _svg(figure)


def bars(values: Mapping[str, float], x: str) -> str:
    """One bar a name on a logarithmic scale, longest on top, each with its number: SVG."""
    from matplotlib.figure import Figure

    known = sorted(((v, k) for k, v in values.items() if v > 0), reverse=False)
    figure = Figure(figsize=(5.6, 0.9 + 0.19 * max(4, len(known))), layout="constrained")
    axes = figure.add_subplot()
    _calm(axes, x, "")
    axes.grid(visible=False, axis="y")
    axes.barh([k for _, k in known], [v for v, _ in known], color="#9db8ef", height=0.7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.tick_params(axis="y", labelsize=8, length=0)
    for i, (value, _) in enumerate(known):
        axes.annotate(f"{value:.3g}", (value, i), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.margins(x=0.12, y=0.02)
    return _svg(figure)


def _curve(axes: Axes, x: Any, y: Any, look: Style, result: Result) -> None:
    label = _label(result)
    axes.plot(x, y, label=label, lw=1.8, color=look.colour, ls=look.dash, gid=f"line:{label}")


def _label(result: Result) -> str:
    """The method, with the mode where it is not the leading one: such a curve answers another question."""
    leading, answered = next(iter(result.modes)), next(m for m, a in result.modes.items() if a is not None)
    return result.method if answered == leading else f"{result.method} ({answered})"


def _empty(x: str, y: str, curves: int = 0) -> tuple[Figure, Axes]:
    """A figure with calm axes, with room for a legend beside it where there are many curves."""
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(5.6, 3.7) if curves <= _FEW else (7.6, max(4.2, 0.17 * (curves + 3))), layout="constrained"
    )
    axes = figure.add_subplot()
    _calm(axes, x, y)
    return figure, axes


def _calm(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#e6e9ee", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c3c9d4")
    axes.tick_params(color="#c3c9d4", labelcolor="#4a5363")


def _svg(figure: Figure) -> str:
    """The drawing as an `<svg>` element with its text as text, the same at every run; a curve tells its name."""
    import matplotlib

    axes = figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > _FEW + 3:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8, handlelength=3)
    elif handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bitfuse", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    if figure.get_figwidth() > _WIDE:
        text = text.replace("<svg ", '<svg class="wide" ', 1)
    return re.sub(r'<g id="line:([^"]+)">', r'<g class="line"><title>\1</title>', text[text.index("<svg") :])

"""Curves of an ablation as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitfuse.bench.plots import _empty, _svg

_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#be185d")


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, *, base: int | None = None
) -> str:
    """One line a name, (x values, y values).

    Args:
        series: name -> the two sequences.
        x, y: what stands at the axes.
        base: of a logarithmic x axis; None leaves it linear.
    """
    figure, axes = _empty(x, y)
    for i, (name, (at, values)) in enumerate(series.items()):
        axes.plot(at, values, label=name, color=_COLOURS[i % len(_COLOURS)], marker="o", markersize=4, linewidth=1.8)
    ticks = sorted({float(value) for at, _ in series.values() for value in at})
    if base is not None:
        axes.set_xscale("log", base=base)
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    return _svg(figure)

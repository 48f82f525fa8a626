"""The figures of the concepts, drawn from the numbers that they show. Each on white, so that dark pages show it too."""

import io
from typing import Any

import numpy as np
from matplotlib.figure import Figure

INK, FAINT, BLUE, RED, GREEN = "#33415c", "#c3c9d4", "#2563eb", "#d94f30", "#7a9e3d"


def svg(figure: Figure) -> str:
    """A figure as SVG, the same bytes for the same numbers."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, facecolor="white")
    return out.getvalue()


def plane(axis: Any, title: str) -> None:
    """Square axes without ticks."""
    axis.set(xticks=[], yticks=[], xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), aspect="equal")
    axis.set_title(title, fontsize=10)
    axis.spines[:].set_color(FAINT)


def sign() -> Figure:
    """Two cuts make four cells; and the share of differing bits grows with the angle."""
    rng = np.random.default_rng(4)
    figure = Figure(figsize=(8.4, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plane(left, "two cuts, four codes")
    x = rng.normal(size=(160, 2))
    cuts = np.array([[1.0, 0.35], [-0.3, 1.0]])
    bits = x @ cuts.T > 0
    for code, colour in zip(((0, 0), (0, 1), (1, 0), (1, 1)), (INK, BLUE, RED, GREEN)):
        inside = (bits == code).all(axis=1)
        left.scatter(*x[inside].T, s=14, color=colour, label="".join(map(str, code)))
    for number, (a, b) in enumerate(cuts, start=1):
        left.axline((0, 0), (-b, a), color=FAINT, lw=1.4)
        left.annotate(f"z{number} = 0", (-b, a), xytext=np.array((-b, a)) * 1.9, color=INK, fontsize=9, ha="center")
    left.legend(title="code", loc="lower left", framealpha=0.9, ncols=2)

    pairs = rng.normal(size=(400, 2, 32))
    pairs[:, 1] = pairs[:, 0] + pairs[:, 1] * rng.uniform(0.1, 3, (400, 1))
    pairs /= np.linalg.norm(pairs, axis=2, keepdims=True)
    angle = np.arccos((pairs[:, 0] * pairs[:, 1]).sum(axis=1))
    codes = pairs @ rng.normal(size=(32, 64)) > 0
    right.scatter(np.degrees(angle), (codes[:, 0] != codes[:, 1]).sum(axis=1), s=8, color=BLUE, alpha=0.6)
    right.plot([0, 90], [0, 32], color=RED, lw=1.4)
    right.annotate(
        "64 · angle / 180°", (70, 24.9), xytext=(30, 33), color=RED, arrowprops={"arrowstyle": "-", "color": RED}
    )
    right.set(xlim=(0, 90), ylim=(0, 36), xlabel="angle between two items (degrees)", ylabel="bits that differ, of 64")
    right.set_title("400 pairs: the distance follows the angle", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def contrast() -> Figure:
    """A sketch on generated points: two views with means far apart, and what centring each on its own mean does."""
    rng = np.random.default_rng(4)
    angle = rng.normal(size=60) * 0.25
    pictures = np.c_[np.cos(angle + 0.9), np.sin(angle + 0.9)] * 1.6
    texts = np.c_[np.cos(angle + 2.4), np.sin(angle + 2.4)] * 1.6 + rng.normal(size=(60, 2)) * 0.05
    figure = Figure(figsize=(8.4, 4), layout="constrained")
    for axis, centred in zip(figure.subplots(1, 2), (False, True)):
        plane(axis, "each view less its own mean" if centred else "as a backbone with a gap gives them")
        for rows, colour, name in ((pictures, BLUE, "pictures"), (texts, RED, "texts")):
            axis.scatter(*(rows - rows.mean(axis=0) if centred else rows).T, s=14, color=colour, label=name)
        axis.axhline(0, color=FAINT, lw=0.8)
        axis.axvline(0, color=FAINT, lw=0.8)
        axis.legend(frameon=False, loc="lower left")
    return figure


def gate() -> Figure:
    """What a gate does to one column for three items, beside what a fixed weight does."""
    figure = Figure(figsize=(8.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    context = np.linspace(-6, 6, 200)
    items = (
        (-3.5, "text says “item 4711”", RED),
        (0.0, "text says “red”", INK),
        (3.5, "text says “red wool scarf”", BLUE),
    )
    left.plot(context, 1 / (1 + np.exp(-context)), color=FAINT, lw=2)
    for at, text, colour in items:
        share = 1 / (1 + np.exp(-at))
        left.plot(at, share, "o", color=colour)
        right.barh(text, share, color=colour, height=0.5)
        right.annotate(f"{share:.2f}", (share, text), xytext=(4, 0), textcoords="offset points", va="center")
    left.set(xlabel="what the whole row says: (WX + b)ᵢ", ylabel="share that passes", ylim=(0, 1.05))
    left.set_title("the gate of column i", fontsize=10)
    right.axvline(0.75, color=INK, ls=":", lw=1)
    right.annotate("a fixed weight", (0.75, 2.4), xytext=(4, 0), textcoords="offset points", color=INK, fontsize=9)
    right.set(xlim=(0, 1.15), ylim=(-0.5, 2.7), xlabel="share of the text's column i that passes")
    right.set_title("an example: item by item", fontsize=10)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def figures() -> dict[str, str]:
    """Path on the site -> SVG."""
    return {f"concepts/{draw.__name__}.svg": svg(draw()) for draw in (sign, contrast, gate)}

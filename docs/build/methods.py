"""A page a method, from its docstring, its facts and its measured scores; and the table of all."""

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bitfuse.hashers import hasher_class, hashers, method_table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SCORES, CLOTHES = RESULTS / "method_scores.json", RESULTS / "methods_hm.json"
SECTIONS = "Parameters|Attributes|Examples|References|Args|Returns|Raises|Warns"
LEGEND = """
*missing*: whether rows may lack a view at query time, or in training too. *spaces*: `fused` codes an item by all its
views; `image` and `text` code one view each, for search from one to the other. *cost*: of training, in the number n of
training rows. *at scale*: what a method learns from where features do not fit in memory
([training at scale](../running/training.md#what-each-method-does)).

*shapes*: mAP on {data}, {n_bits} bits, under [`strict`](../judging/protocols.md), mean of three seeds, in the first
mode that the method answers (both views, else image to text): `python benchmarks/method_scores.py`. Random codes have
{random:.3f}, the float features {features:.3f} (both). *clothes*: the same on FashionCLIP's features of 1,060 real
articles of clothing, whose gallery is the training set
([what that favours](../judging/published.md#a-classifier-among-the-hashes)): `python benchmarks/methods.py`. Both with
the defaults of every method.
"""


def cell(value: Any) -> str:
    """A value as a cell of a table."""
    return ("yes" if value else "-") if isinstance(value, bool) else str(value).replace("|", "\\|")


def rows(headings: list[str], lines: list[list[str]]) -> str:
    """A pipe table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *lines)) + "\n"


def prose(docstring: str) -> Iterator[str]:
    """A class docstring of the house as Markdown: sections as headings, parameters as a list, examples as code."""
    section, code = "", False
    text = re.sub(
        r"\$\$(.+?)\$\$", lambda m: f"\n$$\n{' '.join(m[1].split())}\n$$\n", inspect.cleandoc(docstring), flags=re.S
    )
    for line in text.splitlines():
        if re.fullmatch(rf"({SECTIONS}):", line):
            if code:
                yield "```"
                code = False
            section = line[:-1]
            yield f"\n## {section}\n"
            continue
        if section and line and not line.startswith(" "):  # a paragraph after the sections
            if code:
                yield "```"
            section, code = "", False
            if line.startswith("Deviations from the paper:"):
                yield "\n## Deviations from the paper\n"
                line = line.removeprefix("Deviations from the paper:").strip()
                line = line[:1].upper() + line[1:]
        if section == "Examples" and line.strip() and not code:
            yield "```pycon"
            code = True
        if section == "Parameters" and re.match(r"    \S", line):
            name, _, rest = line.strip().partition(": ")
            line = f"- **`{name}`**: {rest}"
        elif section == "Parameters" and line.startswith("        "):
            line = "  " + line.strip()
        elif section:
            line = line.removeprefix("    ")
        yield line
    if code:
        yield "```"


def clothes() -> dict[str, dict[str, list[float]]]:
    """Method -> mode -> mAP by seed on the real features."""
    seeds = json.loads(CLOTHES.read_text())["mAP by seed"]
    named = {key.removeprefix("hm | "): runs for key, runs in seeds.items() if key.startswith("hm | ")}
    return {name: {mode: [run[mode] for run in runs] for mode in runs[0]} for name, runs in named.items()}


def reached(modes: dict[str, list[float]]) -> str:
    """The mean in the first mode that a method answers, which is named where it is not both views."""
    mode, values = next(iter(modes.items()))
    return f"{mean(values):.3f}" + ("" if mode == "both" else f" ({mode})")


def score(name: str, known: dict[str, Any], real: dict[str, list[float]]) -> str:
    """What a method reached, by query mode, beside the float features and the floors; and on real features."""
    lines = [
        [mode, *(f"{mean(v):.3f} ± {stdev(v):.3f}" for v in (values, real[mode])), f"{known['float'][mode]:.3f}"]
        for mode, values in known["methods"][name].items()
    ]
    lines = [[mode, made, features, clothing] for mode, made, clothing, features in lines]
    text = rows(["query", "shapes", "float features of shapes", "clothes"], lines)
    floors = ", ".join(f"{floor} {value:.3f}" for floor, value in known["floors"].items())
    return (
        f"{text}\nmAP of codes of {known['n_bits']} bits, mean ± deviation of three seeds. Shapes: {known['data']}; "
        f"floors: {floors}; `python benchmarks/method_scores.py`. Clothes: 1,060 real articles, the training set is "
        "the gallery; `python benchmarks/methods.py`. "
        "[Side by side](index.md), [the protocol](../judging/protocols.md).\n"
    )


def pages() -> dict[str, str]:
    """Path on the site -> Markdown."""
    table, known, real = method_table(), json.loads(SCORES.read_text()), clothes()
    lines = []
    for row in table:
        name = row["name"]
        facts = [cell(value) for key, value in row.items() if key not in ("name", "reference")]
        lines.append([f"[{name}]({name}.md)", reached(known["methods"][name]), reached(real[name]), *facts])
    heads = ["name", "shapes", "clothes", *(key for key in table[0] if key not in ("name", "reference"))]
    floors = {"random": known["floors"]["random codes"], "features": known["float"]["both"]}
    legend = LEGEND.format(**known, **floors)
    found = {"methods/index.md": f"# Methods\n\n{rows(heads, lines)}\n{legend}"}
    for row in table:
        name, cls = row["name"], hasher_class(row["name"])
        said = ", ".join(f"{key} {cell(value)}" for key, value in row.items() if key not in ("name", "reference"))
        defaults = [[f"`{f.name}`", f"`{f.default!r}`"] for f in fields(cls) if f.init]
        presets = "".join(
            f'\n`preset="{preset}"`: ' + ", ".join(f"`{k}={v!r}`" for k, v in values.items()) + "\n"
            for preset, values in cls.presets.items()
        )
        body = "\n".join(prose(cls.__doc__ or ""))
        found[f"methods/{name}.md"] = (
            f'# {cls.__name__}\n\n`bf.hasher("{name}")`: {said}.\n\n{body}\n\n## Score under strict\n\n'
            f"{score(name, known, real[name])}\n## Defaults\n\n{rows(['parameter', 'default'], defaults)}{presets}"
        )
    assert set(found) == {"methods/index.md", *(f"methods/{name}.md" for name in hashers())}
    return found

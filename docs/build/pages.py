"""Pages that mkdocs draws from the code itself: methods, commands, the Python reference, and the figures."""

import inspect
import io
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import typer
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import bitfuse
from bitfuse.cli import app, register
from bitfuse.hashers import hasher_class, hashers, method_table

INK, FAINT, BLUE, RED = "#33415c", "#c3c9d4", "#2563eb", "#d94f30"


pages: dict[str, str] = {}


def write(path: str, text: str) -> None:
    """One page of the site."""
    pages[path] = text


def cell(value: Any) -> str:
    """A value as a cell of a table."""
    return ("yes" if value else "-") if isinstance(value, bool) else str(value).replace("|", "\\|")


def rows(headings: list[str], lines: list[list[str]]) -> str:
    """A pipe table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (headings, ["---"] * len(headings), *lines)) + "\n"


def prose(docstring: str) -> Iterator[str]:
    """A class docstring of the house as Markdown: sections as headings, parameters as a list, examples as code."""
    section, code = "", False
    for line in inspect.cleandoc(docstring).splitlines():
        if re.fullmatch(r"(Parameters|Attributes|Examples|References|Args|Returns|Raises|Warns):", line):
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
        yield re.sub(r"(?<!\$)\$\$(?!\$)", "$$", line) if not code else line
    if code:
        yield "```"


def methods() -> None:
    """A page a method, and their table."""
    table = method_table()
    heads = list(table[0])
    lines = [[f"[{row['name']}]({row['name']}.md)", *(cell(v) for v in list(row.values())[1:])] for row in table]
    text = "# Methods\n\n" + rows(heads, lines)
    text += (
        "\n*missing*: whether rows may lack a view at query time, or in training too. *cost*: of training, in the "
        "number n of training rows. Scores side by side: [choosing](../choosing.md).\n"
    )
    write("methods/index.md", text)
    for name in hashers():
        cls = hasher_class(name)
        facts = next(row for row in table if row["name"] == name)
        said = ", ".join(f"{key}: {cell(value)}" for key, value in facts.items() if key not in ("name", "reference"))
        defaults = rows(["parameter", "default"], [[f"`{f.name}`", f"`{f.default!r}`"] for f in fields(cls)])
        body = "\n".join(prose(cls.__doc__ or ""))
        presets = "".join(
            f'\n`preset="{preset}"`: ' + ", ".join(f"`{k}={v!r}`" for k, v in values.items()) + "\n"
            for preset, values in cls.presets.items()
        )
        write(f"methods/{name}.md", f"# {cls.__name__}\n\n{said}.\n\n{body}\n\n## Defaults\n\n{defaults}{presets}")


def commands() -> None:
    """What `--help` says, on one page."""
    register()
    parts = ["# Commands\n\nExit codes: " + (inspect.getdoc(inspect.getmodule(register)) or "").split("\n\n", 1)[1]]
    parts[0] = parts[0].replace("\n", "\n\n")

    def walk(command: Any, name: str) -> None:
        if getattr(command, "commands", None):
            for child, sub in sorted(command.commands.items()):
                walk(sub, f"{name} {child}")
            return
        lines = []
        for p in command.params:
            if p.name == "help":
                continue
            what = f"`{' '.join(p.opts)}`" if p.param_type_name == "option" else f"`{(p.name or '').upper()}`"
            default = p.default if p.param_type_name == "option" else None
            shown = "" if default in (None, "", (), []) or callable(default) else f"`{default}`"
            lines.append([what, cell(" ".join((getattr(p, "help", None) or "").split())), cell(shown)])
        head = f"## {name}\n\n{' '.join((command.help or '').split())}\n\n"
        parts.append(head + (rows(["argument", "", "default"], lines) if lines else ""))

    walk(typer.main.get_command(app), "bitfuse")
    write("reference/commands.md", "\n\n".join(parts) + "\n")


def reference() -> None:
    """The public names, from their docstrings."""
    names = [name for name in bitfuse.__all__ if name != "__version__"]
    homes = {name: f"{bitfuse._WHERE[name]}.{name}" for name in names}
    more = ["bitfuse.hashers.base.Hasher", "bitfuse.features.base.Backbone", "bitfuse.index.base.Index"]
    more += ["bitfuse.bench.scores.Scores", "bitfuse.bench.run.Result", "bitfuse.search.query.Hit"]
    more += ["bitfuse.metrics", "bitfuse.checks", "bitfuse.errors"]
    text = "# Python\n\n`import bitfuse as bf` gives these names; importing it loads neither torch nor numba.\n\n"
    write("reference/python.md", text + "\n".join(f"::: {path}\n" for path in [*homes.values(), *more]))


def svg(path: str, figure: Figure) -> None:
    """A figure of the site."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    write(path, out.getvalue())


def empty(n: int = 1) -> tuple[Figure, list[Any]]:
    """Square axes without ticks, side by side."""
    figure = Figure(figsize=(4.2 * n, 4), layout="constrained")
    axes = [figure.add_subplot(1, n, i + 1) for i in range(n)]
    for axis in axes:
        axis.set(xticks=[], yticks=[], xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
        axis.spines[:].set_color(FAINT)
    return figure, axes


def figures() -> None:
    """The figures of the concepts, from the numbers that they show."""
    rng = np.random.default_rng(4)
    figure, (axis,) = empty()
    x = rng.normal(size=(160, 2))
    cuts = np.array([[1.0, 0.35], [-0.3, 1.0]])
    bits = x @ cuts.T > 0
    for code, colour in zip(((0, 0), (0, 1), (1, 0), (1, 1)), (INK, BLUE, RED, "#7a9e3d")):
        inside = (bits == code).all(axis=1)
        axis.scatter(*x[inside].T, s=14, color=colour, label="".join(map(str, code)))
    for a, b in cuts:
        axis.axline((0, 0), (-b, a), color=FAINT, lw=1.4)
    axis.legend(title="code", loc="lower right", frameon=False)
    svg("concepts/sign.svg", figure)

    figure, (left, right) = empty(2)
    angle = rng.normal(size=60) * 0.25
    pictures = np.c_[np.cos(angle + 0.9), np.sin(angle + 0.9)] * 1.6
    texts = np.c_[np.cos(angle + 2.4), np.sin(angle + 2.4)] * 1.6 + rng.normal(size=(60, 2)) * 0.05
    for axis, centred in ((left, False), (right, True)):
        for view, colour, name in ((pictures, BLUE, "pictures"), (texts, RED, "texts")):
            shown = view - view.mean(axis=0) if centred else view
            axis.scatter(*shown.T, s=14, color=colour, label=name)
        axis.set_title("each centred on its own mean" if centred else "as the backbone gives them", fontsize=10)
        axis.axhline(0, color=FAINT, lw=0.8)
        axis.axvline(0, color=FAINT, lw=0.8)
    left.legend(frameon=False, loc="lower left")
    svg("concepts/contrast.svg", figure)

    figure, (axis,) = empty()
    context = np.linspace(-6, 6, 200)
    axis.plot(context / 3, 1 / (1 + np.exp(-context)) * 3 - 1.5, color=BLUE, lw=2)
    axis.set(xlabel="what the whole of X says about one column: (WX + b)ᵢ", ylabel="share of the column that passes")
    axis.text(-2.0, -1.3, "closed", color=INK)
    axis.text(1.3, 1.65, "open", color=INK)
    svg("concepts/gate.svg", figure)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs with the pages that lie on disk; adds the drawn ones."""
    for draw in (methods, commands, reference, figures):
        draw()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files

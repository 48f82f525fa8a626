"""The reference, drawn from the code: Python names, commands, and the service's settings, routes and metrics."""

import inspect
import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import typer
from docs.build.methods import cell, rows

import bitfuse
from bitfuse.cli import app, register

MORE = (
    "bitfuse.hashers.base.Hasher",
    "bitfuse.features.base.Backbone",
    "bitfuse.index.base.Index",
    "bitfuse.index.linear.LinearIndex",
    "bitfuse.bench.scores.Scores",
    "bitfuse.bench.run.Result",
    "bitfuse.search.query.Hit",
    "bitfuse.search.writing.AddReport",
    "bitfuse.client.Client",
    "bitfuse.data.shapes",
    "bitfuse.pipeline.extract",
    "bitfuse.metrics",
    "bitfuse.checks",
    "bitfuse.errors",
)
"""What the reference lists beside `bitfuse.__all__`: classes that those names give, and public modules."""


def public() -> list[str]:
    """Dotted paths of everything that the Python reference lists."""
    homes = [f"{bitfuse._WHERE[name]}.{name}" for name in bitfuse.__all__ if name != "__version__"]
    return [*homes, *MORE]


def python() -> str:
    """The public names, from their docstrings."""
    text = "# Python\n\n`import bitfuse as bf` gives the first names; importing it loads neither torch nor numba.\n\n"
    return text + "\n".join(f"::: {path}\n" for path in public())


def commands() -> str:
    """What `--help` says, on one page."""
    register()
    codes = (inspect.getdoc(inspect.getmodule(register)) or "").split("\n\n", 1)[1]
    listed = rows(["code", "meaning"], [line.split(maxsplit=1) for line in codes.splitlines()])
    parts = [f"# Commands\n\nWhat `--help` says of each. Exit codes:\n\n{listed}"]

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
    return "\n\n".join(parts) + "\n"


def said(cls: type) -> dict[str, str]:
    """The attributes that a class docstring explains: name -> text."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2].splitlines():
        if match := re.match(r"    (\w[\w, ]*): (.*)", line):
            names = match[1].split(", ")
            found.update(dict.fromkeys(names, match[2]))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def service() -> str:
    """Settings, routes and metrics of the service, from its classes."""
    from bitfuse.serve.app import create_app
    from bitfuse.serve.metrics import Metrics
    from bitfuse.serve.settings import Settings

    explained = said(Settings)
    defaults = {f.name: getattr(Settings(), f.name) for f in fields(Settings)}
    settings = [[f"`{name}`", cell(explained[name]), f"`{value!r}`"] for name, value in defaults.items()]
    with tempfile.TemporaryDirectory() as folder:  # a server needs a collection: an empty one
        place = Path(folder) / "shop"
        model = bitfuse.hasher("lsh", n_bits=8).fit({"image": np.ones((1, 4))})
        bitfuse.Collection.create(place, model=model).close()
        served = create_app({"shop": place})
        document = served.openapi()
        served.state.shelf.close()
    common = set.intersection(
        *(set(m["responses"]) for path, ms in document["paths"].items() for m in ms.values() if "{" in path)
    )
    common.discard("200")
    routes = [
        [f"`{method.upper()} {path}`", cell(known["summary"]), ", ".join(sorted(set(known["responses"]) - common))]
        for path, methods in document["paths"].items()
        for method, known in methods.items()
    ]
    metrics = [
        [f"`{family.name}{'_total' * (family.type == 'counter')}`", family.type, family.documentation]
        for family in Metrics().registry.collect()
    ]
    return (
        "# The service's settings, routes and metrics\n\nHow to use them: [the service](../service.md).\n\n"
        "## Settings\n\nFields of `bitfuse.serve.settings.Settings`; sizes in bytes, times in seconds.\n\n"
        f"{rows(['setting', '', 'default'], settings)}\n## Routes\n\n{rows(['route', '', 'answers'], routes)}\n"
        f"Any route of a collection may also refuse with {', '.join(sorted(common))}.\n\n"
        f"## Metrics\n\nAt `/metrics`, in the text format of Prometheus.\n\n{rows(['name', 'type', ''], metrics)}"
    )


def pages() -> dict[str, str]:
    """Path on the site -> Markdown."""
    return {"reference/python.md": python(), "reference/commands.md": commands(), "reference/service.md": service()}

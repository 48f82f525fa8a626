"""The ablations that the paper leaves undone: one question a module, each run gives a section of a report."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

from bitfuse.bench.facts import environment
from bitfuse.bench.histograms import usable_threads
from bitfuse.bench.sections import Section
from bitfuse.errors import UnknownName

_TABLE = ("backbones", "bytes", "fusion", "hashlayer", "labels", "modalities", "shift", "sizes", "tuning")


def ablations() -> list[str]:
    """The names, sorted."""
    return list(_TABLE)


def ablation(name: str) -> Callable[..., Section]:
    """The `run` of an ablation: `run(*, data=None, seeds=(0, 1, 2), quick=False, **options) -> Section`.

    Without `data` it takes the shapes world with pocket features. `quick` makes it a trial of a few seconds on small
    data, whose figures mean nothing.

    Raises:
        UnknownName: no such ablation; the message suggests the nearest name.

    Examples:
        >>> ablation("fusion").__module__
        'bitfuse.bench.ablations.fusion'
    """
    if name not in _TABLE:
        raise UnknownName("ablation", name, _TABLE)
    run: Callable[..., Section] = importlib.import_module(f"bitfuse.bench.ablations.{name}").run
    return run


def save(name: str, section: Section, folder: Path, seconds: float, **facts: object) -> Path:
    """Write `<folder>/<name>.json`: text, table, every number unrounded, versions, processor, threads, seconds.

    Args:
        name: of the ablation.
        section: what it gave.
        folder: made if absent; the file appears whole or not at all.
        seconds: that it took.
        facts: further ones to keep, ready for JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.json"
    temporary = target.with_name(target.name + ".partial")
    found = {**section.to_dict(), **facts, **environment(usable_threads(), {name: seconds})}
    temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(target)
    return target

"""A piece of a report: a question, what was measured, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitfuse.bench.tables import Table


@dataclass(frozen=True)
class Section:
    """One piece of a report beside the tables of results.

    Attributes:
        title: the question in a few words.
        text: what was varied, what stayed fixed, under which protocol, and what came out; plain paragraphs.
        table: the numbers.
        figures: `<svg>` elements, as `bitfuse.bench.plots` draws them.
        numbers: what the table rounds, ready for JSON.
    """

    title: str
    text: str
    table: Table
    figures: tuple[str, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """Title, text and table as Markdown; the figures stay on the HTML page."""
        return f"## {self.title}\n\n{self.text}\n\n{self.table.markdown()}\n"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the figures, ready for JSON."""
        table = {"title": self.table.title, "headings": list(self.table.headings), "rows": self.table.rows}
        return {"title": self.title, "text": self.text, "table": table, "numbers": dict(self.numbers)}

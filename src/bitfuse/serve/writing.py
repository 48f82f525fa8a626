"""The one writer of a collection: a thread that gathers waiting changes into one transaction each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bitfuse.search.collection import Collection
from bitfuse.serve.metrics import Metrics
from bitfuse.serve.pending import Pending

GATHERED = 256
"""Items of one transaction at most."""


class Outcome(NamedTuple):
    """What became of one item: `stored`, `unchanged`, `deleted`, `missing` or `refused`, and why."""

    status: str
    reason: str | None = None


@dataclass(frozen=True)
class _Asked:
    verb: str
    items: Sequence[Any]
    answer: Pending[list[Outcome]]


class Writer:
    """Carries out changes in the order in which they come; answers once they are on disk.

    Args:
        collection: used by this thread alone.
        metrics: measures the time of transactions.
    """

    def __init__(self, collection: Collection, metrics: Metrics) -> None:
        self.collection, self._metrics = collection, metrics
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="bitfuse-write", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Carry out what was asked before, and end."""
        self._asked.put(None)
        self._thread.join(timeout=30)
        self.collection.close()

    async def change(self, verb: str, items: Sequence[Any]) -> list[Outcome]:
        """Carry out one change of several items; what became of each, in order.

        Args:
            verb: `"add"` with items, `"update"` with changes, or `"delete"` with ids.
            items: as the method of `Collection` takes them, at most `GATHERED`.

        Raises:
            BitfuseError: as that method; nothing of this change is stored then.
        """
        asked = _Asked(verb, items, Pending())
        self._asked.put(asked)
        return await asked.answer

    def _run(self) -> None:
        held: _Asked | None = None
        while True:
            first = held or self._asked.get()
            held = None
            if first is None:
                return
            group, total, names = [first], len(first.items), _names(first)
            while total < GATHERED:
                try:
                    more = self._asked.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._asked.put(None)
                    break
                if more.verb != first.verb or not names.isdisjoint(_names(more)) or total + len(more.items) > GATHERED:
                    held = more
                    break
                group.append(more)
                total += len(more.items)
                names |= _names(more)
            self._carry_out(group)

    def _carry_out(self, group: list[_Asked]) -> None:
        items = [item for asked in group for item in asked.items]
        try:
            with self._metrics.stage("write"):
                outcomes = _VERBS[group[0].verb](self.collection, items)
        except Exception as error:
            if len(group) > 1:  # whose fault it is shows when each goes alone
                for asked in group:
                    self._carry_out([asked])
                return
            group[0].answer.settle(error)
            return
        at = 0
        for asked in group:
            asked.answer.settle(outcomes[at : at + len(asked.items)])
            at += len(asked.items)


def _names(asked: _Asked) -> set[str]:
    return {item if isinstance(item, str) else item["id"] for item in asked.items}


def _add(collection: Collection, items: list[Mapping[str, Any]]) -> list[Outcome]:
    done: list[str] = []
    report = collection.add(items, batch_size=GATHERED, on_commit=done.extend)
    return _outcomes(items, done, report.skipped)


def _update(collection: Collection, items: list[Mapping[str, Any]]) -> list[Outcome]:
    done: list[str] = []
    report = collection.update(items, batch_size=GATHERED, on_commit=done.extend)
    return _outcomes(items, done, report.skipped)


def _delete(collection: Collection, ids: list[str]) -> list[Outcome]:
    there = {name for name in dict.fromkeys(ids) if collection.get(name) is not None}
    collection.delete(ids)
    outcomes = []
    for name in ids:
        outcomes.append(Outcome("deleted" if name in there else "missing"))
        there.discard(name)
    return outcomes


def _outcomes(items: list[Mapping[str, Any]], done: list[str], skipped: list[tuple[str, str]]) -> list[Outcome]:
    stored, reasons = set(done), dict(skipped)
    outcomes = []
    for position, item in enumerate(items):
        name = item["id"]
        reason = reasons.get(name, reasons.get(f"#{position}"))
        if name in stored:
            outcomes.append(Outcome("stored", reason))
        elif reason == "unchanged":
            outcomes.append(Outcome("unchanged"))
        else:
            missing = reason == "there is no item of this id"
            outcomes.append(Outcome("missing" if missing else "refused", reason))
    return outcomes


_VERBS: dict[str, Callable[[Collection, list[Any]], list[Outcome]]] = {
    "add": _add,
    "update": _update,
    "delete": _delete,
}

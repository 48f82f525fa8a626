"""What a grid's report says beside its tables: which differences are real, the top of the ranking, costs, papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitfuse.bench import modes as asking
from bitfuse.bench import plots, significance
from bitfuse.bench.cells import Cell, Failure
from bitfuse.bench.recipes import recipe
from bitfuse.bench.run import Result
from bitfuse.bench.sections import Section
from bitfuse.bench.tables import Table, grouped, number

_LEVEL = 0.05
_RADIUS = 2
_TOPS = (1, 10, 100)

Pair = tuple[Cell, Result]


def of_setting(pairs: Sequence[Pair], where: str) -> list[Section | None]:
    """The sections about one data set under one protocol; `where` ends their titles."""
    results = [r for _, r in pairs]
    labelled = any(r.floors for r in results)
    lengths = sorted({r.n_bits for r in results})
    real = [differences(pairs, bits, where, len(lengths) > 1) for bits in lengths] if labelled else []
    return [*real, top(results, where) if labelled else None, costs(results, where)]


def differences(pairs: Sequence[Pair], bits: int, where: str, several: bool) -> Section | None:
    """Each method against the best one of each query mode, on the same queries."""
    chosen = [(cell, r) for cell, r in pairs if r.n_bits == bits]
    methods = list(dict.fromkeys(r.method for _, r in chosen))
    if len(methods) < 2:
        return None
    columns: dict[str, dict[str, significance.Compared]] = {}
    counts: dict[str, int] = {}
    for mode in chosen[0][1].modes:
        values = {m: ap for m in methods if (ap := _per_query([p for p in chosen if p[1].method == m], mode))}
        if len(values) > 1 and set.intersection(*map(set, values.values())):
            columns[mode] = significance.compare(values)
            counts[mode] = len(set.intersection(*map(set, values.values())))
    rows = []
    for method in methods:
        cells = [_cells(column.get(method)) for column in columns.values()]
        rows.append((method, *(c for pair in cells for c in pair)))
    equal = {mode: [m for m, c in column.items() if c.p is None or c.p >= _LEVEL] for mode, column in columns.items()}
    leading = next(iter(columns))
    tied = [m for m in equal[leading] if columns[leading][m].p is not None]
    best = next(m for m, c in columns[leading].items() if c.p is None)
    verdict = f"the others differ from it by more than luck (every p is below {_LEVEL})"
    if tied:
        verdict = f"{', '.join(tied)} cannot be told from it (p of at least {_LEVEL})"
    of_length = f" at {bits} bits" if several else ""
    text = (
        f"Mode {leading!r}{of_length}: {best} is best, and {verdict}.\n\n"
        f"p: two-sided paired randomisation test against the best method of the column, {significance.ROUNDS:,} sign "
        f"patterns over the AP of {counts[leading]} queries (the mean over the seeds that asked a query), corrected "
        "for the number of methods in the column (Holm). A dash: the method cannot answer that mode. mAP here is the "
        "mean over queries, which differs a little from the mean over seeds where each seed asks other queries."
    )
    headings = ("method", *(name for mode in columns for name in (mode, "p")))
    title = f"{chosen[0][1].dataset}, {bits} bits: {chosen[0][1].protocol.metric}, and p against the best"
    return Section(
        f"Which differences are real?{of_length and f' {bits} bits'}{where}", text, Table(title, headings, rows)
    )


def _cells(compared: significance.Compared | None) -> tuple[str, str]:
    if compared is None:
        return "-", "-"
    if compared.p is None:
        return number(compared.mean), "best"
    return number(compared.mean), "<.001" if compared.p < 0.001 else f"{compared.p:.3f}"


def _per_query(pairs: Sequence[Pair], mode: str) -> dict[str, float]:
    """Query id -> AP, the mean over the cells that asked it; queries without a relevant item as the protocol says."""
    found: dict[str, list[float]] = {}
    for cell, r in pairs:
        answer = r.modes[mode]
        if answer is None:
            continue
        views = next(
            m.query for m in asking.modes(asking.views_of(cell.subject, cell.dataset.query.views)) if m.name == mode
        )
        rows = asking.rows_with(cell.dataset.query, views, cell.subject)
        ap = answer.scores.ap if r.protocol.empty == "omit" else np.nan_to_num(answer.scores.ap)
        for row, value in zip(rows.tolist(), ap.tolist()):
            if not np.isnan(value):
                found.setdefault(cell.dataset.query.ids[row], []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def top(results: Sequence[Result], where: str) -> Section:
    """Precision among the first N and within a small radius, first mode."""
    tops = [n for n in _TOPS if all(n <= r.first.gallery for r in results)]
    rows = []
    for (method, bits), group in grouped(results).items():
        scores = [r.first.scores for r in group]
        radius = min(_RADIUS, bits)
        inside = [float(s.counts.n[:, : radius + 1].any(axis=1).mean()) for s in scores]
        cells = [number([s.precision_at(n) for s in scores]) for n in tops]
        cells += [
            number([s.precision_within(radius) for s in scores]),
            number([s.recall_within(radius) for s in scores]),
        ]
        rows.append((method, str(bits), *cells, number(inside)))
    ball = "count as precision 0" if results[0].protocol.empty_ball == "zero" else "are left out"
    text = (
        f"Precision among the first N, and within a Hamming radius of {_RADIUS}, in the first mode that each method "
        f"answers. Queries that find nothing within the radius {ball}; `answered` is the share of queries that find "
        "something there: long codes are often too far apart for a fixed radius."
    )
    headings = ("method", "bits", *(f"P@{n}" for n in tops), "P radius 2", "R radius 2", "answered")
    lengths = sorted({r.n_bits for r in results})
    figures = tuple(plots.precision_at_top(results, bits) for bits in lengths)
    title = f"{results[0].dataset}: the top of the ranking"
    if len(lengths) > 1:
        title += f"; plots: {', '.join(map(str, lengths))} bits"
    return Section(f"The top of the ranking{where}", text, Table(title, headings, rows, keys=2), figures)


def costs(results: Sequence[Result], where: str) -> Section:
    """Time to train, time to encode, bytes to keep, and how many seeds stand behind a row."""
    rows: list[tuple[str, ...]] = []
    training: dict[str, float] = {}
    encoding: dict[str, float] = {}
    for (method, bits), group in grouped(results).items():
        fit = [r.environment["seconds"]["fit"] for r in group]
        per_item = [microseconds(r) for r in group]
        wide = 4 * sum(group[0].widths.values())
        seeds = ", ".join(str(r.seed) for r in group)
        rows.append((method, str(bits), number(fit, 2), number(per_item, 1), str(-(-bits // 8)), f"{wide:,}", seeds))
        training[method] = max(training.get(method, 0.0), float(np.mean(fit)))
        encoding[method] = max(encoding.get(method, 0.0), float(np.mean(per_item)))
    threads, where_run = results[0].environment["threads"], results[0].environment["processor"]
    text = (
        f"Wall time on {threads} thread(s) of {where_run} beside other cells of the grid: compare methods, not "
        "machines. Training is on the features; making the features of the pictures and texts comes before it and is "
        "the same for all. The plots show the slowest code length."
    )
    headings = ("method", "bits", "training, s", "encoding, µs an item", "bytes an item", "bytes as float32", "seeds")
    figures = plots.bars(training, "training, seconds"), plots.bars(encoding, "encoding, microseconds an item")
    title = f"{results[0].dataset}: time and size"
    return Section(f"What it costs{where}", text, Table(title, headings, rows, keys=2), figures)


def microseconds(result: Result) -> float:
    """Time to encode one item, over everything that the cell encoded."""
    known = result.environment
    return float(1e6 * known["seconds"]["encode"] / max(1, known["encoded_rows"]))


def against_published(pairs: Sequence[Pair]) -> Section | None:
    """Measured beside published numbers, for cells that recipes asked for."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for cell, r in pairs:
        if cell.spec.recipe is not None:
            groups.setdefault((cell.spec.recipe, r.n_bits), []).append(r)
    if not groups:
        return None
    rows: list[tuple[str, ...]] = []
    sources = {}
    for (name, bits), results in groups.items():
        known = recipe(name)
        published, measured = known.published[bits], [r.map for r in results]
        doubt = "suspected typo" if bits in known.suspected_typos else ""
        gap = f"{float(np.mean(measured)) - published:+.3f}"
        rows.append((name, str(bits), f"{published:.4f}", number(measured, 4), gap, doubt))
        sources[name] = (
            f"{name}: {known.source}; its features: {', '.join(f'{k} {v}' for k, v in known.features.items())}; "
            f"its split: {', '.join(f'{v:,} {k}' for k, v in known.split.items())}. Open: {' '.join(known.open)}"
        )
    text = (
        "Published numbers stand under the paper's choices, measured ones under the protocol, features and split "
        "named above: differences between them are differences between those as well.\n\n"
        + "\n\n".join(sources.values())
    )
    headings = ("recipe", "bits", "published", "measured", "difference", "")
    return Section("Beside the published numbers", text, Table("mAP, published and measured", headings, rows, keys=2))


def failed(failures: Sequence[Failure]) -> Section | None:
    """The cells that did not come about, each with its error."""
    if not failures:
        return None
    rows: list[tuple[str, ...]] = [
        (f.spec.method, str(f.spec.n_bits), str(f.spec.seed), f.dataset, f.error) for f in failures
    ]
    text = "These cells ended with an error. Run the same command again to try them again; finished cells are kept."
    return Section(
        "Cells that failed", text, Table(f"{len(rows)} cells", ("method", "bits", "seed", "data", "error"), rows)
    )

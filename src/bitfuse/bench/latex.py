"""LaTeX tables as papers print them: methods down, data sets and code lengths across, best in bold (booktabs)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitfuse.bench.run import Result
from bitfuse.bench.tables import grouped, headline, number

_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {c: "\\" + c for c in "&%$#_{}"}
_SPECIAL |= {"→": r"$\rightarrow$", "±": r"$\pm$", "–": "--"}


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(c, c) for c in text)


def booktabs(results: Sequence[Result]) -> str:
    """One table for each query mode, of results under one protocol; needs `\\usepackage{booktabs}`.

    The best mean of a column is bold, the second underlined; several seeds give mean and standard deviation.
    """
    modes = dict.fromkeys(name for r in results for name, answer in r.modes.items() if answer is not None)
    return "\n".join(_of_mode([r for r in results if r.modes.get(mode)], mode) for mode in modes)


def _of_mode(results: Sequence[Result], mode: str) -> str:
    labelled = any(r.floors for r in results)
    datasets = list(dict.fromkeys(r.dataset for r in results))
    columns = [(d, b) for d in datasets for b in sorted({r.n_bits for r in results if r.dataset == d})]
    values: dict[tuple[str, str, int], list[float | None]] = {}
    for (method, bits), group in grouped(results).items():
        for r in group:
            values.setdefault((method, r.dataset, bits), []).append(headline(r.modes[mode], labelled))
    methods = list(dict.fromkeys(method for method, _, _ in values))
    cells = {
        key: number(found).replace("±", r" {\scriptsize$\pm$") + "}" * (len(found) > 1) for key, found in values.items()
    }
    for dataset, bits in columns:
        means = {
            m: np.mean([v for v in values[m, dataset, bits] if v is not None])
            for m in methods
            if (m, dataset, bits) in values
        }
        for method, how in zip(sorted(means, key=lambda m: -means[m]), (r"\textbf", r"\underline")):
            value, space, rest = cells[method, dataset, bits].partition(" ")
            cells[method, dataset, bits] = f"{how}{{{value}}}{space}{rest}"
    spans = [sum(d == dataset for d, _ in columns) for dataset in datasets]
    starts = np.cumsum([2, *spans]).tolist()
    head = " & ".join(rf"\multicolumn{{{n}}}{{c}}{{{escape(d)}}}" for d, n in zip(datasets, spans))
    rules = " ".join(rf"\cmidrule(lr){{{a}-{a + n - 1}}}" for a, n in zip(starts, spans))
    metric = results[0].protocol.metric if labelled else "10-NN, R@1 from one view to another (no labels)"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(f'{metric}, query mode {mode!r}. {results[0].protocol.describe()}')}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        rf" & {head} \\",
        rules,
        "method & " + " & ".join(f"{bits} bits" for _, bits in columns) + r" \\",
        r"\midrule",
        *(" & ".join([escape(m), *(cells.get((m, d, b), "--") for d, b in columns)]) + r" \\" for m in methods),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)

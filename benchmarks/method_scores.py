"""Every method's score under `strict`, as the methods' pages of the documentation print it.

    python benchmarks/method_scores.py [--grid DIR] [--out FILE.json]

Runs `bitfuse bench run shapes` (24 methods, 64 bits, 3 seeds; finished cells of the grid are not run again) and
scores the stored codes. mAP by query mode and seed, the float features beside them, and the floors.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from bitfuse.bench.cells import read_cells
from bitfuse.bench.facts import environment
from bitfuse.bench.histograms import usable_threads

DATA = "shapes"


def scores(grid: Path) -> dict[str, Any]:
    """What the pages print: method -> query mode -> mAP of each seed, and what to read it against."""
    cells, failures = read_cells(grid)
    ours = [cell for cell in cells if cell.dataset.name.split()[0] == DATA]
    if failures or not ours:
        sys.exit(f"{grid}: {len(ours)} cells of {DATA}, {len(failures)} failed; run the grid again")
    results = [(cell.spec.method, cell.judge("strict")) for cell in ours]
    methods: dict[str, dict[str, list[float]]] = {}
    floats: dict[str, list[float]] = {}
    for method, result in results:
        for mode, answer in result.modes.items():
            if answer is not None:
                methods.setdefault(method, {}).setdefault(mode, []).append(answer.scores.map)
                floats.setdefault(mode, []).append(answer.float_map)
    first = results[0][1]
    return {
        "data": first.dataset,
        "sizes": first.sizes,
        "n_bits": first.n_bits,
        "protocol": first.protocol.describe(),
        "floors": {name: mean(r.floors[name] for _, r in results) for name in first.floors},
        "float": {mode: mean(values) for mode, values in floats.items()},
        "methods": methods,
        **environment(usable_threads(), {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=Path, default=Path(".cache/grid"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    subprocess.run([sys.executable, "-m", "bitfuse", "bench", "run", DATA, "--out", str(given.grid)], check=True)
    found = scores(given.grid)
    for method, modes in sorted(found["methods"].items()):
        print(f"{method:8}", *(f"{mode} {mean(values):.3f}" for mode, values in modes.items()), sep="  ")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

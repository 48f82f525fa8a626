"""CLIPMH with 64 bits on the generated shapes: what a query loses by the sign, and by having one view only.

The training scenes are apart from the gallery. Claims, as means over the seeds: queries by picture alone reach 0.98 of
those with both views, and the codes reach 0.985 of the values before the sign.

    python benchmarks/shapes_clipmh.py [--out FILE]
"""

import argparse
import json
import statistics
from pathlib import Path

import bitfuse as bf

CLAIMS = {"image / both": 0.98, "binary / before the sign": 0.985}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    data = bf.dataset("shapes", progress=True)
    rows = []
    for seed in range(arguments.seeds):
        model = bf.hasher("clipmh", n_bits=64, seed=seed).fit(data.train.views, data.train.labels)
        result = bf.evaluate(model, data)
        modes = {name: answer for name, answer in result.modes.items() if answer is not None}
        maps = {name: answer.scores.map for name, answer in modes.items()}
        before = modes["both"].projected_map
        ratios = {"image / both": maps["image"] / maps["both"], "binary / before the sign": maps["both"] / before}
        rows.append({"seed": seed, "map": maps, "before the sign": before, **ratios, "floors": result.floors})
        print(f"seed {seed}:", ", ".join(f"{k} {v:.3f}" for k, v in {**maps, **ratios}.items()))
    print(f"floors: {rows[0]['floors']}")
    means = {name: statistics.mean(row[name] for row in rows) for name in CLAIMS}
    for name, bar in CLAIMS.items():
        print(f"{'holds' if means[name] >= bar else 'MISSED'}: {name} {means[name]:.4f} (claim: {bar})")
    if arguments.out:
        figures = {"seeds": rows, "means": means, "claims": CLAIMS, "environment": result.environment}
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Every metric at once against mAP alone, at NUS-WIDE's size: both are one pass over all pairs.

    python benchmarks/evaluate_all_metrics.py [--out benchmarks/results/evaluate_all_metrics.json]

The claim: 2,085 queries x 193,749 items, 128 bits, 21 labels, at most 1.5 times the time of mAP alone, in less than
1 GB of memory, data included. "Every metric" is all that `Scores` answers under one protocol: mAP with both bounds,
ties, precision and recall at nine ranks and within each of the 129 radii, the PR curve, NDCG graded and binary at five
depths. Rounds are interleaved and medians compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import numpy as np
from evaluate_nuswide import made_up

from bitfuse import score
from bitfuse.bench.facts import environment
from bitfuse.bench.histograms import usable_threads
from bitfuse.bench.scores import Scores

BAR, MEMORY_MIB = 1.5, 1000
RANKS = (1, 5, 10, 50, 100, 500, 1000, 5000, 10_000)
DEPTHS = (None, 10, 100, 1000, 10_000)


def everything(scores: Scores) -> dict[str, object]:
    """All that a ranking by Hamming distance can be asked."""
    ranks = [k for k in RANKS if k <= scores.n_gallery]
    radii = range(scores.counts.n.shape[1])
    return {
        **scores.to_dict(),
        "precision_at": [scores.precision_at(k) for k in ranks],
        "recall_at": [scores.recall_at(k) for k in ranks],
        "precision_within": [scores.precision_within(radius) for radius in radii],
        "recall_within": [scores.recall_within(radius) for radius in radii],
        "ndcg": [scores.ndcg(k, graded=graded) for k in DEPTHS for graded in (True, False)],
        "ties": [scores.ties_at(k) for k in ranks],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2085)
    parser.add_argument("--gallery", type=int, default=193_749)
    parser.add_argument("--bits", type=int, default=128)
    parser.add_argument("--labels", type=int, default=21)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    query, y_q = made_up(args.queries, args.bits, args.labels, rng)
    gallery, y_g = made_up(args.gallery, args.bits, args.labels, rng)
    everything(score(query[:2], gallery[:100], y_q[:2], y_g[:100]))  # compiles

    rounds: dict[str, list[float]] = {"map": [], "everything": []}
    for i in range(args.rounds):
        for part in sorted(rounds, reverse=bool(i % 2)):
            start = time.perf_counter()
            scores = score(query, gallery, y_q, y_g)
            _ = scores.map if part == "map" else everything(scores)
            rounds[part].append(round(time.perf_counter() - start, 3))
        print(f"round {i + 1}: " + ", ".join(f"{part} {values[-1]:.2f} s" for part, values in rounds.items()))
    middle = {part: statistics.median(values) for part, values in rounds.items()}
    ratio = middle["everything"] / middle["map"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    report = {
        "claim": f"every metric in at most {BAR} times the time of mAP alone, under {MEMORY_MIB} MiB",
        "size": {k: getattr(args, k) for k in ("queries", "gallery", "bits", "labels")},
        "everything_against_map_alone": round(ratio, 2),
        "peak_memory_mib": round(memory),
        "seconds": rounds,
        **{k: v for k, v in environment(usable_threads(), {}).items() if k != "seconds"},
    }
    print(json.dumps(report, indent=1))
    if args.out:
        temporary = args.out.with_name(args.out.name + ".partial")
        temporary.write_text(json.dumps(report, indent=1) + "\n")
        temporary.replace(args.out)
    if ratio > BAR or memory > MEMORY_MIB:
        raise SystemExit(f"above the bars of {BAR} and {MEMORY_MIB} MiB")


if __name__ == "__main__":
    main()

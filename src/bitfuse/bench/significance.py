"""Which differences between methods are more than luck: a paired randomisation test over queries, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitfuse.errors import InputError

ROUNDS = 100_000
_BLOCK = 2000  # sign patterns held at once


@dataclass(frozen=True)
class Compared:
    """One method against the best one, on the queries that all of them answer.

    Attributes:
        mean: of the method's values.
        p: probability of so large a difference from the best method if the two were the same; corrected; None for the
            best method itself.
    """

    mean: float
    p: float | None


def compare(values: Mapping[str, Mapping[str, float]], rounds: int = ROUNDS, seed: int = 0) -> dict[str, Compared]:
    """Compare methods with the best of them.

    Args:
        values: method -> query id -> value, such as AP. Ids that a method lacks count for none.
        rounds: random sign patterns drawn.
        seed: of the draws.

    Returns:
        Method -> its mean over the common queries, and its p-value after Holm's correction over all methods.

    Raises:
        InputError: no method, or no query that all methods have.
    """
    common = sorted(set.intersection(*(set(v) for v in values.values()))) if values else []
    if not common:
        raise InputError("a comparison needs at least one method, and queries that all methods answer")
    table = np.array([[v[i] for i in common] for v in values.values()])  # (m, q)
    means = table.mean(axis=1)
    best = int(means.argmax())
    others = [i for i in range(len(table)) if i != best]
    p = holm(randomised(table[best] - table[others], rounds, seed))
    found = dict(zip(others, p.tolist()))
    return {name: Compared(float(means[i]), found.get(i)) for i, name in enumerate(values)}


def randomised(differences: NDArray[np.float64], rounds: int = ROUNDS, seed: int = 0) -> NDArray[np.float64]:
    """Two-sided p-values of a paired randomisation test (Fisher; Smucker, Allan & Carterette, CIKM 2007).

    If two methods were the same, each query's difference could as well have the other sign.

    Args:
        differences: (m, q) of paired values, one row a comparison.
        rounds: sign patterns drawn, the same for all rows.
        seed: of the draws.

    Returns:
        (m,): share of patterns whose mean difference is at least as large as the one found, itself counted.
    """
    rng = np.random.default_rng(seed)
    m, q = differences.shape
    found = np.abs(differences.sum(axis=1))
    slack = 1e-12 * np.abs(differences).sum(axis=1)  # of the order of summation
    reached = np.ones(m)
    for start in range(0, rounds, _BLOCK):
        n = min(_BLOCK, rounds - start)
        bits = np.unpackbits(np.frombuffer(rng.bytes(n * -(-q // 8)), np.uint8).reshape(n, -1), axis=1, count=q)
        sums = (2.0 * bits - 1.0) @ differences.T  # (n, m)
        reached += (np.abs(sums) >= found - slack).sum(axis=0)
    return reached / (rounds + 1)


def holm(p: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values corrected for their number (Holm, 1979): (m,), in the order given.

    Examples:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    given = np.asarray(p, np.float64)
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(len(given), 0, -1)
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return corrected

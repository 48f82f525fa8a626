"""Losses on relaxed codes, pair by pair from their definitions, in plain Python."""

import math


def metric(name: str, u: list[list[float]], shared: list[list[int]]) -> float:
    k, similar, dissimilar = len(u[0]), [], []
    for i, a in enumerate(u):
        for j, b in enumerate(u):
            if i == j:
                continue
            dot = sum(x * y for x, y in zip(a, b, strict=True))
            cosine = dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
            s = shared[i][j] > 0
            theta = 10 / k * dot
            value = {
                "pairwise": math.log(1 + math.exp(theta)) - (theta if s else 0),
                "balanced": math.log(1 + math.exp(theta)) - (theta if s else 0),
                "contrastive": 1 - cosine if s else max(0.0, cosine),
                "soft_target": (cosine - (2 / (1 + math.exp(-shared[i][j])) - 1)) ** 2,
            }[name]
            (similar if s else dissimilar).append(value)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    if name == "balanced":
        return (mean(similar) + mean(dissimilar)) / 2
    if name == "contrastive":
        return mean(similar) + mean(dissimilar)
    return mean(similar + dissimilar)


def quantisation(u: list[list[float]]) -> float:
    values = [(abs(x) - 1) ** 2 for row in u for x in row]
    return sum(values) / len(values)

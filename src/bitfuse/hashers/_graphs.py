"""Neighbours, clusters and graphs of training rows; graphs are sparse, or of low rank through anchors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bitfuse.hashers._solvers import Real, draw_anchors, squared_distances

_BLOCK = 1024  # rows whose distances are held at once


def nearest(x: NDArray[Any], z: NDArray[Any], k: int) -> tuple[NDArray[np.intp], Real]:
    """Indices and squared distances of the k rows of z nearest to each row of x, nearest first: (n, k) each."""
    index, distance = np.empty((len(x), k), np.intp), np.empty((len(x), k))
    for i in range(0, len(x), _BLOCK):
        d = squared_distances(x[i : i + _BLOCK], z)
        part = np.argpartition(d, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(d, part, 1), axis=1, kind="stable")
        index[i : i + _BLOCK] = np.take_along_axis(part, order, 1)
        distance[i : i + _BLOCK] = np.take_along_axis(d, index[i : i + _BLOCK], 1)
    return index, distance


def kmeans(
    x: NDArray[Any], count: int, rng: np.random.Generator, iterations: int = 10
) -> tuple[Real, NDArray[np.intp]]:
    """Lloyd's method from random rows: centres (a, d), each row's cluster (n,). An empty cluster keeps its centre."""
    x = np.asarray(x, np.float64)
    centres = draw_anchors(x, count, rng)
    of = np.zeros(len(x), np.intp)
    for _ in range(iterations):
        before, of = of, nearest(x, centres, 1)[0][:, 0]
        member = sparse.csr_matrix((np.ones(len(x)), (of, np.arange(len(x)))), (len(centres), len(x)))
        sizes = np.asarray(member.sum(axis=1))  # (a, 1)
        centres = np.where(sizes > 0, member @ x / np.maximum(sizes, 1), centres)
        if np.array_equal(before, of):
            break
    return centres, of


def knn_graph(x: NDArray[Any], k: int, *, labels: NDArray[Any] | None = None, width: float | None = None) -> Any:
    """Symmetric graph of the k nearest other rows, (n, n) sparse CSR with an empty diagonal.

    Args:
        x: (n, d).
        k: neighbours of a row; fewer where the data has fewer.
        labels: (n, c) of 0 and 1: only rows that share a label can be neighbours.
        width: edges weigh exp(-d^2 / (2 width^2)); None makes them weigh 1.
    """
    x, n = np.asarray(x, np.float64), len(x)
    k = min(k, n - 1)
    rows, columns, values = [], [], []
    for i in range(0, n, _BLOCK):
        d = squared_distances(x[i : i + _BLOCK], x)
        d[np.arange(len(d)), np.arange(i, i + len(d))] = np.inf
        if labels is not None:
            d[np.asarray(labels[i : i + _BLOCK], np.float32) @ np.asarray(labels, np.float32).T == 0] = np.inf
        part = np.argpartition(d, max(k - 1, 0), axis=1)[:, :k]
        kept = np.take_along_axis(d, part, 1)
        r, c = np.nonzero(np.isfinite(kept))
        rows.append(r + i)
        columns.append(part[r, c])
        values.append(np.ones(len(r)) if width is None else np.exp(kept[r, c] / (-2 * width**2)))
    graph = sparse.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (n, n))
    return graph.maximum(graph.T).tocsr()


def laplacian(graph: Any, *, normalised: bool = False) -> Any:
    """D - A of a sparse affinity A, or D^-1/2 (D - A) D^-1/2; positive semi-definite, (n, n) sparse CSR."""
    degree = np.asarray(graph.sum(axis=1)).ravel()
    unscaled = sparse.diags(degree) - graph
    if not normalised:
        return unscaled.tocsr()
    scale = sparse.diags(1 / np.sqrt(np.where(degree > 0, degree, 1)))
    return (scale @ unscaled @ scale).tocsr()


def anchor_graph(x: NDArray[Any], anchors: NDArray[Any], r: int) -> Any:
    """Z (n, p) sparse, rows summing to 1: Gaussian weights to the r nearest anchors, width from those distances.

    The affinity Z Lambda^-1 Z^T, Lambda = diag(Z^T 1), is doubly stochastic and never formed.
    """
    index, d = nearest(x, anchors, min(r, len(anchors)))
    weights = np.exp(-d / max(2 * float(d.mean()), 1e-12))
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(x)), index.shape[1])
    return sparse.csr_matrix((weights.ravel(), (rows, index.ravel())), (len(x), len(anchors)))


def anchor_factor(x: NDArray[Any], anchors: int, r: int, rng: np.random.Generator) -> Real:
    """H = Z Lambda^-1/2 (n, p) of the anchor graph to random rows: its affinity is H H^T, its Laplacian I - H H^T."""
    Z = anchor_graph(x, draw_anchors(x, anchors, rng), r)
    H: Real = Z.toarray() / np.sqrt(np.maximum(np.asarray(Z.sum(axis=0)), 1e-12))
    return H

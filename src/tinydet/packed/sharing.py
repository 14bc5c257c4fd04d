"""Which streams share a frequency table: merge two as long as one table less is worth more than the fit it costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tinydet.packed.tables import Table, fit_table, storage_bits

Counts = NDArray[np.int64]

_MOST_APART = 128  # histograms that are compared pairwise; more are first joined to the nearest of these


def _n_log_n(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts * np.log2(np.maximum(counts, 1))


def entropy_bits(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[..., 256]` counts -> `[...]` bits that such symbols take at best."""
    return _n_log_n(counts.sum(-1)) - _n_log_n(counts).sum(-1)


def _table_bits(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """About what storing a table for these counts takes."""
    return 16 + 2.2 * (counts > 0).sum(-1)


def _total_bits(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return entropy_bits(counts) + _table_bits(counts)


def group(histograms: list[Counts], most: int) -> list[list[int]]:
    """Indices of the histograms that should share a table, at most `most` groups."""
    order = sorted(range(len(histograms)), key=lambda index: -int(histograms[index].sum()))
    groups = [[index] for index in order[:_MOST_APART]]
    sums = np.array([histograms[index] for index in order[:_MOST_APART]], float).reshape(-1, 256)
    for index in order[_MOST_APART:]:
        joined: NDArray[np.float64] = sums + histograms[index].astype(float)
        nearest = int(np.argmin(_total_bits(joined) - _total_bits(sums)))
        groups[nearest].append(index)
        sums[nearest] = joined[nearest]
    return _merge(groups, sums, most)


def _merge(groups: list[list[int]], sums: NDArray[np.float64], most: int) -> list[list[int]]:
    totals = _total_bits(sums)
    gains = np.full((len(groups), len(groups)), -np.inf)
    for first in range(len(groups) - 1):
        gains[first, first + 1 :] = totals[first] + totals[first + 1 :] - _total_bits(sums[first] + sums[first + 1 :])
    alive = np.ones(len(groups), bool)
    while alive.sum() > 1:
        first, second = divmod(int(np.argmax(gains)), len(groups))
        if gains[first, second] <= 0 and alive.sum() <= most:
            break
        groups[first] += groups[second]
        sums[first] += sums[second]
        totals[first] = _total_bits(sums[first])
        alive[second] = False
        gains[second, :] = gains[:, second] = -np.inf
        fresh = totals[first] + totals - _total_bits(sums[first] + sums)
        fresh[~alive] = fresh[first] = -np.inf
        gains[first, first:] = fresh[first:]
        gains[:first, first] = fresh[:first]
    return [members for members, lives in zip(groups, alive) if lives]


def tables_for(histograms: list[Counts], most: int, may_be_raw: bool) -> tuple[list[Table], list[int | None]]:
    """Tables for streams of one name, and for each stream the one it takes, or None to be stored as it is."""
    tables: list[Table] = []
    for members in group(histograms, most):
        counts = np.sum([histograms[index] for index in members], axis=0)
        table = fit_table(counts)
        if not may_be_raw or table.cost_bits(counts) + storage_bits(table) < 8 * counts.sum() - 8:
            tables.append(table)
    chosen: list[int | None] = []
    for counts in histograms:
        costs = [_cost(table, counts) for table in tables] + [8.0 * float(counts.sum()) if may_be_raw else np.inf]
        cheapest = int(np.argmin(costs))
        chosen.append(cheapest if cheapest < len(tables) else None)
    used = sorted({index for index in chosen if index is not None})
    return [tables[index] for index in used], [None if index is None else used.index(index) for index in chosen]


def _cost(table: Table, counts: Counts) -> float:
    if (table.levels[counts > 0] == 0).any():
        return float("inf")
    return table.cost_bits(counts)

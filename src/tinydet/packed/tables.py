"""Frequency tables: how often each byte value comes, stored in as few bits as the counts deserve.

A table is stored as logarithms: each symbol's level is its weight on a scale of `resolution` steps to the octave, so
that a table for few symbols is coarse and small, one for many symbols is fine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinydet.packed.bitcoder import BitCoder
from tinydet.packed.limits import PackedFileError
from tinydet.packed.rans import FREQUENCY_SUM

SYMBOLS = 256
RESOLUTIONS = (1, 2, 4, 8)
MAX_OCTAVES = 24
_EIGHTHS = np.array([32768, 35734, 38968, 42495, 46341, 50535, 55109, 60097], np.int64)  # 2^15 * 2^(k / 8)


def _weights(levels: NDArray[np.int64], resolution: int) -> NDArray[np.int64]:
    """`[256]` integer weights, about 2^(level / resolution); level 0 means that the symbol does not occur."""
    eighths = (levels - 1) * (8 // resolution)
    return np.where(levels > 0, _EIGHTHS[eighths & 7] << np.maximum(eighths >> 3, 0), 0)


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies of the 256 byte values, which sum to 2^14.

    Attributes:
        levels: `[256]` from 0.
        resolution: steps to the octave.
    """

    levels: NDArray[np.int64]
    resolution: int

    @cached_property
    def frequencies(self) -> NDArray[np.int64]:
        weights = _weights(self.levels, self.resolution)
        present = weights > 0
        spare = FREQUENCY_SUM - int(present.sum())
        frequencies = present + weights * spare // int(weights.sum())
        frequencies[np.argmax(frequencies)] += FREQUENCY_SUM - int(frequencies.sum())
        return frequencies

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """`[256]` the first slot of each symbol."""
        return np.cumsum(self.frequencies) - self.frequencies

    @cached_property
    def only_symbol(self) -> int | None:
        """The symbol of a table that has one alone: it costs nothing, and nothing is coded."""
        present = np.flatnonzero(self.levels)
        return int(present[0]) if len(present) == 1 else None

    @cached_property
    def slot_symbols(self) -> NDArray[np.uint8]:
        return np.repeat(np.arange(SYMBOLS, dtype=np.uint8), self.frequencies)

    @cached_property
    def slot_entries(self) -> NDArray[np.uint32]:
        """What `RansDecoder.decode` takes: frequency in the upper half, place within the interval in the lower."""
        places = np.arange(FREQUENCY_SUM) - self.starts[self.slot_symbols]
        return (self.frequencies[self.slot_symbols] << 16 | places).astype(np.uint32)

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """`[256]` what each symbol costs; infinite where it does not occur."""
        with np.errstate(divide="ignore"):
            return np.log2(FREQUENCY_SUM) - np.log2(self.frequencies.astype(float))

    def cost_bits(self, counts: NDArray[np.int64]) -> float:
        """What symbols that come `[256]` times would take."""
        present = counts > 0
        return float((counts[present] * self.bits[present]).sum())


def fit_table(counts: NDArray[np.int64]) -> Table:
    """The table that is smallest together with what it codes."""
    tables = [_quantised(counts, resolution) for resolution in RESOLUTIONS]
    return min(tables, key=lambda table: table.cost_bits(counts) + storage_bits(table))


def _quantised(counts: NDArray[np.int64], resolution: int) -> Table:
    # Scaled so that the rarest symbol that matters stays at level 1: rarer than one slot cannot be told apart anyway.
    scale = max(1.0, counts.sum() / FREQUENCY_SUM)
    with np.errstate(divide="ignore"):
        levels = np.rint(resolution * np.log2(np.maximum(counts / scale, 1.0))).astype(np.int64) + 1
    return Table(np.where(counts > 0, levels, 0), resolution)


def storage_bits(table: Table) -> float:
    """About what `code_table` takes for a table."""
    present = np.flatnonzero(table.levels)
    span = table.levels[present[0] : present[-1] + 1]
    steps = np.abs(np.diff(span[span > 0]))
    return 14 + 0.5 * (len(span) - len(present)) + float((1.2 + 1.7 * np.log2(1 + steps)).sum())


def code_table(coder: BitCoder, table: Table | None) -> Table:
    """Write a table, or read one when None is given.

    Raises:
        PackedFileError: what is read is not a table.
    """
    writing = table is not None
    present = np.flatnonzero(table.levels) if table is not None else np.zeros(1, np.int64)
    resolution = RESOLUTIONS[coder.even(2, RESOLUTIONS.index(table.resolution) if table is not None else None)]
    first = coder.even(8, int(present[0]) if writing else None)
    span = 1 + coder.uint("span", int(present[-1] - present[0]) if writing else None)
    if first + span > SYMBOLS:
        raise PackedFileError("a frequency table goes beyond 256 symbols")
    levels = np.zeros(SYMBOLS, np.int64)
    previous, before = 1, 1
    for symbol in range(first, first + span):
        wanted = int(table.levels[symbol]) if table is not None else None
        inner = first < symbol < first + span - 1
        level = 0
        if not inner or coder.bit(("present", before > 0), None if wanted is None else int(wanted > 0)):
            level = previous + coder.sint(("step", resolution), None if wanted is None else wanted - previous)
            if not 1 <= level <= MAX_OCTAVES * resolution:
                raise PackedFileError("a frequency table has a level out of range")
            previous = level
        levels[symbol] = before = level
    return Table(levels, resolution)

from __future__ import annotations

import numpy as np
import pytest

from tinydet.packed.bitcoder import BitReader, BitWriter
from tinydet.packed.limits import PackedFileError
from tinydet.packed.tables import MAX_OCTAVES, Table, code_table, fit_table


@pytest.mark.parametrize(
    "counts",
    [{0: 1}, {255: 9}, {0: 1, 255: 1}, {i: 1 for i in range(256)}, {3: 10**6, 4: 1}, {i: i * i for i in range(1, 200)}],
)
def test_frequencies_sum_up_and_none_is_lost(counts: dict[int, int]) -> None:
    dense = np.zeros(256, np.int64)
    dense[list(counts)] = list(counts.values())
    table = fit_table(dense)
    assert table.frequencies.sum() == 1 << 14
    assert ((table.frequencies > 0) == (dense > 0)).all()
    writer = BitWriter()
    code_table(writer, table)
    again = code_table(BitReader(writer.finish()), None)
    assert (again.levels == table.levels).all()
    assert again.resolution == table.resolution


def test_close_to_the_entropy_with_its_own_storage() -> None:
    counts = np.bincount(np.random.default_rng(0).normal(118, 2.5, 20_000).astype(int), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    entropy_bits = -counts.sum() * (shares * np.log2(shares)).sum()
    table = fit_table(counts)
    writer = BitWriter()
    code_table(writer, table)
    assert table.cost_bits(counts) < 1.002 * entropy_bits
    assert len(writer.finish()) < 25


def test_weights_follow_the_logarithms() -> None:
    """A level is an eighth of an octave at resolution 8: 2^(k / 8), computed here in floating point."""
    levels = np.zeros(256, np.int64)
    levels[:40] = np.arange(1, 41)
    frequencies = Table(levels, 8).frequencies
    ideal = 2.0 ** (np.arange(40) / 8)
    ideal *= (16384 - 40) / ideal.sum()
    assert np.abs(frequencies[:39] - 1 - ideal[:39]).max() <= 1.01  # one slot each comes first, the rest rounds down


def test_a_level_out_of_range_is_refused() -> None:
    levels = np.zeros(256, np.int64)
    levels[5] = MAX_OCTAVES * 8 + 1
    writer = BitWriter()
    with pytest.raises(PackedFileError, match="level"):
        code_table(writer, Table(levels, 8))

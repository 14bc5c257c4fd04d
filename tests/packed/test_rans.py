"""The coder against the entropy that theory gives, and against a plain decoder written from the format's text."""

from __future__ import annotations

import numpy as np
import pytest

from tinydet.packed.limits import PackedFileError
from tinydet.packed.rans import RansDecoder, RansEncoder, lanes_for
from tinydet.packed.tables import Table, fit_table


def coded(table: Table, symbols: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    encoder = RansEncoder(lanes)
    encoder.add(table.starts[symbols], table.frequencies[symbols])
    return encoder.finish()


def decode_plainly(table: Table, states: np.ndarray, words: np.ndarray, count: int) -> list[int]:
    """As docs/packed-format.md tells it, one symbol at a time."""
    x, unread, found = [int(state) for state in states], [int(word) for word in words], []
    starts, frequencies = table.starts.tolist(), table.frequencies.tolist()
    for k in range(count):
        lane = k % len(x)
        slot = x[lane] % 16384
        symbol = next(s for s in range(256) if starts[s] <= slot < starts[s] + frequencies[s])
        x[lane] = frequencies[symbol] * (x[lane] // 16384) + slot - starts[symbol]
        if x[lane] < 65536:
            x[lane] = x[lane] * 65536 + unread.pop(0)
        found.append(symbol)
    assert not unread
    assert set(x) == {65536}
    return found


@pytest.mark.parametrize("count", [0, 1, 7, 64, 1000])
@pytest.mark.parametrize("lanes", [1, 8, 64])
def test_a_plain_decoder_finds_the_same(count: int, lanes: int) -> None:
    symbols = np.random.default_rng(count).normal(120, 5, count).astype(np.uint8)
    table = fit_table(np.bincount(np.append(symbols, 3), minlength=256))
    states, words = coded(table, symbols, lanes)
    decoder = RansDecoder(states, words)
    found = table.slot_symbols[decoder.decode(count, table.slot_entries)]
    decoder.check_finished()
    assert found.tolist() == symbols.tolist() == decode_plainly(table, states, words, count)


def test_the_size_is_that_of_the_entropy() -> None:
    symbols = np.random.default_rng(0).normal(120, 3, 100_000).astype(np.uint8)
    counts = np.bincount(symbols, minlength=256)
    shares = counts[counts > 0] / len(symbols)
    entropy_bytes = -len(symbols) * (shares * np.log2(shares)).sum() / 8
    states, words = coded(fit_table(counts), symbols, lanes_for(len(symbols)))
    assert 0 < states.nbytes + words.nbytes - entropy_bytes < 0.003 * entropy_bytes + 4 * len(states)


def test_runs_of_different_tables_follow_each_other() -> None:
    rng = np.random.default_rng(1)
    runs = [rng.integers(0, high, size).astype(np.uint8) for high, size in ((2, 100), (200, 33), (9, 5))]
    tables = [fit_table(np.bincount(run, minlength=256)) for run in runs]
    encoder = RansEncoder(16)
    for table, run in zip(tables, runs):
        encoder.add(table.starts[run], table.frequencies[run])
    decoder = RansDecoder(*encoder.finish())
    for table, run in zip(tables, runs):
        assert (table.slot_symbols[decoder.decode(len(run), table.slot_entries)] == run).all()
    decoder.check_finished()


def test_words_that_lack_or_are_left_over() -> None:
    symbols = np.arange(200, dtype=np.uint8)
    table = fit_table(np.bincount(symbols, minlength=256))
    states, words = coded(table, symbols, 4)
    with pytest.raises(PackedFileError, match="too early"):
        RansDecoder(states, words[:-1]).decode(200, table.slot_entries)
    decoder = RansDecoder(states, np.append(words, np.uint16(5)))
    decoder.decode(200, table.slot_entries)
    with pytest.raises(PackedFileError, match="do not end"):
        decoder.check_finished()
    with pytest.raises(PackedFileError, match="out of range"):
        RansDecoder(np.array([1], np.uint32), words)


@pytest.mark.parametrize(
    ("elements", "lanes"),
    [(0, 1), (1, 1), (100, 1), (1 << 10, 4), (20_000, 32), (50_000, 64), (1_250_000, 512), (1 << 40, 4096)],
)
def test_lanes_as_the_format_has_them(elements: int, lanes: int) -> None:
    assert lanes_for(elements) == lanes

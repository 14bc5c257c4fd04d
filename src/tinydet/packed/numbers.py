"""Whole numbers of very different sizes: their bit lengths are modelled, the bits below the highest are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_POWERS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def bit_lengths(values: Array) -> NDArray[np.uint8]:
    """`[N]` 0..64: 0 for 0, else the place of the highest bit, from 1."""
    return np.searchsorted(_POWERS, values, side="right").astype(np.uint8)


def pack_bits(values: Array, lengths: NDArray[np.uint8]) -> bytes:
    """The bits below the highest of each value, highest first, without gaps, the last byte filled with zeros."""
    widths = np.maximum(lengths.astype(np.int64) - 1, 0)
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for place in range(int(widths.max(initial=0))):
        wide = widths > place
        bits[ends[wide] - 1 - place] = (values[wide] >> np.uint64(place)) & np.uint64(1)
    return np.packbits(bits).tobytes()


def packed_bytes(lengths: NDArray[np.uint8]) -> int:
    """How many bytes `pack_bits` makes."""
    return (int(np.maximum(lengths.astype(np.int64) - 1, 0).sum()) + 7) // 8


def unpack_bits(content: bytes, lengths: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The values, from what `pack_bits` made."""
    widths = np.maximum(lengths.astype(np.int64) - 1, 0)
    ends = np.cumsum(widths)
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    values = np.where(lengths > 0, _POWERS[widths], np.uint64(0))
    for place in range(int(widths.max(initial=0))):
        wide = widths > place
        values[wide] |= bits[ends[wide] - 1 - place].astype(np.uint64) << np.uint64(place)
    return values


def fold_signs(words: Array, width: int) -> NDArray[np.uint64]:
    """Two's complement numbers of `width` bytes as 0, -1, 1, -2, 2, ... -> 0, 1, 2, 3, 4, ..."""
    signed = words.astype(f"<u{width}").view(f"<i{width}").astype(np.int64)
    return ((signed << 1) ^ (signed >> 63)).view(np.uint64)


def unfold_signs(values: NDArray[np.uint64], width: int) -> Array:
    """The inverse of `fold_signs`."""
    signed = (values >> np.uint64(1)).view(np.int64) ^ -(values & np.uint64(1)).view(np.int64)
    return signed.view(np.uint64).astype(f"<u{width}")

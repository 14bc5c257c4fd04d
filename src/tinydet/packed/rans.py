"""Entropy coding of bytes by interleaved range asymmetric numeral systems, many lanes at a time.

Jarek Duda, "Asymmetric numeral systems", arXiv:1311.2540; lanes as in Fabian Giesen, "Interleaved entropy coders",
arXiv:1402.3392. Each lane's state lies in [2^16, 2^32) and moves whole 16-bit words in and out. Symbol k of a run
belongs to lane k modulo the number of lanes, so that one numpy step decodes a symbol in every lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.packed.limits import PackedFileError

Array = NDArray[Any]

FREQUENCY_BITS = 14
FREQUENCY_SUM = 1 << FREQUENCY_BITS
_MASK = np.uint32(FREQUENCY_SUM - 1)
_LOWEST = 1 << 16
MAX_LANES = 1 << 12


def lanes_for(elements: int) -> int:
    """How many lanes code this many elements: 2^(floor(5 b / 8) - 4) for a number of b bits, from 1 to 4096.

    That is 64 lanes for 50,000 elements and 512 for a million. More lanes decode faster and cost two bytes each. The
    number is a rule and not a choice of the writer's, so that no file can make a reader go through its symbols one by
    one.
    """
    return min(MAX_LANES, 1 << max(0, 5 * elements.bit_length() // 8 - 4))


class RansEncoder:
    """Collects symbols in the order in which they will be decoded; `finish` codes them, last first."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._runs: list[tuple[Array, Array]] = []

    def add(self, starts: Array, frequencies: Array) -> None:
        """A run of symbols, each given by its interval: `[N]` first slot and `[N]` number of slots of FREQUENCY_SUM."""
        self._runs.append((starts.astype(np.uint64), frequencies.astype(np.uint64)))

    def finish(self) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """The lanes' states and the words, as the decoder takes them."""
        states = np.full(self._lanes, _LOWEST, np.uint64)
        blocks: list[Array] = []
        for starts, frequencies in reversed(self._runs):
            first_of_last = (len(starts) - 1) // self._lanes * self._lanes
            for first in range(first_of_last, -1, -self._lanes):
                start, frequency = (values[first : first + self._lanes] for values in (starts, frequencies))
                state = states[: len(start)]
                full = state >= frequency << np.uint64(32 - FREQUENCY_BITS)
                blocks.append(state[full].astype(np.uint16))
                state[full] >>= np.uint64(16)
                quotient, remainder = np.divmod(state, frequency)
                state[:] = (quotient << np.uint64(FREQUENCY_BITS)) + remainder + start
        words = np.concatenate(blocks[::-1]) if blocks else np.zeros(0, np.uint16)
        return states.astype(np.uint32), words


class RansDecoder:
    """Gives the symbols back, run by run.

    Raises:
        PackedFileError: the words end too early, or something is left over.
    """

    def __init__(self, states: NDArray[np.uint32], words: NDArray[np.uint16]) -> None:
        self._states = states.astype(np.uint32)
        self._words = words.astype(np.uint32)
        self._position = 0
        if len(states) and self._states.min() < _LOWEST:
            raise PackedFileError("a coder's state is out of range")

    def decode(self, count: int, entries: NDArray[np.uint32], bases: NDArray[np.uint32] | None = None) -> Array:
        """The slots of the next `count` symbols.

        Args:
            entries: for each slot of one or more tables in a row, the frequency of its symbol in the upper half and
                the slot's place within the symbol's interval in the lower.
            bases: `[count]` where in `entries` the table of each symbol begins; None for the first.
        """
        lanes, words, position = len(self._states), self._words, self._position
        slots = np.empty(count, np.uint32)
        shift, half, low = np.uint32(FREQUENCY_BITS), np.uint32(16), np.uint32(0xFFFF)
        for first in range(0, count, lanes):
            slot = slots[first : first + lanes]
            state = self._states[: len(slot)]
            np.bitwise_and(state, _MASK, out=slot)
            if bases is not None:
                slot += bases[first : first + lanes]
            entry = entries[slot]
            state >>= shift
            state *= entry >> half
            entry &= low
            state += entry
            empty = np.flatnonzero(state < _LOWEST)
            if len(empty):
                following = position + len(empty)
                if following > len(words):
                    raise PackedFileError("the coded tensors end too early")
                state[empty] = state[empty] << half | words[position:following]
                position = following
        self._position = position
        return slots

    def check_finished(self) -> None:
        if self._position != len(self._words) or (self._states != _LOWEST).any():
            raise PackedFileError("the coded tensors do not end where they should")

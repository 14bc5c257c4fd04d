"""An adaptive binary range coder for the small things: shapes, kinds of coding, frequency tables.

The writer and the reader are walked through by the same code: each method takes the value to be written, or None when
reading, and returns the value. The arithmetic is that of LZMA's range coder (32-bit range, a byte at a time, carry
propagated), with 16-bit probabilities that first learn fast and then slowly.
"""

from __future__ import annotations

from collections.abc import Hashable

from tinydet.packed.limits import PackedFileError

_TOP = 1 << 24
_HALF = 1 << 15
_SLOWEST = 30  # a context that has seen this many bits or more moves by 1 / 31.5 of the distance
_RATES = tuple(131072 // (2 * seen + 3) for seen in range(_SLOWEST + 1))  # 65536 / (seen + 1.5)
MAX_UINT_BITS = 64


class BitCoder:
    """What the writer and the reader share: numbers made of modelled bits."""

    def __init__(self) -> None:
        self._models: dict[Hashable, list[int]] = {}  # context -> [probability of 0 in 1 / 65536, bits seen]

    def bit(self, context: Hashable, value: int | None = None) -> int:
        raise NotImplementedError

    def even(self, count: int, value: int | None = None) -> int:
        """`count` bits that are not modelled, highest first."""
        raise NotImplementedError

    def uint(self, context: Hashable, value: int | None = None) -> int:
        """A number from 0: the length of value + 1 in modelled unary, its two next bits modelled, the rest even."""
        extended = None if value is None else value + 1
        width = 0
        while self.bit((context, width), None if extended is None else int(extended >> (width + 1) != 0)):
            width += 1
            if width > MAX_UINT_BITS:
                raise PackedFileError("a number in the tensor directory is too long")
        result = 1
        for place in range(width - 1, -1, -1):
            wanted = None if extended is None else (extended >> place) & 1
            if width - place <= 2:
                found = self.bit((context, width, result), wanted)
            else:
                found = self.even(1, wanted)
            result = result << 1 | found
        return result - 1

    def sint(self, context: Hashable, value: int | None = None) -> int:
        """A number of either sign: 0, -1, 1, -2, 2, ... as 0, 1, 2, 3, 4, ..."""
        folded = self.uint(context, None if value is None else (value << 1 if value >= 0 else ~value << 1 | 1))
        return ~(folded >> 1) if folded & 1 else folded >> 1

    def _model(self, context: Hashable) -> list[int]:
        model = self._models.get(context)
        if model is None:
            model = self._models[context] = [_HALF, 0]
        return model

    @staticmethod
    def _learn(model: list[int], bit: int) -> None:
        probability, seen = model
        rate = _RATES[seen]
        if bit:
            probability -= probability * rate >> 16
        else:
            probability += (65536 - probability) * rate >> 16
        model[0] = min(max(probability, 64), 65472)
        if seen < _SLOWEST:
            model[1] = seen + 1


class BitWriter(BitCoder):
    """Writes; `finish` gives the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._low = 0
        self._range = 0xFFFFFFFF
        self._digits: list[int] = []  # base 256, each may hold a carry until `finish`

    def bit(self, context: Hashable, value: int | None = None) -> int:
        assert value is not None
        model = self._model(context)
        bound = (self._range >> 16) * model[0]
        if value:
            self._low += bound
            self._range -= bound
        else:
            self._range = bound
        self._learn(model, value)
        self._normalise()
        return value

    def even(self, count: int, value: int | None = None) -> int:
        assert value is not None
        for place in range(count - 1, -1, -1):
            self._range >>= 1
            if (value >> place) & 1:
                self._low += self._range
            self._normalise()
        return value

    def _normalise(self) -> None:
        while self._range < _TOP:
            self._digits.append(self._low >> 24)
            self._low = (self._low & 0xFFFFFF) << 8
            self._range <<= 8

    def finish(self) -> bytes:
        """The bytes, without the last zeros (up to 4) that the reader supplies by itself.

        Not without all of them: a reader that runs far past the end of its bytes takes the file for a damaged one.
        """
        # Any number in [low, low + range) will do: take the one that ends in most zeros.
        for kept in (24, 16, 8, 0):
            rounded = (self._low + (1 << kept) - 1) >> kept << kept
            if rounded < self._low + self._range:
                break
        digits = self._digits + [rounded >> 24, rounded >> 16 & 255, rounded >> 8 & 255, rounded & 255]
        for place in range(len(digits) - 1, 0, -1):
            digits[place - 1] += digits[place] >> 8
            digits[place] &= 255
        content = bytes(digits)
        return content[: max(len(content.rstrip(b"\0")), len(content) - 4)]


class BitReader(BitCoder):
    """Reads what a `BitWriter` wrote.

    Raises:
        PackedFileError: more is asked for than was written.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = content
        self._position = 4
        self._code = int.from_bytes(content[:4].ljust(4, b"\0"), "big")
        self._range = 0xFFFFFFFF

    def bit(self, context: Hashable, value: int | None = None) -> int:
        # `_model` and `_learn` written out: this is most of what opening a small file takes.
        model = self._models.get(context)
        if model is None:
            model = self._models[context] = [_HALF, 0]
        probability, seen = model
        bound = (self._range >> 16) * probability
        if self._code >= bound:
            found = 1
            self._code -= bound
            self._range -= bound
            probability -= probability * _RATES[seen] >> 16
        else:
            found = 0
            self._range = bound
            probability += (65536 - probability) * _RATES[seen] >> 16
        model[0] = 64 if probability < 64 else 65472 if probability > 65472 else probability
        if seen < _SLOWEST:
            model[1] = seen + 1
        if self._range < _TOP:
            self._normalise()
        return found

    def even(self, count: int, value: int | None = None) -> int:
        result = 0
        for _ in range(count):
            self._range >>= 1
            found = int(self._code >= self._range)
            self._code -= self._range * found
            result = result << 1 | found
            if self._range < _TOP:
                self._normalise()
        return result

    def _normalise(self) -> None:
        while self._range < _TOP:
            position = self._position
            byte = self._content[position] if position < len(self._content) else 0
            self._position = position + 1
            self._code = (self._code << 8 | byte) & 0xFFFFFFFF
            self._range <<= 8
        if self._position > len(self._content) + 8:
            raise PackedFileError("the tensor directory ends too early")

"""The ways in which one tensor could be coded, as streams of bytes ready for the entropy coder."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.packed.dtypes import ElementType, to_words
from tinydet.packed.layout import MAX_CODEBOOK, Coding, Layout
from tinydet.packed.numbers import bit_lengths, fold_signs, pack_bits

Array = NDArray[Any]

_SAMPLE_BYTES = 1 << 18
_LOOK_BACK = 256  # tensors


@dataclass(frozen=True, eq=False)
class Stream:
    """Bytes to be modelled by one frequency table.

    Attributes:
        name: streams of the same name may share a table.
        symbols: `[N]` uint8.
    """

    name: str
    symbols: NDArray[np.uint8]

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.bincount(self.symbols, minlength=256)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to code one tensor.

    Attributes:
        layout: without its sources, which are settled when all tensors are known.
        parts: streams, and bytes that are stored as they are, in the order in which they are decoded.
    """

    layout: Layout
    parts: tuple[Stream | bytes, ...]

    @property
    def streams(self) -> list[Stream]:
        return [part for part in self.parts if isinstance(part, Stream)]

    @property
    def stored_bytes(self) -> int:
        return sum(len(part) for part in self.parts if isinstance(part, bytes))


def plane_symbols(words: Array, width: int) -> list[NDArray[np.uint8]]:
    """The bytes of each word by their position, the highest first."""
    return [(words >> (8 * (width - 1 - plane))).astype(np.uint8) for plane in range(width)]


def candidates(array: Array, type_index: int, element: ElementType) -> Iterator[Candidate]:
    """Every modelled way that could be the smallest for this array."""
    words = to_words(array, element)
    if len(words) == 0:
        return
    zeros = len(words) - int(np.count_nonzero(words))
    yield from _dense(words, type_index, element, array.shape, None)
    if len(words) // 64 < zeros < len(words):
        nonzero = words != 0
        flags = Stream("zeros", nonzero.astype(np.uint8))
        yield from _dense(words[nonzero], type_index, element, array.shape, flags)


def scaled(array: Array, type_index: int, before: Sequence[Array]) -> Candidate | None:
    """The array as a product of one number and an earlier float32 array of its shape, if it is one to the last bit."""
    if array.dtype != np.float32 or array.size < 3 or not np.isfinite(array).all():
        return None
    for back, other in enumerate(reversed(before[-_LOOK_BACK:]), 1):
        if other.dtype != np.float32 or other.shape != array.shape or not np.isfinite(other).all():
            continue
        flat, base = array.reshape(-1), other.reshape(-1)
        place = int(np.argmax(np.abs(base)))
        with np.errstate(all="ignore"):
            middle = flat[place] / base[place]
            if not np.isfinite(middle) or not np.allclose(base * middle, flat, rtol=1e-5, atol=0):
                continue
            for factor in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, 2 * middle)):
                if (base * factor).tobytes() == flat.tobytes():
                    layout = Layout(type_index, array.shape, Coding.SCALED, reference=back)
                    return Candidate(layout, (factor.astype("<f4").tobytes(),))
    return None


def _dense(
    words: Array, type_index: int, element: ElementType, shape: tuple[int, ...], flags: Stream | None
) -> Iterator[Candidate]:
    def candidate(coding: Coding, parts: list[Stream | bytes], reference: int = 0) -> Candidate:
        layout = Layout(type_index, shape, coding, flags is not None, reference)
        names = iter(layout.stream_names()[0 if flags is None else 1 :])
        named = [Stream(next(names), part.symbols) if isinstance(part, Stream) else part for part in parts]
        return Candidate(layout, (*([] if flags is None else [flags]), *named))

    yield candidate(Coding.PLANES, [Stream("", symbols) for symbols in plane_symbols(words, element.width)])
    if element.nature != "float" and element.width > 1:
        values = fold_signs(words, element.width) if element.nature == "signed" else words.astype(np.uint64)
        lengths = bit_lengths(values)
        yield candidate(Coding.LENGTHS, [Stream("", lengths), pack_bits(values, lengths)])
    if element.width > 1 and _may_be_shared(words):
        codebook, codes = np.unique(words, return_inverse=True)
        if len(codebook) <= MAX_CODEBOOK:
            steps = np.diff(codebook.astype(np.uint64), prepend=np.uint64(0))
            steps[1:] -= np.uint64(1)
            lengths = bit_lengths(steps)
            parts: list[Stream | bytes] = [
                Stream("", lengths),
                pack_bits(steps, lengths),
                Stream("", codes.astype(np.uint8)),
            ]
            yield candidate(Coding.CODEBOOK, parts, len(codebook))


def _may_be_shared(words: Array) -> bool:
    """Whether there may be few distinct words; sorting all of a large tensor only to find out would be slow."""
    beginning = words[:4096]
    return len(np.unique(beginning)) <= min(MAX_CODEBOOK, len(beginning) - 1)


def general_bytes(array: Array, element: ElementType) -> bytes:
    return np.ascontiguousarray(array, dtype=element.dtype).tobytes()


def compresses_generally(content: bytes) -> float:
    """About what share of these bytes a general compressor leaves, from a quick try on their beginning."""
    sample = content[:_SAMPLE_BYTES]
    return len(zlib.compress(sample, 6)) / max(len(sample), 1)

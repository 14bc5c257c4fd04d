"""Bytes to named tensors. Everything that a section declares is checked before it is believed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.packed import bytecoder
from tinydet.packed.bitcoder import BitReader
from tinydet.packed.dtypes import from_words
from tinydet.packed.layout import RAW_STREAM, Coding, Layout, code_directory, coder_elements
from tinydet.packed.limits import Limits, PackedFileError
from tinydet.packed.numbers import packed_bytes, unfold_signs, unpack_bits
from tinydet.packed.rans import RansDecoder, lanes_for
from tinydet.packed.tables import Table

Array = NDArray[Any]

_PREFIX_NUMBERS = 10
_MAX_NAME_BYTES = 1024


@dataclass(frozen=True)
class TensorCost:
    """What one tensor takes in a file.

    Attributes:
        coding: in words, such as `sparse codebook of 255`.
        packed_bytes: its share of the coded streams; a fraction, since streams are shared.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]
    coding: str
    tensor_bytes: int
    packed_bytes: float


@dataclass(frozen=True)
class _Blobs:
    """The parts of a tensor section, cut out but not yet decoded."""

    names: list[str]
    directory: bytes
    general: bytes
    general_packed_bytes: int
    coded: bytes
    word_count: int
    raw: bytes


def decode_tensors(section: bytes, limits: Limits, max_bytes: int) -> dict[str, Array]:
    """The tensors of a section, in its order.

    Args:
        max_bytes: how many bytes all tensors together may take.

    Raises:
        PackedFileError: the section is damaged, or declares more than `limits` and `max_bytes` allow.
    """
    return _Decoder(section, limits, max_bytes).run()[0]


def tensor_costs(section: bytes, limits: Limits, max_bytes: int) -> list[TensorCost]:
    """What each tensor takes; the section is decoded to find out."""
    return _Decoder(section, limits, max_bytes, measure=True).run()[1]


class _Decoder:
    def __init__(self, section: bytes, limits: Limits, max_bytes: int, *, measure: bool = False) -> None:
        blobs = _cut(section, limits, max_bytes)
        self._names, self._general, self._raw = blobs.names, blobs.general, blobs.raw
        self._general_rate = blobs.general_packed_bytes / max(len(blobs.general), 1)
        reader = BitReader(blobs.directory)
        self._layouts, self._tables = code_directory(reader, len(blobs.names), limits, max_bytes, None, None)
        elements = coder_elements(self._layouts, self._tables)
        lanes = lanes_for(elements) if elements else 0
        if len(blobs.coded) != 4 * lanes + 2 * blobs.word_count:
            raise PackedFileError("the tensor section's lengths contradict each other")
        states = np.frombuffer(blobs.coded[: 4 * lanes], "<u4")
        self._rans = RansDecoder(states, np.frombuffer(blobs.coded[4 * lanes :], "<u2"))
        self._raw_position = 0
        self._general_position = 0
        self._measure = measure
        self._bits = 0.0

    def run(self) -> tuple[dict[str, Array], list[TensorCost]]:
        arrays: list[Array] = []
        costs = []
        for name, layout in zip(self._names, self._layouts):
            self._bits = 0.0
            try:
                arrays.append(self._tensor(layout, arrays))
            except PackedFileError as error:
                raise PackedFileError(f"tensor {name}: {error}") from None
            costs.append(
                TensorCost(
                    name,
                    layout.element.name,
                    layout.shape,
                    _in_words(layout),
                    layout.tensor_bytes,
                    self._bits / 8,
                )
            )
        self._rans.check_finished()
        if self._raw_position != len(self._raw) or self._general_position != len(self._general):
            raise PackedFileError("the tensor section holds bytes that belong to no tensor")
        return dict(zip(self._names, arrays)), costs

    def _tensor(self, layout: Layout, before: list[Array]) -> Array:
        if layout.coding is Coding.SAME:
            return before[-layout.reference].copy()
        if layout.coding is Coding.SCALED:
            factor = np.frombuffer(self._stored(4), "<f4")
            with np.errstate(all="ignore"):
                return (before[-layout.reference].reshape(-1) * factor).reshape(layout.shape)
        if layout.coding in (Coding.RAW, Coding.GENERAL):
            stored = self._stored(layout.tensor_bytes, general=layout.coding is Coding.GENERAL)
            if layout.element.name == "bool" and (np.frombuffer(stored, np.uint8) > 1).any():
                raise PackedFileError("a truth value is neither 0 nor 1")
            return np.frombuffer(stored, layout.element.dtype).reshape(layout.shape).copy()
        sources = list(layout.sources)
        count, width = layout.word_count, layout.element.width
        flags = None
        if layout.sparse:
            flags = self._stream(sources.pop(0), count)
            if flags.max(initial=0) > 1:
                raise PackedFileError("a zero flag is neither 0 nor 1")
            count = int(np.count_nonzero(flags))
        words = self._words(layout, sources, count)
        if flags is not None:
            dense = np.zeros(layout.word_count, f"<u{width}")
            dense[flags.astype(bool)] = words
            words = dense
        if layout.element.name == "bool" and words.max(initial=0) > 1:
            raise PackedFileError("a truth value is neither 0 nor 1")
        return from_words(words, layout.element, layout.shape)

    def _words(self, layout: Layout, sources: list[int], count: int) -> Array:
        """`[count]` unsigned integers of the element's width."""
        width = layout.element.width
        if layout.coding is Coding.PLANES:
            words = np.zeros((count, width), np.uint8)
            for plane, source in enumerate(sources):
                words[:, width - 1 - plane] = self._stream(source, count)
            return words.reshape(-1).view(f"<u{width}")
        if layout.coding is Coding.CODEBOOK:
            steps = self._numbers(sources[0], layout.reference)
            steps[1:] += np.uint64(1)
            codebook = np.cumsum(steps, dtype=np.uint64)
            if (codebook[1:] <= codebook[:-1]).any() or int(codebook[-1]) >> (8 * width):
                raise PackedFileError("its codebook is not in ascending order")
            codes = self._stream(sources[1], count)
            if codes.max(initial=0) >= len(codebook):
                raise PackedFileError("a code lies beyond its codebook")
            return codebook.astype(f"<u{width}")[codes]
        numbers = self._numbers(sources[0], count)
        if len(numbers) and int(numbers.max()) >> (8 * width):
            raise PackedFileError(f"a number does not fit in {width} bytes")
        return unfold_signs(numbers, width) if layout.element.nature == "signed" else numbers.astype(f"<u{width}")

    def _numbers(self, source: int, count: int) -> NDArray[np.uint64]:
        lengths = self._stream(source, count)
        if lengths.max(initial=0) > 64:
            raise PackedFileError("a number is longer than 64 bits")
        return unpack_bits(self._stored(packed_bytes(lengths)), lengths)

    def _stream(self, source: int, count: int) -> NDArray[np.uint8]:
        if source == RAW_STREAM:
            return np.frombuffer(self._stored(count), np.uint8)
        table = self._tables[source - 1]
        if table.only_symbol is not None:
            return np.full(count, table.only_symbol, np.uint8)
        symbols = table.slot_symbols[self._rans.decode(count, table.slot_entries)]
        if self._measure:
            self._bits += _cost_bits(table, symbols)
        return symbols

    def _stored(self, count: int, *, general: bool = False) -> bytes:
        blob, position = (self._general, self._general_position) if general else (self._raw, self._raw_position)
        if position + count > len(blob):
            raise PackedFileError("the stored bytes end too early")
        self._bits += 8 * count * (self._general_rate if general else 1)
        if general:
            self._general_position += count
        else:
            self._raw_position += count
        return blob[position : position + count]


def _cost_bits(table: Table, symbols: NDArray[np.uint8]) -> float:
    return table.cost_bits(np.bincount(symbols, minlength=256))


def _in_words(layout: Layout) -> str:
    text = layout.coding.name.lower()
    if layout.coding is Coding.CODEBOOK:
        text += f" of {layout.reference}"
    return f"sparse {text}" if layout.sparse else text


def _cut(section: bytes, limits: Limits, max_bytes: int) -> _Blobs:
    numbers, position = _varints(section, _PREFIX_NUMBERS)
    count, names_method, names_bytes, names_packed, directory, general_method, general_bytes, general_packed = numbers[
        :8
    ]
    words, raw = numbers[8:]
    if count > limits.max_tensors:
        raise PackedFileError(f"declares {count:,} tensors, more than the {limits.max_tensors:,} allowed")
    if names_bytes > min(count * _MAX_NAME_BYTES, max(1 << 16, limits.max_expansion * len(section))):
        raise PackedFileError(f"declares {names_bytes:,} bytes of names for {count:,} tensors")
    if max(general_bytes, raw) > max_bytes:
        raise PackedFileError(f"declares {max(general_bytes, raw):,} bytes, more than the {max_bytes:,} allowed")
    coded = len(section) - position - names_packed - directory - general_packed - raw
    if coded < 0:
        raise PackedFileError("the tensor section is shorter than it declares")
    cuts = [position]
    for length in (names_packed, directory, general_packed, coded, raw):
        cuts.append(cuts[-1] + length)
    pieces = [section[start:end] for start, end in pairwise(cuts)]
    return _Blobs(
        names=_names(bytecoder.decompress(names_method, pieces[0], names_bytes, "the tensors' names"), count),
        directory=pieces[1],
        general=bytecoder.decompress(general_method, pieces[2], general_bytes, "the generally coded tensors"),
        general_packed_bytes=general_packed,
        coded=pieces[3],
        word_count=words,
        raw=pieces[4],
    )


def _varints(section: bytes, count: int) -> tuple[list[int], int]:
    numbers, position = [], 0
    for _ in range(count):
        value = 0
        for place in range(10):
            if position >= len(section):
                raise PackedFileError("the tensor section is cut short")
            byte = section[position]
            position += 1
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                break
        else:
            raise PackedFileError("a length in the tensor section is too long")
        numbers.append(value)
    return numbers, position


def _names(content: bytes, count: int) -> list[str]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise PackedFileError("the tensors' names are not UTF-8") from None
    names = text.split("\n") if count else []
    if len(names) != count or not all(names) or (not count and content):
        raise PackedFileError(f"{len(names)} names for {count} tensors")
    if len(set(names)) != count:
        raise PackedFileError("two tensors have the same name")
    return names

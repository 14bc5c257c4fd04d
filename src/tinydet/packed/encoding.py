"""Named tensors to bytes: choose a coding for each, share frequency tables, write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.packed import bytecoder
from tinydet.packed.bitcoder import BitWriter
from tinydet.packed.candidates import Candidate, Stream, candidates, compresses_generally, general_bytes, scaled
from tinydet.packed.dtypes import ELEMENT_TYPES, element_index
from tinydet.packed.layout import MAX_TABLES, Coding, Layout, code_directory, coder_elements
from tinydet.packed.limits import Limits, PackedFileError
from tinydet.packed.rans import RansEncoder, lanes_for
from tinydet.packed.sharing import entropy_bits, tables_for
from tinydet.packed.tables import Table

Array = NDArray[Any]

_TABLES_A_NAME = 48
_TABLE_GUESS_BITS = 60.0  # what a table costs a stream that would need its own, before it is known who shares


@dataclass(frozen=True)
class _Prefix:
    """The lengths that stand in front of a tensor section, in this order."""

    tensors: int
    names_method: int
    names_bytes: int
    names_packed: int
    directory_bytes: int
    general_method: int
    general_bytes: int
    general_packed: int
    words: int
    raw_bytes: int


def encode_tensors(tensors: Mapping[str, Array]) -> bytes:
    """The tensor section. `decode_tensors` gives back every tensor bit for bit, in the same order.

    Raises:
        PackedFileError: an element type or a name that cannot be stored.
    """
    names = "\n".join(tensors).encode()
    if any("\n" in name or not name for name in tensors):
        raise PackedFileError("a tensor's name is empty or has a line break in it")
    for name, array in tensors.items():
        if element_index(array.dtype) is None:
            raise PackedFileError(f"tensor {name}: elements of type {array.dtype} cannot be packed")
    arrays = list(tensors.values())
    chosen = _choose(arrays)
    content = _write(chosen, arrays, names)
    if len(content) > 0.8 * sum(array.nbytes for array in arrays):
        everything = [Candidate(Layout(_type_of(array), array.shape, Coding.GENERAL), ()) for array in arrays]
        if _general_promises(arrays, len(content)):
            content = min(content, _write(everything, arrays, names), key=len)
    return content


def _type_of(array: Array) -> int:
    index = element_index(array.dtype)
    assert index is not None
    return index


def _general_promises(arrays: list[Array], packed_bytes: int) -> bool:
    total = sum(array.nbytes for array in arrays)
    if total <= 1 << 22:
        return True
    joined = b"".join(general_bytes(array[:4096], ELEMENT_TYPES[_type_of(array)]) for array in arrays if array.ndim)
    return compresses_generally(joined) < 1.1 * packed_bytes / total


def _choose(arrays: list[Array]) -> list[Candidate]:
    """For each tensor the candidate that is smallest when streams of the same name share what they have learnt."""
    options = []
    seen: dict[tuple[int, tuple[int, ...], bytes], int] = {}
    for index, array in enumerate(arrays):
        type_index = _type_of(array)
        content = general_bytes(array, ELEMENT_TYPES[type_index])
        first = seen.setdefault((type_index, array.shape, content), index)
        if first != index and len(content) > 1:
            options.append([Candidate(Layout(type_index, array.shape, Coding.SAME, reference=index - first), ())])
            continue
        raw = Candidate(Layout(type_index, array.shape, Coding.RAW), (content,))
        product = scaled(array, type_index, arrays[:index])
        several = [raw, *candidates(array, type_index, ELEMENT_TYPES[type_index])]
        options.append(several if product is None else [*several, product])
    pooled: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(256))
    for several in options:
        for candidate in several:
            for stream in candidate.streams:
                pooled[stream.name] += stream.counts
    chosen = []
    for array, several in zip(arrays, options):
        costs = [_estimate_bits(candidate, pooled) for candidate in several]
        best = several[int(np.argmin(costs))]
        if best.layout.coding is not Coding.SAME:
            best = _or_general(best, array, min(costs))
        chosen.append(best)
    return chosen


def _estimate_bits(candidate: Candidate, pooled: Mapping[str, NDArray[np.float64]]) -> float:
    bits = 8.0 * candidate.stored_bytes
    for stream in candidate.streams:
        counts = stream.counts.astype(float)
        everyone = pooled[stream.name]
        shared = -float((counts * np.log2(np.maximum(everyone, 1) / everyone.sum())).sum())
        alone = float(entropy_bits(counts)) + _TABLE_GUESS_BITS + 2.0 * float((counts > 0).sum())
        bits += min(shared, alone, 8.0 * len(stream.symbols) + 1)
    return bits


def _or_general(best: Candidate, array: Array, bits: float) -> Candidate:
    content = general_bytes(array, best.layout.element)
    if len(content) < 64 or compresses_generally(content) * 8 * len(content) > 1.05 * bits + 200:
        return best
    _, packed = bytecoder.compress(content, thorough=False)
    if 8 * len(packed) + 16 >= bits:
        return best
    return Candidate(Layout(best.layout.type_index, array.shape, Coding.GENERAL), ())


def _settle_tables(chosen: list[Candidate]) -> tuple[list[Layout], list[Table]]:
    """Give every stream a table, and every layout its sources."""
    by_name: dict[str, list[Stream]] = defaultdict(list)
    for candidate in chosen:
        for stream in candidate.streams:
            by_name[stream.name].append(stream)
    most = _TABLES_A_NAME if len(by_name) * _TABLES_A_NAME <= MAX_TABLES else max(1, MAX_TABLES // len(by_name))
    tables: list[Table] = []
    sources: dict[int, int] = {}
    for name, streams in by_name.items():
        may_be_raw = name not in ("zeros", "codebook", "lengths")
        fresh, places = tables_for([stream.counts for stream in streams], most, may_be_raw)
        for stream, place in zip(streams, places):
            sources[id(stream)] = 0 if place is None else len(tables) + place + 1
        tables += fresh
    layouts = [
        replace(candidate.layout, sources=tuple(sources[id(stream)] for stream in candidate.streams))
        for candidate in chosen
    ]
    return layouts, tables


def _write(chosen: list[Candidate], arrays: list[Array], names: bytes) -> bytes:
    layouts, tables = _settle_tables(chosen)
    directory = BitWriter()
    code_directory(directory, len(layouts), Limits(), 1 << 62, layouts, tables)
    directory_bytes = directory.finish()
    elements = coder_elements(layouts, tables)
    coder, raw, general = RansEncoder(lanes_for(elements)), bytearray(), bytearray()
    for candidate, layout, array in zip(chosen, layouts, arrays):
        sources = iter(layout.sources)
        for part in candidate.parts:
            if isinstance(part, bytes):
                raw += part
                continue
            source = next(sources)
            if source == 0:
                raw += part.symbols.tobytes()
            elif tables[source - 1].only_symbol is None:
                table = tables[source - 1]
                coder.add(table.starts[part.symbols], table.frequencies[part.symbols])
        if layout.coding is Coding.GENERAL:
            general += general_bytes(array, layout.element)
    states, words = coder.finish()
    if elements == 0:
        states = states[:0]
    return _assemble(len(layouts), names, directory_bytes, bytes(general), states, words, bytes(raw))


def _assemble(
    count: int, names: bytes, directory: bytes, general: bytes, states: Array, words: Array, raw: bytes
) -> bytes:
    names_method, names_packed = bytecoder.compress(names)
    general_method, general_packed = bytecoder.compress(general, thorough=len(general) < 1 << 22)
    prefix = _Prefix(
        count,
        names_method,
        len(names),
        len(names_packed),
        len(directory),
        general_method,
        len(general),
        len(general_packed),
        len(words),
        len(raw),
    )
    numbers = b"".join(_varint(value) for value in vars(prefix).values())
    coded = states.astype("<u4").tobytes() + words.astype("<u2").tobytes()
    return numbers + names_packed + directory + general_packed + coded + raw


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the top bit set in all but the last."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])

"""A second reader, written from docs/packed-format.md alone and in plain Python, reads what tinydet packs."""

from __future__ import annotations

import lzma
import struct
import zlib
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import pytest

from tinydet.packed import BFLOAT16, PackedFile, pack

EIGHTHS = [32768, 35734, 38968, 42495, 46341, 50535, 55109, 60097]
TYPES = ["float4", "float2", "float2", "float8", "signed1", "unsigned1", "signed4", "signed8", "unsigned1"]
TYPES += ["signed2", "unsigned2", "unsigned4", "unsigned8", "float1", "float1", "float4", "float8"]


class Bits:
    def __init__(self, content: bytes) -> None:
        self.content, self.at, self.models = content + bytes(8), 4, {}
        self.code, self.range = int.from_bytes(self.content[:4], "big"), 0xFFFFFFFF

    def bit(self, *context: object) -> int:
        p, seen = self.models.get(context, (32768, 0))
        bound, rate = (self.range >> 16) * p, 131072 // (2 * seen + 3)
        if self.code < bound:
            found, self.range, p = 0, bound, p + ((65536 - p) * rate >> 16)
        else:
            found, self.range, self.code, p = 1, self.range - bound, self.code - bound, p - (p * rate >> 16)
        self.models[context] = (min(max(p, 64), 65472), min(seen + 1, 30))
        self.refill()
        return found

    def even(self, count: int) -> int:
        result = 0
        for _ in range(count):
            self.range >>= 1
            found = self.code >= self.range
            self.code -= self.range if found else 0
            result = 2 * result + found
            self.refill()
        return result

    def refill(self) -> None:
        while self.range < 1 << 24:
            self.range <<= 8
            self.code = (self.code << 8 | self.content[self.at]) & 0xFFFFFFFF
            self.at += 1

    def uint(self, *context: object) -> int:
        width = 0
        while self.bit("unary", context, width):
            width += 1
        number = 1
        for place in range(width):
            number = 2 * number + (self.bit("next", context, width, number) if place < 2 else self.even(1))
        return number - 1

    def sint(self, *context: object) -> int:
        number = self.uint(*context)
        return -(number // 2) - 1 if number % 2 else number // 2


def read_table(bits: Bits) -> list[int]:
    """256 frequencies."""
    resolution = 2 ** bits.even(2)
    first = bits.even(8)
    count = bits.uint("span") + 1
    levels, last = [0] * 256, 1
    for symbol in range(first, first + count):
        if symbol in (first, first + count - 1) or bits.bit("present", levels[symbol - 1] > 0):
            last = levels[symbol] = last + bits.sint("step", resolution)
    eighths = [(level - 1) * 8 // resolution for level in levels]
    weights = [EIGHTHS[k % 8] << k // 8 if k >= 0 else 0 for k in eighths]
    present = sum(weight > 0 for weight in weights)
    found = [1 + weight * (16384 - present) // sum(weights) if weight else 0 for weight in weights]
    found[found.index(max(found))] += 16384 - sum(found)
    return found


def varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (content[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if content[at - 1] < 128:
            return value, at


def expand(method: int, content: bytes, size: int) -> bytes:
    if method == 0:
        return content
    if method == 1:
        return zlib.decompress(content, -15)
    setting, dictionary = method - 64, 4096
    while dictionary < size:
        dictionary *= 2
    lc, lp, pb = setting % 9, setting // 9 % 5, setting // 45
    chosen = {"id": lzma.FILTER_LZMA2, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}
    return lzma.decompress(content, lzma.FORMAT_RAW, filters=[chosen])


class Tensors:
    def __init__(self, section: bytes) -> None:
        n, at = [], 0
        for _ in range(10):
            number, at = varint(section, at)
            n.append(number)
        coded = len(section) - at - n[3] - n[4] - n[7] - n[9]
        cuts = [at]
        for length in (n[3], n[4], n[7], coded, n[9]):
            cuts.append(cuts[-1] + length)
        names, directory, general, coder, self.raw = (section[a:b] for a, b in pairwise(cuts))
        self.names = expand(n[1], names, n[2]).decode().split("\n")
        self.general = expand(n[5], general, n[6])
        self.bits = Bits(directory)
        self.tables = [read_table(self.bits) for _ in range(self.bits.uint("tables"))]
        self.last: dict[int, list[int]] = {}
        self.layouts = [self.layout() for _ in self.names]
        total = sum(entry["words"] for entry in self.layouts if any(map(self.is_coded, entry["sources"])))
        lanes = min(4096, 2 ** max(0, 5 * total.bit_length() // 8 - 4)) if total else 0
        self.states = list(struct.unpack(f"<{lanes}I", coder[: 4 * lanes]))
        self.words = list(struct.unpack(f"<{n[8]}H", coder[4 * lanes :]))[::-1]

    def is_coded(self, source: int) -> bool:
        return source > 0 and sum(frequency > 0 for frequency in self.tables[source - 1]) > 1

    def layout(self) -> dict:
        bits = self.bits
        kind = bits.uint("type")
        count = bits.uint("dimensions")
        last = self.last.get(count, [0] * count)
        shape = [last[i] if bits.bit("repeats", count, i) else bits.uint("size", count, i) for i in range(count)]
        self.last[count] = shape
        coding = bits.uint("coding", kind, count)
        sparse = coding in (3, 4, 5) and bits.bit("sparse", coding)
        reference = bits.uint("reference", coding) + 1 if coding in (2, 4, 6) else 0
        width = int(TYPES[kind][-1])
        streams = {3: [f"{TYPES[kind]} plane {p}" for p in range(width)], 4: ["codebook", "codes"], 5: ["lengths"]}
        named = (["zeros"] if sparse else []) + streams.get(coding, [])
        sources = [bits.uint("source", name) for name in named]
        words = prod(shape) * (2 if kind > 14 else 1)
        return locals()

    def take(self, count: int) -> bytes:
        found, self.raw = self.raw[:count], self.raw[count:]
        return found

    def stream(self, source: int, count: int) -> list[int]:
        if source == 0:
            return list(self.take(count))
        frequencies = self.tables[source - 1]
        if not self.is_coded(source):
            return [frequencies.index(16384)] * count
        holders = [symbol for symbol, frequency in enumerate(frequencies) for _ in range(frequency)]
        starts = [sum(frequencies[:symbol]) for symbol in range(256)]
        found, x = [], self.states
        for k in range(count):
            lane = k % len(x)
            slot = x[lane] % 16384
            symbol = holders[slot]
            x[lane] = frequencies[symbol] * (x[lane] >> 14) + slot - starts[symbol]
            if x[lane] < 65536:
                x[lane] = x[lane] << 16 | self.words.pop()
            found.append(symbol)
        return found

    def numbers(self, source: int, count: int) -> list[int]:
        lengths = self.stream(source, count)
        size = sum(max(length - 1, 0) for length in lengths)
        packed = self.take((size + 7) // 8)
        text = "".join(f"{byte:08b}" for byte in packed)
        found, at = [], 0
        for length in lengths:
            found.append(int("1" + text[at : at + length - 1], 2) if length else 0)
            at += max(length - 1, 0)
        return found

    def some_words(self, entry: dict, sources: list[int], count: int) -> list[int]:
        if entry["coding"] == 3:
            planes = [self.stream(source, count) for source in sources]
            return [int.from_bytes(bytes(parts), "big") for parts in zip(*planes)]
        if entry["coding"] == 4:
            steps = self.numbers(sources[0], entry["reference"])
            book = [sum(steps[: i + 1]) + i for i in range(len(steps))]
            return [book[code] for code in self.stream(sources[1], count)]
        found = self.numbers(sources[0], count)
        if TYPES[entry["kind"]].startswith("signed"):
            found = [(-(v // 2) - 1) % 2 ** (8 * entry["width"]) if v % 2 else v // 2 for v in found]
        return found

    def tensor(self, entry: dict, before: list[bytes]) -> bytes:
        width, count = entry["width"], entry["words"]
        if entry["coding"] == 0:
            return self.take(width * count)
        if entry["coding"] == 1:
            found, self.general = self.general[: width * count], self.general[width * count :]
            return found
        if entry["coding"] == 2:
            return before[-entry["reference"]]
        if entry["coding"] == 6:
            factor = np.frombuffer(self.take(4), "<f4")[0]
            return (np.frombuffer(before[-entry["reference"]], "<f4") * factor).tobytes()
        sources, flags = list(entry["sources"]), [1] * count
        if entry["sparse"]:
            flags = self.stream(sources.pop(0), count)
        others = iter(self.some_words(entry, sources, sum(flags)))
        words = [next(others) if flag else 0 for flag in flags]
        if TYPES[entry["kind"]].startswith("float"):
            words = [word >> 1 | (word & 1) << (8 * width - 1) for word in words]
        return b"".join(word.to_bytes(width, "little") for word in words)

    def read(self) -> dict[str, tuple[list[int], bytes]]:
        found: list[bytes] = []
        for entry in self.layouts:
            found.append(self.tensor(entry, found))
        assert not self.words
        assert not self.raw
        assert not self.general
        assert set(self.states) <= {65536}
        return {name: (entry["shape"], content) for name, entry, content in zip(self.names, self.layouts, found)}


def sections(content: bytes) -> dict[int, tuple[int, int, bytes]]:
    assert content[:8] == bytes.fromhex("895444 45540D0A1A")
    version, count = struct.unpack_from("<HH", content, 8)
    assert version == 1
    at = 12 + 18 * count
    assert struct.unpack_from("<I", content, at)[0] == zlib.crc32(content[:at])
    found, at = {}, at + 4
    for index in range(count):
        kind, method, stored, size, checksum = struct.unpack_from("<BBIQI", content, 12 + 18 * index)
        found[kind] = (method, size, content[at : at + stored])
        assert zlib.crc32(content[at : at + stored]) == checksum
        at += stored
    assert at == len(content)
    return found


def check(tensors: dict[str, np.ndarray]) -> set[int]:
    """Compares every tensor's bytes; gives the codings that came."""
    method, size, section = sections(pack(PackedFile(None, tensors)))[3]
    reader = Tensors(section)
    found = reader.read()
    assert method == 0
    assert size == sum(len(content) for _, content in found.values())
    for name, array in tensors.items():
        assert found[name] == (list(array.shape), array.tobytes())
    return {entry["coding"] + 10 * entry["sparse"] for entry in reader.layouts}


def test_every_coding() -> None:
    rng = np.random.default_rng(0)
    dense = rng.normal(0, 0.1, (16, 8, 3, 3)).astype(np.float32)
    kept = rng.random((40, 40)) < 0.3
    book = rng.normal(size=15).astype(np.float32)
    scales = rng.random(20).astype(np.float32)
    tensors = {
        "dense": dense,
        "same": dense.copy(),
        "pruned": np.where(rng.random(dense.shape) < 0.3, dense, 0),
        "shared": rng.choice(book, (40, 40)),
        "pruned, shared": np.where(kept, rng.choice(book, (40, 40)), 0),
        "scales": scales,
        "products": scales * np.float32(0.0123),
        "biases": rng.normal(0, 1000, 300).astype(np.int32),
        "pruned biases": np.where(rng.random(900) < 0.1, rng.normal(0, 1e6, 900), 0).astype(np.int64),
        "codes": rng.normal(0, 30, (40, 40)).clip(-127, 127).astype(np.int8),
        "ramp": np.arange(4000),
        "noise": rng.integers(0, 256, 500, np.uint8),
        "half": rng.normal(size=300).astype(np.float16),
        "brain": rng.normal(size=300)
        .astype(np.float32)
        .view(np.uint32)
        .__rshift__(16)
        .astype(np.uint16)
        .view(BFLOAT16),
        "complex": rng.normal(size=40) * (1 + 2j),
        "flags": rng.random(300) < 0.1,
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    assert check(tensors) >= {0, 1, 2, 3, 4, 5, 6, 13}


@pytest.mark.parametrize("size", [0, 1, 2, 50])
def test_small_files(size: int) -> None:
    check({f"t{index}": np.full((index,), 0.1, np.float32) for index in range(size)} or {"only": np.zeros(0, np.int8)})


def test_metadata_is_where_the_document_says() -> None:
    method, size, stored = sections(pack(PackedFile(None, {}, {"classes": ["a"] * 100})))[1]
    assert expand(method, stored, size) == b'{"classes":[' + b'"a",' * 99 + b'"a"]}'


def test_the_document_has_every_number_of_the_code() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "packed-format.md").read_text()
    for number in [*EIGHTHS, 131072, 65472]:
        assert str(number) in text

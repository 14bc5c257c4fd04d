"""Altered packed files: each one is refused or decoded, without a crash, a hang, or a large allocation.

    python benchmarks/fuzz_packed.py --count 100000 --seed 0

Half of the files are altered as they are, half have their checksums put right again afterwards, so that the code behind
the checksums is reached: the sections' own lengths, the directory, the coder's states, compressed bytes, texts. The
address space may grow by no more than the bound beyond what the interpreter has when it starts, and no file may take
more than its processor time: reading bytes waits for nothing, so a hang is a loop, and the clock on the wall would also
count what else the machine does.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np

from tinydet.packed import Limits, PackedFile, PackedFileError, decoding, describe, pack, read_packed
from tinydet.packed import bytecoder as general
from tinydet.packed.bitcoder import BitReader, BitWriter
from tinydet.packed.dtypes import ELEMENT_TYPES
from tinydet.packed.layout import MODELLED, Coding, Layout, code_directory
from tinydet.packed.onnx_names import order_name
from tinydet.packed.sections import MAGIC, Section, SectionKind, join_sections, split_sections
from tinydet.packed.wire import BYTES, Field, encode_fields, encode_varint

BOUND_MIB = 256
CPU_SECONDS_A_FILE = 5
LIMITS = Limits()
Rng = np.random.Generator
Mutation = Callable[[Rng, bytes, list[bytes]], bytes]


def seed_files() -> list[bytes]:
    """Small packed files that between them use every coding there is."""
    rng = np.random.default_rng(7)
    floats = rng.normal(0, 0.1, (16, 8, 3, 3)).astype(np.float32)
    shared = rng.choice(np.linspace(-1, 1, 20).astype(np.float32), (24, 24))
    scales = rng.random(16).astype(np.float32)
    tensors = {
        "floats": floats,
        "again": floats.copy(),
        "pruned": np.where(rng.random(floats.shape) < 0.3, floats, 0),
        "shared": shared,
        "pruned_shared": np.where(rng.random(shared.shape) < 0.4, shared, 0),
        "codes": rng.normal(0, 30, (32, 32)).clip(-127, 127).astype(np.int8),
        "scales": scales,
        "products": scales * np.float32(0.037),
        "biases": rng.normal(0, 900, 200).astype(np.int32),
        "steps": np.arange(0, 8000, 4),
        "half": rng.normal(size=99).astype(np.float16),
        "flags": rng.random(77) < 0.2,
        "empty": np.zeros((0, 3), np.float32),
        "scalar": np.array(3.5),
    }
    metadata = {"classes": ["cat", "dog"], "anchors": [[1.5, 2.25]] * 3, "text": "é" * 9}
    some = {name: tensors[name] for name in ("floats", "codes", "biases")}
    few = {"a": np.arange(5, dtype=np.float32), "b": np.zeros((4, 4), np.int64)}
    return [
        pack(PackedFile(_graph(), tensors, metadata)),
        pack(PackedFile(b"not an ONNX model", some, metadata)),
        pack(PackedFile(None, few)),
        pack(PackedFile()),
    ]


def _graph() -> bytes:
    """A chain of nodes as an exporter would write them, without the `onnx` package."""
    nodes = []
    for index in range(40):
        names = [Field(1, BYTES, b"%d" % index), Field(1, BYTES, order_name(index % 7))]
        names.append(Field(2, BYTES, b"%d" % (index + 1)))
        rest = [Field(4, BYTES, b"Add" if index % 3 else b"Mul"), Field(5, BYTES, bytes([10, 1, 65 + index % 4]))]
        nodes.append(Field(1, BYTES, encode_fields(names + rest)))
    graph = [*nodes, Field(2, BYTES, b"g"), Field(11, BYTES, encode_fields([Field(1, BYTES, b"image")]))]
    return encode_fields([Field(1, 0, 9), Field(7, BYTES, encode_fields(graph))])


def flip(rng: Rng, content: bytes, _: list[bytes]) -> bytes:
    """Some bits."""
    altered = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if altered:
            altered[int(rng.integers(len(altered)))] ^= 1 << int(rng.integers(8))
    return bytes(altered)


def overwrite(rng: Rng, content: bytes, _: list[bytes]) -> bytes:
    """A run of bytes, by one value or by noise."""
    begin = int(rng.integers(len(content) + 1))
    length = int(rng.integers(1, 33))
    fill = rng.bytes(length) if rng.random() < 0.5 else bytes([int(rng.choice([0, 1, 127, 128, 255]))]) * length
    return content[:begin] + fill + content[begin + length :]


def truncate(rng: Rng, content: bytes, _: list[bytes]) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def insert(rng: Rng, content: bytes, _: list[bytes]) -> bytes:
    begin = int(rng.integers(len(content) + 1))
    return content[:begin] + rng.bytes(int(rng.integers(1, 17))) + content[begin:]


def remove(rng: Rng, content: bytes, _: list[bytes]) -> bytes:
    begin = int(rng.integers(len(content) + 1))
    return content[:begin] + content[begin + int(rng.integers(1, 17)) :]


def splice(rng: Rng, content: bytes, others: list[bytes]) -> bytes:
    """The beginning of one file and the end of another."""
    other = others[int(rng.integers(len(others)))]
    return content[: int(rng.integers(len(content) + 1))] + other[int(rng.integers(len(other) + 1)) :]


PLAIN: tuple[Mutation, ...] = (flip, overwrite, truncate, insert, remove, splice)


def repaired(rng: Rng, content: bytes, others: list[bytes]) -> bytes:
    """Sections are altered, exchanged, duplicated or falsely declared; every checksum is right."""
    sections = list(split_sections(content).values())
    donors = [section for other in others for section in split_sections(other).values()]
    for _ in range(int(rng.integers(1, 3))):
        index = int(rng.integers(len(sections)))
        section = sections[index]
        deed = rng.random()
        if deed < 0.6:
            sections[index] = _altered(rng, section, donors)
        elif deed < 0.8:
            sections[index] = Section(section.kind, section.method, section.stored, _number(rng, section.content_bytes))
        elif deed < 0.85:
            method = int(rng.choice([0, 1, 2, 3, 64, 67, 255, int(rng.integers(256))]))
            sections[index] = Section(section.kind, method, section.stored, section.content_bytes)
        elif deed < 0.9:
            sections.insert(index, donors[int(rng.integers(len(donors)))])
        else:
            sections[index] = _recompressed(rng, section)
    return join_sections(sections)


def _altered(rng: Rng, section: Section, donors: list[Section]) -> Section:
    """Bytes of a section; in tensors mostly without moving what follows, so that each part is reached."""
    stored = section.stored
    deed = rng.random()
    if section.kind is not SectionKind.TENSORS or deed < 0.2:
        mutate = PLAIN[int(rng.integers(len(PLAIN)))]
        stored = mutate(rng, stored, [donor.stored for donor in donors])
    elif deed < 0.4:  # one of the lengths in front becomes another number
        place = int(rng.integers(0, 20))
        stored = stored[:place] + encode_varint(_number(rng, 100)) + stored[place + 1 :]
    elif deed < 0.6:
        stored = _rewritten_directory(rng, stored)
    else:  # the names, the directory, or the coded tensors
        begin, end = ((20, 120), (100, 500), (20, len(stored)))[int(rng.integers(3))]
        mutate = flip if rng.random() < 0.7 else overwrite
        stored = (stored[:begin] + mutate(rng, stored[begin:end], []) + stored[end:])[: len(stored)]
    return Section(section.kind, section.method, stored, section.content_bytes)


def _rewritten_directory(rng: Rng, stored: bytes) -> bytes:
    """A well-formed directory that says something false about one tensor."""
    try:
        numbers, position = decoding._varints(stored, decoding._PREFIX_NUMBERS)
        begin = position + numbers[3]
        old = stored[begin : begin + numbers[4]]
        layouts, tables = code_directory(BitReader(old), min(numbers[0], 100), LIMITS, 1 << 62, None, None)
        index = int(rng.integers(len(layouts)))
        layouts[index] = _false_layout(rng, layouts[index], len(tables))
        writer = BitWriter()
        code_directory(writer, len(layouts), LIMITS, 1 << 62, layouts, tables)
    except (PackedFileError, ValueError, IndexError):  # ValueError: no tensors; the others: too false to be written
        return stored
    new = writer.finish()
    numbers[4] = len(new)
    prefix = b"".join(encode_varint(number) for number in numbers)
    return prefix + stored[position:begin] + new + stored[begin + len(old) :]


def _false_layout(rng: Rng, layout: Layout, tables: int) -> Layout:
    changes: dict[str, Any] = {}
    deed = int(rng.integers(4))
    if deed == 0:
        shape = list(layout.shape) or [1]
        shape[int(rng.integers(len(shape)))] = int(rng.choice([0, 1, 7, 1000, 65536, 1 << 20, 1 << 40]))
        changes["shape"] = tuple(shape)
    elif deed == 1:
        changes["reference"] = int(rng.integers(1, 257))
    elif deed == 2:
        changes["type_index"] = int(rng.integers(len(ELEMENT_TYPES)))
    if deed == 3 or rng.random() < 0.5:
        coding = Coding(int(rng.integers(len(Coding))))
        changes |= {"coding": coding, "sparse": bool(coding in MODELLED and rng.random() < 0.5)}
        changes["reference"] = int(rng.integers(1, 20))
    changed = replace(layout, **changes)
    return replace(changed, sources=tuple(int(rng.integers(tables + 1)) for _ in changed.stream_names()))


def _recompressed(rng: Rng, section: Section) -> Section:
    """The contents are altered and compressed again, as a bomb now and then."""
    try:
        content = general.decompress(section.method, section.stored, min(section.content_bytes, 1 << 20), "")
    except PackedFileError:
        content = section.stored
    content = flip(rng, content, []) if rng.random() < 0.8 else bytes(int(rng.integers(1, 1 << 22)))
    method, deflater = general.DEFLATE, zlib.compressobj(1, zlib.DEFLATED, -15)
    stored = deflater.compress(content) + deflater.flush()
    if len(content) < 1 << 14 and rng.random() < 0.3:
        method, stored = general.compress(content, thorough=False)
    declared = len(content) if rng.random() < 0.7 else section.content_bytes
    return Section(section.kind, method, stored, declared)


def _number(rng: Rng, about: int) -> int:
    choices = [0, 1, about + 1, max(about - 1, 0), about * 2, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1]
    return int(rng.choice(np.array(choices, dtype=object)))


def mutated(rng: Rng, seeds: list[bytes]) -> bytes:
    """One altered file."""
    content = seeds[int(rng.choice(len(seeds), p=[0.6, 0.2, 0.15, 0.05]))]
    if rng.random() < 0.5:
        return repaired(rng, content, seeds)
    altered = PLAIN[int(rng.integers(len(PLAIN)))](rng, content, seeds)
    return MAGIC + altered[len(MAGIC) :] if rng.random() < 0.5 else altered


def try_one(content: bytes) -> str:
    """`refused` or `decoded`; anything else is an exception that the caller is to see."""
    try:
        packed = read_packed(content, LIMITS)
    except PackedFileError:
        return "refused"
    allowed = LIMITS.tensor_bytes_for(len(content))
    assert sum(array.nbytes for array in packed.tensors.values()) <= allowed
    describe(content, LIMITS)
    return "decoded"


def _too_long(_: int, __: FrameType | None) -> None:
    raise TimeoutError(f"over {CPU_SECONDS_A_FILE} s of processor time")


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seeds = seed_files()
    assert all(try_one(seed) == "decoded" for seed in seeds)
    bound = _address_space_bytes() + (BOUND_MIB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    signal.signal(signal.SIGPROF, _too_long)
    rng = np.random.default_rng(arguments.seed)
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0
    started = time.monotonic()
    for index in range(arguments.count):
        content = mutated(rng, seeds)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS_A_FILE)
        began = time.process_time()
        try:
            outcomes[try_one(content)] += 1
        except Exception as error:
            outcomes[f"FAILED {type(error).__name__}"] += 1
            name = f"fuzz-{arguments.seed}-{index}.tinydet"
            with open(name, "wb") as file:
                file.write(content)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        signal.setitimer(signal.ITIMER_PROF, 0)
        slowest_s = max(slowest_s, time.process_time() - began)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{arguments.count:,} files in {time.monotonic() - started:.0f} s: "
        + ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
        + f"; slowest {slowest_s:.2f} s of processor time; peak {peak_mib:.0f} MiB resident, "
        + f"at most {BOUND_MIB} MiB more address space"
    )
    return int(any(outcome.startswith("FAILED") for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

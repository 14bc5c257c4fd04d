from __future__ import annotations

import struct
import sys
import zlib
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tinydet.errors import InputError
from tinydet.packed import Limits, PackedFile, PackedFileError, describe, pack, read_packed, write_packed
from tinydet.packed.sections import Section, SectionKind, join_sections, split_sections

TENSORS = {"conv.weight": np.linspace(-1, 1, 600).astype(np.float32).reshape(6, 100), "steps": np.arange(7)}
METADATA = {"classes": ["cat", "köttur"], "metrics": {"ap50": 0.5}, "anchors": [[1, 2.5]]}


def whole() -> bytes:
    return pack(PackedFile(b"some graph", TENSORS, METADATA))


def test_empty() -> None:
    again = read_packed(pack(PackedFile()))
    assert again.graph is None
    assert again.tensors == {}
    assert again.metadata == {}


def test_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "student.tinydet"
    report = write_packed(path, PackedFile(b"some graph", TENSORS, METADATA))
    assert report.packed_bytes == path.stat().st_size == sum(report.section_bytes.values())
    again = read_packed(path)
    assert again.graph == b"some graph"
    assert again.metadata == METADATA
    assert all(again.tensors[name].tobytes() == array.tobytes() for name, array in TENSORS.items())
    assert describe(path) == report
    assert sum(report.kind_bytes.values()) <= report.section_bytes["tensors"]
    assert [tensor.name for tensor in report.tensors] == list(TENSORS)


def test_the_same_contents_make_the_same_bytes() -> None:
    assert whole() == whole()


def test_a_file_that_was_there_stays_when_packing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.tinydet"
    write_packed(path, PackedFile(tensors=TENSORS))
    before = path.read_bytes()
    with pytest.raises(PackedFileError, match="JSON"):
        write_packed(path, PackedFile(tensors=TENSORS, metadata={"a": object()}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_single_altered_byte_is_noticed() -> None:
    content = whole()
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 0x10
        with pytest.raises(PackedFileError):
            read_packed(bytes(altered))


def test_every_truncation_is_noticed() -> None:
    content = whole()
    for length in range(len(content)):
        with pytest.raises(PackedFileError, match=r"cut short|is empty|begins with"):
            read_packed(content[:length])
    with pytest.raises(PackedFileError, match="after its end"):
        read_packed(content + b"\0")


def test_messages_name_the_file_and_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tinydet: no such file"):
        read_packed(tmp_path / "none.tinydet")
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(PackedFileError, match=r"model\.onnx: is not a packed file of tinydet: it begins with"):
        read_packed(path)
    newer = bytearray(whole())
    newer[8:10] = struct.pack("<H", 2)
    path.write_bytes(newer)
    with pytest.raises(PackedFileError, match=r"made by a newer tinydet.*version 2.*pip install --upgrade"):
        read_packed(path)


def declared(content: bytes, kind: SectionKind, content_bytes: int) -> bytes:
    sections = split_sections(content)
    old = sections[kind]
    sections[kind] = Section(kind, old.method, old.stored, content_bytes)
    return join_sections(list(sections.values()))


@pytest.mark.parametrize("kind", [SectionKind.GRAPH, SectionKind.METADATA])
def test_declared_sizes_beyond_the_limits(kind: SectionKind) -> None:
    with pytest.raises(PackedFileError, match="more than the"):
        read_packed(declared(whole(), kind, 1 << 40))
    with pytest.raises(PackedFileError, match=r"instead of the|do not end"):
        read_packed(declared(whole(), kind, 5))


def test_a_bomb_of_metadata_is_not_unpacked() -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflater.compress(bytes(200 << 20)) + deflater.flush()
    sections = [Section(SectionKind.METADATA, 1, bomb, 1000), split_sections(whole())[SectionKind.TENSORS]]
    with pytest.raises(PackedFileError, match=r"instead of the|do not end"):
        read_packed(join_sections(sections))


@pytest.mark.parametrize("text", [b"[1]", b"{", b"\xff", b"[" * 100_000, b"{'a': 1}"])
def test_metadata_that_is_no_json_object(text: bytes) -> None:
    sections = [Section(SectionKind.METADATA, 0, text, len(text)), split_sections(whole())[SectionKind.TENSORS]]
    with pytest.raises(PackedFileError, match="metadata that is not"):
        read_packed(join_sections(sections))


def test_sections_that_are_missing_double_or_unknown() -> None:
    sections = list(split_sections(whole()).values())
    with pytest.raises(PackedFileError, match="two sections of tensors"):
        read_packed(join_sections([*sections, sections[-1]]))
    with pytest.raises(PackedFileError, match="no section of tensors"):
        read_packed(join_sections(sections[:1]))
    content = bytearray(join_sections(sections))
    content[12] = 99  # the kind of the first section
    header_bytes = 12 + 18 * len(sections)
    content[header_bytes : header_bytes + 4] = struct.pack("<I", zlib.crc32(content[:header_bytes]))
    with pytest.raises(PackedFileError, match="unknown kind 99"):
        read_packed(bytes(content))


def test_limits_can_be_raised_and_lowered() -> None:
    content = whole()
    with pytest.raises(PackedFileError, match="more than"):
        read_packed(content, Limits(max_tensor_bytes=1000))
    assert len(read_packed(content, Limits(max_tensor_bytes=1 << 40)).tensors) == 2


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.tinydet"
    with open(path, "wb") as file:
        file.write(whole())
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(PackedFileError, match=r"huge\.tinydet: 1,099,511,627,776 bytes, more than"):
        read_packed(path)


def test_what_was_written_can_be_read_however_regular_it_is(tmp_path: Path) -> None:
    """16 MiB of zeros take a few bytes, which a reader would have to refuse as a bomb."""
    zeros = np.zeros(1 << 22, np.float32)
    report = write_packed(tmp_path / "zeros.tinydet", PackedFile(tensors={"zeros": zeros}))
    assert report.packed_bytes < zeros.nbytes / 1000
    assert (read_packed(tmp_path / "zeros.tinydet").tensors["zeros"] == 0).all()


def fuzzer() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_packed.py"
    spec = util.spec_from_file_location("fuzz_packed", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules["fuzz_packed"] = module
    spec.loader.exec_module(module)
    return module


def test_altered_files_are_refused_or_decoded() -> None:
    """A bounded run; benchmarks/fuzz_packed.py makes the long one, with the address space bounded too."""
    fuzz = fuzzer()
    seeds, rng = fuzz.seed_files(), np.random.default_rng(123)
    assert {cost.coding.split(" of ")[0] for cost in describe(seeds[0]).tensors} >= {
        "planes",
        "sparse planes",
        "codebook",
        "same",
        "scaled",
        "lengths",
        "general",
    }
    outcomes = [fuzz.try_one(fuzz.mutated(rng, seeds)) for _ in range(3000)]
    assert set(outcomes) == {"refused", "decoded"}

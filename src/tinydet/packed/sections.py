"""The container: a header that lists the sections and their checksums, then the sections, one after the other.

Sections have no offsets: each begins where the one before ends, so they can neither overlap nor leave gaps.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from tinydet.packed.limits import PackedFileError

MAGIC = b"\x89TDET\r\n\x1a"  # not text, cut by a transfer that mends line ends or drops the top bit
FORMAT_VERSION = 1
MAX_SECTIONS = 16

_HEAD = struct.Struct("<8sHH")  # magic, format version, number of sections
_ENTRY = struct.Struct("<BBIQI")  # kind, compression method, stored bytes, content bytes, CRC-32 of the stored bytes
_CHECKSUM = struct.Struct("<I")  # CRC-32 of all that stands before it


class SectionKind(IntEnum):
    METADATA = 1
    GRAPH = 2
    TENSORS = 3
    PADDING = 4


@dataclass(frozen=True)
class Section:
    """One section as it stands in the file.

    Attributes:
        method: of `bytecoder`; 0 for tensors, which are coded in their own way.
        stored: the bytes in the file.
        content_bytes: how many bytes `stored` holds once decompressed, as the file declares.
    """

    kind: SectionKind
    method: int
    stored: bytes
    content_bytes: int


def join_sections(sections: Sequence[Section]) -> bytes:
    """The bytes of a whole file."""
    header = _HEAD.pack(MAGIC, FORMAT_VERSION, len(sections))
    for section in sections:
        if len(section.stored) >= 1 << 32:
            raise PackedFileError(f"the {section.kind.name.lower()} take over 4 GiB, which the format cannot hold")
        checksum = zlib.crc32(section.stored)
        header += _ENTRY.pack(section.kind, section.method, len(section.stored), section.content_bytes, checksum)
    return b"".join([header, _CHECKSUM.pack(zlib.crc32(header)), *(section.stored for section in sections)])


def split_sections(content: bytes) -> dict[SectionKind, Section]:
    """The sections of a file, their checksums proved.

    Raises:
        PackedFileError: not a packed file, made by a newer tinydet, cut short, or altered.
    """
    if content[: len(MAGIC)] != MAGIC:
        what = "is empty" if not content else f"begins with {content[:8]!r}"
        raise PackedFileError(f"is not a packed file of tinydet: it {what}, expected {MAGIC!r}")
    if len(content) < _HEAD.size:
        raise PackedFileError(f"is cut short: {len(content)} bytes")
    _, version, count = _HEAD.unpack_from(content)
    if version > FORMAT_VERSION:
        raise PackedFileError(
            f"was made by a newer tinydet: its format is version {version}, this tinydet reads up to "
            f"{FORMAT_VERSION}; upgrade with: pip install --upgrade tinydet"
        )
    if version == 0 or not 1 <= count <= MAX_SECTIONS:
        raise PackedFileError(f"has a damaged header: version {version}, {count} sections")
    header_bytes = _HEAD.size + count * _ENTRY.size
    if len(content) < header_bytes + _CHECKSUM.size:
        raise PackedFileError(f"is cut short: {len(content)} bytes, its header alone takes {header_bytes}")
    (checksum,) = _CHECKSUM.unpack_from(content, header_bytes)
    if zlib.crc32(content[:header_bytes]) != checksum:
        raise PackedFileError("has a damaged header: its checksum does not fit")
    return _read_sections(content, count, header_bytes + _CHECKSUM.size)


def _read_sections(content: bytes, count: int, position: int) -> dict[SectionKind, Section]:
    entries = [_ENTRY.unpack_from(content, _HEAD.size + index * _ENTRY.size) for index in range(count)]
    expected = position + sum(entry[2] for entry in entries)
    if expected != len(content):
        verb = "is cut short" if len(content) < expected else "has bytes after its end"
        raise PackedFileError(f"{verb}: {len(content):,} bytes, expected {expected:,}")
    sections: dict[SectionKind, Section] = {}
    for number, method, stored_bytes, content_bytes, checksum in entries:
        try:
            kind = SectionKind(number)
        except ValueError:
            raise PackedFileError(f"has a section of unknown kind {number}") from None
        if kind in sections:
            raise PackedFileError(f"has two sections of {kind.name.lower()}")
        stored = content[position : position + stored_bytes]
        position += stored_bytes
        if zlib.crc32(stored) != checksum:
            raise PackedFileError(f"is damaged: the checksum of its {kind.name.lower()} does not fit")
        sections[kind] = Section(kind, method, stored, content_bytes)
    return sections

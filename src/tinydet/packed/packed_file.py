"""The packed file, `.tinydet`: metadata, a graph without its weights, and the weights, in one small checked file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from tinydet.errors import InputError
from tinydet.files import write_bytes
from tinydet.packed import bytecoder
from tinydet.packed.decoding import TensorCost, decode_tensors, tensor_costs
from tinydet.packed.encoding import encode_tensors
from tinydet.packed.graph_coder import compress_graph, decompress_graph
from tinydet.packed.limits import Limits, PackedFileError
from tinydet.packed.sections import FORMAT_VERSION, MAGIC, Section, SectionKind, join_sections, split_sections

Array = NDArray[Any]
SUFFIX = ".tinydet"


@dataclass(frozen=True, eq=False)
class PackedFile:
    """What a packed file holds.

    Attributes:
        graph: an ONNX model without its initialisers (see `onnx_weights`); None in a plain archive of weights.
        tensors: by name, in the file's order, each with the bits and the element type that it was written with.
        metadata: whatever JSON can hold: classes, preprocessing, thresholds, metrics, the recipe.
    """

    graph: bytes | None = None
    tensors: Mapping[str, Array] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PackedReport:
    """What a packed file takes.

    Attributes:
        packed_bytes: of the whole file.
        section_bytes: of each section as stored; `header` is the rest.
        original_bytes: of the graph, the tensors and the metadata before they were packed.
        tensors: each tensor's coding and its share.
        metadata: as the file holds it.
    """

    packed_bytes: int
    section_bytes: dict[str, int]
    original_bytes: int
    tensors: tuple[TensorCost, ...]
    metadata: Mapping[str, Any]
    format_version: int = FORMAT_VERSION

    @property
    def ratio(self) -> float:
        """Bytes before packing for each byte in the file."""
        return self.original_bytes / self.packed_bytes

    @property
    def kind_bytes(self) -> dict[str, float]:
        """Packed bytes by element type and coding."""
        totals: dict[str, float] = {}
        for tensor in self.tensors:
            kind = f"{tensor.element_type} {tensor.coding}"
            totals[kind] = totals.get(kind, 0.0) + tensor.packed_bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))


def pack(packed: PackedFile) -> bytes:
    """The bytes of a packed file. The same contents always give the same bytes.

    Raises:
        PackedFileError: an element type that cannot be stored, or metadata that is not JSON.
    """
    sections = []
    if packed.metadata:
        try:
            text = json.dumps(packed.metadata, ensure_ascii=False, separators=(",", ":"))
        except (TypeError, ValueError) as error:
            raise PackedFileError(f"metadata must be what JSON can hold: {error}") from error
        method, stored = bytecoder.compress(text.encode())
        sections.append(Section(SectionKind.METADATA, method, stored, len(text.encode())))
    if packed.graph is not None:
        method, stored = compress_graph(packed.graph)
        sections.append(Section(SectionKind.GRAPH, method, stored, len(packed.graph)))
    tensor_bytes = sum(array.nbytes for array in packed.tensors.values())
    sections.append(Section(SectionKind.TENSORS, 0, encode_tensors(packed.tensors), tensor_bytes))
    content = join_sections(sections)
    lacking = tensor_bytes - Limits(max_tensor_bytes=1 << 62).tensor_bytes_for(len(content))
    if lacking > 0:  # so regular that a reader would take it for a bomb: make the file large enough to be believed
        padding = bytes(lacking // Limits.max_expansion + 1)
        content = join_sections([*sections, Section(SectionKind.PADDING, 0, padding, len(padding))])
    return content


def write_packed(path: str | os.PathLike[str], packed: PackedFile) -> PackedReport:
    """Write a packed file, whole or not at all, after proving that it gives everything back bit for bit.

    Raises:
        PackedFileError: an element type that cannot be stored, or metadata that is not JSON.
        TinydetError: the file cannot be written.
    """
    content = pack(packed)
    again = _unpack(content, Limits(max_tensor_bytes=1 << 62, max_tensors=1 << 31, max_graph_bytes=1 << 62))
    if again.graph != packed.graph or not _same_tensors(again.tensors, packed.tensors):
        raise AssertionError("packing lost something; please report this with the file that was packed")
    write_bytes(path, content)
    return _describe(content, Limits(max_tensor_bytes=1 << 62, max_tensors=1 << 31, max_graph_bytes=1 << 62))


def read_packed(source: str | os.PathLike[str] | bytes, limits: Limits | None = None) -> PackedFile:
    """Read a packed file from a path or from its bytes.

    Raises:
        PackedFileError: not a packed file, damaged, larger than `limits` allow, or made by a newer tinydet.
        InputError: no such file, or it cannot be read.
    """
    limits = limits or Limits()
    content, where = _content_of(source, limits)
    try:
        return _unpack(content, limits)
    except PackedFileError as error:
        raise PackedFileError(f"{where}: {error}") from None


def describe(source: str | os.PathLike[str] | bytes, limits: Limits | None = None) -> PackedReport:
    """What is in a packed file and what each part takes. Raises as `read_packed` does."""
    limits = limits or Limits()
    content, where = _content_of(source, limits)
    try:
        return _describe(content, limits)
    except PackedFileError as error:
        raise PackedFileError(f"{where}: {error}") from None


def _same_tensors(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    return list(first) == list(second) and all(
        one.shape == other.shape and one.tobytes() == other.astype(one.dtype, copy=False).tobytes()
        for one, other in zip(first.values(), second.values())
    )


def _content_of(source: str | os.PathLike[str] | bytes, limits: Limits) -> tuple[bytes, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source), "these bytes"
    where = os.fspath(source)
    try:
        with open(source, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            beginning = file.read(len(MAGIC))
            if beginning != MAGIC:  # not read whole only to be refused
                return beginning, where
            if size > limits.max_file_bytes:
                raise PackedFileError(f"{where}: {size:,} bytes, more than the {limits.max_file_bytes:,} allowed")
            return beginning + file.read(), where
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error.strerror or error}") from error


def _unpack(content: bytes, limits: Limits) -> PackedFile:
    sections = split_sections(content)
    tensors = decode_tensors(_tensor_section(sections).stored, limits, limits.tensor_bytes_for(len(content)))
    _check_tensor_bytes(sections, sum(array.nbytes for array in tensors.values()))
    return PackedFile(_graph(sections, limits), tensors, _metadata(sections, limits))


def _describe(content: bytes, limits: Limits) -> PackedReport:
    sections = split_sections(content)
    costs = tensor_costs(_tensor_section(sections).stored, limits, limits.tensor_bytes_for(len(content)))
    _check_tensor_bytes(sections, sum(cost.tensor_bytes for cost in costs))
    section_bytes = {kind.name.lower(): len(section.stored) for kind, section in sections.items()}
    section_bytes["header"] = len(content) - sum(section_bytes.values())
    originals = [section.content_bytes for kind, section in sections.items() if kind is not SectionKind.PADDING]
    return PackedReport(len(content), section_bytes, sum(originals), tuple(costs), _metadata(sections, limits))


def _tensor_section(sections: dict[SectionKind, Section]) -> Section:
    if SectionKind.TENSORS not in sections:
        raise PackedFileError("has no section of tensors")
    section = sections[SectionKind.TENSORS]
    if section.method != 0:
        raise PackedFileError(f"has tensors of an unknown coding, {section.method}")
    return section


def _check_tensor_bytes(sections: dict[SectionKind, Section], found: int) -> None:
    declared = sections[SectionKind.TENSORS].content_bytes
    if declared != found:
        raise PackedFileError(f"declares {declared:,} bytes of tensors but holds {found:,}")


def _graph(sections: dict[SectionKind, Section], limits: Limits) -> bytes | None:
    section = sections.get(SectionKind.GRAPH)
    if section is None:
        return None
    _check_declared(section, limits.max_graph_bytes)
    return decompress_graph(section.method, section.stored, section.content_bytes)


def _metadata(sections: dict[SectionKind, Section], limits: Limits) -> dict[str, Any]:
    section = sections.get(SectionKind.METADATA)
    if section is None:
        return {}
    _check_declared(section, limits.max_metadata_bytes)
    try:
        text = bytecoder.decompress(section.method, section.stored, section.content_bytes, "its metadata")
        metadata = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise PackedFileError(f"has metadata that is not JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise PackedFileError("has metadata that is not a JSON object")
    return metadata


def _check_declared(section: Section, most_bytes: int) -> None:
    if section.content_bytes > most_bytes:
        raise PackedFileError(
            f"its {section.kind.name.lower()}: declares {section.content_bytes:,} bytes, more than the "
            f"{most_bytes:,} allowed"
        )

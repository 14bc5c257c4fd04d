"""How each tensor is coded: what the directory of a tensor section says, and how it is written and read.

A tensor is coded in one of these ways:

- `raw`: its bytes as they are;
- `general`: its bytes, together with those of all such tensors, by LZMA2 or deflate;
- `same`: as an earlier tensor;
- `scaled`: an earlier float32 tensor times a number (the scales of quantized biases are such products);
- `planes`: its words cut into bytes, each byte position modelled apart;
- `codebook`: the distinct words, and for each element the place of its word;
- `lengths`: whole numbers, by bit length and the bits below the highest one;

and the last three also `sparse`: first which elements are not zero, then these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod

from tinydet.packed.bitcoder import BitCoder
from tinydet.packed.dtypes import ELEMENT_TYPES, ElementType
from tinydet.packed.limits import Limits, PackedFileError
from tinydet.packed.tables import Table, code_table

MAX_DIMENSIONS = 32
MAX_TABLES = 255
MAX_CODEBOOK = 256
RAW_STREAM = 0  # in `sources`: bytes that are not modelled; otherwise the number of a table, from 1


class Coding(IntEnum):
    RAW = 0
    GENERAL = 1
    SAME = 2
    PLANES = 3
    CODEBOOK = 4
    LENGTHS = 5
    SCALED = 6


REPEATING = (Coding.SAME, Coding.SCALED)
MODELLED = (Coding.PLANES, Coding.CODEBOOK, Coding.LENGTHS)


@dataclass(frozen=True)
class Layout:
    """One tensor's entry in the directory.

    Attributes:
        type_index: in `ELEMENT_TYPES`.
        sparse: whether zeros are left out.
        reference: for SAME and SCALED, how many tensors back; for CODEBOOK, the number of distinct words.
        sources: for each stream of bytes in its order (which elements are not zero; the codebook's lengths; the codes,
            planes or lengths): the table that it is coded with.
    """

    type_index: int
    shape: tuple[int, ...]
    coding: Coding
    sparse: bool = False
    reference: int = 0
    sources: tuple[int, ...] = ()

    @property
    def element(self) -> ElementType:
        return ELEMENT_TYPES[self.type_index]

    @property
    def word_count(self) -> int:
        return prod(self.shape) * self.element.words

    @property
    def tensor_bytes(self) -> int:
        return prod(self.shape) * self.element.dtype.itemsize

    def stream_names(self) -> tuple[str, ...]:
        return stream_names(self.element, self.coding, self.sparse)


def coder_elements(layouts: Sequence[Layout], tables: Sequence[Table]) -> int:
    """Words of all tensors that have a stream for the entropy coder; streams of a single symbol need none."""
    return sum(
        layout.word_count
        for layout in layouts
        if any(source != RAW_STREAM and tables[source - 1].only_symbol is None for source in layout.sources)
    )


def stream_names(element: ElementType, coding: Coding, sparse: bool) -> tuple[str, ...]:
    """The streams of a tensor in their order; streams of the same name are likely to share tables."""
    if coding not in MODELLED:
        return ()
    names = ["zeros"] if sparse else []
    if coding is Coding.PLANES:
        names += [f"{element.nature}{element.width} plane {plane}" for plane in range(element.width)]
    elif coding is Coding.CODEBOOK:
        names += ["codebook", "codes"]
    else:
        names += ["lengths"]
    return tuple(names)


def code_directory(
    coder: BitCoder,
    count: int,
    limits: Limits,
    max_bytes: int,
    layouts: list[Layout] | None,
    tables: list[Table] | None,
) -> tuple[list[Layout], list[Table]]:
    """Write the directory, or read it when there is nothing to write.

    Raises:
        PackedFileError: what is read makes no sense, or declares more than the limits allow.
    """
    found_tables = []
    table_count = coder.uint("tables", None if tables is None else len(tables))
    if table_count > MAX_TABLES:
        raise PackedFileError(f"{table_count} frequency tables, more than {MAX_TABLES}")
    for index in range(table_count):
        found_tables.append(code_table(coder, None if tables is None else tables[index]))
    found: list[Layout] = []
    total_bytes = 0
    last_shapes: dict[int, tuple[int, ...]] = {}
    for index in range(count):
        layout = _code_layout(coder, index, last_shapes, table_count, None if layouts is None else layouts[index])
        if layout.coding in REPEATING:
            original = found[index - layout.reference]
            if (original.type_index, original.shape) != (layout.type_index, layout.shape):
                raise PackedFileError(f"tensor {index} repeats tensor {index - layout.reference} of another shape")
            if layout.coding is Coding.SCALED and layout.element.name != "float32":
                raise PackedFileError(f"tensor {index} is scaled, but not of float32")
        total_bytes += layout.tensor_bytes
        if total_bytes > max_bytes:
            raise PackedFileError(
                f"declares over {max_bytes:,} bytes of tensors, which is more than is allowed for a file of this size; "
                "raise Limits (on the command line --max-mib) if the file is trusted"
            )
        found.append(layout)
    return found, found_tables


def _code_layout(
    coder: BitCoder, index: int, last_shapes: dict[int, tuple[int, ...]], table_count: int, layout: Layout | None
) -> Layout:
    type_index = coder.uint("type", None if layout is None else layout.type_index)
    if type_index >= len(ELEMENT_TYPES):
        raise PackedFileError(f"tensor {index} is of an unknown type, {type_index}")
    shape = _code_shape(coder, index, last_shapes, None if layout is None else layout.shape)
    coding_index = coder.uint(("coding", type_index, len(shape)), None if layout is None else int(layout.coding))
    if coding_index >= len(Coding):
        raise PackedFileError(f"tensor {index} is coded in an unknown way, {coding_index}")
    coding = Coding(coding_index)
    sparse = False
    if coding in MODELLED:
        sparse = bool(coder.bit(("sparse", coding), None if layout is None else int(layout.sparse)))
    reference = 0
    if coding in (*REPEATING, Coding.CODEBOOK):
        reference = 1 + coder.uint(("reference", coding), None if layout is None else layout.reference - 1)
        if reference > (MAX_CODEBOOK if coding is Coding.CODEBOOK else index):
            raise PackedFileError(f"tensor {index} refers to {reference}, which is out of range")
    sources = []
    for place, name in enumerate(stream_names(ELEMENT_TYPES[type_index], coding, sparse)):
        source = coder.uint(("source", name), None if layout is None else layout.sources[place])
        if source > table_count or (name in ("zeros", "codebook", "lengths") and source == RAW_STREAM):
            raise PackedFileError(f"tensor {index} uses frequency table {source} of {table_count}")
        sources.append(source)
    return Layout(type_index, shape, coding, sparse, reference, tuple(sources))


def _code_shape(
    coder: BitCoder, index: int, last_shapes: dict[int, tuple[int, ...]], shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    dimensions = coder.uint("dimensions", None if shape is None else len(shape))
    if dimensions > MAX_DIMENSIONS:
        raise PackedFileError(f"tensor {index} has {dimensions} dimensions, more than {MAX_DIMENSIONS}")
    last = last_shapes.get(dimensions, (0,) * dimensions)
    sizes = []
    for place in range(dimensions):
        wanted = None if shape is None else shape[place]
        repeats = coder.bit(("repeats", dimensions, place), None if wanted is None else int(wanted == last[place]))
        sizes.append(last[place] if repeats else coder.uint(("size", dimensions, place), wanted))
    if prod(max(size, 1) for size in sizes) > 1 << 48:
        raise PackedFileError(f"tensor {index} has the absurd shape {sizes}")
    last_shapes[dimensions] = tuple(sizes)
    return tuple(sizes)

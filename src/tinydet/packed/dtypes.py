"""The element types a packed file holds, and their bits as unsigned integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""numpy has no bfloat16: its bits, under a field of that name, so that the type is not lost on the way."""
FLOAT8_E4M3 = np.dtype([("float8_e4m3", "u1")])
FLOAT8_E5M2 = np.dtype([("float8_e5m2", "u1")])


@dataclass(frozen=True)
class ElementType:
    """One element type.

    Attributes:
        name: as `inspect` shows it.
        dtype: numpy's, little-endian.
        width: bytes of one coded word; complex numbers are two words.
        nature: how the bits are ordered; a float's sign is moved below its mantissa before it is coded.
        safetensors: the name in a safetensors header, or None where that format has none.
    """

    name: str
    dtype: np.dtype[Any]
    width: int
    nature: Literal["float", "signed", "unsigned"]
    safetensors: str | None

    @property
    def words(self) -> int:
        """Coded words an element."""
        return self.dtype.itemsize // self.width


# The position in this table is what a file stores: append only.
ELEMENT_TYPES = (
    ElementType("float32", np.dtype("<f4"), 4, "float", "F32"),
    ElementType("float16", np.dtype("<f2"), 2, "float", "F16"),
    ElementType("bfloat16", BFLOAT16, 2, "float", "BF16"),
    ElementType("float64", np.dtype("<f8"), 8, "float", "F64"),
    ElementType("int8", np.dtype("i1"), 1, "signed", "I8"),
    ElementType("uint8", np.dtype("u1"), 1, "unsigned", "U8"),
    ElementType("int32", np.dtype("<i4"), 4, "signed", "I32"),
    ElementType("int64", np.dtype("<i8"), 8, "signed", "I64"),
    ElementType("bool", np.dtype("?"), 1, "unsigned", "BOOL"),
    ElementType("int16", np.dtype("<i2"), 2, "signed", "I16"),
    ElementType("uint16", np.dtype("<u2"), 2, "unsigned", "U16"),
    ElementType("uint32", np.dtype("<u4"), 4, "unsigned", "U32"),
    ElementType("uint64", np.dtype("<u8"), 8, "unsigned", "U64"),
    ElementType("float8_e4m3", FLOAT8_E4M3, 1, "float", "F8_E4M3"),
    ElementType("float8_e5m2", FLOAT8_E5M2, 1, "float", "F8_E5M2"),
    ElementType("complex64", np.dtype("<c8"), 4, "float", "C64"),
    ElementType("complex128", np.dtype("<c16"), 8, "float", None),
)
_BY_DTYPE = {element.dtype: index for index, element in enumerate(ELEMENT_TYPES)}


def element_index(dtype: np.dtype[Any]) -> int | None:
    """The place of a numpy type, of either byte order, in `ELEMENT_TYPES`; None where it has none."""
    return _BY_DTYPE.get(dtype.newbyteorder("<"))


def to_words(array: Array, element: ElementType) -> Array:
    """The bits of an array as `[N]` unsigned integers, a float's sign in the lowest bit and its exponent on top."""
    flat = np.ascontiguousarray(array, dtype=element.dtype).reshape(-1)
    words = flat.view(f"<u{element.width}")
    if element.nature == "float":
        words = (words << 1) | (words >> (8 * element.width - 1))
    return words


def from_words(words: Array, element: ElementType, shape: tuple[int, ...]) -> Array:
    """The inverse of `to_words`."""
    if element.nature == "float":
        words = (words >> 1) | (words << (8 * element.width - 1))
    return np.ascontiguousarray(words, dtype=f"<u{element.width}").view(element.dtype).reshape(shape)

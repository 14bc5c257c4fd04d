"""Protocol buffers on the wire: just enough to take an ONNX model apart and to put it together again.

The encoding is described at https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tinydet.packed.limits import PackedFileError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """One field of a message: its number, its wire type and its value, a number for VARINT and bytes otherwise."""

    number: int
    wire_type: int
    value: int | bytes

    def encode(self) -> bytes:
        tag = encode_varint(self.number << 3 | self.wire_type)
        if isinstance(self.value, int):
            return tag + encode_varint(self.value)
        if self.wire_type == BYTES:
            return tag + encode_varint(len(self.value)) + self.value
        return tag + self.value

    def as_bytes(self) -> bytes:
        """The value of a string, bytes, packed or message field.

        Raises:
            PackedFileError: the field is a number.
        """
        if self.wire_type != BYTES or isinstance(self.value, int):
            raise PackedFileError(f"field {self.number} of an ONNX message is not of the type it should be")
        return self.value

    def as_int(self) -> int:
        """The value of an integer field, as a signed 64-bit number."""
        if not isinstance(self.value, int):
            raise PackedFileError(f"field {self.number} of an ONNX message is not a number")
        return self.value - (1 << 64) if self.value >> 63 else self.value


def encode_varint(value: int) -> bytes:
    """Seven bits a byte, lowest first, the top bit set in all but the last; negative numbers take ten bytes."""
    value &= (1 << 64) - 1
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def decode_varint(content: bytes, position: int) -> tuple[int, int]:
    """The number that begins at `position`, and where the next thing begins."""
    value = 0
    for place in range(10):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value & (1 << 64) - 1, position
    raise PackedFileError("a number in an ONNX model is cut short or too long")


def fields(message: bytes) -> Iterator[Field]:
    """The fields of a message in order.

    Raises:
        PackedFileError: the bytes are not a message.
    """
    position = 0
    while position < len(message):
        tag, position = decode_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, position = decode_varint(message, position)
            yield Field(number, wire_type, value)
            continue
        if wire_type == BYTES:
            length, position = decode_varint(message, position)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise PackedFileError(f"wire type {wire_type} in an ONNX model")
        if position + length > len(message):
            raise PackedFileError("a field of an ONNX model is cut short")
        yield Field(number, wire_type, message[position : position + length])
        position += length


def encode_fields(message: list[Field]) -> bytes:
    return b"".join(field.encode() for field in message)

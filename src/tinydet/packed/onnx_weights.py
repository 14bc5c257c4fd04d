"""An ONNX model as a skeleton without weights and named tensors, and back, without the `onnx` package.

Parsers of protocol buffers merge a message that comes in two parts, so a model is put together again by appending a
second ModelProto whose graph holds nothing but the initialisers; the skeleton need not even be parsed.
The field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.packed.dtypes import BFLOAT16, FLOAT8_E4M3, FLOAT8_E5M2
from tinydet.packed.limits import PackedFileError
from tinydet.packed.onnx_names import BY_ORDER, drop_descriptions, order_name, shorten_names, value_name
from tinydet.packed.wire import BYTES, VARINT, Field, decode_varint, encode_fields, fields

Array = NDArray[Any]

MODEL_PRODUCER, MODEL_GRAPH = 2, 7
_MODEL_KEPT = (1, 8, 25)  # IR version, operator sets, functions: all that running a model needs besides its graph
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_OUTPUT = 1, 5, 12
NODE_OUTPUT, NODE_OP_TYPE, NODE_ATTRIBUTE = 2, 4, 5
ATTRIBUTE_TENSOR = 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_LOCATION = 1, 2, 8, 9, 14

_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    14: np.dtype("<c8"),
    15: np.dtype("<c16"),
    16: BFLOAT16,
    17: FLOAT8_E4M3,
    19: FLOAT8_E5M2,
}
_TYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
# Typed fields hold the values where raw_data does not: field -> how it lies on the wire, packed.
_TYPED_FIELDS: dict[int, np.dtype[Any] | None] = {
    4: np.dtype("<f4"),
    10: np.dtype("<f8"),
    5: None,
    7: None,
    11: None,
}  # None: varints


def split_onnx(model: bytes, *, shorten: bool = True, keep_elements: int = 2) -> tuple[bytes, dict[str, Array]]:
    """A serialized model's skeleton and its weights.

    Large constants of the main graph become weights too. Weights inside the branches of `If` and the bodies of `Loop`
    stay in the skeleton, and so do types that numpy has not (4-bit integers, strings).

    Args:
        shorten: drop descriptions and give everything but the graph's inputs and outputs short names; the tensors keep
            theirs, and `join_onnx` finds them by their order.
        keep_elements: whole-number tensors (shapes, axes) and scalars of up to so many elements stay in the skeleton.

    Raises:
        PackedFileError: not an ONNX model, or its weights lie in another file.
    """
    outside, graph = _open_model(model)
    graph, tensors = _take_weights(graph, keep_elements)
    if shorten:
        graph = shorten_names(drop_descriptions(graph), list(tensors))
        outside = [field for field in outside if field.number in _MODEL_KEPT]
        outside.append(Field(MODEL_PRODUCER, BYTES, BY_ORDER))
    skeleton = encode_fields([*outside, Field(MODEL_GRAPH, BYTES, encode_fields(graph))])
    return skeleton, tensors


def join_onnx(skeleton: bytes, tensors: Mapping[str, Array]) -> bytes:
    """The model that `split_onnx` took apart: bytes for `onnxruntime.InferenceSession` or `onnx.load_from_string`.

    Args:
        tensors: in the order that `split_onnx` gave them; a packed file keeps it.

    Raises:
        PackedFileError: the skeleton is not an ONNX model, or a tensor's type is not one of ONNX's.
    """
    producer = [field.as_bytes() for field in fields(skeleton) if field.number == MODEL_PRODUCER]
    by_order = producer[-1:] == [BY_ORDER]
    initializers = []
    for index, (name, array) in enumerate(tensors.items()):
        type_number = _TYPE_NUMBERS.get(array.dtype.newbyteorder("<"))
        if type_number is None:
            raise PackedFileError(f"tensor {name}: ONNX has no elements of type {array.dtype}")
        tensor = [Field(TENSOR_DIMS, VARINT, size) for size in array.shape]
        tensor.append(Field(TENSOR_TYPE, VARINT, type_number))
        tensor.append(Field(TENSOR_NAME, BYTES, order_name(index) if by_order else name.encode()))
        little_endian = np.ascontiguousarray(array, dtype=_DTYPES[type_number])
        tensor.append(Field(TENSOR_RAW, BYTES, little_endian.tobytes()))
        initializers.append(Field(GRAPH_INITIALIZER, BYTES, encode_fields(tensor)))
    if not initializers:
        return skeleton
    return skeleton + Field(MODEL_GRAPH, BYTES, encode_fields(initializers)).encode()


def _open_model(model: bytes) -> tuple[list[Field], list[Field]]:
    """The fields around the graph, and the graph's own; a graph in several parts is merged."""
    outside: list[Field] = []
    graph: list[Field] = []
    for field in fields(model):
        if field.number == MODEL_GRAPH:
            graph += fields(field.as_bytes())
        else:
            outside.append(field)
    if not graph:
        raise PackedFileError("is not an ONNX model: it has no graph")
    return outside, graph


def _take_weights(graph: list[Field], keep_elements: int) -> tuple[list[Field], dict[str, Array]]:
    kept: list[Field] = []
    tensors: dict[str, Array] = {}
    outputs = {value_name(field).decode() for field in graph if field.number == GRAPH_OUTPUT}
    for field in graph:
        taken = None
        if field.number == GRAPH_INITIALIZER:
            taken = _read_tensor(list(fields(field.as_bytes())))
        elif field.number == GRAPH_NODE:
            taken = _constant(list(fields(field.as_bytes())))
        if taken is None or taken[0] in outputs or _stays(taken[1], keep_elements):
            kept.append(field)
            continue
        if taken[0] in tensors:
            raise PackedFileError(f"two initialisers of the ONNX model are named {taken[0]!r}")
        tensors[taken[0]] = taken[1]
    return kept, tensors


def _stays(array: Array, keep_elements: int) -> bool:
    return array.size <= keep_elements and (array.dtype.kind in "iub" or array.size == 1)


def _constant(node: list[Field]) -> tuple[str, Array] | None:
    """The name and value of a Constant node that holds a tensor."""
    if not any(field.number == NODE_OP_TYPE and field.value == b"Constant" for field in node):
        return None
    outputs = [field.as_bytes().decode() for field in node if field.number == NODE_OUTPUT]
    for field in node:
        if field.number == NODE_ATTRIBUTE:
            for inner in fields(field.as_bytes()):
                if inner.number == ATTRIBUTE_TENSOR:
                    found = _read_tensor(list(fields(inner.as_bytes())))
                    return None if found is None else (outputs[0], found[1])
    return None


def _read_tensor(tensor: list[Field]) -> tuple[str, Array] | None:
    """The name and value of a TensorProto; None where numpy has no such type."""
    shape = tuple(number for field in tensor if field.number == TENSOR_DIMS for number in _integers(field))
    values = {field.number: field for field in tensor}
    if TENSOR_LOCATION in values and values[TENSOR_LOCATION].as_int() == 1:
        raise PackedFileError("the ONNX model keeps its weights in another file; save it as one file first")
    dtype: np.dtype[Any] | None = _DTYPES.get(values[TENSOR_TYPE].as_int()) if TENSOR_TYPE in values else None
    if dtype is None:
        return None
    name = values[TENSOR_NAME].as_bytes().decode() if TENSOR_NAME in values else ""
    if TENSOR_RAW in values:
        content = values[TENSOR_RAW].as_bytes()
    else:
        content = _typed_content(tensor, dtype)
    if len(content) != prod(shape) * dtype.itemsize:
        raise PackedFileError(f"initialiser {name!r} has {len(content)} bytes for shape {list(shape)} of {dtype}")
    return name, np.frombuffer(content, dtype).reshape(shape)


def _typed_content(tensor: list[Field], dtype: np.dtype[Any]) -> bytes:
    """The bytes of a tensor whose values stand in a typed field, such as `float_data`, instead of `raw_data`."""
    content = b""
    for field in tensor:
        if field.number not in _TYPED_FIELDS:
            continue
        if _TYPED_FIELDS[field.number] is not None:  # floats lie on the wire as they lie in memory
            assert isinstance(field.value, bytes)
            content += field.value
        else:
            for number in _integers(field):
                content += (number & (1 << 8 * dtype.itemsize) - 1).to_bytes(dtype.itemsize, "little")
    return content


def _integers(field: Field) -> Iterator[int]:
    """The numbers of a repeated integer field, packed or not."""
    if field.wire_type == VARINT:
        yield field.as_int()
        return
    content, position = field.as_bytes(), 0
    while position < len(content):
        value, position = decode_varint(content, position)
        yield value - (1 << 64) if value >> 63 else value

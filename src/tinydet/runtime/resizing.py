"""Pixels to the network's input, faster than Pillow does it, and within one level of 255 of what Pillow gives.

Training and evaluation resize with Pillow's bilinear filter. Enlarging is the same in OpenCV and in ONNX but for the
rounding of 8-bit values. Shrinking is not: only Pillow averages over all pixels that fall into one, so Pillow does it
here too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinydet.errors import InputError
from tinydet.packed.wire import BYTES, VARINT, Field, encode_fields, fields
from tinydet.preprocessing import Preprocessing

Pixels = NDArray[np.uint8]
PIXELS, SIZE = "pixels", "resized_shape"
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INPUT = 7, 1, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OP, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_STRING, _ATTRIBUTE_TYPE, _STRING = 1, 4, 20, 3


def prepare(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """`[H, W, 3]` RGB to what the graph takes, `[h, w, C]`."""
    size_hw = preprocessing.resized_hw((pixels.shape[0], pixels.shape[1]))
    if size_hw == pixels.shape[:2]:
        return _ordered(pixels, preprocessing)
    opencv = _opencv() if enlarges(pixels, size_hw) else None
    if opencv is None:
        return np.ascontiguousarray(preprocessing(Image.fromarray(pixels)))
    return _ordered(opencv.resize(pixels, size_hw[::-1], interpolation=opencv.INTER_LINEAR), preprocessing)


def prepare_exactly(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """The same by Pillow alone, as in training."""
    return np.ascontiguousarray(preprocessing(Image.fromarray(pixels)))


def enlarges(pixels: Pixels, size_hw: tuple[int, int]) -> bool:
    return size_hw[0] >= pixels.shape[0] and size_hw[1] >= pixels.shape[1]


def _ordered(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    match preprocessing.channels:
        case "gray":
            return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
        case "bgr":
            return np.ascontiguousarray(pixels[:, :, ::-1])
        case _:
            return np.ascontiguousarray(pixels)


@cache
def _opencv() -> Any:
    """The module, on one thread, as this work is too small for more; None where it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(1)
    return cv2


def has_opencv() -> bool:
    return _opencv() is not None


def with_resize(model: bytes) -> bytes:
    """An exported ONNX model that takes an image of any size and enlarges it itself: twice as fast as Pillow.

    It has a second input, `resized_shape`: `[4]` int64, 1, C, height, width. An image of that size passes unchanged.

    Raises:
        InputError: the model was not written by `tinydet export`.
    """
    parts, found = [], False
    for field in fields(model):
        if field.number == _MODEL_GRAPH and not found:  # a packed file's graph comes in two parts: nodes, then weights
            changed = _with_resize(list(fields(field.as_bytes())))
            if changed is not None:
                field, found = Field(_MODEL_GRAPH, BYTES, encode_fields(changed)), True
        parts.append(field)
    if not found:
        raise InputError("the model has no node where an image could be resized; export it again with tinydet")
    return encode_fields(parts)


def _with_resize(graph: list[Field]) -> list[Field] | None:
    """The graph with the node and its input; None where there is no place for it."""
    new: list[Field] = []
    found = False
    for field in graph:
        if not found and field.number == _GRAPH_NODE:
            node = list(fields(field.as_bytes()))
            if any(inner.number == _NODE_OP and inner.value == b"Transpose" for inner in node):
                (output,) = [inner.as_bytes() for inner in node if inner.number == _NODE_OUTPUT]
                before = output + b"_before"
                node = [Field(_NODE_OUTPUT, BYTES, before) if i.number == _NODE_OUTPUT else i for i in node]
                new += [Field(_GRAPH_NODE, BYTES, encode_fields(node)), _resize_node(before, output)]
                found = True
                continue
        new.append(field)
    return [*new, _size_input()] if found else None


def _resize_node(source: bytes, target: bytes) -> Field:
    inputs = [Field(_NODE_INPUT, BYTES, name) for name in (source, b"", b"", SIZE.encode())]
    node = [
        *inputs,
        Field(_NODE_OUTPUT, BYTES, target),
        Field(_NODE_NAME, BYTES, b"resize"),
        Field(_NODE_OP, BYTES, b"Resize"),
    ]
    for name, text in ((b"mode", b"linear"), (b"coordinate_transformation_mode", b"half_pixel")):
        attribute = [
            Field(_ATTRIBUTE_NAME, BYTES, name),
            Field(_ATTRIBUTE_STRING, BYTES, text),
            Field(_ATTRIBUTE_TYPE, VARINT, _STRING),
        ]
        node.append(Field(_NODE_ATTRIBUTE, BYTES, encode_fields(attribute)))
    return Field(_GRAPH_NODE, BYTES, encode_fields(node))


def _size_input() -> Field:
    """`resized_shape: int64[4]` as a ValueInfoProto: name, and in type.tensor_type the element type and the shape."""
    dimension = encode_fields([Field(1, BYTES, encode_fields([Field(1, VARINT, 4)]))])
    tensor_type = encode_fields([Field(1, VARINT, 7), Field(2, BYTES, dimension)])
    value = [Field(1, BYTES, SIZE.encode()), Field(2, BYTES, encode_fields([Field(1, BYTES, tensor_type)]))]
    return Field(_GRAPH_INPUT, BYTES, encode_fields(value))

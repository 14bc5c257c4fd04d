"""Short names inside an ONNX graph: exported graphs spend more bytes on names than on operators."""

from __future__ import annotations

from collections.abc import Iterator

from tinydet.packed.limits import PackedFileError
from tinydet.packed.wire import BYTES, Field, encode_fields, fields

BY_ORDER = b"tinydet"
"""The producer's name in a skeleton whose initialisers are named by `order_name` and not by their own names."""

GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_DOC = 1, 2, 5, 10
GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_VALUE_INFO, GRAPH_QUANTIZATION, GRAPH_METADATA = 11, 12, 13, 14, 16
GRAPH_SPARSE_INITIALIZER = 15
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_ATTRIBUTE, NODE_DOC, NODE_METADATA = 1, 2, 3, 5, 6, 9
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS, ATTRIBUTE_DOC = 5, 6, 11, 13
TENSOR_NAME, VALUE_NAME = 8, 1

_DIGITS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DROPPED_FROM_GRAPH = (GRAPH_DOC, GRAPH_VALUE_INFO, GRAPH_QUANTIZATION, GRAPH_METADATA)
_DROPPED_FROM_NODE = (NODE_NAME, NODE_DOC, NODE_METADATA)


def number_name(index: int) -> bytes:
    """The name of the inner value that comes at this place, from 0, unless an input or output has that name."""
    name = b""
    while True:
        index, digit = divmod(index, len(_DIGITS))
        name = _DIGITS[digit : digit + 1] + name
        if index == 0:
            return name


def order_name(index: int) -> bytes:
    """The name of the initialiser that comes at this place, from 0."""
    return b"." + number_name(index)


def drop_descriptions(graph: list[Field]) -> list[Field]:
    """A graph without names of nodes, texts for people, and shapes that a runtime infers by itself."""
    kept = []
    for field in graph:
        if field.number in _DROPPED_FROM_GRAPH:
            continue
        if field.number == GRAPH_NAME:
            field = Field(GRAPH_NAME, BYTES, b"g")  # a graph must have a name
        elif field.number == GRAPH_NODE:
            node = [_plain_attribute(inner) for inner in fields(field.as_bytes())]
            node = [inner for inner in node if inner.number not in _DROPPED_FROM_NODE]
            field = Field(GRAPH_NODE, BYTES, encode_fields(node))
        kept.append(field)
    return kept


def _plain_attribute(field: Field) -> Field:
    if field.number != NODE_ATTRIBUTE:
        return field
    attribute = []
    for inner in fields(field.as_bytes()):
        if inner.number == ATTRIBUTE_DOC:
            continue
        if inner.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            inner = Field(inner.number, BYTES, encode_fields(drop_descriptions(list(fields(inner.as_bytes())))))
        elif inner.number == ATTRIBUTE_TENSOR:
            inner = Field(inner.number, BYTES, _without(inner.as_bytes(), TENSOR_NAME))
        attribute.append(inner)
    return Field(NODE_ATTRIBUTE, BYTES, encode_fields(attribute))


def _without(message: bytes, number: int) -> bytes:
    return encode_fields([field for field in fields(message) if field.number != number])


def shorten_names(graph: list[Field], initializers: list[str]) -> list[Field]:
    """A graph whose inner values have short names: numbers in the order in which they first come.

    Raises:
        PackedFileError: the graph has sparse initialisers, or an input or output named as `order_name` names.
    """
    if any(field.number == GRAPH_SPARSE_INITIALIZER for field in graph):
        raise PackedFileError("the ONNX model has sparse initialisers; make them dense, or keep the names as they are")
    graph = [field for field in graph if not _is_weight_input(field, initializers)]
    names = {name.encode(): order_name(index) for index, name in enumerate(initializers)}
    taken = set(names.values())
    for field in graph:
        if field.number in (GRAPH_INPUT, GRAPH_OUTPUT):
            name = value_name(field)
            if name in taken:
                raise PackedFileError(f"the ONNX model has an input or output named {name!r}; rename it")
            names[name] = name
    taken = set(names.values())
    free = (name for name in (number_name(index) for index in range(1 << 62)) if name not in taken)
    return _Renamer(names, free).graph(graph)


def _is_weight_input(field: Field, initializers: list[str]) -> bool:
    """Old models list their weights among the inputs, as defaults that a caller may replace."""
    return field.number == GRAPH_INPUT and value_name(field).decode() in initializers


class _Renamer:
    """New names, given out in the order in which the old ones are met."""

    def __init__(self, names: dict[bytes, bytes], free: Iterator[bytes]) -> None:
        self._names = names
        self._free = free

    def name(self, old: bytes) -> bytes:
        if old and old not in self._names:  # an empty name stands for an input that is left out
            self._names[old] = next(self._free)
        return self._names.get(old, old)

    def graph(self, graph: list[Field]) -> list[Field]:
        places = {GRAPH_INITIALIZER: TENSOR_NAME, GRAPH_INPUT: VALUE_NAME, GRAPH_OUTPUT: VALUE_NAME}
        renamed = []
        for field in graph:
            if field.number == GRAPH_NODE:
                field = Field(GRAPH_NODE, BYTES, encode_fields(self._node(field)))
            elif field.number in places:
                inner = [self._with_name(part, (places[field.number],)) for part in fields(field.as_bytes())]
                field = Field(field.number, BYTES, encode_fields(inner))
            renamed.append(field)
        return renamed

    def _node(self, node: Field) -> list[Field]:
        renamed = []
        for field in fields(node.as_bytes()):
            if field.number == NODE_ATTRIBUTE:
                field = Field(NODE_ATTRIBUTE, BYTES, encode_fields(self._attribute(field)))
            renamed.append(self._with_name(field, (NODE_INPUT, NODE_OUTPUT)))
        return renamed

    def _attribute(self, attribute: Field) -> list[Field]:
        renamed = []
        for field in fields(attribute.as_bytes()):
            if field.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):  # sees the names of the graph around it
                inner = self.graph(list(fields(field.as_bytes())))
                field = Field(field.number, BYTES, encode_fields(inner))
            renamed.append(field)
        return renamed

    def _with_name(self, field: Field, places: tuple[int, ...]) -> Field:
        if field.number not in places:
            return field
        return Field(field.number, BYTES, self.name(field.as_bytes()))


def value_name(value: Field) -> bytes:
    return next((field.as_bytes() for field in fields(value.as_bytes()) if field.number == VALUE_NAME), b"")

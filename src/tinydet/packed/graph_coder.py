"""ONNX skeletons in a third of the bytes that a general compressor needs.

A graph repeats itself: nodes are written as references to templates (all of a node but its names), and names as
references to values met before. What is left, the templates and the rest of the model, is compressed in general.
The result decodes to the very bytes that were given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tinydet.packed import bytecoder
from tinydet.packed.bitcoder import BitCoder, BitReader, BitWriter
from tinydet.packed.limits import PackedFileError
from tinydet.packed.onnx_names import GRAPH_NODE, NODE_INPUT, NODE_OUTPUT, number_name, order_name
from tinydet.packed.wire import BYTES, Field, decode_varint, encode_fields, encode_varint, fields

ONNX_TEMPLATES = 2  # the method's number in a section's entry; `bytecoder` has the others
_MODEL_GRAPH = 7
_BEFORE, _AFTER, _OUTER, _TEMPLATE, _NAME = 1, 2, 3, 4, 5  # fields of the blob
_NUMBERED, _ORDERED, _SPELLED = 0, 1, 2  # kinds of names that are met for the first time


@dataclass(frozen=True)
class _Node:
    """A node: its names, and its template."""

    template: tuple[int, int, bytes]  # inputs, outputs, the other fields
    names: tuple[bytes, ...]

    def encode(self) -> bytes:
        inputs, _, rest = self.template
        named = [Field(NODE_INPUT, BYTES, name) for name in self.names[:inputs]]
        named += [Field(NODE_OUTPUT, BYTES, name) for name in self.names[inputs:]]
        return Field(GRAPH_NODE, BYTES, encode_fields(named) + rest).encode()


@dataclass
class _History:
    """What writer and reader have both seen."""

    templates: list[tuple[int, int, bytes]] = field(default_factory=list)
    successors: dict[int, int] = field(default_factory=dict)
    previous: int = -1
    names: list[bytes] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)
    numbered: int = 0
    ordered: int = 0

    def remember(self, name: bytes) -> None:
        self.places[name] = len(self.names)
        self.names.append(name)


def compress_graph(skeleton: bytes) -> tuple[int, bytes]:
    """The method and the bytes, the smaller of templates and general compression."""
    plain = bytecoder.compress(skeleton)
    try:
        coded = _encode(skeleton)
        if decompress_graph(ONNX_TEMPLATES, coded, len(skeleton)) != skeleton:
            return plain
    except PackedFileError:  # not an ONNX model, or one whose fields are in an unusual order
        return plain
    return min(plain, (ONNX_TEMPLATES, coded), key=lambda candidate: len(candidate[1]))


def decompress_graph(method: int, packed: bytes, content_bytes: int) -> bytes:
    """The skeleton of exactly `content_bytes` bytes. The caller has checked that so many are allowed.

    Raises:
        PackedFileError: `packed` is damaged or of another length.
    """
    if method != ONNX_TEMPLATES:
        return bytecoder.decompress(method, packed, content_bytes, "its graph")
    skeleton = _decode(packed, content_bytes)
    if len(skeleton) != content_bytes:
        raise PackedFileError(f"its graph: {len(skeleton):,} bytes instead of the {content_bytes:,} declared")
    return skeleton


def _encode(skeleton: bytes) -> bytes:
    outer = [part for part in fields(skeleton) if part.number != _MODEL_GRAPH]
    graph = [inner for part in fields(skeleton) if part.number == _MODEL_GRAPH for inner in fields(part.as_bytes())]
    at = [index for index, part in enumerate(graph) if part.number == GRAPH_NODE]
    before, after = (graph[: at[0]], graph[at[-1] + 1 :]) if at else (graph, [])
    nodes = [_parse_node(graph[index]) for index in at]
    coder, history = BitWriter(), _History()
    spelled: list[bytes] = []
    coder.uint("nodes", len(nodes))
    for node in nodes:
        _code_node(coder, history, node, spelled)
    blob = [Field(_BEFORE, BYTES, encode_fields(before)), Field(_AFTER, BYTES, encode_fields(after))]
    blob.append(Field(_OUTER, BYTES, encode_fields(outer)))
    for inputs, outputs, rest in history.templates:
        blob.append(Field(_TEMPLATE, BYTES, encode_varint(inputs) + encode_varint(outputs) + rest))
    blob += [Field(_NAME, BYTES, name) for name in spelled]
    content, bits = encode_fields(blob), coder.finish()
    method, packed = bytecoder.compress(content)
    return encode_varint(len(bits)) + encode_varint(method) + encode_varint(len(content)) + bits + packed


def _decode(packed: bytes, content_bytes: int) -> bytes:
    bits_bytes, position = decode_varint(packed, 0)
    method, position = decode_varint(packed, position)
    blob_bytes, position = decode_varint(packed, position)
    if blob_bytes > 2 * content_bytes + 64 or position + bits_bytes > len(packed):
        raise PackedFileError("its graph: lengths that contradict each other")
    blob = bytecoder.decompress(method, packed[position + bits_bytes :], blob_bytes, "its graph")
    sides: dict[int, bytes] = {_BEFORE: b"", _AFTER: b"", _OUTER: b""}
    templates: list[tuple[int, int, bytes]] = []
    spelled: list[bytes] = []
    for part in fields(blob):
        if part.number == _TEMPLATE:
            templates.append(_read_template(part.as_bytes()))
        elif part.number == _NAME:
            spelled.append(part.as_bytes())
        else:
            sides[part.number] = part.as_bytes()
    coder, history = BitReader(packed[position : position + bits_bytes]), _History(templates=templates)
    spelled.reverse()
    nodes, size = [], 0
    for _ in range(coder.uint("nodes")):
        nodes.append(_code_node(coder, history, None, spelled).encode())
        size += len(nodes[-1])
        if size > content_bytes:
            raise PackedFileError("its graph: more nodes than it has room for")
    graph = b"".join([sides[_BEFORE], *nodes, sides[_AFTER]])
    return sides[_OUTER] + Field(_MODEL_GRAPH, BYTES, graph).encode()


def _parse_node(part: Field) -> _Node:
    names: dict[int, list[bytes]] = {NODE_INPUT: [], NODE_OUTPUT: []}
    rest = []
    for inner in fields(part.as_bytes()) if part.number == GRAPH_NODE else ():
        if inner.number in names:
            names[inner.number].append(inner.as_bytes())
        else:
            rest.append(inner)
    inputs, outputs = names[NODE_INPUT], names[NODE_OUTPUT]
    return _Node((len(inputs), len(outputs), encode_fields(rest)), (*inputs, *outputs))


def _read_template(content: bytes) -> tuple[int, int, bytes]:
    inputs, position = decode_varint(content, 0)
    outputs, position = decode_varint(content, position)
    return inputs, outputs, content[position:]


def _code_node(coder: BitCoder, history: _History, node: _Node | None, spelled: list[bytes]) -> _Node:
    """Write a node, or read one when None is given; `spelled` collects or gives the names that follow no rule."""
    index = _code_template(coder, history, None if node is None else node.template)
    inputs, outputs, rest = history.templates[index]
    names = []
    for slot in range(inputs + outputs):
        wanted = None if node is None else node.names[slot]
        names.append(_code_name(coder, history, (index, min(slot, 8)), slot >= inputs, wanted, spelled))
        if sum(map(len, names)) > 1 << 20:
            raise PackedFileError("its graph: a node with absurdly many names")
    return _Node((inputs, outputs, rest), tuple(names))


def _code_template(coder: BitCoder, history: _History, template: tuple[int, int, bytes] | None) -> int:
    wanted = None
    if template is not None:
        if template not in history.templates:
            history.templates.append(template)
        wanted = history.templates.index(template)
    expected = history.successors.get(history.previous, -1)
    hit = expected >= 0 and coder.bit(("successor", expected), None if wanted is None else int(wanted == expected))
    index = expected if hit else coder.uint("template", wanted)
    if index >= len(history.templates):
        raise PackedFileError("its graph: a node of an unknown kind")
    history.successors[history.previous] = index
    history.previous = index
    return index


def _code_name(
    coder: BitCoder,
    history: _History,
    place: tuple[int, int],
    is_output: bool,
    wanted: bytes | None,
    spelled: list[bytes],
) -> bytes:
    known = None if wanted is None else int(wanted in history.places)
    if coder.bit(("known", is_output, place), known):
        back = coder.uint(("back", place), None if wanted is None else len(history.names) - 1 - history.places[wanted])
        if back >= len(history.names):
            raise PackedFileError("its graph: a reference to a value that was never named")
        return history.names[len(history.names) - 1 - back]
    name = _code_new_name(coder, history, is_output, wanted, spelled)
    history.remember(name)
    return name


def _code_new_name(
    coder: BitCoder, history: _History, is_output: bool, wanted: bytes | None, spelled: list[bytes]
) -> bytes:
    kind = step = None
    if wanted is not None:
        ahead = {order_name(history.ordered + step): step for step in range(-64, 64) if history.ordered + step >= 0}
        step = ahead.get(wanted, 0)
        kind = _NUMBERED if wanted == number_name(history.numbered) else _ORDERED if wanted in ahead else _SPELLED
    kind = coder.uint(("kind", is_output), kind)
    if kind == _NUMBERED:
        history.numbered += 1
        return number_name(history.numbered - 1)
    if kind == _ORDERED:
        index = history.ordered + coder.sint("order", step)
        if index < 0:
            raise PackedFileError("its graph: an initialiser before the first")
        history.ordered = index + 1
        return order_name(index)
    if wanted is not None:
        spelled.append(wanted)
        return wanted
    if not spelled:
        raise PackedFileError("its graph: a name is missing")
    return spelled.pop()

"""Weights that nodes compute from constants: as initializers for the quantizer, and small again for the file.

An exported ResNet's first convolution has its kernel at four places of a larger one (`tinydet.export.stem`). Engines
take int8 weights only where they are constants, and a file should hold the kernel once.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))  # rows and columns, in the order of `tinydet.export.stem`


def compute_weights(model: onnx.ModelProto, kinds: tuple[str, ...]) -> dict[str, tuple[str, int]]:
    """Make initializers, in place, of the weights and biases of such nodes that other nodes compute without any input.

    Returns:
        By the new weight's name: the checkpoint's weight that it is made of, and the number of that one's entries.
    """
    known = {tensor.name: tensor for tensor in model.graph.initializer}
    chain: list[onnx.NodeProto] = []
    made: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        if node.input and all(not name or name in known or name in made for name in node.input):
            chain.append(node)
            made.update(dict.fromkeys(node.output, node))
    users = [node for node in model.graph.node if node.op_type in kinds]
    wanted = sorted({name for node in users for name in node.input[1:] if name in made})
    if not wanted:
        return {}
    values = _evaluated(chain, known, wanted)
    sources = {
        node.input[1]: _source(node.input[1], made, known) for node in users if node.input[1] in made and node.input
    }
    model.graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in wanted)
    keep = [node for node in model.graph.node if not set(node.output) & set(wanted)]
    _replace_nodes(model, keep)
    return {name: (source.name, prod(source.dims)) for name, source in sources.items()}


def store_folded_small(model: onnx.ModelProto) -> None:
    """Where a weight is one kernel at four places, store that kernel, and nodes that an engine computes once."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    used = {name for node in model.graph.node for name in node.input}
    for name, tensor in weights.items():
        whole = numpy_helper.to_array(tensor)
        small = _single_kernel(whole) if name in used else None
        if small is None:
            continue
        model.graph.initializer.remove(tensor)
        parts: list[str] = []
        model.graph.initializer.append(numpy_helper.from_array(small, f"{name}.kernel"))
        for index, (row, column) in reversed(list(enumerate(_PLACES))):
            pads = np.array([0, 0, 2 * row, 2 * column, 0, 0, 2 - 2 * row, 2 - 2 * column], np.int64)
            model.graph.initializer.append(numpy_helper.from_array(pads, f"{name}.pads_{index}"))
            parts.insert(0, f"{name}.place_{index}")
            inputs = [f"{name}.kernel", f"{name}.pads_{index}"]
            model.graph.node.insert(0, helper.make_node("Pad", inputs, [parts[0]], name=parts[0]))
        model.graph.node.insert(len(_PLACES), helper.make_node("Concat", parts, [name], name=name, axis=0))


def _single_kernel(whole: NDArray[Any]) -> NDArray[Any] | None:
    if whole.ndim != 4 or whole.shape[0] % len(_PLACES) or whole.shape[2] != whole.shape[3] or whole.shape[2] < 4:
        return None
    side = whole.shape[2] - 2
    small = np.ascontiguousarray(whole[: len(whole) // len(_PLACES), :, :side, :side])
    places = [
        np.pad(small, ((0, 0), (0, 0), (2 * row, 2 - 2 * row), (2 * column, 2 - 2 * column))) for row, column in _PLACES
    ]
    return small if np.array_equal(np.concatenate(places), whole) else None


def _evaluated(
    chain: list[onnx.NodeProto], known: dict[str, onnx.TensorProto], wanted: list[str]
) -> dict[str, NDArray[Any]]:
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in wanted]
    needed = {name for node in chain for name in node.input}
    graph = helper.make_graph(
        chain, "weights", [], outputs, [tensor for name, tensor in known.items() if name in needed]
    )
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    found: Any = evaluator.run(None, {})
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in zip(wanted, found)}


def _source(name: str, made: dict[str, onnx.NodeProto], known: dict[str, onnx.TensorProto]) -> onnx.TensorProto:
    """The largest constant that a value is made of: the checkpoint's weight."""
    waiting, found = [name], []
    while waiting:
        name = waiting.pop()
        if name in made:
            waiting += made[name].input
        elif name in known:
            found.append(known[name])
    return max(found, key=lambda tensor: prod(tensor.dims))


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    """Keep these nodes, but for those that nothing needs any more, and the initializers that they need."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    copies = []
    for node in kept[::-1]:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copies.append(copied)
    del model.graph.node[:]
    model.graph.node.extend(copies)
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in needed]:
        model.graph.initializer.remove(tensor)

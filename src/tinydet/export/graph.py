"""An ONNX graph written node by node; a value is its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
"""The lowest with all that is used here; onnxruntime 1.20 and OpenVINO 2024.6 run it."""
_IR_VERSION = 9


class GraphBuilder:
    """Nodes in the order of their computation."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._used: set[str] = set()

    def name(self, wish: str) -> str:
        """A name that nothing has yet."""
        name, number = wish, 1
        while name in self._used:
            number += 1
            name = f"{wish}_{number}"
        self._used.add(name)
        return name

    def constant(self, value: ArrayLike, dtype: Any = None) -> str:
        """The name of a value known at export; equal ones share it. Python integers are int64, floats float32."""
        array = np.ascontiguousarray(np.asarray(value, dtype)) if np.ndim(value) else np.asarray(value, dtype)
        if dtype is None and array.dtype == np.float64:
            array = array.astype(np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self.name(f"constant_{len(self._constants)}")
            self._initializers[name] = numpy_helper.from_array(array, name)
            self._constants[key] = name
        return self._constants[key]

    def op(self, kind: str, *inputs: str, named: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its one output, `named` if given; an empty name is an input left out."""
        return self.ops(kind, *inputs, outputs=1, named=named, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int, named: str | None = None, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node of several outputs."""
        wish = named or kind.lower()
        names = tuple(self.name(wish if index == 0 else f"{wish}_{index}") for index in range(outputs))
        self._nodes.append(helper.make_node(kind, list(inputs), list(names), name=names[0], **attributes))
        return names

    def initializer(self, tensor: onnx.TensorProto) -> str:
        """Add a weight under its own name."""
        copied = onnx.TensorProto()
        copied.CopyFrom(tensor)
        copied.name = self.name(tensor.name)
        self._initializers[copied.name] = copied
        return copied.name

    def include(self, model: onnx.ModelProto, given: dict[str, str]) -> list[str]:
        """Add what a model computes for its outputs, and return their names.

        Args:
            given: names within the model (its inputs, or whatever else is computed already) to names here.

        Weights keep their names, so that what stands in the file is named as in the checkpoint.
        """
        graph = model.graph
        renamed = {"": "", **given}
        nodes = _needed_nodes(graph, set(given))
        needed = {name for node in nodes for name in node.input}
        for tensor in graph.initializer:
            if tensor.name in needed and tensor.name not in renamed:
                renamed[tensor.name] = self.initializer(tensor)
        for node in nodes:
            for name in node.output:
                renamed[name] = self.name(name) if name else ""
            outputs = [renamed[name] for name in node.output]
            copied = helper.make_node(node.op_type, [renamed[name] for name in node.input], outputs, name=outputs[0])
            copied.attribute.extend(node.attribute)
            self._nodes.append(copied)
        return [renamed[output.name] for output in graph.output]

    def model(
        self,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """The checked model; outputs are values that have been computed under these names."""
        needed = {name for node in self._nodes for name in node.input}
        weights = [tensor for name, tensor in self._initializers.items() if name in needed]
        graph = helper.make_graph(self._nodes, "tinydet", inputs, outputs, weights)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="tinydet")
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def _needed_nodes(graph: onnx.GraphProto, given: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the outputs depend on, when some values are given."""
    needed = {output.name for output in graph.output} - given
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(set(node.input) - given)
    return nodes[::-1]


def value(name: str, dtype: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


UINT8, FLOAT, INT32, INT64 = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64

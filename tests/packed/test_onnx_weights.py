"""Models taken apart and put together give the same outputs in onnxruntime, and are valid to the onnx package."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from tinydet.packed import PackedFile, PackedFileError, pack, read_packed
from tinydet.packed.graph_coder import ONNX_TEMPLATES, compress_graph, decompress_graph
from tinydet.packed.onnx_weights import join_onnx, split_onnx

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RNG = np.random.default_rng(0)


def model_of(nodes: list, initializers: dict[str, np.ndarray], **options) -> bytes:
    inputs = options.pop("inputs", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])])
    outputs = options.pop("outputs", [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None] * 4)])
    tensors = [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    graph = helper.make_graph(nodes, "a graph with a long name", inputs, outputs, tensors, doc_string="for people")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="someone", **options)
    model.ir_version = options.get("ir_version", 8)
    return model.SerializeToString()


def convolutions(layers: int = 3) -> bytes:
    nodes, weights, before, channels = [], {}, "image", 3
    for index in range(layers):
        weight = f"backbone.layers.{index}.conv.weight"
        weights[weight] = RNG.normal(0, 0.2, (8, channels, 3, 3)).astype(np.float32)
        weights[f"{weight}.bias"] = RNG.normal(0, 0.2, 8).astype(np.float32)
        names = [f"/backbone/layers.{index}/conv/output_0", f"/backbone/layers.{index}/relu/output_0"]
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [before, weight, f"{weight}.bias"], names[:1], f"conv{index}", pads=pads))
        nodes.append(helper.make_node("Relu", names[:1], names[1:], f"relu{index}"))
        before, channels = names[1], 8
    weights["axes"] = np.array([2, 3], np.int64)
    nodes.append(helper.make_node("ReduceSum", [before, "axes"], ["scores"]))
    return model_of(nodes, weights)


def branching() -> bytes:
    """An If whose branches use values from around it, and have a weight of their own."""
    inner = numpy_helper.from_array(RNG.normal(size=(3, 1, 1)).astype(np.float32), "inner weight")
    result = [helper.make_tensor_value_info("branch result", TensorProto.FLOAT, [None] * 4)]
    nodes = [[helper.make_node(op, ["shifted", "inner weight"], ["branch result"])] for op in ("Mul", "Sub")]
    branches = [helper.make_graph(body, "branch", [], result, [inner]) for body in nodes]
    return model_of(
        [
            helper.make_node("Add", ["image", "shift"], ["shifted"]),
            helper.make_node("ReduceMax", ["shifted"], ["largest"], keepdims=0),
            helper.make_node("Greater", ["largest", "threshold"], ["is large"]),
            helper.make_node("If", ["is large"], ["chosen"], then_branch=branches[0], else_branch=branches[1]),
            helper.make_node("Clip", ["chosen", "", "ceiling"], ["scores"]),
        ],
        {
            "shift": RNG.normal(size=(3, 16, 16)).astype(np.float32),
            "threshold": np.float32(0.5),
            "ceiling": np.float32(2),
        },
    )


def quantized(tmp_path: Path) -> bytes:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = 3

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            return {"image": RNG.random((1, 3, 16, 16), np.float32)} if self.left >= 0 else None

    (tmp_path / "float.onnx").write_bytes(convolutions())
    out = tmp_path / "int8.onnx"
    settings = {"quant_format": QuantFormat.QDQ, "per_channel": True, "weight_type": QuantType.QInt8}
    quantize_static(tmp_path / "float.onnx", out, Images(), **settings)
    return out.read_bytes()


def outputs_of(model: bytes) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(1).random((1, 3, 16, 16), np.float32)
    return session.run(None, {"image": image})


@pytest.mark.parametrize("shorten", [False, True])
@pytest.mark.parametrize("keep_elements", [0, 2])
@pytest.mark.parametrize("kind", ["float", "branches", "int8"])
def test_the_same_outputs_after_packing(kind: str, shorten: bool, keep_elements: int, tmp_path: Path) -> None:
    model = {"float": convolutions, "branches": branching, "int8": lambda: quantized(tmp_path)}[kind]()
    skeleton, tensors = split_onnx(model, shorten=shorten, keep_elements=keep_elements)
    packed = read_packed(pack(PackedFile(skeleton, tensors)))
    assert packed.graph == skeleton
    joined = join_onnx(packed.graph, packed.tensors)
    onnx.checker.check_model(onnx.load_from_string(joined), full_check=True)
    for before, after in zip(outputs_of(model), outputs_of(joined), strict=True):
        assert before.tobytes() == after.tobytes()


def test_int8_weights_are_taken_out_as_int8(tmp_path: Path) -> None:
    _, tensors = split_onnx(quantized(tmp_path))
    assert {array.dtype.name for name, array in tensors.items() if name.endswith("_quantized")} == {"int8", "int32"}


def test_the_skeleton_keeps_what_a_caller_sees() -> None:
    skeleton, tensors = split_onnx(convolutions())
    model = onnx.load_from_string(skeleton)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["scores"]
    assert [node.op_type for node in model.graph.node][:2] == ["Conv", "Relu"]
    assert "backbone.layers.1.conv.weight" in tensors
    assert b"backbone" not in skeleton
    assert b"people" not in skeleton


def test_names_stay_when_they_are_to_stay() -> None:
    skeleton, tensors = split_onnx(convolutions(), shorten=False)
    model = onnx.load_from_string(join_onnx(skeleton, tensors))
    assert {tensor.name for tensor in model.graph.initializer} == {*tensors, "axes"}
    assert model.producer_name == "someone"


def test_constants_become_weights() -> None:
    value = numpy_helper.from_array(RNG.normal(size=(3, 16, 16)).astype(np.float32))
    nodes = [
        helper.make_node("Constant", [], ["offset"], value=value),
        helper.make_node("Add", ["image", "offset"], ["scores"]),
    ]
    model = model_of(nodes, {})
    skeleton, tensors = split_onnx(model)
    assert list(tensors) == ["offset"]
    assert len(skeleton) < 200
    assert outputs_of(model)[0].tobytes() == outputs_of(join_onnx(skeleton, tensors))[0].tobytes()


@pytest.mark.parametrize(
    "type_name", ["FLOAT", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "UINT64", "FLOAT16", "BOOL"]
)
def test_values_in_typed_fields(type_name: str) -> None:
    number = getattr(TensorProto, type_name)
    values = [0, 1, 1, 0] if type_name == "BOOL" else [0, 1, 2, 100]
    values = [-value for value in values] if type_name in ("INT8", "INT32", "INT64", "FLOAT", "FLOAT16") else values
    tensor = helper.make_tensor("x", number, [2, 2], values)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [])
    graph.initializer.append(tensor)
    _, tensors = split_onnx(helper.make_model(graph).SerializeToString(), keep_elements=0)
    expected = numpy_helper.to_array(tensor)
    assert tensors["x"].dtype == expected.dtype
    assert (tensors["x"] == expected).all()


def test_a_weight_that_is_also_an_input_or_an_output() -> None:
    weight = helper.make_tensor_value_info("weight", TensorProto.FLOAT, [3, 16, 16])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])
    values = {"weight": RNG.normal(size=(3, 16, 16)).astype(np.float32)}
    add = helper.make_node("Add", ["image", "weight"], ["scores"])
    old = model_of([add], values, inputs=[image, weight], ir_version=3)
    skeleton, tensors = split_onnx(old)
    assert outputs_of(old)[0].tobytes() == outputs_of(join_onnx(skeleton, tensors))[0].tobytes()
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None] * 4)
    shown = model_of([add], values, outputs=[scores, weight])
    joined = join_onnx(*split_onnx(shown))
    assert [value.name for value in onnx.load_from_string(joined).graph.output] == ["scores", "weight"]
    assert outputs_of(joined)[1].tobytes() == values["weight"].tobytes()


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x3a\xff\xff\xff\xff\x0f", b"\x08\x07"])
def test_what_is_no_model(content: bytes) -> None:
    with pytest.raises(PackedFileError):
        split_onnx(content)


def test_weights_in_another_file() -> None:
    model = onnx.load_from_string(convolutions())
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(PackedFileError, match="another file"):
        split_onnx(model.SerializeToString())


def test_a_type_that_onnx_has_not() -> None:
    skeleton, _ = split_onnx(convolutions())
    with pytest.raises(PackedFileError, match=r"tensor x: ONNX has no elements of type"):
        join_onnx(skeleton, {"x": np.array(["text"])})


def test_graphs_take_a_fraction_of_what_general_compression_makes() -> None:
    skeleton, _ = split_onnx(convolutions(layers=40))
    method, packed = compress_graph(skeleton)
    assert method == ONNX_TEMPLATES
    assert decompress_graph(method, packed, len(skeleton)) == skeleton
    assert len(packed) < 0.7 * len(lzma.compress(skeleton, lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME))


@pytest.mark.parametrize("graph", [b"", b"anything", bytes(range(256)), b"\x3a\x00", b"\x08\x01\x3a\x02\x0a\x00"])
def test_any_bytes_are_kept_as_they_are(graph: bytes) -> None:
    method, packed = compress_graph(graph)
    assert decompress_graph(method, packed, len(graph)) == graph


def test_nodes_out_of_the_usual_order_of_fields_are_kept_as_they_are() -> None:
    """The operator before the names: valid, though no exporter writes it."""
    node = b"\x22\x04Relu" + b"\x0a\x05image" + b"\x12\x06scores"
    graph = b"\x0a" + bytes([len(node)]) + node
    skeleton = b"\x08\x08" + b"\x3a" + bytes([len(graph)]) + graph
    method, packed = compress_graph(skeleton)
    assert decompress_graph(method, packed, len(skeleton)) == skeleton

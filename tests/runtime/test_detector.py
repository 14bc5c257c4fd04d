"""The runtime on a model that needs no torch: it finds the bright pixels' bounding box."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.runtime import Detector, ModelDescription, read_model
from tinydet.runtime import detector as detector_module
from tinydet.runtime.decoding import decode
from tinydet.runtime.engines import OnnxRuntimeEngine, OpenVinoEngine
from tinydet.runtime.resizing import prepare, prepare_exactly

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

DESCRIPTION = ModelDescription(
    "Bright", ("half", "quarter"), Preprocessing(shorter_side=60, longer_side=100), 0.1, 0.5, 2, 0, 18
)


def model_bytes(description: ModelDescription = DESCRIPTION, **changes: object) -> bytes:
    """A graph with the outline of an exported one: two boxes that are shares of the image, scored by its brightness."""
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["pixels"], ["size"], start=2),
        helper.make_node("Cast", ["size"], ["size_f"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["size_f", "order"], ["xyxy"]),
        helper.make_node("Mul", ["shares", "xyxy"], ["boxes"]),
        helper.make_node("ReduceMean", ["pixels"], ["bright"], keepdims=0),
        helper.make_node("Mul", ["bright", "factors"], ["scores"]),
        helper.make_node("Identity", ["numbers"], ["labels"]),
    ]
    shares = [[0, 0, 0.5, 1], [0.25, 0.25, 0.5, 0.5]]
    weights = [
        helper.make_tensor("order", TensorProto.INT64, [4], [1, 0, 1, 0]),
        helper.make_tensor("shares", TensorProto.FLOAT, [2, 4], np.ravel(shares)),
        helper.make_tensor("factors", TensorProto.FLOAT, [2], [0.9 / 255, 0.5 / 255]),
        helper.make_tensor("numbers", TensorProto.INT64, [2], [0, 1]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "bright",
        [value("image", TensorProto.UINT8, [1, "h", "w", 3])],
        [
            value("boxes", TensorProto.FLOAT, ["n", 4]),
            value("scores", TensorProto.FLOAT, ["n"]),
            value("labels", TensorProto.INT64, ["n"]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"tinydet": json.dumps({**description.as_plain(), **changes})})
    return model.SerializeToString()


def white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(model_bytes(), "onnxruntime", 1)


def test_every_kind_of_image_gives_boxes_in_its_own_pixels(detector, tmp_path):
    pixels = white(30, 40)
    (tmp_path / "a.jpg").write_bytes(encoded(pixels))
    kinds = [pixels, Image.fromarray(pixels), encoded(pixels), encoded(pixels, "PNG"), tmp_path / "a.jpg"]
    for found in [*detector(kinds), detector(str(tmp_path / "a.jpg"))]:
        np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 20, 30], [10, 7.5, 20, 15]], atol=1e-4)
        np.testing.assert_allclose(found.scores, [0.9, 0.5], atol=1e-3)
        assert found.labels.tolist() == [0, 1]


def test_an_exif_orientation_turns_the_image(detector):
    exif = Image.Exif()
    exif[274] = 6  # turn by a quarter
    found = detector(encoded(white(30, 40), exif=exif))
    np.testing.assert_allclose(found.boxes_xyxy[0], [0, 0, 15, 40], atol=1e-4)


def test_options_choose_among_detections():
    image = white(30, 40)
    assert Detector(model_bytes(), "onnxruntime", score_threshold=0.6)(image).labels.tolist() == [0]
    assert Detector(model_bytes(), "onnxruntime", classes=["quarter"])(image).labels.tolist() == [1]
    assert Detector(model_bytes(), "onnxruntime", most=1)(image).labels.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 0.05}, "expected 0.1 to 1"),
        ({"classes": ["zebra"]}, "unknown class 'zebra'.*half, quarter"),
        ({"most": 3}, "expected 1 to 2"),
        ({"threads": 0}, "at least 1"),
        ({"engine": "abacus"}, "expected auto, onnxruntime or openvino"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Detector(model_bytes(), **{"engine": "onnxruntime", **options})


def test_damaged_and_foreign_files_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("not a model")
    for source, message in [
        (b"", "does not say what detector|not an ONNX"),
        (tmp_path / "text.onnx", "text.onnx"),
        (tmp_path / "none.onnx", "no such file"),
        (tmp_path, "a folder"),
        (model_bytes(format=99), "upgrade tinydet"),
        (model_bytes(classes=3), "classes"),
    ]:
        with pytest.raises(InputError, match=message):
            Detector(source, "onnxruntime")
    assert read_model(model_bytes()).description == DESCRIPTION


@pytest.mark.parametrize("image", [b"", b"\xff\xd8\xffgarbage", "nowhere.jpg", np.zeros((4, 4), np.uint8)])
def test_images_that_are_none_are_refused(detector, image):
    with pytest.raises(InputError):
        detector(image)


def test_a_truncated_jpeg_is_refused(detector):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(InputError, match="truncated"):
        detector(encoded(pixels)[:1500])


def test_decoders_agree():
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    content = encoded(pixels, quality=90)
    np.testing.assert_array_equal(decode(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize("size_hw", [(45, 50), (60, 80), (200, 130)])
def test_fast_resizing_is_within_one_level_of_pillow(channels, size_hw):
    pytest.importorskip("cv2")
    means = (0.0,) if channels == "gray" else (0.0,) * 3
    preprocessing = Preprocessing(60, 100, channels=channels, mean=means, std=tuple(m + 1 for m in means))
    pixels = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    fast, exact = prepare(pixels, preprocessing), prepare_exactly(pixels, preprocessing)
    assert fast.shape == exact.shape
    assert np.abs(fast.astype(int) - exact).max() <= 1


def test_without_opencv_the_graph_enlarges_by_itself(monkeypatch):
    monkeypatch.setattr(detector_module, "has_opencv", lambda: False)
    own = Detector(model_bytes(), "onnxruntime", 1)
    small, large = np.random.default_rng(0).integers(0, 256, (2, 150, 180, 3), np.uint8)
    small = small[:30, :40]
    exact = Detector(model_bytes(), "onnxruntime", 1, resizing="exact")
    assert own.prepare(small).shape == (30, 40, 3)
    assert own.prepare(large).shape == (60, 72, 3)
    for image in (small, large):
        np.testing.assert_allclose(own(image).boxes_xyxy, exact(image).boxes_xyxy, atol=1e-3)
        np.testing.assert_allclose(own(image).scores, exact(image).scores, atol=1e-3)


def test_auto_measures_once_and_remembers(monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    from tinydet.runtime import choice

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Detector(model_bytes(), threads=1)
    remembered = json.loads((tmp_path / "tinydet" / "engines.json").read_text())
    assert list(remembered.values()) == [first.engine]
    monkeypatch.setattr(choice, "_fastest", lambda *_: pytest.fail("measured again"))
    assert Detector(model_bytes(), threads=1).engine == first.engine


def test_openvino_gives_frequent_sizes_a_graph_of_their_own():
    pytest.importorskip("openvino")
    engine = OpenVinoEngine(model_bytes(), 1, often=2)
    random = np.random.default_rng(0)
    sizes = [(20, 30), (20, 30), (40, 20), (20, 30), (20, 30)]
    images = [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    own = []
    for image in images:
        boxes, scores, _ = engine(image)
        expected_boxes, expected_scores, _ = OnnxRuntimeEngine(model_bytes(), 1)(image)
        np.testing.assert_allclose(boxes, expected_boxes, rtol=1e-5)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
        own.append(engine.own_sizes)
    assert own == [(), (), (), ((20, 30, 3),), ((20, 30, 3),)]
    for side in range(20, 40):
        for _ in range(3):
            engine(white(side, side))
    assert len(engine.own_sizes) == 8

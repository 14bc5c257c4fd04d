"""How far the ways of enlarging an image are from Pillow's on real photographs: README states what is proved here."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tinydet.preprocessing import Preprocessing
from tinydet.runtime.decoding import decode
from tinydet.runtime.resizing import SIZE, prepare, prepare_exactly, with_resize

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

PREPROCESSING = Preprocessing(shorter_side=600, longer_side=1000)
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[Pixels]:
    """BCCD's 72 test images, 640 x 480; half of them cut to other shapes, so that scales differ."""
    folder = shared / "data" / "BCCD"
    names = folder / "ImageSets" / "Main" / "test.txt"
    if not names.is_file():
        pytest.skip("needs BCCD's test images")
    images = [np.asarray(Image.open(folder / "JPEGImages" / f"{name}.jpg")) for name in names.read_text().split()]
    assert len(images) == 72
    return [image[: 480 - 7 * n, : 640 - 5 * n] if n % 2 else image for n, image in enumerate(images)]


@pytest.fixture(scope="module")
def graph_resize() -> Callable[[Pixels], NDArray[np.float32]]:
    """What `with_resize` puts into an exported graph, alone."""
    import onnxruntime

    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["pixels"], perm=[0, 3, 1, 2]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "h", "w", 3])]
    outputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "resize", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(with_resize(model.SerializeToString()), providers=["CPUExecutionProvider"])

    def resize(pixels: Pixels) -> NDArray[np.float32]:
        height, width = PREPROCESSING.resized_hw((pixels.shape[0], pixels.shape[1]))
        (found,) = session.run(None, {"image": pixels[None], SIZE: np.array([1, 3, height, width])})
        return np.asarray(found)[0].transpose(1, 2, 0)

    return resize


def largest_and_mean(way: Callable[[Pixels], NDArray[np.generic]], images: list[Pixels]) -> tuple[float, float]:
    """Differences from Pillow, in levels of 255."""
    largest, means = 0.0, []
    for pixels in images:
        difference = np.abs(way(pixels).astype(np.float32) - prepare_exactly(pixels, PREPROCESSING))
        largest = max(largest, float(difference.max()))
        means.append(float(difference.mean()))
    return largest, float(np.mean(means))


def test_opencv_is_within_one_level(photographs):
    pytest.importorskip("cv2")
    largest, mean = largest_and_mean(lambda pixels: prepare(pixels, PREPROCESSING), photographs)
    assert 0 < largest <= 1
    assert mean < 0.35


def test_the_graph_is_within_one_level(photographs, graph_resize):
    largest, mean = largest_and_mean(graph_resize, photographs)
    assert 0 < largest < 1.001  # its weights are float32
    assert mean < 0.35


def test_simplejpeg_decodes_what_pillow_decodes(shared):
    simplejpeg = pytest.importorskip("simplejpeg")
    files = sorted((shared / "data" / "BCCD" / "JPEGImages").glob("*.jpg"))[::20]
    if not files:
        pytest.skip("needs BCCD's images")
    for file in files:
        content = file.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(simplejpeg.decode_jpeg(content, strict=True), expected)
        np.testing.assert_array_equal(decode(content), expected)

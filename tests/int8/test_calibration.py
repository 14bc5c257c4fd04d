from __future__ import annotations

import numpy as np
import onnx
import pytest

from tinydet.errors import InputError
from tinydet.int8.calibration import METHODS, calibrate
from tinydet.int8.layers import quantizable


def outputs(model: onnx.ModelProto, images: list[np.ndarray], name: str) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    evaluator = ReferenceEvaluator(shown)
    return np.concatenate([np.asarray(evaluator.run([name], {"image": image[None]})[0]).ravel() for image in images])


def test_minmax_is_the_extremes_over_all_images(model, images):
    source = quantizable(model)
    ranges = calibrate(source.model, images, "minmax")
    for name in ("x", "b", "e", "scores"):
        values = outputs(model, images, name)
        low, high = ranges[name].range_value
        assert low == pytest.approx(min(values.min(), 0), abs=1e-5) or low == pytest.approx(values.min(), abs=1e-5)
        assert high == pytest.approx(values.max(), rel=1e-5)


def test_a_percentile_leaves_rare_values_out(model, images):
    source = quantizable(model)
    values = outputs(model, images, "b")
    _, high = calibrate(source.model, images, "percentile", 90.0)["b"].range_value
    assert high < 0.9 * values.max()
    assert (values > high).mean() == pytest.approx(0.1, abs=0.06)


def test_entropy_finds_a_range_within_the_extremes(model, images):
    source = quantizable(model)
    values = outputs(model, images, "b")
    _, high = calibrate(source.model, images, "entropy")["b"].range_value
    assert 0 < high <= values.max() * 1.01


@pytest.mark.parametrize("method", METHODS)
def test_no_image_is_refused(model, method):
    with pytest.raises(InputError, match="at least one image"):
        calibrate(quantizable(model).model, [], method)

import math

import numpy as np
import pytest
import torch

from tinydet.detectors.ps_roi import ps_roi_align, vote


def bilinear(image: np.ndarray, y: float, x: float) -> float:
    """The value between cells; 0 more than one cell outside, the border's value up to there."""
    height, width = image.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = math.floor(y), math.floor(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    lower = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
    return float(upper * (1 - fy) + lower * fy)


def by_loops(maps: np.ndarray, image_of_box, boxes, stride: int, k: int) -> np.ndarray:
    """Eq. 1 of Dai et al. 2016 in float64, each bin the mean of 2 x 2 samples."""
    outputs = maps.shape[1] // (k * k)
    pooled = np.zeros((len(boxes), outputs, k, k))
    for r, (image, (x0, y0, x1, y1)) in enumerate(zip(image_of_box, boxes)):
        left, top = x0 / stride - 0.5, y0 / stride - 0.5
        bin_width, bin_height = (x1 - x0) / stride / k, (y1 - y0) / stride / k
        for d in range(outputs):
            for i in range(k):
                for j in range(k):
                    own = maps[image, (d * k + i) * k + j]
                    samples = [
                        bilinear(own, top + (i + sy) * bin_height, left + (j + sx) * bin_width)
                        for sy in (0.25, 0.75)
                        for sx in (0.25, 0.75)
                    ]
                    pooled[r, d, i, j] = np.mean(samples)
    return pooled


@pytest.mark.parametrize(("k", "outputs"), [(1, 2), (3, 4), (7, 1)])
def test_pooling_is_the_equation(k, outputs):
    generator = np.random.default_rng(k)
    maps = generator.normal(size=(2, outputs * k * k, 9, 13))
    corners = generator.uniform(-10, 110, size=(6, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(3, 150, size=(6, 2))], axis=1)
    expected = by_loops(maps, [0, 0, 0, 0, 1, 1], boxes, 16, k)
    as_list = [torch.tensor(boxes[:4]), torch.tensor(boxes[4:])]
    found = ps_roi_align(torch.tensor(maps), as_list, 16, k)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(vote(found).numpy(), expected.reshape(6, outputs, -1).mean(2), atol=1e-12)


def test_the_gradient_is_the_finite_difference():
    torch.manual_seed(0)
    maps = torch.randn(1, 9, 6, 6, dtype=torch.float64, requires_grad=True)
    boxes = [torch.tensor([[5.0, 9, 70, 60], [0, 0, 20, 30]], dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda x: vote(ps_roi_align(x, boxes, 16, 3)), (maps,))


def test_no_regions_at_all():
    maps = torch.zeros(2, 18, 4, 4)
    assert ps_roi_align(maps, [torch.zeros(0, 4), torch.zeros(0, 4)], 16, 3).shape == (0, 2, 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_pooled_in_float32(dtype):
    torch.manual_seed(0)
    maps = torch.randn(1, 9, 6, 6).to(dtype)
    boxes = [torch.tensor([[5.0, 9, 70, 60]])]
    assert torch.equal(ps_roi_align(maps, boxes, 16, 3), ps_roi_align(maps.float(), boxes, 16, 3))

import pytest
import torch
from torchvision.ops import roi_align as torchvision_roi_align

from tinydet.detectors.roi_align import SAMPLES_PER_BIN, roi_align, roi_align_by_matrices


def regions(count: int, reach: float) -> torch.Tensor:
    corner = torch.rand(count, 2, dtype=torch.float64) * reach - reach / 8
    return torch.cat([corner, corner + torch.rand(count, 2, dtype=torch.float64) * reach], dim=1)


@pytest.mark.parametrize("output_size", [1, 3, 7])
@pytest.mark.parametrize("size", [(19, 25), (1, 1), (2, 30)])
def test_values_and_gradients_are_torchvisions(size, output_size):
    torch.manual_seed(0)
    features = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    boxes = [regions(40, 16.0 * max(size)), regions(0, 1.0)]
    ours = roi_align_by_matrices(features, boxes, 16, output_size)
    theirs = torchvision_roi_align(features, boxes, output_size, 1 / 16, SAMPLES_PER_BIN, aligned=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    upstream = torch.randn_like(ours)
    (gradient,) = torch.autograd.grad((ours * upstream).sum(), features, retain_graph=True)
    (expected,) = torch.autograd.grad((theirs * upstream).sum(), features)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


def test_no_regions_give_an_empty_tensor():
    assert roi_align(torch.randn(1, 3, 5, 5, requires_grad=True), [torch.zeros(0, 4)], 16, 7).shape == (0, 3, 7, 7)

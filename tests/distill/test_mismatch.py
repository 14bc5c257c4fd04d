import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.ops import roi_align

from tinydet.backbones import ResNetConfig
from tinydet.config import to_plain
from tinydet.datasets import open_dataset
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.distill.mimic import MimicConfig
from tinydet.distill.mismatch import load_pair, measure_mismatch, mismatch_histogram, mismatching_ratios
from tinydet.distill.steps import MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import UniformQuantizerConfig
from tinydet.training.checkpoint import save_checkpoint
from tinydet.training.resume import step_tensors
from tinydet.training.steps import DetectionStep, describe_step
from tinydet.training.validation import readable_batch

STRIDE = 0.25
CONFIG = MimicConfig(regions=3, output_size=2)
DATA = "digits:train=1,val=1,test=2"


def detector(divisor: int, quantized: bool) -> FasterRCNN:
    torch.manual_seed(divisor)
    return FasterRCNN(
        FasterRCNNConfig(
            tuple("0123456789"),
            ResNetConfig(18, divisor),
            Preprocessing(64, 128),
            quantizer=UniformQuantizerConfig(STRIDE) if quantized else None,
        )
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A quantized teacher, and a plain and a quantized student whose r is random, as a training leaves them."""
    root = tmp_path_factory.mktemp("mismatch")
    teacher = detector(16, quantized=True)
    found = {"teacher": save_checkpoint(root / "teacher", teacher)}
    for name, quantized in (("plain", False), ("quantized", True)):
        step = MimicStep(detector(32, quantized), Teacher(teacher, CONFIG.regions), CONFIG)
        extra = {"training": {"step": describe_step(step)}}
        save_checkpoint(root / name / "last", step.detector, extra=extra, step_tensors=step_tensors(step))
        save_checkpoint(root / name / "best", step.detector, extra=extra)
        found[name] = root / name
    return found


def q(value: float) -> float:
    return max(0.0, math.ceil(value / STRIDE - 0.5) * STRIDE)


@pytest.mark.parametrize("student", ["plain", "quantized"])
def test_the_ratio_is_counted_entry_by_entry(folders, student):
    """Against plain loops, from the weights in the files."""
    samples = open_dataset(DATA).split("test")
    pair = load_pair(folders["teacher"], folders[student])
    measured = measure_mismatch(pair, samples, threshold=0.3)

    tensors = load_file(folders[student] / "last" / "step.safetensors")
    weight = tensors["mimic.transforms.0.weight"].double().numpy()[:, :, 0, 0]
    bias = tensors["mimic.transforms.0.bias"].double().numpy()
    expected = []
    for sample in samples:
        batch = readable_batch([sample], pair.student.config.preprocessing)
        with torch.no_grad():
            found = pair.teacher.regions_of_interest(batch, CONFIG.regions)
            map_of_student = pair.student.features(batch)[0]
        boxes = found.boxes_xyxy
        assert len(boxes[0]) == CONFIG.regions
        t = roi_align(found.features[0], boxes, CONFIG.output_size, 1 / found.strides[0], 2).double().numpy()
        s = roi_align(map_of_student, boxes, CONFIG.output_size, 1 / 16, 2).double().numpy()
        for i in range(len(t)):
            apart = 0
            for c in range(t.shape[1]):
                for y in range(2):
                    for x in range(2):
                        ours = bias[c] + sum(weight[c, k] * s[i, k, y, x] for k in range(s.shape[1]))
                        ours = q(ours) if student == "quantized" else ours
                        apart += abs(q(t[i, c, y, x]) - ours) > 0.3
            expected.append(apart / t[0].size)
    assert measured == pytest.approx(expected, abs=1e-3)  # an entry in a thousand may be a rounding from the threshold
    assert 0 < measured.mean() < 1


def test_ratios_of_regions_by_hand():
    teacher = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])[:, :, None, None]
    student = torch.tensor([[0.25, 1.5, 1.5, 3.0], [0.0, 0.25, 0.0, 0.0]])[:, :, None, None]
    assert mismatching_ratios(teacher, student, 0.3).tolist() == [0.5, 0.0]
    assert mismatching_ratios(teacher, student, 0.2).tolist() == [0.75, 0.25]
    assert mismatching_ratios(teacher[:0], student[:0]).tolist() == []


def test_the_histogram_shares_out_all_regions():
    histogram = mismatch_histogram({"a": np.array([0.0, 0.1, 0.1, 1.0]), "none": np.zeros(0)}, bins=10)
    assert len(histogram.edges) == 11
    assert histogram.shares["a"] == (0.25, 0.5, 0, 0, 0, 0, 0, 0, 0, 0.25)
    assert sum(histogram.shares["none"]) == 0


def test_what_was_not_trained_by_mimicking_is_refused(folders, tmp_path):
    with pytest.raises(InputError, match=r"step\.safetensors"):
        load_pair(folders["teacher"], folders["plain"] / "best")
    step = DetectionStep(detector(32, quantized=False))
    alone = save_checkpoint(
        tmp_path / "alone",
        step.detector,
        extra={"training": to_plain({"step": describe_step(step)})},
        step_tensors={"other.weight": torch.zeros(1)},
    )
    with pytest.raises(InputError, match="not by a MimicStep"):
        load_pair(folders["teacher"], alone)


def test_another_teacher_is_refused(folders, tmp_path):
    other = save_checkpoint(tmp_path / "other", detector(8, quantized=True))
    with pytest.raises(InputError, match="another teacher"):
        load_pair(other, folders["plain"])

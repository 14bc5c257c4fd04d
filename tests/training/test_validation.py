"""Detections go back to the pixels of the original image, and are measured there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tinydet.data.batch import Batch
from tinydet.detectors.outputs import DetectedTensors
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.records import Annotations, Sample
from tinydet.training import Validate, detect_samples


@dataclass(frozen=True)
class WhiteConfig:
    preprocessing: Preprocessing
    classes: tuple[str, ...] = ("white",)


class FindsWhite(nn.Module):
    """The box around what is white, by looking."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.config = WhiteConfig(preprocessing)
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Batch) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return batch.images[:, 0] > 127

    def postprocess(self, outputs: Tensor) -> list[DetectedTensors]:
        results = []
        for white in outputs:
            rows, columns = white.nonzero().unbind(1)
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            results.append(DetectedTensors(torch.stack(corners)[None].float(), torch.ones(1), torch.zeros(1).long()))
        return results


def white_samples() -> list[Sample]:
    samples = []
    for index, (size_hw, box) in enumerate(
        [((40, 60), (8, 12, 28, 32)), ((60, 40), (0, 20, 40, 60)), ((50, 50), (5, 5, 45, 15))]
    ):
        pixels = np.zeros((*size_hw, 3), np.uint8)
        pixels[box[1] : box[3], box[0] : box[2]] = 255
        samples.append(Sample(f"i{index}", pixels, size_hw, Annotations([box], [0])))
    return samples


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize(
    "preprocessing",
    [Preprocessing(80, 200), Preprocessing(20, 200), Preprocessing(fixed_size_hw=(120, 80))],
    ids=["larger", "smaller", "stretched"],
)
def test_boxes_are_in_original_pixels(preprocessing: Preprocessing, batch_size: int) -> None:
    samples = white_samples()
    calls: list[tuple[int, int]] = []
    found = detect_samples(FindsWhite(preprocessing), samples, batch_size, lambda *done: calls.append(done))
    assert list(found) == ["i0", "i1", "i2"]
    for sample in samples:
        np.testing.assert_allclose(found[sample.image_id].boxes_xyxy, sample.annotations.boxes_xyxy, atol=2)
    assert calls[-1] == (3, 3)


def test_the_mode_is_as_before(tiny: ModuleType) -> None:
    detector = tiny.TinyDetector().train()
    detector.layers[1].eval()
    modes = [part.training for part in detector.modules()]
    detect_samples(detector, tiny.tiny_samples(2))
    assert [part.training for part in detector.modules()] == modes


def test_perfect_and_useless_detectors_score_so() -> None:
    samples = white_samples()
    perfect = Validate(samples, ("white",), "voc07")(FindsWhite(Preprocessing(80, 200)))
    assert perfect.score == perfect.metrics["mAP"] == 1.0
    elsewhere = [replace(sample, annotations=Annotations([[0, 0, 3, 3]], [0])) for sample in samples]
    assert Validate(elsewhere, ("white",), "voc")(FindsWhite(Preprocessing(80, 200))).score == 0.0
    nothing = [replace(sample, annotations=Annotations.empty()) for sample in samples]
    assert Validate(nothing, ("white",), "coco")(FindsWhite(Preprocessing(80, 200))).score == 0.0


def test_unreadable_images_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = Sample("bad", tmp_path / "none.png", (9, 9), Annotations([[0, 0, 5, 5]], [0]))
    validate = Validate([*white_samples(), bad], ("white",), "voc07")
    assert validate(FindsWhite(Preprocessing(80, 200))).score == 1.0
    assert "'bad' is left out" in caplog.text
    with pytest.raises(InputError, match="none of the 1 validation images"):
        Validate([bad], ("white",), "voc07")(FindsWhite(Preprocessing(80, 200)))
    with pytest.raises(InputError, match="no sample to validate on"):
        Validate([], ("white",), "voc07")

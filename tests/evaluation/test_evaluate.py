from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tinydet.evaluation import evaluate, evaluate_coco, evaluate_voc
from tinydet.records import Annotations, Detections, Sample

CLASSES = ("cat", "dog", "bird")


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    made = []
    for number in range(6):
        corner = rng.uniform(0, 50, (3, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (3, 2))], axis=1)
        truth = Annotations(boxes, rng.integers(0, 2, 3), difficult=rng.random(3) < 0.3)
        made.append(Sample(str(number), Path(f"{number}.jpg"), (100, 100), truth))
    return made


@pytest.fixture
def detections(samples):
    rng = np.random.default_rng(1)
    found = {}
    for sample in samples[:-1]:  # the last has no entry
        boxes = np.sort((sample.annotations.boxes_xyxy + rng.normal(0, 3, (3, 4))).reshape(3, 2, 2), axis=1).reshape(
            3, 4
        )
        found[sample.image_id] = Detections(boxes, rng.random(3), sample.annotations.labels)
    return dict(reversed(found.items()))  # the order of entries means nothing


@pytest.mark.parametrize(("protocol", "rule"), [("voc07", "voc07"), ("voc", "area")])
def test_voc(samples, detections, protocol, rule):
    result = evaluate(samples, detections, CLASSES, protocol)
    found = [detections.get(sample.image_id, Detections.empty()) for sample in samples]
    expected = evaluate_voc([sample.annotations for sample in samples], found, CLASSES, rule=rule)
    assert result.primary == result.metrics["mAP"] == expected.mean_ap
    assert 0 < result.primary < 1
    assert list(result.per_class) == list(CLASSES)
    assert result.curves.keys() == {"cat", "dog"}
    assert result.curves["cat"].recall[-1] <= 1
    assert sum(result.objects.values()) == sum(int((~s.annotations.difficult).sum()) for s in samples)


def test_coco(samples, detections):
    result = evaluate(samples, detections, CLASSES, "coco")
    found = [detections.get(sample.image_id, Detections.empty()) for sample in samples]
    expected = evaluate_coco([sample.annotations for sample in samples], found, CLASSES)
    assert result.primary == result.metrics["AP"] == expected.metrics["AP"]
    assert result.metrics["mAP@0.5"] == result.metrics["AP50"]
    assert result.objects == evaluate(samples, detections, CLASSES, "voc").objects


@pytest.mark.parametrize("protocol", ["voc07", "voc", "coco"])
def test_as_json_has_no_nan(samples, detections, protocol):
    result = evaluate(samples, detections, CLASSES, protocol)
    assert math.isnan(result.per_class["bird"])
    plain = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert plain["per_class"]["bird"] is None
    assert plain["protocol"] == protocol
    assert plain["metrics"].keys() == result.metrics.keys()


def test_detections_of_other_images_are_refused(samples, detections):
    with pytest.raises(ValueError, match="1 images that are not among the samples, such as 'x'"):
        evaluate(samples, detections | {"x": Detections.empty()}, CLASSES, "voc07")
    with pytest.raises(ValueError, match="protocol 'voc12'"):
        evaluate(samples, detections, CLASSES, "voc12")


def test_no_samples():
    assert math.isnan(evaluate([], {}, CLASSES, "voc07").primary)
    assert math.isnan(evaluate([], {}, CLASSES, "coco").primary)

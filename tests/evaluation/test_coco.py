"""Against pycocotools."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest

from tinydet.evaluation.coco import evaluate_coco
from tinydet.records import Annotations, Detections

CLASSES = ("cat", "dog", "bird")
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def by_pycocotools(annotations, detections):
    """The twelve numbers, and AP and AP50 of each class; -1 where there is nothing."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box):
        x1, y1, x2, y2 = map(float, box)
        return [x1, y1, x2 - x1, y2 - y1]

    truth, found = COCO(), []
    entries = []
    for image, objects in enumerate(annotations, 1):
        for box, label, crowd, difficult in zip(objects.boxes_xyxy, objects.labels, objects.crowd, objects.difficult):
            x, y, width, height = xywh(box)
            entry = {
                "id": len(entries) + 1,
                "image_id": image,
                "category_id": int(label),
                "bbox": [x, y, width, height],
            }
            entries.append(entry | {"area": width * height, "iscrowd": int(crowd or difficult)})
    for image, objects in enumerate(detections, 1):
        for box, label, score in zip(objects.boxes_xyxy, objects.labels, objects.scores):
            entry = {"image_id": image, "category_id": int(label), "bbox": xywh(box), "score": float(score)}
            found.append(entry)
    truth.dataset = {
        "images": [{"id": image + 1, "width": 640, "height": 640} for image in range(len(annotations))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(CLASSES)],
        "annotations": entries,
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"][:, :, :, 0, -1]

    def mean(values):
        return float(np.mean(values[values > -1])) if (values > -1).any() else -1.0

    of_class = [mean(precision[:, :, label]) for label in range(3)]
    return run.stats.tolist(), of_class, [mean(precision[0, :, label]) for label in range(3)]


def random_set(seed, images=15, labels=3, crowds=True, most=8):
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for _ in range(images):
        count = int(rng.integers(0, 6))
        corner, size = (
            rng.uniform(0, 300, (count, 2)),
            rng.choice([20, 60, 200], (count, 1)) * rng.uniform(0.5, 1.5, (count, 2)),
        )
        boxes = np.concatenate([corner, corner + size], axis=1)
        classes = rng.integers(0, labels, count)
        flags = rng.random((2, count)) < (0.15 if crowds else 0)
        annotations.append(Annotations(boxes, classes, difficult=flags[0], crowd=flags[1]))
        pick = rng.integers(0, count, int(rng.integers(0, most))) if count else np.zeros(0, int)
        moved = boxes[pick] + rng.normal(0, 8, (len(pick), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
        scores = rng.integers(0, 20, len(pick)) / 20  # many tie
        detections.append(Detections(moved, scores, classes[pick]))
    return annotations, detections


def check(annotations, detections):
    result = evaluate_coco(annotations, detections, CLASSES)
    stats, of_class, of_class_50 = by_pycocotools(annotations, detections)
    ours = [-1 if math.isnan(result.metrics[name]) else result.metrics[name] for name in NAMES]
    assert ours == pytest.approx(stats, abs=1e-12)
    for values, expected in ((result.per_class, of_class), (result.per_class_50, of_class_50)):
        assert [-1 if math.isnan(values[name]) else values[name] for name in CLASSES] == pytest.approx(
            expected, abs=1e-12
        )
    assert result.metrics["mAP@0.5"] == pytest.approx(result.metrics["AP50"], nan_ok=True)
    return result


@pytest.mark.parametrize("seed", range(12))
def test_equals_pycocotools_with_crowds_difficult_objects_and_ties(seed):
    result = check(*random_set(seed))
    assert 0 < result.metrics["AP"] < 1


def test_equals_pycocotools_beyond_a_hundred_detections_an_image():
    annotations, detections = random_set(50, images=4, labels=1, most=9)
    many = [
        Detections(np.tile(d.boxes_xyxy, (40, 1)), np.tile(d.scores, 40), np.tile(d.labels, 40)) for d in detections
    ]
    assert max(map(len, many)) > 100
    check(annotations, many)


def test_a_class_without_ground_truth():
    result = check(*random_set(3, labels=2, crowds=False))
    assert math.isnan(result.per_class["bird"])
    assert not math.isnan(result.metrics["AP"])


def test_only_crowds():
    truth = Annotations([[0, 0, 50, 50]], [0], crowd=[True])
    result = evaluate_coco([truth], [Detections([[0, 0, 50, 50]], [0.5], [0])], CLASSES)
    assert all(math.isnan(value) for value in result.metrics.values())


def test_no_detection_no_object_no_image(capfd):
    cat = Annotations([[0, 0, 50, 50]], [0])
    nothing = evaluate_coco([cat], [Detections.empty()], CLASSES)
    assert nothing.metrics["AP"] == nothing.metrics["AR100"] == nothing.per_class["cat"] == 0
    assert math.isnan(nothing.per_class["dog"])
    only_found = evaluate_coco([Annotations.empty()], [Detections([[0, 0, 5, 5]], [0.5], [0])], CLASSES)
    assert math.isnan(only_found.metrics["AP"])
    assert math.isnan(evaluate_coco([], [], CLASSES).metrics["AP"])
    assert capfd.readouterr().out == ""  # the library prints when it is asked for its summary


def test_wrong_arguments():
    with pytest.raises(ValueError, match="1 images, detections of 0"):
        evaluate_coco([Annotations.empty()], [], CLASSES)
    with pytest.raises(ValueError, match="label 3"):
        evaluate_coco([Annotations.empty()], [Detections([[0, 0, 1, 1]], [0.5], [3])], CLASSES)

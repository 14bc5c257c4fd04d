"""Against the development kit's own steps, written out in loops on its inclusive pixel numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinydet.evaluation.voc import VocResult, average_precision, evaluate_voc
from tinydet.records import Annotations, Detections

CLASSES = ("cat", "dog", "bird")


def kit_evaluate(objects, found, class_label, rule, threshold=0.5):
    """`VOCevaldet.m` for one class: `objects` are (image, label, difficult, box), `found` (image, label, score, box).

    Boxes are xmin, ymin, xmax, ymax from 1, the last pixel included.
    """
    truth = {}
    positives = 0
    for image, label, difficult, box in objects:
        if label == class_label:
            truth.setdefault(image, []).append({"box": box, "difficult": difficult, "taken": False})
            positives += not difficult
    lines = [line for line in found if line[1] == class_label]
    lines.sort(key=lambda line: -line[2])  # Python's sort is stable, as MATLAB's
    true, false = [], []
    for image, _, _, box in lines:
        best, at = -math.inf, None
        for candidate in truth.get(image, []):
            other = candidate["box"]
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width > 0 and height > 0:
                area = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                area += (other[2] - other[0] + 1) * (other[3] - other[1] + 1) - width * height
                if width * height / area > best:
                    best, at = width * height / area, candidate
        is_true = is_false = 0
        if best >= threshold:
            if not at["difficult"]:
                is_true, is_false = (0, 1) if at["taken"] else (1, 0)
                at["taken"] = True
        else:
            is_false = 1
        true.append(is_true)
        false.append(is_false)
    if not positives:
        return math.nan
    recall, precision, all_true, all_false = [], [], 0, 0
    for is_true, is_false in zip(true, false):
        all_true, all_false = all_true + is_true, all_false + is_false
        recall.append(all_true / positives)
        precision.append(all_true / (all_true + all_false) if all_true + all_false else 0.0)
    return kit_ap(recall, precision, rule)


def kit_ap(recall, precision, rule):
    if rule == "voc07":
        grid = [0.0, 0.1, 0.2, 0.1 * 3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]  # MATLAB's 0:0.1:1
        return sum(max((p for r, p in zip(recall, precision) if r >= t), default=0.0) / 11 for t in grid)
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def random_set(seed, images=12):
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 5)):
            corner, size = rng.integers(1, 60, 2), rng.integers(0, 40, 2)
            box = (*corner, *(corner + size))
            label = int(rng.integers(0, 3))
            objects.append((image, label, bool(rng.random() < 0.2), box))
            for _ in range(rng.integers(0, 4)):  # good, poor and duplicate detections of it
                shift = rng.integers(-6, 7, 4)
                moved = np.array(box) + shift
                moved[2:] = np.maximum(moved[2:], moved[:2])
                wrong = int(rng.integers(0, 3)) if rng.random() < 0.1 else label
                found.append((image, wrong, float(rng.integers(0, 16) / 16), tuple(moved)))  # many scores tie
    return objects, found, images


def as_records(objects, found, images):
    """In the kit's file order: by image."""

    def corners(box):
        return (box[0] - 1, box[1] - 1, box[2], box[3])

    annotations, detections = [], []
    for image in range(images):
        ours = [entry for entry in objects if entry[0] == image]
        annotations.append(Annotations([corners(o[3]) for o in ours], [o[1] for o in ours], [o[2] for o in ours]))
        ours = [entry for entry in found if entry[0] == image]
        detections.append(Detections([corners(o[3]) for o in ours], [o[2] for o in ours], [o[1] for o in ours]))
    return annotations, detections


def evaluate_one(truth, found, rule="voc07") -> VocResult:
    return evaluate_voc([truth], [found], CLASSES, rule=rule)


@pytest.mark.parametrize("rule", ["voc07", "area"])
@pytest.mark.parametrize("seed", range(25))
def test_equals_the_development_kit(seed, rule):
    objects, found, images = random_set(seed)
    result = evaluate_voc(*as_records(objects, found, images), CLASSES, rule=rule)
    expected = [kit_evaluate(objects, found, label, rule) for label in range(3)]
    assert [result.classes[name].ap for name in CLASSES] == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert result.mean_ap == pytest.approx(np.nanmean(expected), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.3, 0.75, 1.0])
def test_other_thresholds(threshold):
    objects, found, images = random_set(100, images=40)
    result = evaluate_voc(*as_records(objects, found, images), CLASSES, iou_threshold=threshold, rule="area")
    expected = [kit_evaluate(objects, found, label, "area", threshold) for label in range(3)]
    assert [result.classes[name].ap for name in CLASSES] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", ["voc07", "area"])
@pytest.mark.parametrize("seed", range(10))
def test_both_rules_on_curves_of_ten_objects(seed, rule):
    """Ten objects put recall right on the eleven points, where rounding decides."""
    is_true = np.random.default_rng(seed).permutation([1] * 10 + [0] * 8)
    recall, precision = np.cumsum(is_true) / 10, np.cumsum(is_true) / np.arange(1, 19)
    assert average_precision(recall, precision, rule) == pytest.approx(kit_ap(recall, precision, rule), abs=1e-12)


def test_no_image_no_detection_no_object():
    assert math.isnan(evaluate_voc([], [], CLASSES).mean_ap)
    assert math.isnan(evaluate_one(Annotations.empty(), Detections.empty()).mean_ap)

    cat = Annotations([[0, 0, 10, 10]], [0])
    nothing = evaluate_one(cat, Detections.empty())
    assert nothing.mean_ap == 0
    assert nothing.classes["cat"].ap == 0
    assert len(nothing.classes["cat"].curve.recall) == 0

    only_found = evaluate_one(Annotations.empty(), Detections([[0, 0, 10, 10]], [0.9], [1]))
    assert math.isnan(only_found.classes["dog"].ap)
    assert only_found.classes["dog"].detections == 1


def test_a_class_without_ground_truth_is_not_in_the_mean():
    found = Detections([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8], [0, 1])
    result = evaluate_one(Annotations([[0, 0, 10, 10]], [0]), found)
    assert result.mean_ap == pytest.approx(1)
    assert math.isnan(result.classes["dog"].ap)


def test_only_difficult_objects():
    truth = Annotations([[0, 0, 10, 10]], [0], difficult=[True])
    result = evaluate_one(truth, Detections([[0, 0, 10, 10]], [0.9], [0])).classes["cat"]
    assert math.isnan(result.ap)
    assert (result.objects, result.difficult, result.detections, len(result.curve.scores)) == (0, 1, 1, 0)


def test_a_difficult_object_forgives_every_detection_of_it():
    truth = Annotations([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], difficult=[True, False])
    found = Detections([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], [0.9, 0.8, 0.7], [0, 0, 0])
    result = evaluate_one(truth, found).classes["cat"]
    assert result.ap == pytest.approx(1)
    assert result.curve.precision.tolist() == [1.0]


def test_a_duplicate_is_false_even_beside_a_free_object():
    """The second detection overlaps both objects enough, but the taken one most."""
    truth = Annotations([[0, 0, 10, 10], [0, 2, 10, 12]], [0, 0])
    found = Detections([[0, 0, 10, 10], [0, 0.5, 10, 10.5]], [0.9, 0.8], [0, 0])
    result = evaluate_one(truth, found, "area").classes["cat"]
    assert (result.true_positives, result.ap) == (1, 0.5)
    assert result.curve.precision.tolist() == [1.0, 0.5]


def test_an_overlap_of_exactly_half_counts():
    truth = Annotations([[0, 0, 10, 10]], [0])
    assert evaluate_one(truth, Detections([[0, 0, 10, 5]], [0.9], [0])).mean_ap == pytest.approx(1)
    assert evaluate_one(truth, Detections([[0, 0, 10, 4.99]], [0.9], [0])).mean_ap == 0


def test_tied_scores_keep_the_order_of_the_images():
    truth = [Annotations([[0, 0, 10, 10]], [0]), Annotations.empty()]
    hit, miss = Detections([[0, 0, 10, 10]], [0.5], [0]), Detections([[0, 0, 10, 10]], [0.5], [0])
    assert evaluate_voc(truth, [hit, miss], CLASSES).mean_ap == pytest.approx(1)
    assert evaluate_voc(truth[::-1], [miss, hit], CLASSES).mean_ap == pytest.approx(0.5)


def test_crowd_regions_are_neither_rewarded_nor_punished():
    truth = Annotations([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], crowd=[True, False])
    found = Detections([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8], [0, 0])
    assert evaluate_one(truth, found).mean_ap == pytest.approx(1)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="1 images, detections of 0"):
        evaluate_voc([Annotations.empty()], [], CLASSES)
    with pytest.raises(ValueError, match="label 3"):
        evaluate_one(Annotations.empty(), Detections([[0, 0, 1, 1]], [0.5], [3]))
    with pytest.raises(ValueError, match="iou_threshold"):
        evaluate_voc([], [], CLASSES, iou_threshold=0)
    with pytest.raises(ValueError, match="rule"):
        evaluate_one(Annotations([[0, 0, 1, 1]], [0]), Detections.empty(), rule="voc12")

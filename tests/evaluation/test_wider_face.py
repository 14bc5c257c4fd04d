"""Against the official tool's steps written out in loops; `tests/cli/test_score.py` has the published figures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tinydet.errors import InputError, MissingExtraError
from tinydet.evaluation import evaluate
from tinydet.evaluation.wider_face import SUBSETS, WiderFaces, evaluate_wider_face, read_ground_truth
from tinydet.records import Detections


def official_ap(faces, found, subset):
    """`wider_eval.m` for one subset.

    `faces` maps names to boxes and, by subset, numbers from 1; `found` to rows of x, y, width, height, score.
    """
    every = np.concatenate([rows[:, 4] for rows in found.values()])
    low, high = every.min(), every.max()
    proposals, recalled, total = np.zeros(1000), np.zeros(1000), 0
    for name, (xywh, numbers) in faces.items():
        total += len(numbers[subset])
        rows = found.get(name, np.zeros((0, 5)))
        if not len(xywh) or not len(rows):
            continue
        wanted = [face + 1 in numbers[subset] for face in range(len(xywh))]
        state, is_proposal, so_far = [0] * len(xywh), [], []
        for x, y, width, height, _ in rows:
            best, at = -1.0, 0
            for face, (fx, fy, fw, fh) in enumerate(xywh):
                w = min(x + width, fx + fw) - max(x, fx) + 1
                h = min(y + height, fy + fh) - max(y, fy) + 1
                overlap = 0.0
                if w > 0 and h > 0:
                    overlap = w * h / ((width + 1) * (height + 1) + (fw + 1) * (fh + 1) - w * h)
                if overlap > best:
                    best, at = overlap, face
            proposal = 1
            if best >= 0.5:
                if not wanted[at]:
                    state[at], proposal = -1, -1
                elif state[at] == 0:
                    state[at] = 1
            is_proposal.append(proposal)
            so_far.append(state.count(1))
        for step in range(1000):
            reached = [i for i, row in enumerate(rows) if (row[4] - low) / (high - low) >= 1 - (step + 1) / 1000]
            if reached:
                proposals[step] += is_proposal[: reached[-1] + 1].count(1)
                recalled[step] += so_far[reached[-1]]
    precision = [r / p if p else 0 for r, p in zip(recalled, proposals)]
    recall, precision = [0.0, *(recalled / total), 1.0], [0.0, *precision, 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def random_set(seed):
    """Integer boxes; numbers of the subsets nest as the official ones do."""
    rng = np.random.default_rng(seed)
    faces, found = {}, {}
    for image in range(8):
        count = int(rng.integers(0, 6)) if image else 0  # the first has none
        xywh = np.concatenate([rng.integers(0, 60, (count, 2)), rng.integers(2, 30, (count, 2))], axis=1)
        level = rng.integers(0, 4, count)
        numbers = {subset: np.flatnonzero(level <= at) + 1 for at, subset in enumerate(SUBSETS)}
        faces[f"{image % 2}--Event/face_{image}"] = (xywh, numbers)
        rows = []
        for box in xywh[rng.integers(0, count, 3 * count)] if count else [np.array([1, 1, 9, 9])]:
            moved = np.maximum(box + rng.integers(-3, 4, 4), 0)
            rows.append([*moved, rng.integers(1, 60) / 64])
        if image != 5:  # one image without detections
            found[f"{image % 2}--Event/face_{image}"] = np.array(sorted(rows, key=lambda row: -row[4]), float)
    return faces, found


def as_records(faces, found):
    truth = {}
    for name, (xywh, numbers) in faces.items():
        corners = xywh.astype(float)
        corners[:, 2:] += corners[:, :2]
        counted = {subset: np.isin(np.arange(1, len(xywh) + 1), numbers[subset]) for subset in SUBSETS}
        truth[name] = WiderFaces(corners, counted)
    detections = {}
    for name, rows in found.items():
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        detections[name] = Detections(corners, rows[:, 4], np.zeros(len(rows)))
    return truth, detections


def write_mats(folder, faces):
    """In the layout of the official files."""
    from scipy.io import savemat

    events = sorted({name.split("/")[0] for name in faces})

    def cells(values):
        column = np.empty((len(values), 1), object)
        for at, value in enumerate(values):
            column[at, 0] = value
        return column

    def per_event(value):
        return cells([cells([value(name) for name in faces if name.startswith(event)]) for event in events])

    common = {"event_list": cells(events), "file_list": per_event(lambda name: name.split("/")[1])}
    savemat(folder / "wider_face_val.mat", common | {"face_bbx_list": per_event(lambda name: faces[name][0])})
    for subset in SUBSETS:
        lists = per_event(lambda name, subset=subset: faces[name][1][subset].reshape(-1, 1))
        savemat(folder / f"wider_{subset}_val.mat", common | {"gt_list": lists})


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_official_steps(seed):
    faces, found = random_set(seed)
    result = evaluate_wider_face(*as_records(faces, found))
    for subset in SUBSETS:
        assert result.ap[subset] == pytest.approx(official_ap(faces, found, subset), abs=1e-12)
        assert result.faces[subset] == sum(len(numbers[subset]) for _, numbers in faces.values())


def test_reads_ground_truth_in_the_official_layout(tmp_path):
    faces, found = random_set(1)
    write_mats(tmp_path, faces)
    truth, detections = as_records(faces, found)
    read = read_ground_truth(tmp_path)
    assert read.keys() == truth.keys()
    for name in truth:
        assert np.array_equal(read[name].boxes_xyxy, truth[name].boxes_xyxy)
        for subset in SUBSETS:
            assert np.array_equal(read[name].counted[subset], truth[name].counted[subset])
    result = evaluate((), detections, ("face",), "wider", tmp_path)
    assert result.metrics == evaluate_wider_face(truth, detections).ap
    assert result.primary == result.metrics["hard"]


def test_no_detection_and_no_face():
    truth, detections = as_records(*random_set(2))
    assert set(evaluate_wider_face(truth, {}).ap.values()) == {0.0}
    assert all(np.isnan(ap) for ap in evaluate_wider_face({}, {}).ap.values())
    with pytest.raises(ValueError, match="not in the ground truth, such as 'x/y'"):
        evaluate_wider_face(truth, detections | {"x/y": Detections.empty()})


def test_one_score_for_all():
    truth, _ = as_records(*random_set(2))
    found = {
        name: Detections(f.boxes_xyxy, np.full(len(f.boxes_xyxy), 0.5), np.zeros(len(f.boxes_xyxy)))
        for name, f in truth.items()
    }
    assert evaluate_wider_face(truth, found).ap["hard"] > 0.9


def test_other_classes_are_passed_over(tmp_path):
    faces, found = random_set(1)
    write_mats(tmp_path, faces)
    truth, detections = as_records(faces, found)
    as_second = {name: Detections(d.boxes_xyxy, d.scores, np.ones(len(d))) for name, d in detections.items()}
    expected = evaluate_wider_face(truth, detections).ap
    assert evaluate((), as_second, ("hand", "face"), "wider", tmp_path).metrics == expected
    assert evaluate((), detections, ("hand", "face"), "wider", tmp_path).metrics["hard"] == 0
    with pytest.raises(InputError, match="'face' or a single class; found hand, foot"):
        evaluate((), detections, ("hand", "foot"), "wider", tmp_path)
    with pytest.raises(InputError, match="official ground truth"):
        evaluate((), detections, ("face",), "wider")


def test_ground_truth_that_is_not(tmp_path):
    with pytest.raises(InputError, match=r"wider_face_val.mat: no such file"):
        read_ground_truth(tmp_path)
    faces, _ = random_set(1)
    write_mats(tmp_path, faces)
    (tmp_path / "wider_easy_val.mat").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"wider_easy_val.mat: not WIDER FACE's ground truth"):
        read_ground_truth(tmp_path)
    name = next(name for name, (xywh, _) in faces.items() if len(xywh))
    faces[name][1]["hard"] = np.array([99])
    write_mats(tmp_path, faces)
    with pytest.raises(InputError, match=r"wider_hard_val.mat: gt_list of .* 99, but there are"):
        read_ground_truth(tmp_path)


def test_without_scipy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingExtraError, match=r"tinydet\[wider\]"):
        read_ground_truth(tmp_path)

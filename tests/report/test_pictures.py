from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet.errors import InputError
from tinydet.records import Annotations, Detections, Sample
from tinydet.report.pictures import hits, read_pictures, save_pictures


def test_pictures_read_back(run_folder: Path) -> None:
    pictures = read_pictures(run_folder)
    assert pictures is not None
    row = pictures.rows[0]
    assert row.size_hw == (60, 80)
    assert row.annotations.boxes_xyxy.tolist() == [[5, 5, 40, 40]]
    assert row.detections["qm"].scores == pytest.approx([0.9, 0.6])
    with Image.open(row.jpeg) as image:
        assert image.size == (80, 60)


def test_a_run_without_pictures(tmp_path: Path) -> None:
    assert read_pictures(tmp_path) is None


def test_large_images_shrink_and_boxes_stay_in_original_pixels(tmp_path: Path) -> None:
    sample = Sample("a", np.zeros((1000, 2000, 3), np.uint8), (1000, 2000), Annotations([[1500, 900, 2000, 1000]], [0]))
    low = Detections([[0, 0, 5, 5]], [0.05], [0])
    save_pictures(tmp_path, [sample], {"a": [low]}, ["cat"])
    pictures = read_pictures(tmp_path)
    assert pictures is not None
    with Image.open(pictures.rows[0].jpeg) as image:
        assert image.size == (640, 320)
    assert pictures.rows[0].annotations.boxes_xyxy.max() == 2000
    assert len(pictures.rows[0].detections["a"]) == 0


def test_one_detections_a_sample(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 detections for 0 samples"):
        save_pictures(tmp_path, [], {"a": [Detections.empty()]}, ["cat"])


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["rows"][0].update(jpeg="../../secret.jpg"),
        lambda d: d["rows"][0].update(jpeg="/etc/passwd"),
        lambda d: d["rows"][0].update(jpeg="007.jpg"),
        lambda d: d["rows"][0]["annotations"].update(labels=[7]),
        lambda d: d["rows"][0]["detections"]["qm"].update(scores=[2, 1]),
        lambda d: d.pop("classes"),
    ],
)
def test_a_file_that_was_altered_is_refused(run_folder: Path, change: object) -> None:
    path = run_folder / "pictures" / "pictures.json"
    value = json.loads(path.read_text())
    change(value)  # type: ignore[operator]
    path.write_text(json.dumps(value))
    with pytest.raises(InputError):
        read_pictures(run_folder)


def test_hits_follow_the_rules_of_voc() -> None:
    truth = Annotations([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [0, 0, 1], difficult=[False, True, False])
    found = Detections(
        [[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [40, 0, 44, 10]],
        [0.9, 0.8, 0.7, 0.6, 0.5],
        [0, 0, 0, 0, 1],
    )
    # found; a second time; difficult; wrong class; too little overlap
    assert hits(truth, found).tolist() == [0, -1, -2, -1, -1]
    assert hits(Annotations.empty(), found).tolist() == [-1] * 5
    assert hits(truth, Detections.empty()).tolist() == []

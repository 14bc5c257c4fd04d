from __future__ import annotations

import json

import numpy as np
import pytest

from tinydet.datasets import open_dataset
from tinydet.datasets.coco import file_text
from tinydet.errors import InputError


def content(images=None, annotations=None, categories=None):
    return {
        "info": {"year": 2020},
        "images": [{"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}] if images is None else images,
        "annotations": [] if annotations is None else annotations,
        "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}] if categories is None else categories,
    }


def box(**changes):
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": [4, 5, 16, 25], "iscrowd": 0} | changes


@pytest.fixture
def coco(tmp_path, save_image):
    """Writes `set/annotations/instances_train2017.json` and its image."""

    def write(name="annotations/instances_train2017.json", **parts):
        save_image(tmp_path / "set" / "train2017" / "a.jpg")
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file_text(content(**parts)))
        return tmp_path / "set"

    return write


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("", "empty-file", None),
        ('{\n"images": [\n', "malformed-file", 3),
        ("[1, 2]", "malformed-file", 1),
        ('{"images": 3, "annotations": []}', "malformed-file", 1),
        ("[" * 100_000, "malformed-file", None),
    ],
)
def test_files_that_cannot_be_read(coco, text, kind, line):
    root = coco()
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(text)
    fault = open_dataset(path).faults[0]
    assert (fault.kind, fault.line) == (kind, line)


def test_boxes_are_corner_and_size_and_classes_follow_their_ids(coco):
    annotations = [box(), box(id=2, category_id=1, bbox=[0.5, 0, 10.25, 8], iscrowd=1), box(id=3, difficult=1)]
    dataset = open_dataset(coco(annotations=annotations))
    assert (dataset.faults, dataset.classes, list(dataset.splits)) == ((), ("cat", "dog"), ["train"])
    sample = dataset.split("train")[0]
    assert (sample.image_id, sample.size_hw) == ("7", (40, 60))
    assert sample.annotations.boxes_xyxy.tolist() == [[4, 5, 20, 30], [0.5, 0, 10.75, 8], [4, 5, 20, 30]]
    assert sample.annotations.labels.tolist() == [1, 0, 1]
    assert sample.annotations.crowd.tolist() == [False, True, False]
    assert sample.annotations.difficult.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("changes", "kind", "left"),
    [
        ({"bbox": [4, 5, 16]}, "malformed-object", 1),
        ({"bbox": None}, "malformed-object", 1),
        ({"bbox": [4, 5, "16", 2]}, "malformed-object", 1),
        ({"bbox": [4, 5, float("nan"), 2]}, "malformed-object", 1),
        ({"bbox": [4, 5, 0, 2]}, "box-without-area", 1),
        ({"bbox": [4, 5, -3, 2]}, "box-without-area", 1),
        ({"bbox": [100, 5, 3, 2]}, "box-outside-image", 1),
        ({"bbox": [50, 5, 13, 2]}, "box-outside-image", 2),
        ({"category_id": 9}, "unknown-class", 1),
        ({"category_id": None}, "unknown-class", 1),
        ({"image_id": 99}, "missing-image", 1),
        ({"image_id": [7]}, "malformed-object", 1),
        ({"id": 1}, "duplicate-id", 2),
    ],
)
def test_a_faulty_annotation_is_named_with_its_line(coco, changes, kind, left):
    root = coco(annotations=[box(), box(id=5) | changes])
    dataset = open_dataset(root)
    (fault,) = dataset.faults
    text = (root / "annotations" / "instances_train2017.json").read_text().splitlines()
    assert fault.kind == kind
    assert json.loads(text[fault.line - 1])["id"] == ({"id": 5} | changes)["id"]
    assert len(dataset.split("train")[0].annotations) == left


def test_faulty_images(coco):
    good = {"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}
    images = [good, good | {"file_name": "b.jpg"}, {"id": 8, "file_name": "gone.jpg"}, {"id": 9}, "words"]
    dataset = open_dataset(coco(images=images))
    assert [(fault.kind, fault.line) for fault in dataset.faults] == [
        ("duplicate-id", 5),
        ("malformed-object", 7),
        ("malformed-object", 8),
        ("missing-image", 6),
    ]
    assert len(dataset.split("train")) == 1


def test_a_size_that_differs_and_a_path_that_leads_out(coco, save_image, tmp_path):
    save_image(tmp_path / "secret.jpg")
    images = [{"id": 7, "file_name": "a.jpg", "width": 50, "height": 40}, {"id": 8, "file_name": "../../secret.jpg"}]
    dataset = open_dataset(coco(images=images))
    assert [(fault.kind, fault.line) for fault in dataset.faults] == [("size-differs", 4), ("missing-image", 5)]
    assert dataset.split("train")[0].size_hw == (40, 60)


def test_one_file_by_itself_and_a_folder_for_each_split(tmp_path, save_image):
    path = tmp_path / "labels.json"
    save_image(tmp_path / "images" / "a.jpg")
    path.write_text(file_text(content(annotations=[box()])))
    assert {name: len(samples) for name, samples in open_dataset(path).splits.items()} == {"all": 1}
    assert list(open_dataset(tmp_path).splits) == ["all"]
    for split in ("train", "valid"):
        save_image(tmp_path / "flow" / split / f"{split}.jpg")
        images = [{"id": 0, "file_name": f"{split}.jpg"}]
        categories = [{"id": 0, "name": "pets"}, {"id": 1, "name": "cat", "supercategory": "pets"}]
        annotations = [box(image_id=0, category_id=1)]
        text = file_text(content(images=images, annotations=annotations, categories=categories))
        (tmp_path / "flow" / split / "_annotations.coco.json").write_text(text)
    dataset = open_dataset(tmp_path / "flow")
    assert dataset.classes == ("cat",)
    # both files number their images from 0
    assert {name: [s.image_id for s in samples] for name, samples in dataset.splits.items()} == {
        "train": ["train/0"],
        "valid": ["valid/0"],
    }


def test_other_json_in_the_folder_is_passed_over(coco):
    root = coco(annotations=[box()])
    (root / "annotations" / "captions_train2017.json").write_text(file_text(content()))
    (root / "annotations" / "notes.json").write_text("{}")
    assert list(open_dataset(root).splits) == ["train"]


def test_classes_asked_for(coco):
    root = coco(annotations=[box(), box(id=2, category_id=1)])
    dataset = open_dataset(root, ["dog"])
    assert [fault.kind for fault in dataset.faults] == ["unknown-class"]
    assert dataset.split("train")[0].annotations.labels.tolist() == [0]


def test_a_set_that_lists_no_image_is_refused(coco):
    with pytest.raises(InputError, match="lists no image"):
        open_dataset(coco(images=[]))


def test_pycocotools_reads_what_is_written(tmp_path, voc_root):
    from pycocotools.coco import COCO

    from tinydet.datasets import convert_dataset

    dataset = open_dataset(voc_root)
    convert_dataset(dataset, "coco", tmp_path / "out")
    oracle = COCO(str(tmp_path / "out" / "annotations" / "instances_trainval.json"))
    names = [category["name"] for category in oracle.loadCats(sorted(oracle.getCatIds()))]
    assert tuple(names) == dataset.classes
    for sample in dataset.split("trainval"):
        (image,) = [i for i in oracle.dataset["images"] if i["file_name"] == f"{sample.image_id}.jpg"]
        found = oracle.loadAnns(oracle.getAnnIds(imgIds=image["id"]))
        xywh = np.array([a["bbox"] for a in found]).reshape(-1, 4)
        np.testing.assert_allclose(np.c_[xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], sample.annotations.boxes_xyxy)
        assert [a["category_id"] - 1 for a in found] == sample.annotations.labels.tolist()

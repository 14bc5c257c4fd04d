from __future__ import annotations

import numpy as np
import pytest

from tinydet.datasets import open_dataset
from tinydet.errors import InputError


@pytest.fixture
def yolo(tmp_path, save_image):
    """Writes a set of one 60 x 40 image with these labels, and its `data.yaml`."""

    def write(labels="", yaml="train: images/train\nnames: [cat, dog]\n"):
        save_image(tmp_path / "images" / "train" / "a.jpg")
        path = tmp_path / "labels" / "train" / "a.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(labels)
        (tmp_path / "data.yaml").write_text(yaml)
        return tmp_path

    return write


def test_an_empty_label_file_is_an_image_without_objects(yolo):
    dataset = open_dataset(yolo())
    assert dataset.faults == ()
    assert [(s.image_id, len(s.annotations)) for s in dataset.split("train")] == [("train/a", 0)]


def test_boxes_are_centre_and_size_in_parts_of_the_image(yolo):
    dataset = open_dataset(yolo("0 0.5 0.5 0.5 0.25\n\n1 0.2 0.4 0.4 0.8\n"))
    annotations = dataset.split("train")[0].annotations
    assert annotations.boxes_xyxy.tolist() == [[15, 15, 45, 25], [0, 0, 24, 32]]
    assert annotations.labels.tolist() == [0, 1]


def test_a_polygon_becomes_its_box(yolo):
    dataset = open_dataset(yolo("1 0.1 0.2 0.5 0.1 0.4 0.9\n"))
    assert dataset.split("train")[0].annotations.boxes_xyxy.tolist() == [[6, 4, 30, 36]]


@pytest.mark.parametrize(
    ("line", "kind", "left"),
    [
        ("0 0.5 0.5 0.5", "malformed-object", 1),
        ("cat 0.5 0.5 0.5 0.5", "malformed-object", 1),
        ("0.5 0.5 0.5 0.5 0.5", "malformed-object", 1),
        ("0 nan 0.5 0.5 0.5", "malformed-object", 1),
        ("2 0.5 0.5 0.5 0.5", "unknown-class", 1),
        ("-1 0.5 0.5 0.5 0.5", "unknown-class", 1),
        ("0 0.5 0.5 0 0.5", "box-without-area", 1),
        ("0 1.5 0.5 0.5 0.5", "box-outside-image", 1),
        ("0 0.9 0.5 0.5 0.5", "box-outside-image", 2),
        ("0 30 20 10 10", "box-outside-image", 1),  # pixels where parts are expected
    ],
)
def test_a_faulty_line_is_named(yolo, line, kind, left):
    dataset = open_dataset(yolo(f"0 0.5 0.5 0.1 0.1\n{line}\n"))
    (fault,) = dataset.faults
    assert (fault.kind, fault.path.name, fault.line) == (kind, "a.txt", 2)
    assert len(dataset.split("train")[0].annotations) == left


def test_a_missing_label_file(yolo, save_image, kinds):
    root = yolo()
    save_image(root / "images" / "train" / "b.jpg")
    dataset = open_dataset(root)
    assert kinds(dataset) == ["missing-label"]
    assert [sample.image_id for sample in dataset.split("train")] == ["train/a"]


def test_two_images_with_one_label_file(yolo, save_image, kinds):
    root = yolo()
    save_image(root / "images" / "train" / "a.png")
    assert kinds(open_dataset(root)) == ["duplicate-id"]


def test_binary_labels(yolo, kinds):
    root = yolo()
    (root / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe\x00\x80")
    assert kinds(open_dataset(root)) == ["malformed-file"]


@pytest.mark.parametrize(
    "yaml",
    [
        "train: images/train\nnames: {0: cat, 1: dog}",
        "train: [images/train]\nval: images/train\nnc: 2\nnames: [cat, dog]",
        "path: /not/on/this/computer\ntrain: images/train\nnames: [cat, dog]",
        "path: images\ntrain: train\nnames: [cat, dog]",
        "train: ../images/train\nnames: [cat, dog]",
        "train: train.txt\nnames: [cat, dog]",
    ],
)
def test_ways_to_say_where_the_images_are(yolo, yaml):
    root = yolo("1 0.5 0.5 0.5 0.5", yaml)
    (root / "train.txt").write_text("./images/train/a.jpg\n")
    for path in (root, root / "data.yaml"):
        dataset = open_dataset(path)
        assert dataset.faults == ()
        assert dataset.classes == ("cat", "dog")
        assert dataset.split("train")[0].annotations.labels.tolist() == [1]


def test_indices_with_a_gap(yolo):
    root = yolo("7 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5", "train: images/train\nnames: {2: cat, 7: dog}")
    dataset = open_dataset(root)
    assert dataset.classes == ("cat", "dog")
    assert dataset.split("train")[0].annotations.labels.tolist() == [1]
    assert [fault.kind for fault in dataset.faults] == ["unknown-class"]


def test_classes_are_taken_by_name(yolo):
    root = yolo("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.2 0.2")
    dataset = open_dataset(root, ["dog"])
    assert dataset.split("train")[0].annotations.labels.tolist() == [0]
    assert [(fault.kind, fault.line) for fault in dataset.faults] == [("unknown-class", 1)]


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("", "empty"),
        ("names: [cat\ntrain: x", r"data.yaml:\d+: not valid YAML"),
        ("train: images/train", "no `names`"),
        ("names: [cat, dog]", "no split"),
        ("train: images/train\nnames: [cat, cat]", "a class twice"),
        ("train: images/train\nnc: 3\nnames: [cat, dog]", "`nc` is 3"),
        ("train: images/train\nnames: {first: cat}", "not an index"),
    ],
)
def test_a_data_yaml_that_cannot_be_used(yolo, yaml, says):
    with pytest.raises(InputError, match=says):
        open_dataset(yolo(yaml=yaml))


def test_lists_with_faults(yolo):
    root = yolo(yaml="train: train.txt\nval: nowhere\ntest: empty.txt\nnames: [cat, dog]")
    (root / "train.txt").write_text("./images/train/a.jpg\nimages/train/gone.jpg\n./images/train/a.jpg\n")
    (root / "empty.txt").write_text("")
    found = [(fault.kind, fault.path.name, fault.line) for fault in open_dataset(root).faults]
    assert found == [
        ("missing-image", "train.txt", 2),
        ("duplicate-id", "train.txt", 3),
        ("missing-image", "data.yaml", None),
        ("empty-file", "empty.txt", None),
    ]


def test_folders_without_a_yaml(tmp_path, save_image):
    save_image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.5")
    with pytest.raises(InputError, match=r"no data set is recognised(.|\n)*Found: images/, labels/"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, ["cat", "dog"]).split("all")[0].annotations.labels.tolist() == [1]
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog")
    np.testing.assert_array_equal(dataset.split("all")[0].annotations.boxes_xyxy, [[15, 10, 45, 30]])


def test_splits_that_hold_images_and_labels(tmp_path, save_image):
    save_image(tmp_path / "train" / "images" / "a.jpg")
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nnames: [cat]")
    dataset = open_dataset(tmp_path)
    assert [(s.image_id, len(s.annotations)) for s in dataset.split("train")] == [("train/a", 1)]

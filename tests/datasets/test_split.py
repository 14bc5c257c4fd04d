from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from tinydet.datasets import convert_dataset, make_digits, open_dataset, split_dataset, write_splits
from tinydet.datasets.open import find_source
from tinydet.errors import InputError
from tinydet.records import Annotations, Dataset, Sample


def made(labels):
    """A set of one image a list of labels."""
    samples = []
    for number, of_image in enumerate(labels):
        boxes = np.tile(np.array([[0, 0, 5, 5]], np.float32), (len(of_image), 1))
        annotations = Annotations(boxes, np.array(of_image, np.int64))
        samples.append(Sample(f"{number:04d}", np.zeros((8, 8, 3), np.uint8), (8, 8), annotations))
    return Dataset("made", ("a", "b", "c"), {"all": tuple(samples)})


def ids(dataset):
    return {name: [sample.image_id for sample in samples] for name, samples in dataset.splits.items()}


def test_an_empty_set_cannot_be_split():
    with pytest.raises(InputError, match="0 images are too few for 2 splits"):
        split_dataset(made([]))


def test_every_image_once_and_the_same_for_the_same_seed():
    dataset = made([[number % 3] for number in range(100)])
    first = split_dataset(dataset, (0.7, 0.1, 0.2), seed=4)
    assert {name: len(samples) for name, samples in first.splits.items()} == {"train": 70, "val": 10, "test": 20}
    assert sorted(name for names in ids(first).values() for name in names) == [f"{number:04d}" for number in range(100)]
    backwards = Dataset("made", dataset.classes, {"all": dataset.split("all")[::-1]})
    assert ids(split_dataset(backwards, (0.7, 0.1, 0.2), seed=4)) == ids(first)
    assert ids(split_dataset(dataset, (0.7, 0.1, 0.2), seed=5)) != ids(first)


def test_a_rare_class_is_put_into_both_splits():
    dataset = made([[0]] * 48 + [[0, 2]] * 2)
    for seed in range(8):
        for samples in split_dataset(dataset, (0.5, 0.5), seed).splits.values():
            assert {label for sample in samples for label in sample.annotations.labels.tolist()} == {0, 2}


@pytest.mark.parametrize(
    ("fractions", "names"), [((0.8, 0.3), None), ((1.2, -0.2), None), ((0.5, 0.5), ("a", "a")), ((0.25,) * 4, None)]
)
def test_fractions_that_make_no_sense(fractions, names):
    with pytest.raises(InputError):
        split_dataset(made([[0]] * 10), fractions, names=names)


def test_dividing_one_split_leaves_the_others(voc_root):
    divided = split_dataset(open_dataset(voc_root), (0.5, 0.5), names=("x", "y"), of="trainval")
    assert {name: len(samples) for name, samples in divided.splits.items()} == {
        "train": 2, "val": 2, "trainval": 4, "x": 2, "y": 2,
    }  # fmt: skip


def test_voc_lists_beside_the_data(voc_root):
    source = find_source(voc_root)
    divided = split_dataset(open_dataset(voc_root), (0.75, 0.25), seed=1)
    with pytest.raises(InputError, match="--force"):
        write_splits(divided, source, ["train", "val"])
    before = (voc_root / "ImageSets" / "Main" / "train.txt").read_text()
    write_splits(divided, source, ["train", "val"], overwrite=True)
    assert ids(open_dataset(voc_root)) == ids(divided)  # trainval is put aside, for it would hold the test images
    assert (voc_root / "ImageSets" / "Main" / "train.txt.old").read_text() == before


def test_lists_for_a_bare_folder(tmp_path, save_image, voc_xml, voc_object):
    for number in range(10):
        save_image(tmp_path / "images" / f"{number}.jpg")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{number}.xml").write_text(voc_xml([voc_object()]))
    divided = split_dataset(open_dataset(tmp_path), seed=1)
    write_splits(divided, find_source(tmp_path), ["train", "val"])
    assert ids(open_dataset(tmp_path)) == ids(divided)


def test_a_folder_marked_read_only_is_left_alone(tmp_path, save_image, voc_xml, voc_object):
    for number in range(4):
        save_image(tmp_path / "set" / f"{number}.jpg")
        (tmp_path / "set" / f"{number}.xml").write_text(voc_xml([voc_object()]))
    divided = split_dataset(open_dataset(tmp_path / "set"), (0.5, 0.5))
    (tmp_path / "set").chmod(0o555)
    try:
        with pytest.raises(InputError, match="set is marked read-only; give --out"):
            write_splits(divided, find_source(tmp_path / "set"), ["train", "val"])
        assert not (tmp_path / "set" / "ImageSets").exists()
    finally:
        (tmp_path / "set").chmod(0o755)


def test_coco_files_keep_what_tinydet_does_not_read(tmp_path, save_image):
    images = [{"id": n, "file_name": f"{n}.jpg", "licence": n} for n in range(10)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[n]]} for n in range(10)
    ]
    path = tmp_path / "labels.json"
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}], "info": {"a": 1}}
    path.write_text(json.dumps(content))
    for n in range(10):
        save_image(tmp_path / f"{n}.jpg")
    divided = split_dataset(open_dataset(path))
    write_splits(divided, find_source(path), ["train", "val"])
    assert ids(open_dataset(tmp_path)) == ids(divided)
    written = json.loads((tmp_path / "instances_train.json").read_text())
    assert written["info"] == {"a": 1}
    assert written["images"][0]["licence"] == written["annotations"][0]["segmentation"][0][0]


def test_yolo_lists_and_data_yaml(tmp_path, voc_root):
    convert_dataset(open_dataset(voc_root), "yolo", tmp_path / "yolo")
    file = tmp_path / "yolo" / "data.yaml"
    file.write_text(file.read_text() + "roboflow: {version: 1}\n")
    divided = split_dataset(open_dataset(tmp_path / "yolo"), (0.5, 0.25, 0.25))
    with pytest.raises(InputError, match=r"train\.txt exists"):
        write_splits(divided, find_source(tmp_path / "yolo"), ["train", "val", "test"])
    write_splits(divided, find_source(tmp_path / "yolo"), ["train", "val", "test"], overwrite=True)
    again = open_dataset(tmp_path / "yolo")
    assert again.faults == ()
    assert ids(again) == ids(divided)
    assert yaml.safe_load(file.read_text())["roboflow"] == {"version": 1}
    assert "trainval" in (tmp_path / "yolo" / "data.yaml.old").read_text()


def test_the_digits_train_and_test_images_can_be_pooled_into_a_copy(tmp_path):
    divided = split_dataset(make_digits(train=4, val=1, test=0), (0.6, 0.4))
    convert_dataset(divided, "voc", tmp_path / "voc")
    assert ids(open_dataset(tmp_path / "voc")) == ids(divided)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinydet.datasets import convert_dataset, make_digits, open_dataset
from tinydet.errors import InputError
from tinydet.records import Annotations, Dataset, Sample


def by_name(dataset):
    """Boxes, class names and difficult flags of each image by the name of its file, for each split."""
    return {
        split: {
            Path(s.image if isinstance(s.image, Path) else s.image_id).stem: (
                s.size_hw,
                s.annotations.boxes_xyxy.tolist(),
                [dataset.classes[label] for label in s.annotations.labels],
                s.annotations.difficult.tolist(),
            )
            for s in samples
        }
        for split, samples in dataset.splits.items()
    }


def without_difficult(content):
    return {split: {name: value[:3] for name, value in images.items()} for split, images in content.items()}


def test_nothing_to_write(tmp_path):
    with pytest.raises(InputError, match="no usable image"):
        convert_dataset(Dataset("empty", ("a",), {"all": ()}), "voc", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_these_layouts_keep_everything(voc_root, tmp_path, layout):
    dataset = open_dataset(voc_root)
    done = convert_dataset(dataset, layout, tmp_path / "out")
    assert (done.images, done.boxes, done.lost) == (4, 5, {})
    again = open_dataset(tmp_path / "out")
    assert again.faults == ()
    assert again.classes == dataset.classes
    assert by_name(again) == by_name(dataset)


def test_yolo_keeps_all_but_the_flag_and_counts_it(voc_root, tmp_path):
    dataset = open_dataset(voc_root)
    done = convert_dataset(dataset, "yolo", tmp_path / "out")
    assert done.lost == {"difficult": 1}
    again = open_dataset(tmp_path / "out")
    assert again.faults == ()
    assert without_difficult(by_name(again)) == without_difficult(by_name(dataset))
    assert (tmp_path / "out" / "labels" / "c.2.txt").read_text() == ""


def test_a_round_through_every_layout_on_real_data(shared, tmp_path):
    dataset = open_dataset(shared / "data" / "BCCD")
    start, expected = dataset, by_name(dataset)
    for number, layout in enumerate(("coco", "yolo", "voc", "yolo", "coco", "voc")):
        convert_dataset(start, layout, tmp_path / str(number), link=True)
        start = open_dataset(tmp_path / str(number))
        assert start.faults == ()
        assert by_name(start) == expected


def test_difficult_objects_of_real_voc_survive_coco(shared, tmp_path):
    dataset = open_dataset(shared / "data" / "VOCdevkit")
    few = Dataset("few", dataset.classes, {"val": dataset.split("val")})
    assert any(s.annotations.difficult.any() for s in few.split("val"))
    convert_dataset(few, "coco", tmp_path / "coco", link=True)
    convert_dataset(open_dataset(tmp_path / "coco"), "voc", tmp_path / "voc", link=True)
    again = open_dataset(tmp_path / "voc")
    assert by_name(again) == by_name(few)


def test_crowds_stay_in_coco_and_are_counted_elsewhere(tmp_path):
    annotations = Annotations([[0, 0, 5, 5], [1, 1, 4, 4]], [0, 0], [False, False], [True, False])
    sample = Sample("x", np.zeros((8, 8, 3), np.uint8), (8, 8), annotations)
    dataset = Dataset("crowd", ("a",), {"train": (sample,)})
    assert convert_dataset(dataset, "coco", tmp_path / "coco").lost == {}
    assert open_dataset(tmp_path / "coco").split("train")[0].annotations.crowd.tolist() == [True, False]
    assert convert_dataset(dataset, "voc", tmp_path / "voc").lost == {"crowd": 1}


def test_classes_without_a_box_and_in_any_order_are_kept(tmp_path):
    sample = Sample("x", np.zeros((8, 8, 3), np.uint8), (8, 8), Annotations([[0, 0, 5, 5]], [1]))
    dataset = Dataset("zoo", ("zebra", "<ape> & co", "ünknown"), {"train": (sample,)})
    for layout in ("voc", "coco", "yolo"):
        convert_dataset(dataset, layout, tmp_path / layout)
        again = open_dataset(tmp_path / layout)
        assert again.classes == dataset.classes
        assert again.split("train")[0].annotations.labels.tolist() == [1]


coordinates = st.tuples(*(st.floats(0, 1, width=32) for _ in range(4)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corners=st.lists(coordinates, max_size=5), size_hw=st.tuples(st.integers(1, 900), st.integers(1, 900)))
def test_any_box_survives_to_a_ten_thousandth_of_a_pixel(tmp_path_factory, corners, size_hw):
    height, width = size_hw
    boxes = [[min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height] for a, b, c, d in corners]
    boxes = [box for box in boxes if box[2] - box[0] > 1e-3 and box[3] - box[1] > 1e-3]
    annotations = Annotations(np.array(boxes, np.float32).reshape(-1, 4), np.zeros(len(boxes), np.int64))
    image = np.zeros((*size_hw, 3), np.uint8)
    dataset = Dataset("any", ("a",), {"train": (Sample("x", image, size_hw, annotations),)})
    folder = tmp_path_factory.mktemp("any")
    for layout in ("voc", "coco", "yolo"):
        convert_dataset(dataset, layout, folder / layout)
        again = open_dataset(folder / layout)
        assert again.faults == ()
        found = again.split("train")[0].annotations.boxes_xyxy
        np.testing.assert_allclose(found, annotations.boxes_xyxy, atol=2e-4)


def test_pixels_without_a_file_are_written_without_loss(tmp_path):
    dataset = make_digits(train=2, val=1, test=0)
    for layout in ("voc", "coco", "yolo"):
        convert_dataset(dataset, layout, tmp_path / layout)
        again = open_dataset(tmp_path / layout)
        np.testing.assert_array_equal(np.asarray(again.split("val")[0].open_image()), dataset.split("val")[0].image)


def test_names_stay_inside_the_folder_and_apart(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    names = ["../../evil", "/etc/evil", "..", "a/b", "A/B"]
    samples = tuple(Sample(name, image, (8, 8), Annotations.empty()) for name in names)
    convert_dataset(Dataset("evil", ("a",), {"all": samples}), "voc", tmp_path / "deep" / "out")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    places = ("A/B_2", "a/b", "etc/evil", "evil", "image")
    assert found == [f"deep/out/JPEGImages/{name}.png" for name in places]
    assert len(open_dataset(tmp_path / "deep" / "out").split("all")) == 5


def test_images_are_linked_or_copied(voc_root, tmp_path):
    dataset = open_dataset(voc_root)
    source = (voc_root / "JPEGImages" / "a.jpg").stat()
    for link in (True, False):
        out = tmp_path / str(link)
        convert_dataset(dataset, "coco", out, link=link)
        assert ((out / "images" / "a.jpg").stat().st_ino == source.st_ino) is link


def test_a_folder_in_use_is_kept(voc_root, tmp_path):
    dataset = open_dataset(voc_root)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        convert_dataset(dataset, "coco", out)
    convert_dataset(dataset, "coco", out, overwrite=True)
    assert not (out / "mine.txt").exists()
    for folder in (voc_root, tmp_path):
        with pytest.raises(InputError, match="holds the data set's own images"):
            convert_dataset(dataset, "coco", folder, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        convert_dataset(dataset, "coco", tmp_path / "file")
    with pytest.raises(InputError, match="expected one of voc, coco, yolo"):
        convert_dataset(dataset, "wider", tmp_path / "new")


def test_nothing_is_left_when_writing_fails(voc_root, tmp_path):
    dataset = open_dataset(voc_root)
    (voc_root / "JPEGImages" / "d.jpg").unlink()
    with pytest.raises(Exception, match=r"d\.jpg|No such file"):
        convert_dataset(dataset, "coco", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"]


def test_coco_ids_are_the_same_in_every_split(voc_root, tmp_path):
    convert_dataset(open_dataset(voc_root), "coco", tmp_path / "out")
    found = {}
    for split in ("train", "trainval"):
        content = json.loads((tmp_path / "out" / "annotations" / f"instances_{split}.json").read_text())
        found[split] = {image["file_name"]: image["id"] for image in content["images"]}
    assert found["train"].items() <= found["trainval"].items()

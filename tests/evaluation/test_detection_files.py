from __future__ import annotations

import json

import numpy as np
import pytest

from tinydet.errors import InputError
from tinydet.evaluation.coco_results import category_labels, read_coco_results, write_coco_results
from tinydet.evaluation.detection_files import read_detections, write_detections
from tinydet.evaluation.detection_rows import ImageNames
from tinydet.evaluation.voc_results import read_voc_results
from tinydet.evaluation.wider_results import read_wider_detections, write_wider_detections
from tinydet.records import Detections

CLASSES = ("red cell", "white_cell")


def random_detections(ids, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    made = {}
    for image_id in ids:
        count = int(rng.integers(1, 6))
        corner = rng.uniform(0, 400, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(0, 200, (count, 2))], axis=1)
        made[image_id] = Detections(boxes, np.sort(rng.random(count))[::-1], rng.integers(0, classes, count))
    return made


def assert_same(read, written, atol):
    assert read.keys() == {name for name, found in written.items() if len(found)}
    for name in read:
        order = [np.lexsort((found.labels, -found.scores)) for found in (read[name], written[name])]
        np.testing.assert_array_equal(read[name].scores, written[name].scores)
        np.testing.assert_array_equal(read[name].labels[order[0]], written[name].labels[order[1]])
        np.testing.assert_allclose(
            read[name].boxes_xyxy[order[0]], written[name].boxes_xyxy[order[1]], atol=atol, rtol=0
        )


@pytest.mark.parametrize("protocol", ["voc07", "voc", "coco", "wider"])
def test_written_and_read_back(tmp_path, protocol):
    classes = ("face",) if protocol == "wider" else CLASSES
    made = random_detections(["a/b c", "a/000005", "d/7"], len(classes)) | {"d/empty": Detections.empty()}
    place = write_detections(tmp_path, made, classes, protocol)
    read = read_detections(place, classes, list(made))
    assert_same(read.detections, made, atol=1e-4 if protocol == "wider" else 2e-6)
    assert read.notes == ()


@pytest.mark.parametrize("protocol", ["voc", "coco", "wider"])
def test_nothing_found_at_all(tmp_path, protocol):
    classes = ("face",) if protocol == "wider" else CLASSES
    place = write_detections(tmp_path, {"a/b": Detections.empty()}, classes, protocol)
    assert read_detections(place, classes, ["a/b"]).detections == {}


def test_the_pixels_of_each_format(tmp_path):
    found = {"e/7": Detections([[0, 0, 10, 20]], [0.5], [0])}
    write_detections(tmp_path / "voc", found, ("face",), "voc", split="val")
    assert (tmp_path / "voc" / "comp4_det_val_face.txt").read_text() == "e/7 0.5 1 1 10 20\n"
    write_wider_detections(tmp_path / "wider", found)
    assert (tmp_path / "wider" / "e" / "7.txt").read_text() == "7\n1\n0 0 10 20 0.5\n"
    write_coco_results(tmp_path / "c.json", {"7": found["e/7"]}, category_ids=[18])
    entry = {"image_id": 7, "category_id": 18, "bbox": [0.0, 0.0, 10.0, 20.0], "score": 0.5}
    assert json.loads((tmp_path / "c.json").read_text()) == [entry]


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("VOC2007/000005", "VOC2007/000005"),
        ("000005", "VOC2007/000005"),
        ("5", "VOC2007/000005"),
        ("000005.jpg", "VOC2007/000005"),
        ("JPEGImages/000005.jpg", "VOC2007/000005"),
        ("17", "17"),
        ("0017", "17"),
        ("cat.v2", "images/cat.v2.png"),
        ("images/cat.v2", "images/cat.v2.png"),
        ("twice", None),
        ("a/twice", "a/twice"),
        ("999", None),
        ("", None),
    ],
)
def test_images_by_the_names_that_other_tools_give_them(name, image_id):
    names = ImageNames(["VOC2007/000005", "17", "images/cat.v2.png", "a/twice", "b/twice"])
    assert names.find(name) == image_id


def coco_file(tmp_path, *entries):
    path = tmp_path / "results.json"
    path.write_text(
        "[\n" + ",\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries) + "\n]"
    )
    return path


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**GOOD, "category_id": 3}, r":3: detection 1: unknown category_id 3; .* 1 red cell, 2 white_cell"),
        ({**GOOD, "category_id": "dog"}, r":3: .*unknown category_id 'dog'"),
        ({**GOOD, "category_id": True}, r":3: .*unknown category_id True"),
        ({**GOOD, "score": float("nan")}, r":3: .*score is nan"),
        ({**GOOD, "score": "0.5"}, r":3: .*score is '0.5'"),
        ({**GOOD, "bbox": [1, 2, 3]}, r":3: .*expected four finite numbers"),
        ({**GOOD, "bbox": [1, 2, 3, float("inf")]}, r":3: .*expected four finite numbers"),
        ({**GOOD, "bbox": [1, 2, -3, 4]}, r":3: .*negative width or height"),
        ({**GOOD, "image_id": None}, r":3: .*image_id is None"),
        ({"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}, r":3: .*'category_id' is missing"),
        ("7", r":3: .*expected an object"),
        ("{", r":4: not valid JSON"),
    ],
)
def test_faults_in_coco_results(tmp_path, entry, message):
    with pytest.raises(InputError, match=r"results.json" + message):
        read_coco_results(coco_file(tmp_path, GOOD, entry), CLASSES, ["1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the file is empty"),
        ("{}", ":1: expected a list"),
        ('{"annotations": []}', ": these are annotations"),
    ],
)
def test_files_that_are_not_coco_results(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"results.json" + message):
        read_detections(path, CLASSES)


def test_categories_by_the_data_sets_own_ids_and_by_name(tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"categories": [{"id": 90, "name": "red cell"}, {"id": 7, "name": "white_cell"}]}))
    labels = category_labels([truth], CLASSES)
    assert labels == {90: 0, 7: 1}
    path = coco_file(tmp_path, {**GOOD, "category_id": 90}, {**GOOD, "category_id": "white_cell", "score": 0.25})
    read = read_coco_results(path, CLASSES, ["1"], labels)
    assert read.detections["1"].labels.tolist() == [0, 1]
    assert read.detections["1"].boxes_xyxy[0].tolist() == [1, 2, 4, 6]
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"categories": [{"id": 90, "name": "white_cell"}]}))
    with pytest.raises(InputError, match=r"other.json: category 90 is 'white_cell' here, 'red cell' in another"):
        category_labels([truth, other], CLASSES)


def test_unknown_images_are_counted_or_refused_when_none_is_known(tmp_path):
    path = coco_file(tmp_path, GOOD, {**GOOD, "image_id": 2}, {**GOOD, "image_id": 2}, {**GOOD, "image_id": "x"})
    read = read_coco_results(path, CLASSES, ["1"])
    assert list(read.detections) == ["1"]
    assert read.notes[0].startswith("3 detections of 2 images that are not in the data")
    assert "detection 1: '2'" in read.notes[0]
    with pytest.raises(InputError, match=r"detection 0: '1' is not an image of the data"):
        read_coco_results(path, CLASSES, ["9"])


def test_scores_outside_0_to_1_keep_their_order(tmp_path):
    path = coco_file(tmp_path, *({**GOOD, "score": score} for score in (-2, 3, 0.5)))
    read = read_coco_results(path, CLASSES, ["1"])
    np.testing.assert_allclose(read.detections["1"].scores, [1, 0.5, 0])
    assert "scores from -2 to 3 are stretched" in read.notes[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000001 0.5 1 2 3", r":2: expected `image_id score xmin ymin xmax ymax`, found '000001 0.5 1 2 3'"),
        ("000001 high 1 2 3 4", r":2: expected `image_id"),
        ("000001 nan 1 2 3 4", r":2: expected finite numbers"),
        ("000001 0.5 1 2 inf 4", r":2: expected finite numbers"),
        ("000001 0.5 9 2 3 4", r":2: xmax or ymax is below"),
    ],
)
def test_faults_in_voc_results(tmp_path, line, message):
    path = tmp_path / "comp4_det_test_red cell.txt"
    path.write_text(f"000001 0.5 1 2 3 4\n{line}\n")
    with pytest.raises(InputError, match=r"comp4_det_test_red cell.txt" + message):
        read_voc_results(tmp_path, CLASSES, ["000001"])


def test_voc_results_as_people_have_them(tmp_path):
    path = tmp_path / "comp4_det_test_red cell.txt"
    path.write_text("my image 0.5 1 2 3 4\n\n000001 0.25 1 1 1 1\n")
    for place in (tmp_path, path):
        read = read_detections(place, CLASSES, ["my image", "000001"])
        assert read.detections["my image"].boxes_xyxy.tolist() == [[0, 1, 3, 4]]
        assert read.detections["000001"].boxes_xyxy.tolist() == [[0, 0, 1, 1]]
        assert "no file, hence no detection, of class white_cell" in read.notes[0]
    (tmp_path / "comp4_det_test_white_cell.txt").touch()  # an empty file: no detection of the class
    assert read_detections(tmp_path, CLASSES, ["my image", "000001"]).notes == ()
    (tmp_path / "comp4_det_val_red cell.txt").touch()
    with pytest.raises(InputError, match=r"also has comp4_det_test_red cell.txt"):
        read_detections(tmp_path, CLASSES)
    assert len(read_detections(path, CLASSES).detections) == 2  # named itself, it is the only one
    with pytest.raises(InputError, match="unknown class 'red cell'; the classes of the data are dog"):
        read_detections(path, ("dog",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the file is empty"),
        ("a\n", ":2: expected the number of detections, found 'the end of the file'"),
        ("a\nmany\n", ":2: expected the number of detections, found 'many'"),
        ("a\n2\n1 2 3 4 0.5\n", ":2: said to have 2 detections, but 1 lines follow"),
        ("a\n2\n1 2 3 4 0.5\n1 2 3 4\n", ":4: expected `x y width height score`"),
        ("a\n2\n1 2 3 4\n1 2 3 4\n", ":3: expected `x y width height score`"),
        ("a\n2\n1 2 3 4 0.5\n1 2 x 4 0.5\n", ":4: expected"),
        ("a\n2\n1 2 3 4 0.5\n1 2 3 4 nan\n", ":4: expected"),
        ("a\n2\n1 2 3 4 0.5\n1 2 -3 4 0.5\n", ":4: expected"),
    ],
)
def test_faults_in_wider_text(tmp_path, text, message):
    (tmp_path / "event").mkdir()
    (tmp_path / "event" / "a.txt").write_text(text)
    with pytest.raises(InputError, match=r"a\.txt" + message):
        read_wider_detections(tmp_path, ["event/a"])


def test_wider_text_counts_missing_and_unknown_images(tmp_path):
    write_wider_detections(tmp_path, random_detections(["e/a", "e/other"], classes=1))
    read = read_wider_detections(tmp_path, ["e/a", "e/b"])
    assert list(read.detections) == ["e/a"]
    assert "of 1 images, such as e/b" in read.notes[0]
    assert "'e/other'" in read.notes[1]
    with pytest.raises(InputError, match="'a'"):
        write_wider_detections(tmp_path, {"a": Detections.empty()})
    with pytest.raises(InputError, match=r"'\.\./a'"):
        write_wider_detections(tmp_path, {"../a": Detections.empty()})


def test_no_such_thing(tmp_path):
    with pytest.raises(InputError, match="there is no such file or folder"):
        read_detections(tmp_path / "nothing", CLASSES)
    with pytest.raises(InputError, match="no detections are recognised"):
        read_detections(tmp_path, CLASSES)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="no detections are recognised"):
        read_detections(tmp_path / "notes.txt", CLASSES)
    write_wider_detections(tmp_path, {"e/a": Detections.empty()})
    with pytest.raises(InputError, match="of one class; the data has 2"):
        read_detections(tmp_path, CLASSES)

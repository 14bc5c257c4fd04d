"""`tinydet score` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tinydet.cli import main
from tinydet.datasets import open_dataset
from tinydet.evaluation import write_detections
from tinydet.records import Detections


@pytest.fixture
def tinydet(monkeypatch, capsys):
    """Run a command line; gives exit status, stdout, stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["tinydet", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def perfect(samples):
    """Every object that is not difficult, found exactly."""
    found = {}
    for sample in samples:
        truth = sample.annotations[~sample.annotations.difficult]
        found[sample.image_id] = Detections(truth.boxes_xyxy, np.full(len(truth), 0.9), truth.labels)
    return found


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits:seed=1,train=2,val=2,test=6")


@pytest.mark.parametrize(("protocol", "key"), [("voc07", "mAP"), ("voc", "mAP"), ("coco", "AP50")])
def test_perfect_detections_of_the_built_in_set(tmp_path, tinydet, digits, protocol, key):
    place = write_detections(tmp_path, perfect(digits.split("test")), digits.classes, protocol)
    words = ("--data", "digits:seed=1,train=2,val=2,test=6", "--protocol", protocol)
    code, out, err = tinydet("score", "--detections", place, *words, "--json", tmp_path / "score.json")
    assert code == 0, err
    assert f"{key:<10} 1.00000" in out
    written = json.loads((tmp_path / "score.json").read_text())
    assert written["metrics"][key] == pytest.approx(1)
    assert (written["split"], written["images"]) == ("test", 6)


@pytest.mark.parametrize("protocol", ["voc07", "coco"])
@pytest.mark.parametrize("name", ["BCCD", "VOCdevkit/VOC2007"])
def test_real_sets(tmp_path, tinydet, shared, name, protocol):
    """Perfect detections score 1 on both, difficult objects notwithstanding."""
    data, split = shared / "data" / name, "val"
    dataset = open_dataset(data)
    place = write_detections(tmp_path, perfect(dataset.split(split)), dataset.classes, protocol)
    words = ("score", "--detections", place, "--data", data, "--protocol", protocol, "--split", split)
    code, _, err = tinydet(*words, "--json", tmp_path / "score.json")
    assert code == 0, err
    assert max(json.loads((tmp_path / "score.json").read_text())["metrics"].values()) == pytest.approx(1)


def test_published_face_detections(tmp_path, tinydet, shared):
    start = time.process_time()
    code, out, err = tinydet(
        *("score", "--detections", shared / "anchors" / "wider_face_retinaface", "--protocol", "wider"),
        *("--ground-truth", shared / "data" / "wider_face_val" / "ground_truth", "--json", tmp_path / "score.json"),
    )
    assert code == 0, err
    assert out.split() == ["easy", "0.94484", "medium", "0.92447", "hard", "0.81533"]
    assert json.loads((tmp_path / "score.json").read_text())["objects"]["hard"] == 31958
    assert time.process_time() - start < 20


def test_coco_set_with_its_own_category_numbers(tmp_path, tinydet):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    boxes = {7: [1.5, 2, 20, 30], 90: [30, 5, 12, 12]}
    truth = {
        "images": [{"id": 42, "file_name": "a.jpg", "width": 64, "height": 48}],
        "categories": [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": 42, "category_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for number, box in boxes.items()
        ],
    }
    found = [{"image_id": 42, "category_id": n, "bbox": box, "score": 0.5} for n, box in boxes.items()]
    found.append({"image_id": 43, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 0.5})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    words = ("--data", tmp_path / "truth.json", "--protocol", "coco", "--json", tmp_path / "score.json")
    code, _, err = tinydet("score", "--detections", tmp_path / "found.json", *words)
    assert code == 0, err
    assert "warning: 1 detections of 1 images that are not in the data" in err
    assert json.loads((tmp_path / "score.json").read_text())["per_class"] == pytest.approx({"cat": 1, "dog": 1})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocol", "voc07"), "needs --data"),
        (("--protocol", "wider"), "needs --ground-truth DIR"),
        (("--protocol", "wider", "--ground-truth", "nowhere"), "nowhere/wider_face_val.mat: no such file"),
        (("--protocol", "coco", "--data", "nowhere"), "nowhere: there is no such file or folder"),
        (("--protocol", "coco", "--data", "digits:test=1,train=1,val=1", "--split", "x"), "no split 'x'"),
        (("--protocol", "coco", "--data", "digits", "--ground-truth", "x"), "--ground-truth is of --protocol wider"),
        (("--protocol", "voc12", "--data", "digits"), "'voc12' is not one of"),
    ],
)
def test_mistakes_exit_with_2_and_a_message(tmp_path, tinydet, words, message):
    (tmp_path / "found.json").write_text("[]")
    code, _, err = tinydet("score", "--detections", tmp_path / "found.json", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_missing_detections(tmp_path, tinydet):
    code, _, err = tinydet("score", "--detections", tmp_path / "no", "--data", "digits", "--protocol", "coco")
    assert code == 2
    assert "no: there is no such file" in err


def test_imports_neither_torch_nor_what_is_slow():
    code = (
        "import sys\nfor name in ('torch', 'scipy', 'matplotlib', 'cv2'): sys.modules[name] = None\n"
        "import tinydet.evaluation, tinydet.cli.score\n"
        "assert 'hotcoco' not in sys.modules and 'tinydet.datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

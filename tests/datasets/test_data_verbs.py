"""`tinydet data ...` as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tinydet.datasets import open_dataset


def test_check_of_an_empty_folder_is_wrong_input(tinydet, tmp_path):
    status, out, error = tinydet("data", "check", tmp_path)
    assert (status, out) == (2, "")
    assert "no data set is recognised" in error
    assert "Traceback" not in error


def test_check_of_a_clean_set(tinydet, voc_root, tmp_path):
    status, out, _ = tinydet("data", "check", voc_root, "--json", tmp_path / "faults.json")
    assert status == 0
    assert "no faults" in out
    assert "train 2, trainval 4, val 2 images; 5 boxes; classes: cat, dog" in out
    assert json.loads((tmp_path / "faults.json").read_text())["faults"] == []


def test_check_prints_every_fault_and_counts_them(tinydet, voc_root, tmp_path):
    image = voc_root / "JPEGImages" / "a.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    (voc_root / "Annotations" / "b.xml").write_text("<annotation>")
    (voc_root / "ImageSets" / "Main" / "val.txt").write_text("d\nd\nx\n")
    status, out, _ = tinydet("data", "check", voc_root, "--json", tmp_path / "faults.json", "--classes", "dog")
    assert status == 1
    assert f"{voc_root / 'ImageSets' / 'Main' / 'val.txt'}:2: duplicate-id: " in out
    assert f"{voc_root / 'ImageSets' / 'Main' / 'val.txt'}:3: missing-label: " in out
    counts = {"duplicate-id": 1, "missing-label": 1, "malformed-file": 1, "truncated-image": 1, "unknown-class": 3}
    assert out.splitlines()[-1].startswith("7 faults: 3 unknown-class")
    result = json.loads((tmp_path / "faults.json").read_text())
    assert result["faults_by_kind"] == counts
    assert len(result["faults"]) == 7


def test_stats(tinydet, voc_root, tmp_path):
    arguments = ("--plot", tmp_path / "plot.png", "--json", tmp_path / "stats.json")
    status, out, _ = tinydet("data", "stats", voc_root, *arguments)
    assert (status, "trainval" in out) == (0, True)
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert json.loads((tmp_path / "stats.json").read_text())["splits"]["train"]["boxes_by_class"] == {
        "cat": 1,
        "dog": 2,
    }


def test_split_beside_and_as_a_copy(tinydet, voc_root, tmp_path):
    status, _, error = tinydet("data", "split", voc_root, "--fractions", "0.5,0.5")
    assert (status, "--force" in error) == (2, True)
    status, out, _ = tinydet("data", "split", voc_root, "--fractions", "0.5,0.5", "--force", "--names", "left,right")
    assert (status, "left 2, right 2 images" in out) == (0, True)
    assert sorted(open_dataset(voc_root).splits) == ["left", "right"]
    arguments = (
        "--fractions",
        "0.5,0.25,0.25",
        "--out",
        tmp_path / "copy",
        "--layout",
        "yolo",
        "--json",
        tmp_path / "j",
    )
    status, _, _ = tinydet("data", "split", voc_root, *arguments)
    assert status == 0
    copy = open_dataset(tmp_path / "copy")
    assert {name: len(samples) for name, samples in copy.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert json.loads((tmp_path / "j").read_text())["images_by_split"] == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--fractions", "a,b"), "expected numbers with commas"),
        (("--fractions", "0.5,0.6"), "sum to 1"),
        (("--layout", "coco"), "give --out FOLDER too"),
        (("--of", "nothing"), "no split 'nothing'"),
        (("--out", "x", "--layout", "foo"), "expected one of voc, coco, yolo"),
    ],
)
def test_split_with_wrong_options(tinydet, voc_root, arguments, says):
    status, _, error = tinydet("data", "split", voc_root, *arguments)
    assert (status, says in error) == (2, True), error


def test_split_of_the_digits_needs_a_folder(tinydet, tmp_path):
    status, _, error = tinydet("data", "split", "digits:train=4,val=1,test=1")
    assert (status, "give --out FOLDER" in error) == (2, True)
    assert tinydet("data", "split", "digits:train=4,val=1,test=1", "--out", tmp_path / "d")[0] == 0
    assert len(open_dataset(tmp_path / "d").split("train")) == 5


def test_convert_says_what_is_lost(tinydet, voc_root, tmp_path):
    arguments = ("--to", "yolo", "--out", tmp_path / "out", "--json", tmp_path / "done.json")
    status, out, error = tinydet("data", "convert", voc_root, *arguments)
    assert status == 0
    assert "4 images, 5 boxes, 2 classes" in out
    assert "yolo has no place for difficult flags: 1" in error
    assert json.loads((tmp_path / "done.json").read_text())["lost"] == {"difficult": 1}
    assert tinydet("data", "convert", voc_root, *arguments)[0] == 2  # in use now
    assert tinydet("data", "convert", voc_root, *arguments, "--force")[0] == 0


def test_download_of_an_unknown_set(tinydet, tmp_path):
    status, _, error = tinydet("data", "download", "imagenet", "--out", tmp_path)
    assert (status, "there are voc2007, voc2012, wider" in error) == (2, True)


def test_the_installed_command_exits_without_a_traceback(tmp_path):
    code = "from tinydet.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "check", str(tmp_path / "nowhere")], capture_output=True, text=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)

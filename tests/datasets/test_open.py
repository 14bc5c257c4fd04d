from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tinydet.datasets import open_dataset
from tinydet.errors import InputError


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError) as error:
        open_dataset(tmp_path)
    for words in ("PASCAL VOC", "COCO", "YOLO", "WIDER FACE", "digits", "Found: an empty folder"):
        assert words in str(error.value)


def test_what_is_not_there_and_what_is_no_data_set(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        open_dataset(tmp_path / "nothing")
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="Found: a file of 2 bytes; extract it first"):
        open_dataset(tmp_path / "set.zip")
    with pytest.raises(InputError, match=r"Found: set\.zip"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("classes", [[], ["cat", "cat"]])
def test_classes_that_make_no_sense(voc_root, classes):
    with pytest.raises(InputError, match="classes: expected names, each once"):
        open_dataset(voc_root, classes)


def test_a_relative_path_has_a_name_and_text_is_a_path(voc_root, monkeypatch):
    monkeypatch.chdir(voc_root)
    assert open_dataset(".").name == "pets"
    assert open_dataset(str(voc_root)).name == "pets"
    assert open_dataset(os.path.join("..", "pets")).name == "pets"


def test_progress_is_told_for_every_image(voc_root):
    seen = []

    def track(items, total, doing):
        seen.append((total, doing))
        return items

    open_dataset(voc_root, track=track)
    assert seen == [(4, "reading pets")]


def test_readers_import_without_torch_and_without_heavy_libraries():
    code = (
        "import sys; sys.modules['torch'] = None; import tinydet.datasets, tinydet.cli.data;"
        "print(sorted({'scipy', 'matplotlib', 'cv2', 'sklearn', 'rich'} & set(m.split('.')[0] for m in sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(eval(found)) <= {"rich"}  # typer's own

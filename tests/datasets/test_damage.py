"""Whatever the bytes of a label file are, reading goes on or ends with an InputError."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tinydet.datasets import convert_dataset, open_dataset
from tinydet.errors import InputError

SNIPPETS = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"-1",
    b"nan",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b'"',
    b"<",
    b">",
    b"\n",
    b"../",
    b":",
]


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(len(content) + 1))
        end = min(len(content), start + int(rng.choice([0, 1, 4, 40, 10_000])))
        content = content[:start] + SNIPPETS[int(rng.integers(len(SNIPPETS)))] + content[end:]
    return content


@pytest.fixture
def wider_set(tmp_path, save_image):
    root = tmp_path / "wider"
    names = [f"0--Parade/{number}.jpg" for number in range(3)]
    for name in names:
        save_image(root / "WIDER_train" / "images" / name)
    (root / "wider_face_split").mkdir()
    text = "".join(f"{name}\n2\n1 2 10 10 0 0 0 0 0 0\n4 5 6 7 0 0 0 1 0 0\n" for name in names)
    (root / "wider_face_split" / "wider_face_train_bbx_gt.txt").write_text(text)
    return root


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo", "wider"])
def test_damaged_label_files(voc_root, wider_set, tmp_path, layout):
    root = wider_set
    if layout != "wider":
        root = tmp_path / layout
        convert_dataset(open_dataset(voc_root), layout, root)
    labels = [p for p in sorted(root.rglob("*")) if p.suffix in (".xml", ".json", ".txt", ".yaml")]
    whole = {path: path.read_bytes() for path in labels}
    rng = np.random.default_rng(0)
    refused = read = faults = 0
    for _ in range(150):
        path = labels[int(rng.integers(len(labels)))]
        path.write_bytes(damaged(whole[path], rng))
        try:
            dataset = open_dataset(root)
            read += 1
            faults += bool(dataset.faults)
        except InputError:
            refused += 1
        path.write_bytes(whole[path])
    assert read > 50
    assert faults > 20
    assert open_dataset(root).faults == ()
    shutil.rmtree(root)

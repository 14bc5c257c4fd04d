"""Small sets in every layout, written by the tests themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tinydet.datasets.open import open_dataset
from tinydet.records import Dataset, Fault

SaveImage = Callable[..., Path]


def save_image_file(path: Path, size_hw: tuple[int, int] = (40, 60), orientation: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (*size_hw, 3), np.uint8)
    options: dict[str, Any] = {}
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    Image.fromarray(pixels).save(path, **options)
    return path


def voc_text(objects: Sequence[str] = (), size_hw: tuple[int, int] | None = (40, 60), filename: str = "") -> str:
    size = "" if size_hw is None else f"<size><width>{size_hw[1]}</width><height>{size_hw[0]}</height></size>"
    return "\n".join(["<annotation>", f"<filename>{filename}</filename>", size, *objects, "</annotation>"])


def voc_object_text(name: str = "cat", box: Sequence[object] = (5, 6, 20, 30), more: str = "") -> str:
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


@pytest.fixture
def save_image() -> SaveImage:
    return save_image_file


@pytest.fixture
def voc_xml() -> Callable[..., str]:
    return voc_text


@pytest.fixture
def voc_object() -> Callable[..., str]:
    return voc_object_text


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """Four images in VOC's layout: cats and dogs, one difficult, one image without an object; train, val, trainval."""
    root = tmp_path / "pets"
    contents = {
        "a": [voc_object_text("cat", (1, 1, 60, 40)), voc_object_text("dog", (5, 6, 20, 30))],
        "b": [voc_object_text("dog", (10, 10, 19, 19), "<difficult>1</difficult>")],
        "c.2": [],
        "d": [voc_object_text("cat", (2.5, 3.25, 11.75, 12.5)), voc_object_text("cat", (30, 30, 41, 40))],
    }
    lists = {"train": ["a", "b"], "val": ["c.2", "d"], "trainval": ["a", "b", "c.2", "d"]}
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, objects in contents.items():
        save_image_file(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(voc_text(objects))
    for split, names in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.fixture
def kinds() -> Callable[[Dataset], list[str]]:
    return lambda dataset: [fault.kind for fault in dataset.faults]


@pytest.fixture
def only_fault() -> Callable[[Path], Fault]:
    def find(path: Path, **options: Any) -> Fault:
        dataset = open_dataset(path, **options)
        assert len(dataset.faults) == 1, [str(fault) for fault in dataset.faults]
        return dataset.faults[0]

    return find


@pytest.fixture
def tinydet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command line in this process: gives its exit status, stdout and stderr."""
    from tinydet.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tinydet", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        status = stopped.value.code
        captured = capsys.readouterr()
        return (0 if status is None else int(status)), captured.out, captured.err

    return run

"""The command line in this process, and a folder of labelled pictures small enough to train on in a second."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydet.cli import main

TINY = ("--width", "32", "--shorter-side", "64", "--iterations", "2", "--device", "cpu")
"""Options of the smallest training."""


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


CommandLine = Callable[..., Ran]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """`cli("train", "--data", folder, ...)`: what a person would see. A traceback fails the test as an exception."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["tinydet", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Ran(int(ended.value.code or 0), printed.out, printed.err)

    return run


def write_photos(folder: Path, count: int = 6, names: tuple[str, str] = ("red", "green")) -> Path:
    """Pictures with one coloured rectangle each, labelled by VOC's XML beside them, without split files."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = random.integers(90, 110, (48, 64, 3), np.uint8)
        left, top = random.integers(2, 30), random.integers(2, 20)
        pixels[top : top + 22, left : left + 26, index % 2] = 250
        Image.fromarray(pixels).save(folder / f"photo{index}.png")
        write_label(folder, f"photo{index}", (left, top, left + 26, top + 22), names[index % 2])
    return folder


def write_label(folder: Path, stem: str, box_xyxy: tuple[object, ...], name: str, size_wh: tuple[int, int] = (64, 48)):
    corners = "".join(f"<{tag}>{v}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), box_xyxy))
    (folder / f"{stem}.xml").write_text(
        f"<annotation><filename>{stem}.png</filename>\n"
        f"<size><width>{size_wh[0]}</width><height>{size_wh[1]}</height></size>\n"
        f"<object><name>{name}</name><bndbox>{corners}</bndbox></object></annotation>\n",
        encoding="utf-8",
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a tiny detector of red and green rectangles, two steps old. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_photos(folder / "photos")
    arguments = ["tinydet", "train", "--data", str(data), "--out", str(folder / "run"), *TINY]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return folder / "run"

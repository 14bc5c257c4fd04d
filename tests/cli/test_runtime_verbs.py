"""`export`, `detect`, `evaluate` and `benchmark` as a person runs them, on a small detector."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from tinydet.cli import main
from tinydet.export.agreement import Tolerance, agreement
from tinydet.records import Detections
from tinydet.runtime import Detector, read_model

ONE_THREAD = ("--engine", "onnxruntime", "--threads", "1")


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tinydet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@dataclass(frozen=True)
class Files:
    """One detector in its three forms, and photographs labelled with what it finds: so it is good, and not perfect."""

    photos: Path
    checkpoint: Path
    onnx: Path
    packed: Path

    @property
    def models(self) -> tuple[Path, Path, Path]:
        return self.checkpoint, self.onnx, self.packed


@pytest.fixture(scope="module")
def files(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder, photos = tmp_path_factory.mktemp("verbs"), trained.parent / "photos"
    made = Files(folder / "photos", folder / "run", folder / "d.onnx", folder / "d.tinydet")
    shutil.copytree(trained / "best", made.checkpoint)
    with_clear_scores(made.checkpoint / "model.safetensors")
    for file in (made.onnx, made.packed):
        figures = file.with_suffix(".json")
        proof = ("--images", photos, "--count", 2, "--json", figures)
        assert run("export", made.checkpoint, "-o", file, *proof) == 0
        written = json.loads(figures.read_text())
        assert written["file_bytes"] == file.stat().st_size
        assert written["agreement"]["images"] == 2
        assert written["agreement"]["same"] >= 1
    label(photos, made)
    return made


def with_clear_scores(weights: Path) -> None:
    """A network as good as untrained gives all classes the same score; the last bit would decide which is best."""
    tensors = load_file(weights)
    tensors["heads.class_scores.weight"] *= 30
    save_file(tensors, weights)


def label(photos: Path, files: Files) -> None:
    """Each photograph beside an XML file with the two best detections, one of them moved by a few pixels."""
    detector = Detector(files.onnx, "onnxruntime", 1, resizing="exact")
    files.photos.mkdir()
    for photo in sorted(photos.glob("*.png")):
        shutil.copy(photo, files.photos)
        found = detector(photo)
        objects = ""
        for row in (0, 1):
            corners = np.clip(found.boxes_xyxy[row] + 5 * row, 0, [64, 48, 64, 48])
            tags = "".join(f"<{tag}>{v:.0f}</{tag}>" for tag, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
            name = detector.classes[found.labels[row]]
            objects += f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>"
        size = "<size><width>64</width><height>48</height></size>"
        text = f"<annotation><filename>{photo.name}</filename>{size}{objects}</annotation>"
        (files.photos / photo.name).with_suffix(".xml").write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def detections_in(file: Path) -> dict[str, list[dict[str, Any]]]:
    """By image name."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return {Path(line["image"]).name: line["detections"] for line in lines}


def record(detections: list[dict[str, Any]]) -> Detections:
    classes = ["red", "green"]
    columns = [[one[key] for one in detections] for key in ("box_xyxy", "score", "label")]
    return Detections(*columns[:2], [classes.index(name) for name in columns[2]])  # type: ignore[arg-type]


def test_the_packed_file_is_smaller_and_says_the_same_of_itself(files):
    assert files.packed.stat().st_size < 0.85 * files.onnx.stat().st_size
    one, two = read_model(files.onnx).description, read_model(files.packed).description
    assert one == two
    assert set(one.classes) == {"red", "green"}
    assert one.multiply_adds > 1e5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "d.txt"), "expected a name that ends in .onnx or .tinydet"),
        (("-o", "d.onnx", "--images", "nowhere"), "there is no such folder or file"),
        (("-o", "d.onnx", "--images", "nowhere", "--data", "nowhere"), "only one of them"),
    ],
)
def test_export_refuses(cli, files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    ran = cli("export", files.checkpoint, *arguments)
    assert ran.status == 2
    assert message in ran.err
    assert not list(tmp_path.glob("d.*"))


def test_all_three_forms_detect_the_same_in_a_file_and_in_a_folder(cli, files, tmp_path):
    found = []
    for number, model in enumerate(files.models):
        options = ONE_THREAD if model.is_file() else ()
        lines, drawn = tmp_path / f"{number}.jsonl", tmp_path / f"drawn{number}"
        ran = cli("detect", model, files.photos, "--json", lines, "--out", drawn, "--score", "0.3", *options)
        assert ran.status == 0, ran.err
        assert len(list(drawn.glob("*.jpg"))) == 6
        found.append(detections_in(lines))
    assert found[1] == found[2]
    pairs = [(record(expected), record(found[1][name])) for name, expected in found[0].items()]
    same = agreement(pairs, 0.3, 100, Tolerance(iou=0.9, score=0.05))  # files enlarge images a little differently
    assert same.same >= 6
    assert same.other <= 0.1 * same.same
    alone = cli("detect", files.packed, files.photos / "photo1.png", "--json", "-", "--score", "0.3", *ONE_THREAD)
    assert json.loads(alone.out)["detections"] == found[2]["photo1.png"]


def test_one_unreadable_image_is_a_warning_and_nothing_but_those_a_failure(cli, files, tmp_path):
    good, bad = tmp_path / "mixed", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    shutil.copy(files.photos / "photo0.png", good / "a.png")
    (good / "b.jpg").write_bytes(b"\xff\xd8\xffthis is no image")
    shutil.copy(files.photos / "photo1.png", good / "c.png")
    shutil.copy(good / "b.jpg", bad / "b.jpg")
    ran = cli("detect", files.packed, good, "--json", tmp_path / "found.jsonl", *ONE_THREAD)
    assert ran.status == 0
    assert "b.jpg: not a readable image" in ran.err
    assert "1 of 3 could not be read" in ran.err
    assert list(detections_in(tmp_path / "found.jsonl")) == ["a.png", "c.png"]
    failed = cli("detect", files.packed, bad, *ONE_THREAD)
    assert failed.status == 1
    assert "none of the images could be read" in failed.err
    assert cli("detect", files.packed, tmp_path / "nowhere.jpg", *ONE_THREAD).status == 2


def test_options_of_detect_choose(cli, files, tmp_path):
    lines = tmp_path / "few.jsonl"
    ran = cli("detect", files.onnx, files.photos, "--json", lines, "--classes", "red", "--most", "1", *ONE_THREAD)
    assert ran.status == 0
    found = detections_in(lines)
    assert all(len(own) <= 1 for own in found.values())
    assert {one["label"] for own in found.values() for one in own} == {"red"}
    assert cli("detect", files.onnx, files.photos, "--classes", "blue", *ONE_THREAD).status == 2


def test_all_three_forms_have_the_same_metrics(cli, files, tmp_path):
    metrics = []
    for model in files.models:
        options = ONE_THREAD if model.is_file() else ("--threads", "1")
        ran = cli(
            "evaluate", model, "--data", files.photos, "--protocol", "voc", "--json", tmp_path / "m.json", *options
        )
        assert ran.status == 0, ran.err
        result = json.loads((tmp_path / "m.json").read_text())
        assert result["images"] == 6
        metrics.append(result["metrics"])
    assert metrics[0]["mAP"] > 0.1
    assert metrics[1] == metrics[2]
    assert metrics[0] == pytest.approx(metrics[1], abs=0.01)


@pytest.fixture(scope="module")
def altered(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a copy of the ONNX file that says something else of itself."""
    folder = tmp_path_factory.mktemp("altered")

    def make(name: str, **changes: object) -> Path:
        model = onnx.load(files.onnx)
        entry = next(entry for entry in model.metadata_props if entry.key == "tinydet")
        plain = json.loads(entry.value)
        for key, value in changes.items():
            plain[key] = {**plain[key], **value} if isinstance(value, dict) else value
        entry.value = json.dumps(plain)
        onnx.save(model, folder / name)
        return folder / name

    return make


def test_benchmark_compares_two_models(cli, files, altered, tmp_path):
    uncounted = altered("uncounted.onnx", multiply_adds=0)
    plot, figures = tmp_path / "plot.png", tmp_path / "figures.json"
    quick = ("--rounds", "2", "--count", "2", "--engine", "onnxruntime")
    measured = ("--data", files.photos, "--protocol", "voc", "--plot", plot, "--json", figures)
    ran = cli("benchmark", files.packed, uncounted, *measured, *quick)
    assert ran.status == 0, ran.err
    with Image.open(plot) as picture:
        assert picture.width > 500
    written = json.loads(figures.read_text())
    packed, other = written["models"]
    assert packed["file_bytes"] == files.packed.stat().st_size
    assert packed["multiply_adds"] > 1e5
    assert other["multiply_adds"] is None
    (row,) = [line for line in ran.out.splitlines() if "multiply-adds" in line]
    assert [cell.strip() for cell in row.split("│")[3:4]] == ["-"]
    for model in (packed, other):
        stages = model["times_ms"]["1"]
        parts = sum(stages[stage]["median_ms"] for stage in ("decode", "preprocess", "network", "postprocess"))
        assert 0 < parts < 2 * stages["total"]["median_ms"]
        assert model["start_ms"] > 0
        assert model["peak_memory_bytes"] > 10_000_000
        assert model["detections"] >= 1
    assert packed["accuracy"]["mAP"] == other["accuracy"]["mAP"] > 0.1
    assert "onnxruntime" in written["versions"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocessing": {"shorter_side": 60}}, "shorter side 60"),
        ({"classes": ["red", "blue"]}, "classes"),
        ({"regions": 20}, "regions"),
    ],
)
def test_benchmark_refuses_unlike_models(cli, files, altered, changes, message):
    other = altered("other.onnx", **changes)
    ran = cli("benchmark", files.onnx, other, "--images", files.photos, "--rounds", "1", "--count", "1")
    assert ran.status == 2
    assert "are not alike" in ran.err
    assert message in ran.err
    assert "--unlike" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--plot", "a.png"), "--data"),
        (("--plot", "a.bmp", "--data", "anything"), ".png, .svg, .pdf"),
        (("--threads", "0"), "numbers from 1"),
        (("--images", "nowhere"), "no such folder"),
    ],
)
def test_benchmark_refuses_options_before_it_measures(cli, files, arguments, message):
    ran = cli("benchmark", files.onnx, *arguments)
    assert ran.status == 2
    assert message in ran.err

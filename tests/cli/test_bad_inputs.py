"""What a person can get wrong: each is one message that names the place and an exit status, never a traceback."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

TINY = ("--width", "32", "--shorter-side", "64", "--iterations", "2", "--device", "cpu")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more fails as it does on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width", "0"), "width 0 must be above 0"),
        (("--width", "nan"), "width nan must be above 0"),
        (("--width", "1e-9"), "a layer of 64 channels would have 64,000,000,000, and the most is 16,384"),
        (("--shorter-side", "5"), "shorter side 5 at least 16"),
        (("--shorter-side", "1000000"), "shorter side 1,000,000: the most is 10,000 pixels"),
        (("--detector", "yolo"), "detector 'yolo': expected one of faster_rcnn"),
        (("--backbone", "alexnet"), "backbone 'alexnet': expected one of resnet18"),
        (("--norm", "none"), "batch normalization: choose batch or frozen"),
        (("--device", "gpu"), "device 'gpu': expected one of auto, cpu, cuda"),
        (("--protocol", "kitti"), "protocol 'kitti': expected one of voc07"),
        (("--precision", "8"), "precision '8': expected one of 32"),
        (("--precision", "16"), "half precision (16) needs a GPU"),
        (("--seed", "-1"), "seed -1 at least 0"),
        (("--batch-size", "0"), "0 images"),
        (("--iterations", "0"), "0 iterations"),
        (("--learning-rate", "0"), "learning rate 0"),
        (("--learning-rate", "nan"), "learning rate nan"),
        (("--clip-norm", "nan"), "norm nan"),
        (("--milestones", "0.9,0.5"), "not rising fractions"),
        (("--milestones", "a"), "milestones 'a': expected numbers"),
        (("--ema", "1.5"), "decay 1.5"),
        (("--flip", "2"), "flip probability 2"),
        (("--jitter", "48.5"), "jitter '48.5': expected whole numbers"),
        (("--jitter", "nan"), "jitter 'nan': expected numbers"),
        (("--anchor-sides", "8,inf"), "anchor sides '8,inf': expected numbers"),
        (("--validate-every", "-1"), "validate every -1 steps: expected at least 1"),
        (("--quantizer", "ternary"), "quantizer 'ternary': expected uniform"),
        (("--quantizer", "uniform:0"), "quantizer stride 0.0 is not positive"),
        (("--quantizer", "uniform:1,2"), "expected one stride"),
        (("--weights", "nothing.pth"), "nothing.pth"),
        (("--train-split", "trian"), "no split 'trian'; it has: all"),
        (("--iterations", "many"), "'--iterations'"),
        (("--detector", "ssd", "--anchor-sides", "8"), "default boxes of its own"),
        (("--detector", "faster_rcnn_fpn", "--backbone", "vgg16"), "stands on a ResNet"),
        (("--hardest", "64"), "hardest 64 says nothing to faster_rcnn; it is for rfcn"),
        (("--hidden-channels", "64"), "hidden channels 64 says nothing to faster_rcnn"),
        (("--ssd-head", "lite"), "predictor 'lite' says nothing to faster_rcnn; it is for ssd"),
        (("--detector", "ssd", "--bins", "3"), "bins 3 says nothing to ssd"),
        (("--detector", "ssd", "--class-boxes"), "class agnostic boxes False says nothing to ssd"),
        (("--bins", "0"), "0 bins along each side of a region: expected 1 to 16"),
        (("--detector", "rfcn", "--hardest", "-1"), "-1 hardest regions"),
        (("--detector", "rfcn", "--hidden-kernel", "2"), "a kernel of 2 (odd)"),
        (("--detector", "rfcn", "--hidden-kernel", "99"), "a hidden kernel of 99: the most is 15"),
        (("--detector", "rfcn", "--hidden-channels", "1000000000"), "the most is 16,384"),
        (("--groups", "2"), "only vgg16 can be split, not resnet18"),
        (("--groups", "two"), "groups 'two': expected 1, 2, 3, ... or depthwise"),
        (("--detector", "rfcn", "--backbone", "vgg16", "--groups", "1000000"), "take fewer groups"),
        (("--weights", "coco"), "coco: weights of a whole faster_rcnn_fpn: add --detector faster_rcnn_fpn"),
        (("--weights", "model_final.pkl"), "model_final.pkl: weights of a whole faster_rcnn_fpn"),
        (("--detector", "faster_rcnn_fpn", "--weights", "absent.pkl"), "absent.pkl: no such file"),
    ],
)
def test_wrong_options(cli, photos, tmp_path, options, message):
    ran = cli("train", "--data", photos, "--out", tmp_path / "run", *TINY, *options)
    assert ran.status == 2
    assert message in " ".join(ran.err.replace("│", " ").split())
    assert not (tmp_path / "run" / "last").exists()


def damage_image(folder: Path) -> str:
    content = (folder / "photo1.png").read_bytes()
    (folder / "photo1.png").write_bytes(content[: len(content) // 2])
    return "1 unreadable-image"


def lose_image(folder: Path) -> str:
    (folder / "photo1.png").unlink()
    return "1 missing-image"


def lose_label(folder: Path) -> str:
    (folder / "photo1.xml").unlink()
    return "1 missing-label"


def empty_label(folder: Path) -> str:
    (folder / "photo1.xml").write_text("")
    return "1 empty-file"


def malform_label(folder: Path) -> str:
    (folder / "photo1.xml").write_text("<annotation><object>")
    return "1 malformed-file"


def misstate_size(folder: Path) -> str:
    return replace_text(folder / "photo1.xml", "<width>64", "<width>99", "1 size-differs")


def move_box_out(folder: Path) -> str:
    text = (folder / "photo1.xml").read_text()
    corners = text[text.index("<bndbox>") : text.index("</bndbox>")]
    new = "<bndbox><xmin>500</xmin><ymin>500</ymin><xmax>600</xmax><ymax>600</ymax>"
    return replace_text(folder / "photo1.xml", corners, new, "1 box-outside-image")


def flatten_box(folder: Path) -> str:
    text = (folder / "photo1.xml").read_text()
    left = text[text.index("<xmin>") + 6 : text.index("</xmin>")]
    old = text[text.index("<xmax>") : text.index("</xmax>")]
    return replace_text(folder / "photo1.xml", old, f"<xmax>{int(left) - 1}", "1 box-without-area")


def replace_text(path: Path, old: str, new: str, fault: str) -> str:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return fault


Damage = Callable[[Path], str]
DAMAGES: list[Damage] = [
    damage_image,
    lose_image,
    lose_label,
    empty_label,
    malform_label,
    misstate_size,
    move_box_out,
    flatten_box,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_fault_is_listed_by_check_with_its_file(cli, photos, damage):
    fault = damage(photos)
    ran = cli("data", "check", photos)
    assert ran.status == 1
    assert fault in ran.out
    assert f"{photos}/photo1." in ran.out


def test_faults_are_counted_in_one_warning_and_training_goes_on_without_them(cli, photos, tmp_path):
    damage_image(photos)
    (photos / "photo2.xml").unlink()
    (photos / "photo3.xml").write_text("")
    ran = cli("train", "--data", photos, "--out", tmp_path / "run", *TINY)
    assert ran.status == 0, ran.err
    warnings = [line for line in ran.err.splitlines() if "warning" in line and "faults were found" in line]
    assert len(warnings) == 2, ran.err  # one a split
    assert all("1 missing-label" in line and "1 empty-file" in line for line in warnings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an empty folder"),
        ({"notes.txt": "hello"}, "Found: notes.txt"),
        ({"instances.json": '{"images": [\n {"id": 1,,}\n]}'}, "instances.json:2"),
        ({"instances.json": ""}, "instances.json"),
        ({"instances.json": "[1, 2]"}, "instances.json"),
        ({"data.yaml": "names: [a\ntrain: images"}, "data.yaml"),
        ({"data.yaml": ""}, "data.yaml"),
        ({"a.xml": "<annotation>"}, "a.xml"),
    ],
)
def test_what_is_no_data_set(cli, tmp_path, content, message):
    folder = tmp_path / "set"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_text(text)
    checked = cli("data", "check", folder)
    assert checked.status in (1, 2)  # 1: faults were found and listed
    assert message in checked.out + checked.err
    ran = cli("train", "--data", folder, "--out", tmp_path / "run", *TINY)
    assert ran.status == 2
    assert message in ran.err


def test_a_missing_folder(cli, tmp_path):
    ran = cli("train", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", *TINY)
    assert ran.status == 2
    assert str(tmp_path / "nowhere") in ran.err


def test_only_difficult_objects_are_nothing_to_train_on(cli, photos, tmp_path):
    for label in photos.glob("*.xml"):
        replace_text(label, "<bndbox>", "<difficult>1</difficult><bndbox>", "")
    ran = cli("train", "--data", photos, "--out", tmp_path / "run", *TINY)
    assert ran.status == 2
    assert "has a labelled object, difficult ones and crowds apart" in ran.err


def test_a_single_image_cannot_be_split(cli, photos, tmp_path):
    for path in photos.glob("photo[1-9]*"):
        path.unlink()
    ran = cli("train", "--data", photos, "--out", tmp_path / "run", *TINY)
    assert ran.status == 2
    assert "1 images are too few for 2 splits" in ran.err


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda c: {**c, "format": 99}, "upgrade tinydet"),
        ("config.json", lambda c: {**c, "detector": {**c["detector"], "wings": 2}}, "unknown field 'wings'"),
        ("config.json", lambda c: {k: v for k, v in c.items() if k != "detector"}, "no object `detector`"),
        ("config.json", lambda c: {**c, "run": None}, "`run` is no object"),
        ("config.json", lambda c: {**c, "detector": {**c["detector"], "classes": ["x"]}}, "of another shape"),
        ("metrics.json", lambda c: "{", "metrics.json:1: not valid JSON"),
    ],
)
def test_a_checkpoint_that_was_edited(cli, trained, tmp_path, file, change, message):
    best = Path(shutil.copytree(trained / "best", tmp_path / "best"))
    changed = change(json.loads((best / file).read_text()))
    (best / file).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    ran = cli("detect", best, trained.parent / "photos")
    assert ran.status == 2
    assert message in ran.err
    assert f"{best / file}" in ran.err or "model.safetensors" in ran.err


@pytest.mark.parametrize("kept", [0, 4, 500, -1])
def test_a_checkpoint_with_truncated_weights(cli, trained, tmp_path, kept):
    best = Path(shutil.copytree(trained / "best", tmp_path / "best"))
    weights = best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    ran = cli("detect", best, trained.parent / "photos")
    assert ran.status == 2
    assert f"{weights}: truncated, or not a safetensors file" in ran.err


def test_a_damaged_run_is_not_gone_on_with(cli, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    weights = run / "last" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    ran = cli("train", "--data", trained.parent / "photos", "--out", run, *TINY)
    assert ran.status == 2
    assert str(weights) in ran.err


def test_a_teacher_of_other_classes(cli, trained, tmp_path):
    names = ("pin", "needle")
    data = tmp_path / "others"
    shutil.copytree(trained.parent / "photos", data)
    for label in data.glob("*.xml"):
        text = label.read_text()
        label.write_text(text.replace(">red<", f">{names[0]}<").replace(">green<", f">{names[1]}<"))
    for verb in ("mimic", "train"):
        option = "--teacher" if verb == "mimic" else "--start"
        ran = cli(verb, "--data", data, "--out", tmp_path / "run", option, trained, *TINY)
        assert ran.status == 2
        assert "green, red; the data has needle, pin" in ran.err


def test_a_students_regions_that_do_not_exist(cli, trained, tmp_path):
    data = trained.parent / "photos"
    command = ("mimic", "--data", data, "--out", tmp_path / "run", "--teacher", trained, *TINY)
    ran = cli(*command, "--features-only", "--region-source", "student")
    assert ran.status == 2
    assert "the mimic loss alone teaches no proposals" in ran.err
    for value in ("nan", "-1"):
        ran = cli(*command, "--lambda", value)
        assert ran.status == 2
        assert "mimic loss of weight" in ran.err


def test_a_full_disk_loses_nothing(cli, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    fresh = tmp_path / "fresh"
    data = trained.parent / "photos"
    with files_of_at_most(20_000):
        ran = cli("train", "--data", data, "--out", fresh, *TINY)
    assert ran.status == 1
    assert f"cannot write {fresh}" in ran.err
    assert not list(fresh.glob(".*")), "half-written files are left"
    assert cli("train", "--data", data, "--out", fresh, *TINY).status == 0
    there, again = (load_file(folder / "last" / "model.safetensors") for folder in (run, fresh))
    assert all(torch.equal(there[name], again[name]) for name in there)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_in_the_log(tmp_path):
    from tinydet.errors import TinydetError
    from tinydet.training.logs import RunLog

    def write(log: RunLog) -> None:
        for step in range(1, 2000):
            log.step(step, 0.1, {"loss": 1.0}, 1.0)
            log.flush()

    log = RunLog(tmp_path, 0, every=1)
    with files_of_at_most(100):
        with pytest.raises(TinydetError, match="cannot write"):
            write(log)
        with pytest.raises(TinydetError, match="cannot write"):
            log.close()


@pytest.mark.parametrize("place", ["a_file", "/proc/tinydet"])
def test_a_place_that_cannot_be_written_to(cli, photos, tmp_path, place):
    out = tmp_path / place
    if not out.is_relative_to("/proc"):
        out.write_text("not a folder")
    elif not out.parent.is_dir():
        pytest.skip("there is no /proc here")
    ran = cli("train", "--data", photos, "--out", out, *TINY)
    assert ran.status in (1, 2)
    assert "cannot write" in ran.err
    assert str(out) in ran.err


def test_unicode_names(cli, photos, tmp_path):
    for label in photos.glob("*.xml"):
        text = label.read_text(encoding="utf-8")
        label.write_text(text.replace(">red<", ">Wäschebär 🦝<").replace(">green<", ">熊<"), encoding="utf-8")
    out, found = tmp_path / "Läufe 熊", tmp_path / "found.jsonl"
    ran = cli("train", "--data", photos, "--out", out, *TINY)
    assert ran.status == 0, ran.err
    config = json.loads((out / "best" / "config.json").read_text(encoding="utf-8"))
    assert config["classes"] == ["Wäschebär 🦝", "熊"]
    ran = cli("detect", out, photos / "photo0.png", "--json", found, "--out", tmp_path / "gezeichnet", "--score", "0")
    assert ran.status == 0, ran.err
    assert json.loads(found.read_text(encoding="utf-8"))["image"].endswith("photo0.png")


def test_images_of_every_size_and_kind_are_detected_in(cli, trained, tmp_path):
    folder = tmp_path / "kinds"
    folder.mkdir()
    with Image.open(trained.parent / "photos" / "photo0.png") as opened:
        picture = opened.convert("RGB")
    for mode, suffix in (("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "gif"), ("1", "png")):
        picture.convert(mode).save(folder / f"{mode}.{suffix}")
    for width, height in ((1, 1), (2000, 1), (1, 2000)):
        picture.resize((width, height)).save(folder / f"{width}x{height}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    ran = cli("detect", trained, folder, "--json", tmp_path / "found.jsonl", "--out", tmp_path / "drawn")
    assert ran.status == 0, ran.err
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert sorted(Path(line["image"]).name for line in lines) == sorted(
        path.name for path in folder.iterdir() if path.name != "broken.jpg"
    )
    assert "warning: 1 of 9 could not be read" in ran.err
    assert f"{folder / 'broken.jpg'}: not a readable image" in ran.err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.onnx", b"", "model.onnx"),
        ("model.onnx", b"not a model at all", "model.onnx"),
        ("model.tinydet", b"TDET" + bytes(40), "model.tinydet"),
        ("missing.onnx", None, "no such file"),
    ],
)
@pytest.mark.parametrize("verb", ["detect", "evaluate"])
def test_a_file_that_is_no_detector(cli, trained, tmp_path, verb, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    data = trained.parent / "photos"
    more = (data,) if verb == "detect" else ("--data", data, "--protocol", "voc07")
    ran = cli(verb, tmp_path / name, *more)
    assert ran.status == 2
    assert message in ran.err


def test_an_onnx_model_of_someone_else(cli, trained, tmp_path):
    from onnx import TensorProto, helper, save

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    save(helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])),
         str(tmp_path / "other.onnx"))  # fmt: skip
    ran = cli("detect", tmp_path / "other.onnx", trained.parent / "photos")
    assert ran.status == 2
    assert f"{tmp_path / 'other.onnx'}" in ran.err


def test_evaluating_what_does_not_fit(cli, trained, tmp_path):
    data = trained.parent / "photos"
    evaluate = ("evaluate", trained, "--protocol", "voc07", "--data")
    for options, message in (
        ((data, "--split", "tset"), "no split 'tset'"),
        ((data, "--device", "gpu"), "device 'gpu': expected auto, cpu or cuda"),
        ((tmp_path / "nowhere",), "nowhere"),
        ((data, "--threads", "0"), "greater than or equal to 1"),
    ):
        ran = cli(*evaluate, *options)
        assert ran.status == 2
        assert message in " ".join(ran.err.replace("│", " ").split())
    others = Path(shutil.copytree(data, tmp_path / "others"))
    for label in others.glob("*.xml"):
        label.write_text(label.read_text().replace(">red<", ">pin<").replace(">green<", ">needle<"))
    ran = cli(*evaluate, others)
    assert ran.status == 2
    assert "no class in common" in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--fractions", "0.8,0.8"), "sum to 1"),
        (("--fractions", "a,b"), "expected numbers"),
        (("--fractions", "nan,1"), "above 0"),
        (("--seed", "-1"), "seed -1: expected 0 or more"),
        (("--layout", "pascal", "--out", "copy"), "pascal"),
    ],
)
def test_splitting_wrongly(cli, photos, monkeypatch, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    ran = cli("data", "split", photos, *options)
    assert ran.status == 2
    assert message in ran.err
    assert not (tmp_path / "copy").exists()

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tinydet.cli import _register_verbs, app
from tinydet.cli.distill import distillation_config
from tinydet.distill.features import CWDConfig, MGDConfig, PKDConfig
from tinydet.distill.logits import BoxDistillConfig, LogitConfig
from tinydet.errors import InputError

NETWORK = ["--detector", "ssd", "--backbone", "mobilenet_v1", "--shorter-side", "64", "--ssd-head", "lite"]
TRAINING = ["--iterations", "2", "--batch-size", "2", "--validate-every", "5", "--device", "cpu"]


def test_options_make_the_methods_configuration():
    assert distillation_config("logits", alpha=None, over=None) == LogitConfig()
    assert distillation_config(
        "logits", alpha=0.3, temperature=4.0, t_squared=True, over="all", boxes="imitated", box_margin=0.2
    ) == LogitConfig(0.3, 4.0, True, "all", BoxDistillConfig("imitated", margin=0.2))
    assert distillation_config("pkd", maps=(0, 1), weight=2.0) == PKDConfig(2.0, (0, 1))
    assert distillation_config("cwd", temperature=4.0) == CWDConfig(temperature=4.0)
    assert distillation_config("mgd", masked_share=0.5) == MGDConfig(masked_share=0.5)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("kd", {}, "expected one of logits, pkd"),
        ("pkd", {"alpha": 0.5}, "--alpha says nothing to --method pkd"),
        ("logits", {"maps": (0,)}, "--maps says nothing"),
        ("logits", {"alpha": 1.5}, "alpha 1.5"),
        ("logits", {"over": "some"}, "counted, all"),
        ("logits", {"box_weight": 1.0}, "give --boxes"),
        ("logits", {"boxes": "loose"}, "bounded, imitated"),
        ("cwd", {"temperature": 0.0}, "temperature"),
    ],
)
def test_wrong_options_are_the_users_mistake(method, options, message):
    with pytest.raises(InputError, match=message):
        distillation_config(method, **options)


def tiny_data_set(folder: Path) -> Path:
    """Two splits of two images with one square each, in YOLO's layout."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for name in ("a", "b"):
            pixels = random.integers(0, 99, (64, 64, 3), dtype=np.uint8)
            pixels[16:48, 16:48] = 250
            Image.fromarray(pixels).save(folder / "images" / split / f"{name}.png")
            (folder / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [square]\n")
    return folder


def test_a_student_is_distilled_by_one_command(tmp_path):
    _register_verbs()
    data = str(tiny_data_set(tmp_path / "data"))
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    runner = CliRunner()

    def run(*arguments: str) -> None:
        result = runner.invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output

    run("train", "--data", data, "--out", str(teacher), "--width", "8", *NETWORK, *TRAINING)
    taught = ["--teacher", str(teacher / "last"), "--width", "16", *NETWORK, *TRAINING]
    run("distill", "--data", data, "--out", str(student), "--boxes", "bounded", *taught)
    losses = json.loads((student / "losses.jsonl").read_text().splitlines()[-1])
    assert {"distill_class", "distill_box", "detection_class", "detection_box"} <= set(losses.get("losses", losses))

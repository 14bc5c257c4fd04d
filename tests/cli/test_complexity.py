import json

import pytest
import typer.testing

from tinydet.backbones import VGGConfig
from tinydet.cli import _register_verbs, app
from tinydet.detectors import RFCN, RFCNConfig
from tinydet.errors import InputError
from tinydet.training.checkpoint import save_checkpoint

_register_verbs()


def figures(tmp_path, *arguments):
    out = tmp_path / "figures.json"
    result = typer.testing.CliRunner().invoke(
        app, ["complexity", *arguments, "--json", str(out)], catch_exceptions=False
    )
    assert result.exit_code == 0
    return json.loads(out.read_text())["networks"], result.stdout


def by_hand(channels_in: int) -> int:
    """VGG-1-32 R-FCN at 1000 x 600, layer by layer; maps are 600 x 1000, 300 x 500, ... 37 x 62 cells."""
    layers = [2, 2, None, 4, 4, None, 8, 8, 8, None, 16, 16, 16, None, 16, 16, 16]
    height, width, before, total = 600, 1000, channels_in, 0
    for channels in layers:
        if channels is None:
            height, width = height // 2, width // 2
            continue
        total += height * width * 9 * before * channels
        before = channels
    proposals = 9 * 16 * 16 + 16 * 4 + 16 * 16  # 4 anchors
    heads = 9 * 16 * 32 + 32 * (2 * 9 + 4 * 9)
    return total + height * width * (proposals + heads)


def test_a_named_network(tmp_path):
    (row,), printed = figures(
        tmp_path, "--detector", "rfcn", "--backbone", "vgg16", "--width", "32", "--gray", "--classes", "1"
    )
    assert row["multiply_adds"] == by_hand(1)
    assert set(row["blocks"]) == {"backbone", "proposals", "heads"}
    assert "209.2" in printed


def test_the_papers_networks_stand_beside_its_figures(tmp_path):
    rows, printed = figures(tmp_path, "--paper")
    assert [row["paper_multiply_adds"] // 10**6 for row in rows] == [227, 232, 286, 273] * 2
    assert [rows[0]["multiply_adds"], rows[4]["multiply_adds"]] == [by_hand(1), by_hand(3)]
    assert rows[4]["multiply_adds"] == pytest.approx(227e6, rel=0.02)
    assert "286" in printed


def test_a_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "model", RFCN(RFCNConfig(("x",), VGGConfig(64, groups=2))))
    (row,), _ = figures(tmp_path, str(tmp_path / "model"), "--size", "160x96")
    named, _ = figures(
        tmp_path,
        *("--detector", "rfcn", "--backbone", "vgg16", "--width", "64", "--groups", "2"),
        *("--classes", "1", "--size", "160x96"),
    )
    assert row["multiply_adds"] == named[0]["multiply_adds"]
    assert row["parameters"] == named[0]["parameters"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "1000"], "WIDTHxHEIGHT"),
        (["--size", "1000000x1000000"], "pixels"),
        (["--backbone", "vgg19"], "expected one of"),
        (["--width", "-1"], "above 0"),
        (["--groups", "2"], "only vgg16"),
        (["--backbone", "vgg16", "--groups", "two"], "depthwise"),
        (["--paper", "--size", "640x480"], "1000x600"),
        (["/nowhere"], "no such checkpoint"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        typer.testing.CliRunner().invoke(app, ["complexity", *arguments], catch_exceptions=False)

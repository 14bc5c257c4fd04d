"""`tinydet mismatch` on a student that one step of mimicking made."""

import json

import pytest
import torch
from typer.testing import CliRunner

from tinydet.backbones import ResNetConfig
from tinydet.cli import _register_verbs, app
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.distill.mimic import MimicConfig
from tinydet.distill.steps import MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.report.summary import read_summary
from tinydet.training.checkpoint import save_checkpoint
from tinydet.training.resume import step_tensors
from tinydet.training.steps import describe_step


@pytest.fixture
def run(tmp_path):
    def detector(divisor):
        torch.manual_seed(divisor)
        classes = tuple("0123456789")
        return FasterRCNN(FasterRCNNConfig(classes, ResNetConfig(18, divisor), Preprocessing(64, 128)))

    _register_verbs()
    teacher = detector(16)
    save_checkpoint(tmp_path / "teacher", teacher)
    for name in ("one", "two"):
        config = MimicConfig(regions=2, output_size=2)
        step = MimicStep(detector(32), Teacher(teacher, 2), config)
        extra = {"training": {"step": describe_step(step)}}
        save_checkpoint(tmp_path / name / "seed0", step.detector, extra=extra, step_tensors=step_tensors(step))

    def run(*arguments):
        teaching = ["--data", "digits:train=1,val=1,test=1", "--teacher", str(tmp_path / "teacher")]
        return CliRunner().invoke(app, ["mismatch", *teaching, *map(str, arguments)])

    return run


def test_several_students_beside_each_other(run, tmp_path):
    students = ("--student", tmp_path / "one" / "seed0", "--student", tmp_path / "two" / "seed0")
    result = run(*students, "--json", tmp_path / "found.json", "--out", tmp_path / "page", "--threshold", "0.1")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["threshold"] == 0.1
    assert set(found["students"]) == {"one/seed0", "two/seed0"}  # told apart by the least of their paths
    for student in found["students"].values():
        assert student["regions"] == 2
        assert sum(student["shares"]) == pytest.approx(1)
        assert 0 <= student["mean"] <= 1
    summary = read_summary(tmp_path / "page")
    assert summary.histograms[0].shares.keys() == found["students"].keys()
    assert summary.variants[0].mean("mean") == pytest.approx(found["students"]["one/seed0"]["mean"])
    assert "Mismatching ratio" in (tmp_path / "page" / "report.html").read_text()


def test_mistakes(run, tmp_path):
    student = ("--student", tmp_path / "one" / "seed0")
    assert isinstance(run(*student, *student).exception, InputError)
    assert "threshold" in str(run(*student, "--threshold", "-1").exception)
    assert "no such checkpoint" in str(run("--student", tmp_path / "absent").exception) or "step.safetensors" in str(
        run("--student", tmp_path / "absent").exception
    )

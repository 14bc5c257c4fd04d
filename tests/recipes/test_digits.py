"""The digits recipe from end to end, killed on its way: what `tinydet demo` gives, in miniature."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

VARIANTS = ("teacher", "teacher_quantized", "scratch", "mimic", "quantization_mimic")
DATA = "digits:train=24,val=2,test=6"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(out: Path) -> list[str]:
    options = ["--budget", "0.005", "--data", DATA, "--batch-size", "2", "--latency-images", "2", "--device", "cpu"]
    return [sys.executable, "-m", "tinydet", "run", "digits", "--out", str(out), *options]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed when its teacher was trained, and finished by the same command."""
    out = tmp_path_factory.mktemp("digits") / "run"
    killed = subprocess.Popen(command(out), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (out / "teacher" / "seconds.json").is_file() and time.monotonic() < deadline:
        assert killed.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "summary.json").exists()
    teacher = (out / "teacher" / "last" / "model.safetensors").stat().st_mtime_ns
    done = subprocess.run(command(out), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (out / "teacher" / "last" / "model.safetensors").stat().st_mtime_ns == teacher, "it was trained again"
    return out


@pytest.mark.slow
def test_the_summary_has_every_figure_of_every_variant(run):
    summary = json.loads((run / "summary.json").read_text())
    assert [variant["name"] for variant in summary["variants"]] == list(VARIANTS)
    for variant in summary["variants"]:
        assert 0 <= variant["mAP"] <= 1
        assert set(variant["AP_per_class"]) <= set("0123456789")
        assert variant["AP_per_class"]
        for figure in ("parameters", "multiply_adds", "bytes_on_disk", "latency_ms"):
            assert variant[figure] > 0, figure
        packed = run / "packed" / f"{variant['name']}.tinydet"
        assert packed.stat().st_size == variant["bytes_on_disk"]
    teacher, student = summary["variants"][0], summary["variants"][2]
    assert student["parameters"] < teacher["parameters"] / 10
    assert student["bytes_on_disk"] < teacher["bytes_on_disk"] / 5
    assert summary["asked"]["command"].startswith("tinydet run digits")
    assert summary["asked"]["seeds"] == [0]


@pytest.mark.slow
def test_losses_are_logged_one_by_one(run):
    for stage, mimics in (("teacher", False), ("scratch/seed0", False), ("quantization_mimic/seed0", True)):
        lines = [json.loads(line) for line in (run / stage / "losses.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(1, 9))  # 0.005 of 1,500
        names = {"proposal_class", "proposal_box", "detection_class", "detection_box"}
        assert set(lines[0]["losses"]) == names | ({"mimic"} if mimics else set())


@pytest.mark.slow
def test_the_report_is_one_file_that_asks_for_nothing(run):
    page = (run / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    references = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", page) + re.findall(r"url\(([^)]+)\)", page)
    outside = [reference for reference in references if not reference.strip("\"'").startswith(("data:", "#"))]
    assert not outside
    assert "data:image/" in page  # the pictures with boxes
    assert "<svg" in page  # the curves
    for title in ("teacher, full precision", "student, Quantization Mimic"):
        assert title in page


@pytest.mark.slow
def test_a_finished_run_is_not_done_again_and_another_is_refused(run):
    before = {path: path.stat().st_mtime_ns for path in run.glob("**/last/model.safetensors")}
    assert len(before) == len(VARIANTS)
    other = subprocess.run([*command(run), "--learning-rate", "0.5"], env=ENVIRONMENT, capture_output=True, text=True)
    assert other.returncode == 2
    assert "holds another run" in other.stderr
    assert "Traceback" not in other.stderr
    assert {path: path.stat().st_mtime_ns for path in run.glob("**/last/model.safetensors")} == before

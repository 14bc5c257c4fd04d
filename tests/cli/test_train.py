from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tinydet.training.checkpoint import load_checkpoint

TINY = ("--width", "32", "--shorter-side", "64", "--iterations", "2", "--device", "cpu")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def test_a_bare_folder_to_a_checkpoint(cli, photos, tmp_path):
    ran = cli("train", "--data", photos, "--out", tmp_path / "run", *TINY, "--json", tmp_path / "figures.json")
    assert ran.status == 0, ran.err
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["steps"] == 2
    assert 0 <= figures["metrics"]["mAP"] <= 1
    detector, info = load_checkpoint(tmp_path / "run")
    assert info.classes == detector.config.classes == ("green", "red")
    assert detector.config.preprocessing.shorter_side == 64
    steps = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert set(steps[0]["losses"]) == {"proposal_class", "proposal_box", "detection_class", "detection_box"}


def test_real_photographs_without_split_files(cli, shared, tmp_path):
    """The raccoons, a dozen of them: `images` and `annotations` side by side, sizes as they came from the web."""
    for source in sorted((shared / "data" / "raccoon" / "annotations").glob("*.xml"))[:12]:
        picture = next((shared / "data" / "raccoon" / "images").glob(f"{source.stem}.*"))
        for path, folder in ((source, "annotations"), (picture, "images")):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "set" / folder)
    ran = cli("train", "--data", tmp_path / "set", "--out", tmp_path / "run", *TINY)
    assert ran.status == 0, ran.err
    assert load_checkpoint(tmp_path / "run")[1].classes == ("raccoon",)


def test_the_same_command_again_finds_it_done(cli, photos, tmp_path):
    command = ("train", "--data", photos, "--out", tmp_path / "run", *TINY)
    assert cli(*command).status == 0
    before = weights(tmp_path / "run")
    assert cli(*command).status == 0
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_command_in_the_same_folder_is_refused_by_the_fields_that_differ(cli, trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    before = weights(run)
    data = trained.parent / "photos"
    ran = cli("train", "--data", data, "--out", run, *TINY, "--learning-rate", "0.5", "--seed", "3")
    assert ran.status == 2
    assert "holds another run" in ran.err
    assert "schedule.learning_rate: 0.001 there, 0.5 now" in ran.err
    assert "data.seed: 0 there, 3 now" in ran.err
    after = weights(run)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_quantized_teacher_and_student(cli, trained, tmp_path):
    data, quantized = trained.parent / "photos", tmp_path / "quantized"
    ran = cli("train", "--data", data, "--out", quantized, "--start", trained, "--quantizer", "uniform", *TINY)
    assert ran.status == 0, ran.err
    assert load_checkpoint(quantized)[0].config.quantizer.stride == 1
    ran = cli(
        *("mimic", "--data", data, "--out", tmp_path / "student", "--teacher", quantized),
        *("--quantizer", "uniform:0.5", "--regions", "16", *TINY),
    )
    assert ran.status == 0, ran.err
    losses = json.loads((tmp_path / "student" / "losses.jsonl").read_text().splitlines()[0])["losses"]
    assert set(losses) == {"proposal_class", "proposal_box", "detection_class", "detection_box", "mimic"}
    assert load_checkpoint(tmp_path / "student")[0].config.quantizer.stride == 0.5


def test_a_loss_that_is_not_finite_stops_the_run_with_the_images_names(cli, photos, tmp_path):
    options = ("--width", "32", "--shorter-side", "64", "--iterations", "8", "--device", "cpu")
    ran = cli("train", "--data", photos, "--out", tmp_path / "run", *options, "--learning-rate", "1e12")
    assert ran.status == 1
    assert "is not finite" in ran.err
    assert "photo" in ran.err
    assert "lower learning rate" in ran.err


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_very_same_weights(photos, tmp_path):
    def command(out: str) -> list[str]:
        options = (*TINY[:4], "--iterations", "12", "--validate-every", "2", "--device", "cpu", "--ema", "0.9")
        return [sys.executable, "-m", "tinydet", "train", "--data", str(photos), "--out", str(tmp_path / out), *options]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.run(command("whole"), capture_output=True, text=True, env=environment)
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen(command("killed"), env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed" / "last" / "training").is_dir() and time.monotonic() < deadline:
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert (tmp_path / "killed" / "last" / "training").is_dir()
    again = subprocess.run(command("killed"), capture_output=True, text=True, env=environment)
    assert again.returncode == 0, again.stderr
    assert "goes on from step" in again.stderr
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logs = [(tmp_path / run / "losses.jsonl").read_text() for run in ("whole", "killed")]
    assert logs[0] == logs[1]

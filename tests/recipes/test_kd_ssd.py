import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from tinydet.backbones.pretrained import published_tensors
from tinydet.config import to_plain
from tinydet.data.ssd_augment import SSDAugmentConfig
from tinydet.detectors import build_detector
from tinydet.detectors.choice import detector_config
from tinydet.errors import InputError
from tinydet.quantizers import UniformQuantizerConfig
from tinydet.recipes import RecipeOptions, find_recipe, kd_ssd, mimic_chain
from tinydet.recipes.figures import VariantFigures
from tinydet.recipes.mimic_chain import MimicChain, run_mimic_chain
from tinydet.recipes.workbench import Workbench
from tinydet.report.summary import read_summary
from tinydet.report.terminal import print_summary
from tinydet.training.checkpoint import load_checkpoint, save_checkpoint

STEPS = 2
PLAN = kd_ssd.TABLE_1
CLASSES = tuple("0123456789")


def options(out, **changes) -> RecipeOptions:
    given = {
        "data": "digits:train=4,val=1,test=2",
        "budget": STEPS / 120_000,
        "teacher_width": 8,
        "student_width": 16,
        "shorter_side": 64,
        "batch_size": 2,
        "latency_images": 0,
        "device": "cpu",
    }
    return RecipeOptions(out=out, **{**given, **changes})


@pytest.fixture
def unmeasured(monkeypatch):
    """Packing, which every row has and tests of its own, takes longer than training here."""
    monkeypatch.setattr(mimic_chain, "variant_figures", lambda *a: VariantFigures(1, 1, (64, 64), 1))


def logged_losses(folder):
    return set(json.loads((folder / "losses.jsonl").read_text().splitlines()[0])["losses"])


def test_the_papers_numbers_stand_beside_ours():
    """Ko and Yoo, Table I: accuracy, and milliseconds on a Titan Xp."""
    rows = {row.row: row.value for row in find_recipe("kd_ssd.table1").rows}
    assert rows == {
        "student, baseline": "67.5; 5 ms",
        "teacher, channels increased": "69.7; 9 ms",
        "student, KD (Eq. 1)": "68.0; 5 ms",
    }


def test_the_networks_differ_in_their_channels_alone():
    teacher, student = (detector_config(choice, CLASSES) for choice in (PLAN.teacher, PLAN.student))
    assert student.backbone.width_divisor == 1
    assert teacher.backbone.width_divisor < 1  # channels increased
    assert replace(teacher, backbone=student.backbone) == student
    assert student.preprocessing.fixed_size_hw == (300, 300)


def test_teacher_and_student_have_the_papers_3000_boxes():
    teacher, student = (build_detector(detector_config(choice, CLASSES)) for choice in (PLAN.teacher, PLAN.student))
    assert student.anchors_xyxy.shape == (3000, 4)
    assert torch.equal(teacher.anchors_xyxy, student.anchors_xyxy)


def test_options_leave_both_with_the_same_boxes(tmp_path):
    chain = MimicChain(PLAN, options(tmp_path, shorter_side=96))
    teacher, student = (
        build_detector(chain.config(choice, None, None)) for choice in (chain.teacher_choice, chain.student_choice)
    )
    assert torch.equal(teacher.anchors_xyxy, student.anchors_xyxy)
    assert student.config.preprocessing.fixed_size_hw == (96, 96)
    assert (teacher.config.backbone.width_divisor, student.config.backbone.width_divisor) == (8, 16)


def test_equation_1_is_as_written():
    config = kd_ssd.KD.distill
    assert config.alpha + config.beta == 1
    assert not config.t_squared
    assert config.boxes is None
    assert kd_ssd.KD_AND_BOXES.distill.boxes.kind == "bounded"
    assert replace(kd_ssd.KD_AND_BOXES.distill, boxes=None) == config


def test_training_is_ssds():
    assert isinstance(PLAN.augment, SSDAugmentConfig)
    assert (PLAN.schedule.iterations, PLAN.batch_size) == (120_000, 32)
    rates = [PLAN.schedule.learning_rate_at(step) for step in (79_999, 80_000, 99_999, 100_000)]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5])


def test_options_reach_the_schedule(tmp_path):
    chosen = MimicChain(PLAN, options(tmp_path, batch_size=7, learning_rate=0.03, budget=0.01)).schedule(None)
    assert (chosen.iterations, chosen.batch_size, chosen.learning_rate) == (1200, 7, 0.03)
    usual = MimicChain(PLAN, options(tmp_path, batch_size=None))
    assert usual.schedule(None).batch_size == 32
    assert usual.schedule(None).learning_rate == pytest.approx(0.01)
    assert usual.schedule(tmp_path).learning_rate == pytest.approx(0.001)  # from pretrained weights
    assert "of SSD's schedule" in usual.budget_in_words()


# Weights to start from


@pytest.fixture
def weights(tmp_path):
    """Backbone weights of MobileNetV1-1-16, named as published ones are."""
    detector = build_detector(detector_config(replace(PLAN.student, width=16, shorter_side=64), CLASSES))
    file = tmp_path / "mobilenet.safetensors"
    save_file(published_tensors(detector, detector.config.backbone), file)
    return file


def test_a_student_starts_from_pretrained_weights_as_train_does(tmp_path, weights):
    asked = options(tmp_path / "run", student_weights=weights, frozen_blocks=3)
    chain = MimicChain(PLAN, asked)
    for variant in PLAN.students:
        student = chain._start(variant, 0)
        assert student.config.backbone.normalization == "frozen"
        assert (student.config.preprocessing.mean, student.config.preprocessing.std) == ((127.5,) * 3, (127.5,) * 3)
        own = published_tensors(student, student.config.backbone)
        first = chain._start(PLAN.students[0], 1)  # another seed, the same backbone
        assert torch.equal(own["conv_pw_5.weight"], published_tensors(first, first.config.backbone)["conv_pw_5.weight"])
        frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
        assert any("conv_pw_3.weight" in name for name in frozen)
        assert not any("conv_pw_4.weight" in name for name in frozen)
    assert chain.teacher_choice.normalization == "batch"
    assert chain.teacher_choice.frozen_blocks == 0
    assert chain.settings()["student"].endswith("3 blocks frozen")


def test_weights_of_another_width_are_refused_before_training(tmp_path, weights):
    asked = options(tmp_path / "run", student_weights=weights, student_width=32)
    with pytest.raises(InputError, match="another shape"):
        run_mimic_chain(PLAN, asked)
    assert not (tmp_path / "run").exists()


def test_blocks_are_frozen_of_pretrained_networks_alone(tmp_path, weights):
    with pytest.raises(InputError, match="frozen blocks 3: random weights"):
        options(tmp_path, frozen_blocks=3)
    with pytest.raises(InputError, match="frozen blocks 14"):
        run_mimic_chain(PLAN, options(tmp_path / "run", student_weights=weights, frozen_blocks=14))
    assert not (tmp_path / "run").exists()


# Teachers


def test_a_teacher_with_other_boxes_is_refused_before_training(tmp_path):
    other = detector_config(replace(PLAN.teacher, width=16, shorter_side=64, default_boxes=1917), CLASSES)
    folder = save_checkpoint(tmp_path / "teacher", build_detector(other))
    with pytest.raises(InputError, match="default boxes are not the student's"):
        run_mimic_chain(PLAN, options(tmp_path / "run", teacher=folder))
    assert not (tmp_path / "run").exists()
    chain = MimicChain(PLAN, options(tmp_path / "run", teacher=folder, default_boxes=1917))
    chain.check()
    assert chain.settings()["teacher"] == f"that of {folder}"


def test_a_folder_holds_the_run_of_one_teacher(tmp_path):
    for seed in (1, 2):
        plan = replace(PLAN.teacher, width=16, shorter_side=64)
        torch.manual_seed(seed)
        save_checkpoint(tmp_path / str(seed), build_detector(detector_config(plan, CLASSES)))
    bench = Workbench(options(tmp_path / "run", teacher=tmp_path / "1"))
    first = bench.measure("teacher", tmp_path / "1", 0)
    assert Workbench(bench.options).measure("teacher", tmp_path / "1", 0) == first
    for other, message in ((tmp_path / "2", "with another --teacher"), (None, "with --teacher;")):
        with pytest.raises(InputError, match=message):
            Workbench(replace(bench.options, teacher=other)).measure("teacher", tmp_path / "2", 0)
    with pytest.raises(InputError, match="without --student-weights"):
        Workbench(replace(bench.options, student_weights=tmp_path / "1")).measure("teacher", tmp_path / "1", 0)


def test_a_student_is_taught_in_one_way():
    with pytest.raises(ValueError, match="either mimics"):
        replace(kd_ssd.KD, mimic=kd_ssd.MIMIC)
    with pytest.raises(ValueError, match="there is none"):
        replace(kd_ssd.KD, two_stage=True)
    with pytest.raises(ValueError, match="nor taught"):
        replace(kd_ssd.KD, prune=lambda chain, teacher, seed: teacher)


# Runs


def test_distilled_students_train_on_what_their_rows_say(tmp_path, unmeasured):
    plan = replace(PLAN, teachers=(), students=(kd_ssd.BASELINE, kd_ssd.KD_AND_BOXES))
    summary = run_mimic_chain(plan, options(tmp_path))
    own = {"detection_class", "detection_box"}
    assert logged_losses(tmp_path / "baseline" / "seed0") == own
    assert logged_losses(tmp_path / "kd_boxes" / "seed0") == own | {"distill_class", "distill_box"}
    _, info = load_checkpoint(tmp_path / "kd_boxes" / "seed0")
    training = info.extra["training"]
    assert training["step"]["config"] == to_plain(kd_ssd.KD_AND_BOXES.distill)
    assert (training["schedule"]["iterations"], training["schedule"]["batch_size"]) == (STEPS, 2)
    assert all(variant.mean("mAP") is not None for variant in summary.variants)
    assert "mimic loss" not in summary.asked.settings


def test_a_student_that_is_trained_again_is_the_same_whatever_ran_before(tmp_path, unmeasured):
    """The transform of a mimic loss is random too, and depends on the seed alone."""
    teacher = build_detector(detector_config(replace(PLAN.teacher, width=8, shorter_side=64), CLASSES))
    folder = save_checkpoint(tmp_path / "teacher", teacher)
    plan = replace(PLAN, teachers=(), students=(kd_ssd.LI,))
    weights = []
    for run in ("one", "two"):
        torch.rand(len(weights) + 1)
        run_mimic_chain(plan, options(tmp_path / run, teacher=folder, regions=8))
        weights.append(load_checkpoint(tmp_path / run / "mimic" / "seed0")[0].state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.slow
def test_runs_end_to_end(tmp_path):
    """Every row trained, packed and timed; the table with both numbers; a second call trains nothing again."""
    asked = options(tmp_path, latency_images=2, regions=16, seeds=(0, 1))
    summary = run_mimic_chain(PLAN, asked)
    names = [variant.name for variant in summary.variants]
    assert names == ["teacher", "teacher_quantized", "baseline", "kd", "kd_boxes", "quantization_mimic"]
    assert [len(variant.seeds) for variant in summary.variants] == [1, 1, 2, 2, 2, 2]
    for variant in summary.variants:
        assert variant.bytes_on_disk
        assert variant.latency_ms
        assert variant.mean("mAP") is not None
    teacher, _, baseline, kd, *_ = summary.variants
    assert (kd.parameters, kd.multiply_adds) == (baseline.parameters, baseline.multiply_adds)
    assert baseline.parameters < teacher.parameters
    for name, quantizer in (("teacher", None), ("teacher_quantized", UniformQuantizerConfig())):
        assert load_checkpoint(tmp_path / name)[0].config.quantizer == quantizer
    assert load_checkpoint(tmp_path / "quantization_mimic" / "seed1")[0].config.quantizer == UniformQuantizerConfig()
    assert "mimic" in logged_losses(tmp_path / "quantization_mimic" / "seed0")
    assert summary.asked.settings["mimic loss"] == "divided by a region's entries"

    console = Console(file=io.StringIO(), width=160)
    print_summary(read_summary(tmp_path), console)
    printed = console.file.getvalue()
    for number in ("67.5", "69.7", "68.0", "5.00", "9.00"):
        assert number in printed
    assert "student, KD and boxes" in (tmp_path / "report.html").read_text()

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    run_mimic_chain(PLAN, asked)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == trained

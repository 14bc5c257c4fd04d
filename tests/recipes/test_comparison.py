import json
from dataclasses import replace

import pytest

from tinydet.recipes import RecipeOptions, comparison, find_recipe, mimic_chain
from tinydet.recipes.figures import VariantFigures
from tinydet.recipes.mimic_chain import run_mimic_chain

STEPS = 2
METHODS = ("mimic", "quantization_mimic", "pkd", "cwd", "mgd")
PLANS = {"ssd": comparison.SSD, "faster_rcnn": comparison.FASTER_RCNN}


def options(out, plan, **changes) -> RecipeOptions:
    given = {
        "data": "digits:train=4,val=1,test=2",
        "budget": STEPS / plan.schedule.iterations,
        "teacher_width": 16,
        "student_width": 32,
        "shorter_side": 64,
        "batch_size": 2,
        "regions": 8,
        "latency_images": 0,
        "device": "cpu",
    }
    return RecipeOptions(out=out, **{**given, **changes})


@pytest.fixture
def unmeasured(monkeypatch):
    """Packing, which every row has and tests of its own, takes longer than training here."""
    monkeypatch.setattr(mimic_chain, "variant_figures", lambda *a: VariantFigures(1, 1, (64, 64), 1))


@pytest.mark.parametrize(("detector", "others"), [("ssd", ("scratch", "kd")), ("faster_rcnn", ("scratch",))])
def test_every_method_is_a_row(detector, others):
    assert [variant.name for variant in PLANS[detector].students] == [*others, *METHODS]
    assert find_recipe(f"comparison.{detector}").run.args == (PLANS[detector],)


def test_rows_of_a_paper_have_its_numbers():
    numbers = {row.row: row.value for row in find_recipe("comparison.faster_rcnn").rows}
    assert [float(value) for value in numbers.values()] == [72.9, 73.3, 40.5, 44.6, 47.0]
    values = [row.value for row in find_recipe("comparison.ssd").rows]
    assert values == ["69.7; 9 ms", "67.5; 5 ms", "68.0; 5 ms"]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_students_differ_in_what_they_are_taught_alone(plan):
    for variant in plan.students:
        assert variant.change is None
        assert variant.prune is None
        assert not variant.two_stage
        assert variant.quantizer is None
        quantized = variant.name == "quantization_mimic"
        assert (variant.teacher_quantized, variant.student_quantized) == (quantized, quantized)
        assert variant.taught == (variant.name != "scratch")
    mimics = [variant.mimic for variant in plan.students if variant.mimic]
    assert mimics[0] == mimics[1]


@pytest.mark.parametrize("detector", PLANS)
@pytest.mark.parametrize("method", ["pkd", "mgd"])
def test_whole_maps_are_distilled_in_either_kind_of_detector(tmp_path, unmeasured, detector, method):
    plan = PLANS[detector]
    (student,) = (variant for variant in plan.students if variant.name == method)
    run_mimic_chain(replace(plan, teachers=(), students=(student,)), options(tmp_path, plan))
    lines = (tmp_path / method / "seed0" / "losses.jsonl").read_text().splitlines()
    losses = [json.loads(line)["losses"]["distill_features"] for line in lines]
    assert len(losses) == STEPS
    assert all(loss > 0 for loss in losses)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_runs_end_to_end(tmp_path, plan):
    """Every row trained, packed and timed; a student that is missing is trained again, and no other."""
    asked = options(tmp_path, plan, latency_images=1)
    summary = run_mimic_chain(plan, asked)
    assert len(summary.variants) == len(plan.teachers) + len(plan.students)
    assert summary.paper is not None
    for variant in summary.variants:
        assert variant.mean("mAP") is not None
        assert variant.bytes_on_disk
        assert variant.latency_ms
    students = summary.variants[len(plan.teachers) :]
    assert len({(variant.parameters, variant.multiply_adds) for variant in students}) == 1

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("last/model.safetensors")}
    missing = tmp_path / "cwd" / "seed0" / "last" / "model.safetensors"
    weights = missing.read_bytes()
    (tmp_path / "cwd").rename(tmp_path / "moved")
    run_mimic_chain(plan, asked)
    assert missing.read_bytes() == weights
    kept = {path: path.stat().st_mtime_ns for path in trained if path != missing}
    assert kept == {path: when for path, when in trained.items() if path != missing}

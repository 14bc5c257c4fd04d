import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tinydet.detectors.choice import detector_config
from tinydet.errors import InputError
from tinydet.quantizers import PowerOfTwoQuantizerConfig, UniformQuantizerConfig
from tinydet.recipes import RECIPES, RecipeOptions, find_recipe, mimic_chain
from tinydet.recipes import quantization_mimic_rfcn as rfcn
from tinydet.recipes.ablation_figures import add_ablation_curves
from tinydet.recipes.figures import VariantFigures
from tinydet.recipes.mimic_chain import MimicChain, metric_names, run_mimic_chain
from tinydet.recipes.plan import StudentVariant, TeacherVariant
from tinydet.recipes.pruned_students import removed_share
from tinydet.recipes.speed_and_size import run_speed_and_size
from tinydet.report.summary import Asked, RunSummary, SeedResult, VariantSummary, read_summary
from tinydet.training.checkpoint import load_checkpoint

STEPS = 2
TABLES = {plan.name.split(".")[1]: plan for recipe in rfcn.RECIPES[1:] for plan in recipe.run.args}  # type: ignore

PAPER = {  # Wei et al. 2018, as its tables print them
    "table2": [(83.9, 61.0, 26.8), (82.4, 62.5, 26.3), (83.7, 65.0, 27.4), (71.3, 55.4, 23.8), (73.9, 62.1, 27.6)],
    "table4": [(82.4, 62.5, 26.3), (83.7, 65.0, 27.4), (71.9, 58.2, 25.6), (73.0, 59.3, 25.6), (73.9, 62.1, 27.6)],
    "table5": [(71.9, 55.2, 23.7), (71.3, 55.4, 23.8)],
    "table6": [(83.9, 64.8, 27.8), (83.7, 65.0, 27.4), (73.0, 59.5, 26.6), (73.9, 62.1, 27.6)],
}


def options(out, **changes) -> RecipeOptions:
    given = {
        "data": "digits:train=4,val=1,test=2",
        "budget": STEPS / 80_000,
        "teacher_width": 16,
        "student_width": 32,
        "shorter_side": 64,
        "batch_size": 2,
        "latency_images": 0,
        "device": "cpu",
    }
    return RecipeOptions(out=out, **{**given, **changes})


@pytest.fixture
def unmeasured(monkeypatch):
    """Packing, which every row has and tests of its own, takes longer than training here."""
    monkeypatch.setattr(mimic_chain, "variant_figures", lambda *a: VariantFigures(1, 1, (64, 83), 1))


def test_every_table_and_the_figure_is_a_recipe():
    names = {recipe.name for recipe in RECIPES}
    assert {f"quantization_mimic.table{number}" for number in range(1, 10)} <= names
    assert {"quantization_mimic.figure5", "quantization_mimic.ablations"} <= names


@pytest.mark.parametrize("table", PAPER)
def test_the_papers_numbers_stand_beside_ours(table):
    plan = TABLES[table]
    found = [
        tuple(variant.paper[name] for name in ("easy", "medium", "hard"))
        for variant in (*plan.teachers, *plan.students)
    ]
    assert np.array(found) == pytest.approx(np.array(PAPER[table]) / 100)
    assert [row.value for row in find_recipe(plan.name).rows] == [" / ".join(map(str, row)) for row in PAPER[table]]


def test_table_3_counts_at_the_papers_size():
    plan = TABLES["table3"]
    assert plan.complexity_input_hw == (600, 1000)
    assert [v.paper["multiply_adds"] / 1e6 for v in plan.students] == [227, 232, 286, 273, 227, 227, 227, 227]
    assert [100 * v.paper["easy"] for v in plan.students] == pytest.approx(
        [71.3, 69.1, 67.8, 65.8, 68.0, 73.2, 71.9, 73.9]
    )
    assert "227 M multiply-adds" in find_recipe(plan.name).rows[2].value


@pytest.mark.parametrize("plan", TABLES.values(), ids=TABLES)
def test_the_network_is_the_papers(plan):
    for choice, width in ((plan.teacher, 4), (plan.student, 32)):
        config = detector_config(choice, ("face",))
        assert config.backbone.width_divisor == width
        assert config.preprocessing.channels == "gray"
        assert config.preprocessing.shorter_side == 600
        assert config.regions.output_size == 3
        assert config.regions.hardest is not None  # OHEM
        assert config.proposals.anchors.sides == ((64.0, 128.0, 256.0, 512.0),)  # 4, 8, 16, 32 cells of 16 pixels
        assert config.proposals.anchors.ratios == (1.0,)
    assert plan.schedule.iterations == 80_000
    assert plan.schedule.learning_rate_at(49_999) == 0.001
    assert plan.schedule.learning_rate_at(50_000) == pytest.approx(0.0001)
    for variant in plan.students:
        assert variant.mimic is None or (variant.mimic.regions, variant.mimic.weight) == (2000, 1.0)


def test_each_ablation_differs_from_the_first_student_in_one_thing():
    first, *others = TABLES["ablations"].students
    for other in others:
        changes = {
            name
            for name in ("quantizer", "regions", "mimic", "teacher_quantized", "student_quantized", "change")
            if getattr(first, name) != getattr(other, name)
        }
        assert len(changes) == 1, other.name


def test_ablations_are_drawn_against_what_changes():
    plan = TABLES["ablations"]
    accuracies = {variant.name: place / 100 for place, variant in enumerate(plan.students)}
    summary = RunSummary(
        plan.name,
        plan.title,
        Asked("", "", (0,), "", "", "", {}, "", 0.0),
        "",
        ("mAP",),
        tuple(VariantSummary(n, n, seeds=(SeedResult(0, {"mAP": ap}),)) for n, ap in accuracies.items()),
    )
    strides, regions = add_ablation_curves(SimpleNamespace(plan=plan), summary).sweeps  # type: ignore[arg-type]
    of = {name: 100 * ap for name, ap in accuracies.items()}
    base = of["quantization_mimic"]
    (points,) = strides.series.values()
    assert points == ((0.5, of["stride_0.5"]), (1, base), (2, of["stride_2"]), (4, of["stride_4"]))
    (points,) = regions.series.values()
    assert points == ((32, of["regions_32"]), (256, of["regions_256"]), (2000, base))


def test_where_our_metrics_are_not_the_papers_both_are_columns():
    assert metric_names(("mAP",), [{"mAP": 0.4}, {}]) == ("mAP",)
    assert metric_names(("mAP",), [{"easy": 0.4, "multiply_adds": 2e8}, {"hard": 0.1}]) == ("mAP", "easy", "hard")
    assert metric_names(("easy", "medium", "hard"), [{"easy": 0.4}]) == ("easy", "medium", "hard")


def test_each_row_trains_what_it_names(tmp_path, unmeasured):
    """A small plan with every kind of row: another teacher, another Q, another network, its own number of regions."""
    powers = PowerOfTwoQuantizerConfig()
    plan = replace(
        rfcn.TABLE_2,
        teachers=(
            TeacherVariant("wider", "wider", change=lambda choice: replace(choice, width=choice.width / 2)),
            TeacherVariant("powers", "powers", "fine-tuned", quantizer=powers),
        ),
        students=(
            StudentVariant("split", "split", change=lambda choice: replace(choice, groups=2)),
            replace(rfcn.QUANTIZATION_MIMIC, name="by_powers", quantizer=powers, regions=7),
            replace(rfcn.QUANTIZATION_MIMIC, name="stride_2", quantizer=UniformQuantizerConfig(2.0)),
        ),
    )
    summary = run_mimic_chain(plan, options(tmp_path, regions=9))
    assert {path.name for path in tmp_path.iterdir() if (path / "last").is_dir()} == {
        "wider", "teacher", "teacher_power_of_two", "teacher_quantized_stride_2"
    }  # fmt: skip
    wider, split, by_powers, stride_2 = (
        load_checkpoint(tmp_path / name) for name in ("wider", "split/seed0", "by_powers/seed0", "stride_2/seed0")
    )
    assert wider[0].config.backbone.width_divisor == 8
    assert split[0].config.backbone.groups == 2
    assert by_powers[0].config.quantizer == powers
    assert stride_2[0].config.quantizer == UniformQuantizerConfig(2.0)
    assert by_powers[1].extra["training"]["step"]["config"]["regions"] == 7
    assert stride_2[1].extra["training"]["step"]["config"]["regions"] == 9
    assert by_powers[1].extra["training"]["schedule"]["iterations"] == STEPS
    assert [v.name for v in read_summary(tmp_path).variants] == ["wider", "powers", "split", "by_powers", "stride_2"]
    assert summary.metric_names == ("mAP", "easy", "medium", "hard")
    assert all(variant.mean("mAP") is not None for variant in summary.variants)


def test_a_pruned_teacher_has_the_students_network(tmp_path, unmeasured):
    """The channels of VGG-1-32, chosen among those of the trained VGG-1-16, and trained on."""
    pruned = [variant for variant in TABLES["table3"].students if variant.prune]
    plan = replace(TABLES["table3"], teachers=(), students=(rfcn.SCRATCH, *pruned))
    summary = run_mimic_chain(plan, options(tmp_path))
    scratch, _ = load_checkpoint(tmp_path / "scratch" / "seed0")
    shapes = {name: tensor.shape for name, tensor in scratch.state_dict().items()}
    for variant in pruned:
        detector, info = load_checkpoint(tmp_path / variant.name / "seed0")
        assert {name: tensor.shape for name, tensor in detector.state_dict().items()} == shapes
        assert info.extra["training"]["schedule"]["iterations"] == STEPS
        row = summary.variant(variant.name)
        assert row is not None
        assert row.mean("mAP") is not None


def test_a_student_as_wide_as_its_teacher_cannot_be_pruned_from_it(tmp_path):
    chain = MimicChain(TABLES["table3"], options(tmp_path, student_width=16))
    with pytest.raises(InputError, match="narrower"):
        removed_share(chain)


def test_a_changed_teacher_teaches_nobody():
    with pytest.raises(ValueError, match="full precision only"):
        TeacherVariant("x", "x", "fine-tuned", change=lambda choice: choice)


def test_figure_5_is_measured_for_both_students(tmp_path, unmeasured):
    plan = TABLES["figure5"]
    summary = run_mimic_chain(plan, options(tmp_path, regions=6))
    (histogram,) = summary.histograms
    assert histogram.shares.keys() == {"teacher_only", "quantization_mimic"}
    assert all(sum(shares) == pytest.approx(1) for shares in histogram.shares.values())
    for name in histogram.shares:
        kept = json.loads((tmp_path / "mismatch" / f"{name}_seed0_test.json").read_text())
        variant = summary.variant(name)
        assert variant is not None
        assert variant.mean("mismatch") == kept["mean"]
        assert 0 < kept["regions"] <= 2 * 6
    assert "Mismatching ratio" in (tmp_path / "report.html").read_text()
    assert read_summary(tmp_path).histograms == summary.histograms


def test_table_1_needs_no_training(tmp_path):
    rows = (("VGG-1-16", 16.0, 30.2, 5.5), ("VGG-1-32", 32.0, 9.6, 0.13))
    asked = options(tmp_path, teacher_width=None, student_width=None, latency_images=1)
    summary = run_speed_and_size(asked, rows)
    wide, narrow = summary.variants
    assert (wide.paper, narrow.paper["bytes_on_disk"]) == ({"latency_ms": 30.2, "bytes_on_disk": 5.5e6}, 130_000)
    assert narrow.bytes_on_disk is not None
    assert wide.bytes_on_disk is not None
    assert 0 < narrow.bytes_on_disk < 130_000 < wide.bytes_on_disk
    assert wide.latency_ms is not None
    assert wide.latency_ms > 0
    assert not narrow.seeds
    assert "random" in summary.notes[0]
    detector, _ = load_checkpoint(tmp_path / "VGG-1-32")
    assert detector.config.preprocessing.channels == "gray"
    assert read_summary(tmp_path).variants[0].title == "VGG-1-16 with R-FCN"


# WIDER FACE


@pytest.fixture
def wider(tmp_path):
    """Two images a split in the official layout, and the official ground truth of the second split."""
    savemat = pytest.importorskip("scipy.io").savemat
    faces = {}
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        lines = []
        for number in range(2):
            name = f"0--Parade/{split}_{number}"
            path = tmp_path / f"WIDER_{split}" / "images" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(path)
            lines += [f"{name}.jpg", "1", "10 12 30 40 0 0 0 0 0 0"]
            if split == "val":
                faces[name] = np.array([[10.0, 12, 30, 40]])
        file = tmp_path / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(lines) + "\n")

    def cells(values):
        column = np.empty((len(values), 1), object)
        for at, value in enumerate(values):
            column[at, 0] = value
        return column

    def write(folder, names):
        folder.mkdir()
        common = {"event_list": cells(["0--Parade"]), "file_list": cells([cells([n.split("/")[1] for n in names])])}
        boxes = cells([cells([faces.get(name, np.zeros((1, 4))) for name in names])])
        savemat(folder / "wider_face_val.mat", common | {"face_bbx_list": boxes})
        for subset in ("easy", "medium", "hard"):
            numbers = cells([cells([np.array([[1]]) for _ in names])])
            savemat(folder / f"wider_{subset}_val.mat", common | {"gt_list": numbers})
        return folder

    write(tmp_path / "ground_truth", list(faces))
    write(tmp_path / "of_another_set", ["0--Parade/unknown"])
    return tmp_path


def test_wider_face_reports_easy_medium_and_hard(wider, unmeasured):
    asked = options(wider / "run", data=str(wider), wider_ground_truth=wider / "ground_truth")
    summary = run_mimic_chain(TABLES["table5"], asked)
    assert summary.metric_names == ("easy", "medium", "hard")
    assert "WIDER FACE" in summary.protocol
    for variant in summary.variants:
        assert all(0 <= (variant.mean(name) or 0) <= 1 for name in summary.metric_names)
        assert variant.mean("easy") is not None
        assert variant.paper["easy"] is not None


def test_another_ground_truth_is_refused_before_training(wider):
    asked = options(wider / "run", data=str(wider), wider_ground_truth=wider / "of_another_set")
    with pytest.raises(InputError, match="not in the ground truth"):
        MimicChain(TABLES["table5"], asked)
    assert not (wider / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("table", ["table2", "table3", "table4", "table5", "table6", "ablations"])
def test_runs_end_to_end(tmp_path, table):
    """Every row trained, packed and timed, on a full-width VGG too; a second call trains nothing again."""
    plan = TABLES[table]
    asked = options(tmp_path, latency_images=1)
    summary = run_mimic_chain(plan, asked)
    assert len(summary.variants) == len(plan.teachers) + len(plan.students)
    for variant in summary.variants:
        assert variant.bytes_on_disk
        assert variant.latency_ms
        if plan.complexity_input_hw:
            assert variant.input_hw == (600, 1000)
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    run_mimic_chain(plan, asked)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == trained

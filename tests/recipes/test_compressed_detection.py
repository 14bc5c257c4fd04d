import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tinydet.backbones.weight_files import WeightFile
from tinydet.detectors import FasterRCNNConfig, FasterRCNNFPNConfig
from tinydet.detectors.published_detector import PublishedDetector
from tinydet.errors import InputError
from tinydet.export.agreement import Agreement
from tinydet.export.export import ExportReport
from tinydet.packed import PackedFile, read_packed, write_packed
from tinydet.recipes import RECIPES, RecipeOptions, compressed_detection_levels, find_recipe
from tinydet.recipes.compressed_detection import FIGURE_3, FINE_TUNED, TABLE_2
from tinydet.recipes.compressed_detection_blocks import CLASSES, PAPER_BLOCKS, block_tensors, run_block_sizes
from tinydet.recipes.compressed_detection_levels import Line
from tinydet.recipes.compressed_detection_start import dense_start
from tinydet.recipes.compressed_detection_summary import run_sparsity
from tinydet.report.markdown import summary_markdown
from tinydet.report.summary import read_summary
from tinydet.training.checkpoint import load_checkpoint

BACKBONE = Line("backbone", "backbone", ("backbone",), (30, 70), paper={30: (0.8815, 133.44e6)})
BOTH = Line("both", "backbone and RoI heads", ("backbone", "heads"), (50,))
REMOVED = Line("both_removed", "channels out", ("backbone", "heads"), (50, 99), removed=True)
SMALL = dataclasses.replace(TABLE_2, lines=(BACKBONE, BOTH, REMOVED))


def options(out: Path, **changes) -> RecipeOptions:
    given = {
        "data": "digits:train=4,val=1,test=2",
        "budget": 2 / 10_000,
        "backbone": "resnet18",
        "teacher_width": 16,
        "shorter_side": 64,
        "latency_images": 0,
        "device": "cpu",
    }
    return RecipeOptions(out=out, **{**given, **changes})


@pytest.fixture(scope="module", autouse=True)
def packed_without_a_graph():
    """Levels are packed as archives: exporting has tests of its own, and takes longer than all the rest."""

    def pack(detector, path, format, *, compression, tolerance, **_):
        assert tolerance.other_share == (0.02 if path.stem == "dense" else 1.0)
        differ = path.stem == "backbone_70"  # as where scores are all but equal
        tensors = {name: tensor.numpy() for name, tensor in detector.state_dict().items()}
        write_packed(path, PackedFile(tensors=tensors, metadata={"compression": list(compression)}))
        found = Agreement(2, 30, 20 if differ else 0, 0.0, 0.0)
        return ExportReport(path, format, 0, 0, path.stat().st_size, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed_detection_levels, "export_detector", pack)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run of a small plan. Not to be changed."""
    out = tmp_path_factory.mktemp("co") / "run"
    run_sparsity(SMALL, options(out))
    return out


def weights_of(tensors, *blocks: str) -> np.ndarray:
    """All weights of convolutions and fully connected layers of these blocks, side by side."""
    return np.concatenate(
        [tensor.ravel() for name, tensor in tensors.items() if name.startswith(blocks) and tensor.ndim >= 2]
    )


def test_the_recipes_have_the_papers_numbers():
    assert {f"compressed_detection.{name}" for name in ("table1", "table2", "figure3", "fine_tuned")} <= {
        recipe.name for recipe in RECIPES
    }
    printed = [row.value for row in find_recipe("compressed_detection.table2").rows]
    backbone = "87.97 88.40 88.15 86.95 83.48 77.42 60.24 0.17"
    both = "87.72 87.04 83.60 73.64 61.18 54.69 33.12 0.14"
    assert " ".join(printed) == f"87.92 {backbone} {backbone} {both}"
    sizes = [[number[1] / 1e6 for number in line.paper.values()] for line in TABLE_2.lines]
    kept = 1 - np.array([10, 20, 30, 40, 50, 70, 80, 90]) / 100  # the paper's sizes are the dense one's kept share
    for size, block in zip(sizes, (107.2, 56.0, 163.2), strict=True):
        assert size == pytest.approx(165.6 - block + block * kept, abs=0.25)
    assert [line.percents for line in FIGURE_3.lines if line.removed] == [(30, 50, 70)] * 3
    assert find_recipe("compressed_detection.table1").rows[0].value == "26.8 M, 107.2 MB"


def test_lines_of_another_plan_have_other_names():
    """A folder that holds table 2 keeps its levels by name; those trained on are others."""
    untrained = {line.variant(percent) for line in FIGURE_3.lines for percent in line.percents}
    tuned = {line.variant(percent) for line in FINE_TUNED.lines for percent in line.percents}
    assert len(tuned) == 11
    assert not tuned & untrained


@pytest.mark.parametrize(
    "said", [{"student_width": 2.0}, {"regions": 8}, {"quantizer_stride": 0.5}, {"per_entry": True}]
)
def test_options_of_students_are_refused(tmp_path, said):
    ((name, value),) = said.items()
    recipe = find_recipe("compressed_detection.table2")
    with pytest.raises(InputError, match=f"{name.replace('_', ' ')} {value}: says nothing to compressed_detection"):
        recipe.refuse_what_says_nothing(options(tmp_path, **said))
    recipe.refuse_what_says_nothing(options(tmp_path))


def test_the_network_is_the_papers(tmp_path):
    start = dense_start(RecipeOptions("digits", tmp_path), CLASSES, frozen=True)
    with torch.device("meta"):
        blocks = start.build(0).blocks()
    counted = {name: sum(p.numel() for p in block.parameters()) for name, block in blocks.items()}
    assert [round(counts / 1e6, 1) for counts in (*counted.values(), sum(counted.values()))] == [26.8, 0.6, 14.0, 41.4]
    assert [block.millions for block in PAPER_BLOCKS] == [26.8, 0.6, 14.0, 41.4]
    assert start.config.preprocessing.shorter_side == 800
    no_pyramid = dense_start(RecipeOptions("digits", tmp_path, backbone="vgg16", teacher_width=16), CLASSES)
    assert isinstance(no_pyramid.config, FasterRCNNConfig)


def test_table_1_measures_files(tmp_path):
    summary = run_block_sizes(options(tmp_path, data="digits"))
    assert summary.asked.settings["classes"] == "13 and background"
    blocks = ("backbone", "proposals", "heads")
    names = [f"{block}_{form}" for block in (*blocks, "total") for form in ("float32", "packed")]
    assert [row.name for row in summary.variants] == names
    for row in summary.variants:
        block, _, form = row.name.rpartition("_")
        suffix = ".tinydet" if form == "packed" else ".safetensors"
        assert row.bytes_on_disk == (tmp_path / "blocks" / f"{block}{suffix}").stat().st_size
    by_name = {row.name: row for row in summary.variants}
    total = by_name["total_float32"]
    assert total.parameters == sum(by_name[f"{block}_float32"].parameters for block in blocks)
    assert by_name["total_packed"].bytes_on_disk < 0.9 * total.bytes_on_disk
    detector = dense_start(options(tmp_path), CLASSES, frozen=True).build(0)
    stored = sum(tensor.nbytes for tensor in block_tensors(detector, None).values())
    assert stored < total.bytes_on_disk < 1.2 * stored
    assert by_name["heads_float32"].paper == {"parameters": 14e6, "bytes_on_disk": 56e6}
    assert read_summary(tmp_path) == summary
    assert "RoI heads, packed" in (tmp_path / "report.html").read_text()


def test_each_level_has_exactly_the_zeros_asked_for(run):
    dense = weights_of(read_packed(run / "packed" / "dense.tinydet").tensors, "backbone")
    for percent in BACKBONE.percents:
        tensors = read_packed(run / "packed" / f"backbone_{percent}.tinydet").tensors
        level = weights_of(tensors, "backbone")
        gone = level == 0
        assert gone.sum() == round(percent / 100 * len(dense))
        assert np.array_equal(level[~gone], dense[~gone])
        assert np.abs(dense[gone]).max() <= np.abs(dense[~gone]).min()  # the smallest of the block went
        assert (weights_of(tensors, "heads", "proposals") == 0).sum() == 0
    tensors = read_packed(run / "packed" / "both_50.tinydet").tensors
    for block in ("backbone", "heads"):
        level = weights_of(tensors, block)
        assert (level == 0).sum() == round(0.5 * len(level))


def test_the_file_gets_smaller_with_sparsity(run):
    summary = read_summary(run)
    sizes = {row.name: row.bytes_on_disk for row in summary.variants}
    assert sizes["dense"] > sizes["backbone_30"] > sizes["backbone_70"] > sizes["both_removed_50"]
    rows = {row.name: row for row in summary.variants}
    assert rows["backbone_30"].parameters == rows["dense"].parameters
    assert rows["both_removed_50"].parameters < 0.5 * rows["dense"].parameters
    assert rows["both_removed_50"].multiply_adds < 0.7 * rows["dense"].multiply_adds
    assert "30.00% of the weights of backbone" in rows["backbone_30"].description
    assert "50.0" in rows["both_removed_50"].description


def test_the_summary_is_laid_out_as_the_papers(run):
    summary = read_summary(run)
    assert summary.metric_names == ("AP50",)
    assert summary.protocol.startswith("COCO")
    names = ["dense", "backbone_30", "backbone_70", "both_50", "both_removed_50"]
    assert [row.name for row in summary.variants] == names
    assert all(row.mean("AP50") is not None for row in summary.variants)
    (grid,) = summary.grids
    assert grid.header == ("pruned", "0 %", "30 %", "50 %", "70 %", "99 %")
    cells = {row[0]: row[1:] for row in grid.rows}
    assert cells["backbone: AP50, paper"] == ("87.92", "88.15", "–", "–", "–")
    assert cells["backbone: size, paper"][:2] == ("166 MB", "133 MB")
    drawn = {sweep.title: sweep.series for sweep in summary.sweeps}
    assert [x for x, _ in drawn["AP50 against the share pruned"]["backbone"]] == [0, 30, 70]
    assert drawn["AP50 in the paper"].keys() == {"backbone"}
    assert np.array(drawn["AP50 in the paper"]["backbone"]) == pytest.approx(np.array([(0, 87.92), (30, 88.15)]))
    assert [x for x, _ in drawn["Bytes on disk"]["channels out"]] == [0, 50]
    assert "| backbone: AP50, paper | 87.92 | 88.15 |" in summary_markdown(summary)
    page = (run / "report.html").read_text()
    assert "As the paper lays it out" in page
    assert "AP50 against the share pruned" in page


def test_a_level_that_the_network_is_too_narrow_for_is_said(run):
    (note,) = [note for note in read_summary(run).notes if "99 %" in note]
    assert "each of the" in note
    assert not (run / "packed" / "both_removed_99.tinydet").exists()


def test_a_file_that_detects_otherwise_is_said(run):
    (note,) = [note for note in read_summary(run).notes if "last bit" in note]
    assert note.startswith("backbone, 70 %: 25% of the packed file's detections")


def test_what_was_done_is_in_the_file(run):
    (step,) = read_packed(run / "packed" / "backbone_30.tinydet").metadata["compression"]
    assert step["step"] == "prune"
    assert (step["config"]["sparsity"], step["config"]["method"]) == (0.3, "l1")


def test_a_run_goes_on_with_what_is_missing(tmp_path):
    plan = dataclasses.replace(SMALL, lines=(BACKBONE,))
    first = run_sparsity(plan, options(tmp_path))
    (tmp_path / "summary.json").unlink()
    lost = ("levels/backbone_70.json", "packed/backbone_70.tinydet")
    before = {name: (tmp_path / name).read_bytes() for name in lost}
    for name in (*lost, "evaluations/backbone_70_seed0_test.json"):
        (tmp_path / name).unlink()
    found = [path for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".tinydet")]
    found += tmp_path.glob("evaluations/*.json")
    kept = {path: path.stat().st_mtime_ns for path in found}
    assert Counter(path.suffix for path in kept)[".tinydet"] == 2
    again = run_sparsity(plan, options(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "it was done again"
    assert {name: (tmp_path / name).read_bytes() for name in lost} == before
    assert again.variants == first.variants


def test_levels_of_another_detector_are_refused(run, tmp_path):
    other = dataclasses.replace(options(tmp_path / "other"), teacher=run / "dense" / "seed0")
    plan = dataclasses.replace(SMALL, lines=(dataclasses.replace(BACKBONE, percents=(30,)),))
    summary = run_sparsity(plan, other)
    assert summary.asked.settings == {"dense detector": str(run / "dense" / "seed0")}
    assert not (tmp_path / "other" / "dense").exists()
    theirs = {row.name: row.mean("AP50") for row in read_summary(run).variants}
    assert {row.name: row.mean("AP50") for row in summary.variants} == {n: theirs[n] for n in ("dense", "backbone_30")}
    retrained = tmp_path / "retrained"
    run_sparsity(dataclasses.replace(plan, lines=()), options(retrained, seeds=(1,)))
    with pytest.raises(InputError, match="another dense detector"):
        run_sparsity(plan, dataclasses.replace(other, teacher=retrained / "dense" / "seed1"))
    with pytest.raises(InputError, match="give one seed"):
        run_sparsity(plan, dataclasses.replace(other, seeds=(0, 1)))


def test_fine_tuned_levels_keep_their_zeros(tmp_path):
    lines = (dataclasses.replace(BACKBONE, percents=(70,)), dataclasses.replace(REMOVED, percents=(50,)))
    plan = dataclasses.replace(FINE_TUNED, lines=lines, fine_tune_share=1.0, timed=False)
    summary = run_sparsity(plan, options(tmp_path))
    masked, info = load_checkpoint(tmp_path / "backbone_70" / "seed0")
    assert info.extra["training"]["schedule"]["iterations"] == 2
    assert info.extra["training"]["schedule"]["learning_rate"] == pytest.approx(0.001)
    level = weights_of({name: tensor.numpy() for name, tensor in masked.state_dict().items()}, "backbone")
    assert (level == 0).sum() == round(0.7 * len(level))
    dense = weights_of(read_packed(tmp_path / "packed" / "dense.tinydet").tensors, "backbone")
    assert not np.array_equal(level[level != 0], dense[level != 0])  # the others learnt
    smaller, _ = load_checkpoint(tmp_path / "both_removed_50" / "seed0")
    assert sum(p.numel() for p in smaller.parameters()) == summary.variants[2].parameters
    assert "2 steps more" in summary.asked.budget
    done = read_packed(tmp_path / "packed" / "backbone_70.tinydet").metadata["compression"]
    assert [step["step"] for step in done] == ["prune", "fine-tuning"]


def test_a_backbones_weights_are_a_start(tmp_path):
    torch.manual_seed(1)
    donor = dense_start(options(tmp_path), CLASSES).build(3)
    own = {name: t for name, t in donor.state_dict().items() if ".body." in name and "num_batches" not in name}
    torch.save({name.removeprefix("backbone.body."): tensor for name, tensor in own.items()}, tmp_path / "resnet.pth")
    start = dense_start(options(tmp_path, teacher_weights=tmp_path / "resnet.pth"), CLASSES)
    assert isinstance(start.weights, WeightFile)
    built = start.build(0).state_dict()
    assert all(torch.equal(built[name], tensor) for name, tensor in own.items())
    assert start.config.backbone.normalization == "frozen"


def test_a_published_detectors_weights_are_a_start(tmp_path):
    """torchvision's names, at a width that a test can hold; 13 classes of animals start where others were."""
    asked = options(tmp_path, backbone="resnet50", teacher_weights=tmp_path / "faster_rcnn.pth")
    donor = dense_start(dataclasses.replace(asked, teacher_weights=None), ("a", "b"), frozen=True).build(3).state_dict()
    torch.save({_torchvision_name(name): _with_background(name, t) for name, t in donor.items()}, asked.teacher_weights)
    start = dense_start(asked, CLASSES)
    assert isinstance(start.weights, PublishedDetector)
    assert isinstance(start.config, FasterRCNNFPNConfig)
    assert start.config.proposals.anchors.sides == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    built = start.build(0).state_dict()
    own = [name for name, tensor in built.items() if name in donor and donor[name].shape == tensor.shape]
    assert {name.rpartition(".")[0] for name in built.keys() - own} == {"heads.class_scores", "heads.box_deltas"}
    assert all(torch.equal(built[name], donor[name]) for name in own)
    with pytest.raises(InputError, match="width divisor is 8"):
        dense_start(dataclasses.replace(asked, teacher_width=8), CLASSES)
    with pytest.raises(InputError, match="leave --backbone out"):
        dense_start(options(tmp_path, backbone="vgg16", teacher_weights=Path("coco")), CLASSES)


def _torchvision_name(name: str) -> str:
    for ours, theirs in (
        ("proposals.head.", "rpn.head."),
        ("heads.trunk.", "roi_heads.box_head."),
        ("heads.class_scores.", "roi_heads.box_predictor.cls_score."),
        ("heads.box_deltas.", "roi_heads.box_predictor.bbox_pred."),
    ):
        name = name.replace(ours, theirs)
    return name


def _with_background(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(tensor[:4]), tensor]) if "box_deltas" in name else tensor


@pytest.mark.slow
def test_figure_3_by_the_command_line(cli_run, tmp_path):
    """Real packed files, timed."""
    out = tmp_path / "run"
    command = ("run", "compressed_detection.figure3", "--data", "digits:train=4,val=1,test=2", "--out", out)
    small = ("--budget", "0.0002", "--backbone", "resnet18", "--teacher-width", "16", "--shorter-side", "64")
    cli_run(*command, *small, "--latency-images", "2", "--device", "cpu")
    summary = json.loads((out / "summary.json").read_text())
    assert len(summary["variants"]) == 1 + 3 * 8 + 3 * 3
    for row in summary["variants"]:
        assert row["latency_ms"] > 0
        assert (out / "packed" / f"{row['name']}.tinydet").stat().st_size == row["bytes_on_disk"]
    assert [sweep["title"] for sweep in summary["sweeps"]][-1] == "Latency"


@pytest.fixture
def cli_run(monkeypatch):
    import sys

    from tinydet.cli import main
    from tinydet.export import export_detector

    monkeypatch.setattr(compressed_detection_levels, "export_detector", export_detector)

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["tinydet", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    return run

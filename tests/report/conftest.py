"""A run of two variants and two seeds, as a recipe would leave it, with hostile names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tinydet.records import Annotations, Detections, Sample
from tinydet.report.pictures import save_pictures
from tinydet.report.summary import (
    Asked,
    BlockFigures,
    Histogram,
    PaperTable,
    RunSummary,
    SeedResult,
    Sweep,
    VariantSummary,
    precision_recall_curve,
    write_summary,
)

HOSTILE = "<script>alert('1')</script>&|`\"[bold]"


def a_seed(seed: int, value: float, log: str | None) -> SeedResult:
    curves = {"cat": precision_recall_curve([0.1, 0.5, 0.8], [1.0, 0.8, 0.5])}
    return SeedResult(seed, {"mAP": value}, {"cat": value, HOSTILE: None}, curves, log, 60.0)


@pytest.fixture
def summary() -> RunSummary:
    teacher = VariantSummary(
        "teacher", "Teacher", "", (a_seed(0, 0.8, None),), 11_800_000, 58_600_000_000, (600, 1000), 45_200_000, 412.0,
        {"mAP": 0.729, "latency_ms": 103.6}, None, {"backbone": BlockFigures(2_782_784, 16_876_581_888)},
    )  # fmt: skip
    student = VariantSummary(
        "qm", f"Student {HOSTILE}", HOSTILE, (a_seed(0, 0.40, "qm/0.jsonl"), a_seed(1, 0.50, "qm/1.jsonl")),
        55_700, 236_000_000, (600, 1000), 231_000, 9.3, {"mAP": 0.47},
    )  # fmt: skip
    asked = Asked(
        HOSTILE, "train", (0, 1), "0.05", "tinydet run x", "a machine", {"python": "3.11"}, "2025-01-01", 200.0
    )
    return RunSummary(
        "quantization_mimic.table7", f"Title {HOSTILE}", asked, "VOC 2007", ("mAP",), (teacher, student),
        PaperTable("Wei et al. 2018", "Table 7"), (f"note {HOSTILE}",),
        (Histogram("Mismatch", "ratio", (0.0, 0.5, 1.0), {"qm": (0.25, 0.75)}),),
        (Sweep("AP50 against sparsity", "sparsity", "AP50", {"backbone": ((0.0, 88.0), (90.0, 1.0))}),),
    )  # fmt: skip


@pytest.fixture
def run_folder(tmp_path: Path, summary: RunSummary) -> Path:
    write_summary(summary, tmp_path)
    (tmp_path / "qm").mkdir()
    for seed in (0, 1):
        lines = [{"step": i, "lr": 0.1, "losses": {"mimic": 3.0 / i, "detection_class": 1.0 / i}} for i in range(1, 50)]
        (tmp_path / "qm" / f"{seed}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    sample = Sample(f"image {HOSTILE}", pixels, (60, 80), Annotations([[5, 5, 40, 40]], [0]))
    found = Detections([[6, 6, 40, 40], [50, 20, 70, 50]], [0.9, 0.6], [0, 1])
    save_pictures(tmp_path, [sample], {"qm": [found]}, ("cat", HOSTILE))
    return tmp_path

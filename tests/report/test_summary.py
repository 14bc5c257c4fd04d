from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tinydet.errors import InputError
from tinydet.report.summary import (
    RunSummary,
    SeedResult,
    VariantSummary,
    precision_recall_curve,
    read_summary,
    summary_from_dict,
    summary_to_dict,
)


def test_a_summary_reads_back_as_it_was(run_folder: Path, summary: RunSummary) -> None:
    assert read_summary(run_folder) == summary
    assert read_summary(run_folder / "summary.json") == summary


def test_mean_and_spread_are_those_of_the_seeds(summary: RunSummary) -> None:
    student = summary.variant("qm")
    assert student is not None
    assert student.mean("mAP") == pytest.approx(0.45)
    assert student.spread("mAP") == pytest.approx(statistics.stdev([0.4, 0.5]))
    assert student.class_mean("cat") == pytest.approx(0.45)
    teacher = summary.variant("teacher")
    assert teacher is not None
    assert teacher.spread("mAP") is None
    assert teacher.mean("AP75") is None


def test_the_file_has_one_entry_a_variant_that_other_tools_can_read(run_folder: Path) -> None:
    entry = json.loads((run_folder / "summary.json").read_text())["variants"][1]
    assert entry["mAP"] == pytest.approx(0.45)
    assert entry["AP_per_class"]["cat"] == pytest.approx(0.45)
    assert entry["spread"]["mAP"] == pytest.approx(0.0707, abs=1e-4)
    for field in ("parameters", "multiply_adds", "bytes_on_disk", "latency_ms"):
        assert entry[field] > 0


def test_derived_numbers_in_the_file_are_not_believed(summary: RunSummary) -> None:
    plain = summary_to_dict(summary)
    plain["variants"][0]["mAP"] = 0.999
    assert summary_from_dict(plain) == summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=2), "format_version 2"),
        (lambda d: d.pop("asked"), "asked"),
        (lambda d: d["variants"][0].update(parameters="many"), r"variants\[0\].parameters"),
        (lambda d: d["variants"][1]["seeds"][0]["metrics"].update(mAP=47.0), "fractions of 1"),
        (lambda d: d["variants"][1].update(name="teacher"), "named twice"),
        (lambda d: d.update(metric_names=[]), "no metric"),
    ],
)
def test_what_is_wrong_in_a_summary_is_named(summary: RunSummary, change: object, message: str) -> None:
    plain = summary_to_dict(summary)
    change(plain)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        summary_from_dict(plain, "summary.json")


def test_a_folder_without_a_summary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no summary\.json"):
        read_summary(tmp_path)
    (tmp_path / "summary.json").write_text("")
    with pytest.raises(InputError, match="not valid JSON"):
        read_summary(tmp_path)


def test_not_a_number_is_unknown_and_a_seed_comes_once() -> None:
    seed = SeedResult(0, {"mAP": math.nan}, {"cat": np.float32(0.5)})
    assert seed.metrics == {"mAP": None}
    assert type(seed.per_class["cat"]) is float
    with pytest.raises(ValueError, match="seed 0 twice"):
        VariantSummary("a", "A", seeds=(seed, replace(seed)))


def test_a_curve_is_the_envelope_at_even_recalls() -> None:
    rng = np.random.default_rng(0)
    recall = np.sort(rng.uniform(0, 0.83, 500))
    precision = rng.uniform(0, 1, 500)
    curve = precision_recall_curve(recall, precision, 11)
    expected = [max((p for r, p in zip(recall, precision) if r >= t), default=None) for t in np.linspace(0, 1, 11)]
    assert curve.precision == pytest.approx([p for p in expected if p is not None], abs=1e-4)
    assert curve.recall == pytest.approx([i / 10 for i in range(9)])


def test_the_curve_of_no_detection_is_empty() -> None:
    assert precision_recall_curve([], []).recall == ()

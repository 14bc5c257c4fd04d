from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tinydet.report.summary import Asked, RunSummary, SeedResult, VariantSummary, write_summary


@pytest.fixture
def run(tmp_path: Path) -> Path:
    asked = Asked("digits", "test", (0,), "1", "tinydet demo", "a machine", {}, "2025-01-01", 3.0)
    variants = (VariantSummary("a", "Variant A", seeds=(SeedResult(0, {"mAP": 0.5}),)),)
    write_summary(RunSummary("digits", "Digits", asked, "VOC", ("mAP",), variants), tmp_path / "run")
    return tmp_path / "run"


def _tinydet(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tinydet", *map(str, arguments)], capture_output=True, text=True)


def test_a_run_gives_a_page_a_table_markdown_and_json(run: Path, tmp_path: Path) -> None:
    done = _tinydet("report", run, "--markdown", tmp_path / "r.md", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    assert "Variant A" in done.stdout
    assert "50.0" in done.stdout
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert "| Variant A | 50.0 |" in (tmp_path / "r.md").read_text()
    assert json.loads((tmp_path / "r.json").read_text())[0]["variants"][0]["mAP"] == 0.5


def test_several_runs_go_on_one_page(run: Path, tmp_path: Path) -> None:
    done = _tinydet("report", run, run / "summary.json", "--out", tmp_path / "both.html")
    assert done.returncode == 0, done.stderr
    assert "Side by side" in (tmp_path / "both.html").read_text()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    done = _tinydet("report", tmp_path)
    assert done.returncode == 2
    assert "no summary.json" in done.stderr
    assert "Traceback" not in done.stderr

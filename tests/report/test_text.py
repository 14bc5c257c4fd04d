"""The tables in the terminal and in Markdown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tinydet.report import formats
from tinydet.report.markdown import summary_markdown
from tinydet.report.summary import RunSummary
from tinydet.report.terminal import print_summary


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.percent(0.4703), "47.0"),
        (formats.percent(0.4703, 0.0123), "47.0 ± 1.2"),
        (formats.percent(None, 0.1), "–"),
        (formats.count(227_000_000), "227 M"),
        (formats.count(58_583_975_424), "58.6 G"),
        (formats.count(999_600), "1.00 M"),
        (formats.count(0), "0"),
        (formats.size(130_000), "130 kB"),
        (formats.size(999), "999 B"),
        (formats.size(45_200_000), "45.2 MB"),
        (formats.milliseconds(9.304), "9.30"),
        (formats.milliseconds(0.0123), "0.01"),
        (formats.duration(4.25), "4.2 s"),
        (formats.duration(59.7), "1 min 00 s"),
        (formats.duration(13265), "3 h 41 min"),
        (formats.input_size((600, 1000)), "1000 × 600"),
    ],
)
def test_numbers(shown: str, expected: str) -> None:
    assert shown == expected


def test_the_terminal_shows_all_figures_in_80_columns_and_no_markup(summary: RunSummary) -> None:
    stream = io.StringIO()
    print_summary(summary, Console(file=stream, width=80, color_system=None))
    text = stream.getvalue()
    for figure in ("80.0", "45.0 ± 7.1", "72.9", "47.0", "11.8 M", "55.7 k", "236 M", "231 kB", "9.30", "[bold]"):
        assert figure in text, figure
    assert max(map(len, text.splitlines())) <= 80


def test_markdown_is_a_table_whatever_the_names(summary: RunSummary) -> None:
    text = summary_markdown(summary)
    assert "<script>" not in text.replace("\\<", "")
    tables = [line for line in text.splitlines() if line.startswith("|")]
    results = tables[:4]
    assert len({line.replace("\\|", "").count("|") for line in results}) == 1
    assert "45.0 ± 7.1" in results[3]
    assert "| 47.0 |" in results[3]
    assert "machine: a machine" in text
    assert "time: 3 min 20 s" in text

"""The tables of a run as Markdown, for `docs/results.md`."""

from __future__ import annotations

import re

from tinydet.report.summary import RunSummary
from tinydet.report.tables import TextTable, asked_lines, block_table, class_table, grid_table, results_table


def summary_markdown(summary: RunSummary, heading_level: int = 2) -> str:
    """A section: what was asked, on what machine, for how long; then all variants with the paper's numbers beside."""
    lines = [f"{'#' * heading_level} {_escaped(summary.title)}", ""]
    if summary.paper is not None:
        lines.append(f"- the paper's numbers: {_escaped(str(summary.paper))}")
    for name, text in asked_lines(summary):
        lines.append(f"- {_escaped(name)}: {_code(text) if name == 'command' else _escaped(text)}")
    spread = "Accuracies are times 100"
    if any(len(variant.seeds) > 1 for variant in summary.variants):
        spread += ", as mean ± sample standard deviation over the seeds"
    lines += ["", f"{spread}.", "", *_table(results_table(summary))]
    for table in (*map(grid_table, summary.grids), class_table(summary), block_table(summary)):
        if table.rows and len(table.header) > 1:
            lines += ["", *_table(table)]
    if summary.notes:
        lines += ["", *(f"- {_escaped(note)}" for note in summary.notes)]
    return "\n".join(lines) + "\n"


def _table(table: TextTable) -> list[str]:
    def row(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"

    return [row(table.header), "|" + " --- |" + " ---: |" * (len(table.header) - 1), *map(row, table.rows)]


def _escaped(text: str) -> str:
    """Characters that Markdown or HTML would read as more than text, and line ends, made harmless."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"`{text}`"

"""The tables of a run in the terminal."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinydet.report.summary import RunSummary
from tinydet.report.tables import TextTable, asked_lines, class_table, grid_table, results_table

_FILE_WIDTH = 160  # where there is no terminal whose width would matter
_MOST_COLUMNS = 13  # of variants side by side; the page has the rest
_PRINTED = ("data", "split", "accuracy", "seeds", "budget", "time", "machine")


def print_summary(summary: RunSummary, console: Console | None = None) -> None:
    """Print what was asked, all variants with the paper's numbers beside ours, and AP by class where it is short."""
    console = console or Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
    console.print(Text(summary.title, style="bold"))
    if summary.paper is not None:
        console.print(Text(f"the paper's numbers: {summary.paper}", style="cyan"))
    for name, text in asked_lines(summary):
        if name in _PRINTED:
            console.print(Text.assemble((f"{name}: ", "dim"), text))
    console.print(_rich_table(results_table(summary, seeds=False)))
    for grid in summary.grids:
        console.print(Text(grid.title, style="bold"))
        console.print(_rich_table(grid_table(grid)))
    classes = class_table(summary)
    if 1 < len(classes.rows) <= 20 and len(classes.header) <= _MOST_COLUMNS:
        console.print(_rich_table(classes))
    for note in summary.notes:
        console.print(Text(f"* {note}", style="dim"))


def _rich_table(table: TextTable) -> Table:
    """Texts are never read as markup: names come from data sets."""
    rich_table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(table.header):
        is_paper = index in table.paper_columns
        broken = name.replace("multiply-adds", "multi-\nply-\nadds").replace("parameters", "param-\neters")
        heading = Text(broken if index else name)
        numbers = max((len(row[index]) for row in table.rows), default=0) if index else None  # never broken or cut
        rich_table.add_column(
            heading, justify="right" if index else "left", style="cyan" if is_paper else None, min_width=numbers
        )
    for row in table.rows:
        rich_table.add_row(*(Text(cell) for cell in row))
    return rich_table

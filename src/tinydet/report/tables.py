"""The tables of a run as plain text cells, so that terminal, Markdown and page cannot say different things."""

from __future__ import annotations

from dataclasses import dataclass

from tinydet.report import formats
from tinydet.report.summary import Grid, RunSummary, VariantSummary


@dataclass(frozen=True)
class TextTable:
    """Attributes:
    header: the first column is the rows' name, every other one a figure.
    paper_columns: indices of columns that hold a paper's numbers.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    paper_columns: frozenset[int] = frozenset()


def results_table(summary: RunSummary, seeds: bool = True) -> TextTable:
    """One row a variant: accuracy as mean and spread over seeds with the paper's beside it, then sizes and times.

    Columns of which nothing is known are left out; that of the number of seeds, if not asked for.
    """
    columns: list[tuple[str, list[str], bool]] = []
    variants = summary.variants
    for metric in summary.metric_names:
        columns.append((metric, [formats.percent(v.mean(metric), v.spread(metric)) for v in variants], False))
        columns.append((f"{metric}, paper", [formats.percent(v.paper.get(metric)) for v in variants], True))
    if seeds:
        columns.append(("seeds", [str(len(v.seeds)) if v.seeds else formats.MISSING for v in variants], False))
    for name, field, show in (
        ("parameters", "parameters", formats.count),
        ("multiply-adds", "multiply_adds", formats.count),
        ("file", "bytes_on_disk", formats.size),
        ("ms", "latency_ms", formats.milliseconds),
    ):
        columns.append((name, [show(getattr(v, field)) for v in variants], False))
        columns.append((f"{name}, paper", [show(v.paper.get(field)) for v in variants], True))
    columns = [c for c in columns if any(cell != formats.MISSING for cell in c[1])]
    rows = tuple((v.title, *(cells[i] for _, cells, _ in columns)) for i, v in enumerate(variants))
    papers = frozenset(i + 1 for i, (_, _, is_paper) in enumerate(columns) if is_paper)
    return TextTable(("variant", *(name for name, _, _ in columns)), rows, papers)


def class_table(summary: RunSummary) -> TextTable:
    """AP of each class, mean and spread over seeds: one row a class, one column a variant."""
    variants = [v for v in summary.variants if v.class_names]
    rows = tuple(
        (name, *(formats.percent(v.class_mean(name), v.class_spread(name)) for v in variants))
        for name in summary.class_names
    )
    return TextTable(("AP of class", *(v.title for v in variants)), rows)


def block_table(summary: RunSummary) -> TextTable:
    """Parameters and multiply-adds of each block: one row a variant, two columns a block."""
    variants = [v for v in summary.variants if v.blocks]
    blocks = tuple(dict.fromkeys(name for v in variants for name in v.blocks))
    header = ("variant", *(f"{block}, {what}" for block in blocks for what in ("parameters", "multiply-adds")))
    return TextTable(header, tuple((v.title, *_block_cells(v, blocks)) for v in variants))


def _block_cells(variant: VariantSummary, blocks: tuple[str, ...]) -> list[str]:
    cells = []
    for name in blocks:
        block = variant.blocks.get(name)
        cells.append(formats.count(block.parameters if block else None))
        cells.append(formats.count(block.multiply_adds if block else None))
    return cells


def grid_table(grid: Grid) -> TextTable:
    """A table in a paper's own layout."""
    return TextTable(grid.header, grid.rows)


def asked_lines(summary: RunSummary) -> list[tuple[str, str]]:
    """What was asked and where it ran, as pairs of a name and a text."""
    asked = summary.asked
    inputs = sorted({formats.input_size(v.input_hw) for v in summary.variants if v.input_hw})
    pairs = [
        ("data", asked.data),
        ("split", asked.split),
        ("accuracy", summary.protocol),
        ("seeds", ", ".join(map(str, asked.seeds))),
        ("budget", asked.budget),
        ("multiply-adds at", ", ".join(inputs)),
        *asked.settings.items(),
        ("time", formats.duration(asked.seconds)),
        ("date", asked.date),
        ("machine", asked.machine),
        ("versions", ", ".join(f"{name} {version}" for name, version in asked.versions.items())),
        ("command", asked.command),
    ]
    return [(name, text) for name, text in pairs if text]

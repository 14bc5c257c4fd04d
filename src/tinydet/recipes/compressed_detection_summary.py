"""From the measured levels to the summary: lines over the share pruned, and the table as the paper lays it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tinydet.recipes.compressed_detection_levels import DENSE, METRIC, Line, SparsityPlan, SparsityRun
from tinydet.recipes.recipe import RecipeOptions
from tinydet.report import formats
from tinydet.report.page import write_report
from tinydet.report.summary import Grid, RunSummary, Sweep, VariantSummary, write_summary

Measure = Callable[[VariantSummary], float | None]

_X = "pruned, %"
_PICTURED = 50  # per cent


def run_sparsity(plan: SparsityPlan, options: RecipeOptions) -> RunSummary:
    """Make the table or figure: train, prune, measure, and write `summary.json` and `report.html`."""
    run = SparsityRun(plan, options)
    rows = [run.dense_row()]
    rows += [row for line in plan.lines for percent in line.percents if (row := run.row(line, percent)) is not None]
    summary = RunSummary(
        recipe=plan.name,
        title=plan.title,
        asked=run.bench.asked(run.budget_in_words(), run.settings()),
        protocol=run.bench.protocol_in_words,
        metric_names=tuple(dict.fromkeys((*run.bench.metrics, METRIC))),
        variants=run.timed(rows),
        paper=plan.paper,
        notes=(*plan.notes, *run.remarks),
    )
    summary = replace(summary, sweeps=sweeps(plan, summary), grids=(paper_layout(plan, summary),))
    write_summary(summary, options.out)
    run.bench.show_only((DENSE, *(line.variant(_PICTURED) for line in plan.lines)))
    run.bench.save_pictures()
    write_report(options.out)
    return summary


def sweeps(plan: SparsityPlan, summary: RunSummary) -> tuple[Sweep, ...]:
    """AP50 here and in the paper, bytes on disk and milliseconds, each a line for every part that is pruned."""
    wanted: tuple[tuple[str, str, Measure], ...] = (
        ("AP50 against the share pruned", METRIC, ap50),
        ("AP50 in the paper", METRIC, paper_ap50),
        ("Bytes on disk", "MB", megabytes),
        ("Latency", "ms", lambda row: row.latency_ms),
    )
    made = (
        Sweep(title, _X, unit, {line.title: points for line in plan.lines if (points := _points(line, summary, value))})
        for title, unit, value in wanted
    )
    return tuple(sweep for sweep in made if sweep.series)


def ap50(row: VariantSummary) -> float | None:
    mean = row.mean(METRIC)
    return None if mean is None else 100 * mean


def paper_ap50(row: VariantSummary) -> float | None:
    theirs = row.paper.get(METRIC)
    return None if theirs is None else 100 * theirs


def megabytes(row: VariantSummary) -> float | None:
    return None if row.bytes_on_disk is None else row.bytes_on_disk / 1e6


def _points(line: Line, summary: RunSummary, value: Measure) -> tuple[tuple[float, float], ...]:
    """The dense detector's point first, if any of the levels has one."""
    found = []
    for percent, name in ((0, DENSE), *((percent, line.variant(percent)) for percent in line.percents)):
        row = summary.variant(name)
        y = value(row) if row else None
        if y is not None:
            found.append((float(percent), y))
    return tuple(found) if any(x > 0 for x, _ in found) else ()


def paper_layout(plan: SparsityPlan, summary: RunSummary) -> Grid:
    """One column a share, as the paper's Table 2; AP50 and size of each part, and the paper's own under ours."""
    percents = sorted({0} | {percent for line in plan.lines for percent in line.percents})
    rows: list[tuple[str, ...]] = []
    for line in plan.lines:
        names = [DENSE if percent == 0 else line.variant(percent) for percent in percents]
        variants = [summary.variant(name) for name in names]
        for what, show in (*_OURS, *(_THEIRS if line.paper else ())):
            cells = tuple(show(row) if row else formats.MISSING for row in variants)
            if any(cell != formats.MISSING for cell in cells):
                rows.append((f"{line.title}: {what}", *cells))
    header = ("pruned", *(f"{percent} %" for percent in percents))
    return Grid("As the paper lays it out", header, tuple(rows))


def _paper_ap50(row: VariantSummary) -> str:
    theirs = paper_ap50(row)
    return formats.MISSING if theirs is None else f"{theirs:.2f}"


_OURS: tuple[tuple[str, Callable[[VariantSummary], str]], ...] = (
    (METRIC, lambda row: formats.percent(row.mean(METRIC), row.spread(METRIC))),
    ("file", lambda row: formats.size(row.bytes_on_disk)),
    ("ms", lambda row: formats.milliseconds(row.latency_ms)),
)
_THEIRS: tuple[tuple[str, Callable[[VariantSummary], str]], ...] = (
    (f"{METRIC}, paper", _paper_ap50),
    ("size, paper", lambda row: formats.size(row.paper.get("bytes_on_disk"))),
)

"""The charts of a run: which numbers go into which plot. Every one is None or empty where the data are not there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydet.errors import InputError
from tinydet.report import formats
from tinydet.report.losses import MIMIC, TITLES, LossLog, ordered_components, read_losses, share_of_sum, thinned
from tinydet.report.summary import Curve, Histogram, RunSummary, Sweep, VariantSummary
from tinydet.report.svg import (
    Axis,
    DotRow,
    Mark,
    Series,
    dot_plot,
    fitting_axis,
    histogram_chart,
    line_chart,
    scatter_chart,
)

LOSS_BINS = 80
_SIZES = (
    ("bytes_on_disk", "file, bytes", formats.size),
    ("multiply_adds", "multiply-adds", formats.count),
    ("latency_ms", "ms per image", formats.milliseconds),
)
NamedCharts = list[tuple[str, str]]  # (what stands above the chart, its SVG)


def group_of(variant: int) -> str:
    """The CSS class of everything that shows this variant, which its legend switches on and off."""
    return f"g{variant}"


def accuracy_dots(summary: RunSummary) -> str | None:
    metric = summary.metric_names[0]
    rows = []
    for index, variant in enumerate(summary.variants):
        values = [v for seed in variant.seeds if (v := seed.metrics.get(metric)) is not None]
        paper = variant.paper.get(metric)
        if values or paper is not None:
            rows.append(DotRow(variant.title, index, values, variant.mean(metric), paper, group_of(index)))
    if not rows:
        return None
    shown = [v for row in rows for v in (*row.values, *([row.paper] if row.paper is not None else []))]
    axis = fitting_axis("", (100 * v for v in shown))
    low, high = max(axis.low, 0) / 100, min(axis.high, 100) / 100
    return dot_plot(rows, Axis(metric, low, high, scale=100), f"{metric} of every seed")


def size_scatters(summary: RunSummary) -> NamedCharts:
    """Accuracy against file size, multiply-adds and time."""
    metric, charts = summary.metric_names[0], []
    for field, label, show in _SIZES:
        marks = [m for i, v in enumerate(summary.variants) for m in _marks(v, i, metric, field, show)]
        if len({mark.x for mark in marks}) < 2:
            continue
        xs = [mark.x for mark in marks]
        x = fitting_axis(label, xs, log=min(xs) > 0 and max(xs) / min(xs) > 6, zero=True)
        ys = [y for mark in marks for y in (mark.low, mark.y, mark.high) if y is not None]
        charts.append((f"{metric} against {label}", scatter_chart(marks, x, fitting_axis(metric, ys), label)))
    return charts


def _marks(variant: VariantSummary, index: int, metric: str, field: str, show: object) -> list[Mark]:
    assert callable(show)
    group, marks = group_of(index), []
    ours, mean, spread = getattr(variant, field), variant.mean(metric), variant.spread(metric)
    if ours is not None and mean is not None:
        hint = f"{variant.title}: {formats.percent(mean, spread)}, {show(ours)}"
        low, high = (None, None) if spread is None else (100 * (mean - spread), 100 * (mean + spread))
        marks.append(Mark(variant.title, ours, 100 * mean, index, hint, low, high, group=group))
    theirs, paper = variant.paper.get(field), variant.paper.get(metric)
    if theirs is not None and paper is not None:
        hint = f"{variant.title}, paper: {formats.percent(paper)}, {show(theirs)}"
        marks.append(Mark("", theirs, 100 * paper, index, hint, hollow=True, group=group))
    return marks


def precision_recall_charts(summary: RunSummary) -> NamedCharts:
    """One chart a class, each line the mean over a variant's seeds; with several classes, their mean first."""
    classes = [name for name in summary.class_names if any(_curves(v, name) for v in summary.variants)]
    charts = []
    if len(classes) > 1:
        lines = [[c for name in classes for c in _curves(v, name)] for v in summary.variants]
        charts.append(("all classes, mean", _precision_recall_chart(summary, lines, "all classes")))
    for name in classes:
        lines = [_curves(v, name) for v in summary.variants]
        charts.append((name, _precision_recall_chart(summary, lines, name)))
    return charts


def _curves(variant: VariantSummary, class_name: str) -> list[Curve]:
    return [curve for seed in variant.seeds if (curve := seed.curves.get(class_name)) is not None]


def _precision_recall_chart(summary: RunSummary, curves_by_variant: list[list[Curve]], title: str) -> str:
    series = []
    for index, (variant, curves) in enumerate(zip(summary.variants, curves_by_variant)):
        if curves:
            recall = np.linspace(0, 1, 51)
            precision = np.mean([_precision_at(curve, recall) for curve in curves], axis=0)
            reached = np.flatnonzero(precision > 0)
            last = int(reached[-1]) + 1 if len(reached) else 1
            points = [(float(r), float(p)) for r, p in zip(recall[: last + 1], precision[: last + 1])]
            series.append(Series(variant.title, points, index, group=group_of(index)))
    return line_chart(
        series, Axis("recall", 0, 1), Axis("precision", 0, 1.02), f"precision-recall, {title}", height=240
    )


def _precision_at(curve: Curve, recall: NDArray[np.float64]) -> NDArray[np.float64]:
    """The envelope's precision at each recall, 0 beyond the last that was reached."""
    if not curve.recall:
        return np.zeros(len(recall))
    place = np.searchsorted(np.asarray(curve.recall) + 1e-9, recall)
    return np.append(np.asarray(curve.precision), 0.0)[place]


def loss_charts(summary: RunSummary, run_folder: Path) -> tuple[NamedCharts, list[str]]:
    """One chart a loss component, one line a variant: the mean over seeds, and a band from the lowest to the highest.

    Returns the charts and what was wrong with the logs, if anything.
    """
    logs, faults = _read_logs(summary, run_folder)
    logged = [log for of_variant in logs for log in of_variant if len(log.steps)]
    if not logged:
        return [], faults
    edges = np.linspace(0, max(int(log.steps[-1]) for log in logged) + 1, LOSS_BINS + 1)
    charts = []
    x = Axis("step", 0, float(edges[-1]))
    for component in ordered_components({name for log in logged for name in log.losses}):
        series = [s for i, v in enumerate(summary.variants) for s in _loss_series(v, i, logs[i], component, edges)]
        if series:
            title = TITLES.get(component, component)
            charts.append((title, line_chart(series, x, _loss_axis(series), f"{title} loss")))
    shares = [[share_of_sum(log, MIMIC) for log in of_variant if MIMIC in log.losses] for of_variant in logs]
    series = [s for i, v in enumerate(summary.variants) for s in _loss_series(v, i, shares[i], MIMIC, edges)]
    if series:
        title = "Mimic, share of all losses"
        charts.append((title, line_chart(series, x, Axis("", 0, 1), title)))
    return charts, faults


def _read_logs(summary: RunSummary, run_folder: Path) -> tuple[list[list[LossLog]], list[str]]:
    logs: list[list[LossLog]] = []
    faults: list[str] = []
    root = run_folder.resolve()
    for variant in summary.variants:
        logs.append([])
        for seed in variant.seeds:
            if seed.loss_log is None:
                continue
            path = (root / seed.loss_log).resolve()
            if not path.is_relative_to(root):
                faults.append(f"the loss log {seed.loss_log} lies outside the run's folder and was not read")
                continue
            try:
                logs[-1].append(read_losses(path))
            except InputError as error:
                faults.append(str(error))
    return logs, faults


def _loss_series(
    variant: VariantSummary, index: int, logs: Sequence[LossLog], component: str, edges: NDArray[np.float64]
) -> list[Series]:
    rows = np.array([thinned(log, component, edges) for log in logs if component in log.losses])  # [seeds, bins]
    if not len(rows):
        return []
    known = np.flatnonzero(np.isfinite(rows).any(axis=0))
    centres = (edges[:-1] + edges[1:]) / 2
    points = [(float(centres[i]), float(np.nanmean(rows[:, i]))) for i in known]
    band = []
    if len(rows) > 1:
        band = [(float(centres[i]), float(np.nanmin(rows[:, i])), float(np.nanmax(rows[:, i]))) for i in known]
    return [Series(variant.title, points, index, band, group=group_of(index))]


def _loss_axis(series: Sequence[Series]) -> Axis:
    """From 0, or over decades where the values need it; the first steps' peak may leave a plain chart at the top."""
    values = [y for one in series for _, y in one.points if math.isfinite(y)]
    settled = [y for one in series for _, y in one.points[1:] if math.isfinite(y)] or values
    low, high = min(values), max(values)
    if low > 0 and high / low > 50:
        return fitting_axis("", values, log=True)
    return Axis("", min(low, 0.0), max(settled) * 1.05 or 1.0)


def histogram_charts(summary: RunSummary) -> NamedCharts:
    return [(histogram.title, _histogram(summary, histogram)) for histogram in summary.histograms]


def _histogram(summary: RunSummary, histogram: Histogram) -> str:
    order = {variant.name: index for index, variant in enumerate(summary.variants)}
    shares, groups = [], []
    for name, values in histogram.shares.items():
        index = order.setdefault(name, len(order))
        variant = summary.variant(name)
        shares.append((variant.title if variant else name, index, values))
        groups.append(group_of(index))
    return histogram_chart(histogram.edges, shares, histogram.x_label, histogram.title, groups)


def sweep_chart(sweep: Sweep) -> str:
    points = [point for line in sweep.series.values() for point in line]
    x, y = fitting_axis(sweep.x_label, (p[0] for p in points)), fitting_axis(sweep.y_label, (p[1] for p in points))
    series = [Series(name, line, index, markers=True) for index, (name, line) in enumerate(sweep.series.items())]
    return line_chart(series, x, y, sweep.title, height=260)

"""One HTML page of one or several runs, with everything in it: no other file, no network.

All names and texts come from users' files and are escaped; a content security policy forbids the page to load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from tinydet import __version__
from tinydet.files import write_text
from tinydet.report import charts, formats
from tinydet.report.gallery import gallery_html
from tinydet.report.pictures import Pictures, read_pictures
from tinydet.report.summary import RunSummary, read_summary
from tinydet.report.tables import TextTable, asked_lines, block_table, class_table, grid_table, results_table

PAGE_NAME = "report.html"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_MOST_CHARTS_SHOWN = 24


def write_report(run_folder: str | Path) -> Path:
    """Write `report.html` into a run's folder, from its `summary.json`, loss logs and pictures.

    Raises:
        InputError: the folder has no summary, or it cannot be read.
    """
    return write_page([run_folder], Path(run_folder) / PAGE_NAME)


def write_page(run_folders: Sequence[str | Path], path: str | Path) -> Path:
    """Write one page of several runs: first all of them side by side, then each.

    Raises:
        InputError: a folder has no summary, or it cannot be read.
    """
    runs = []
    for named in map(Path, run_folders):
        folder = named if named.is_dir() else named.parent  # a summary.json may be named instead of its folder
        runs.append((folder, read_summary(named), read_pictures(folder)))
    write_text(path, page_html(runs))
    return Path(path)


def page_html(runs: Sequence[tuple[Path, RunSummary, Pictures | None]]) -> str:
    files = resources.files("tinydet.report")
    css, script = ((files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    summaries = [summary for _, summary, _ in runs]
    title = summaries[0].title if len(runs) == 1 else f"{len(runs)} runs side by side"
    if len(runs) == 1:
        sections = _run_sections(*runs[0], "")
        top = _heading(summaries[0]) + _navigation([(key, name) for key, name, _ in sections])
        body = "".join(html for _, _, html in sections)
    else:
        top = f"<h1>{escape(title)}</h1>" + _navigation([(f"run{i}", _short(s)) for i, s in enumerate(summaries)])
        body = _side_by_side(summaries)
        for index, run in enumerate(runs):
            inner = "".join(html for _, _, html in _run_sections(*run, f"run{index}-"))
            body += f'<div class="run" id="run{index}">{_heading(run[1])}{inner}</div>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body>"
        f'<header class="top">{top}</header><main>{body}</main>'
        f"<footer>Made by tinydet {escape(__version__)}. This page is one file and loads nothing.</footer>"
        f"<script>{script}</script></body></html>\n"
    )


def _heading(summary: RunSummary) -> str:
    paper = f", beside {summary.paper}" if summary.paper else ""
    return f'<h1>{escape(summary.title)}</h1><p class="sub">Recipe {escape(summary.recipe)}{escape(paper)}</p>'


def _short(summary: RunSummary) -> str:
    return f"{summary.title} ({summary.asked.data})"


def _navigation(links: Sequence[tuple[str, str]]) -> str:
    return "<nav>" + "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name in links) + "</nav>"


def _run_sections(
    folder: Path, summary: RunSummary, pictures: Pictures | None, prefix: str
) -> list[tuple[str, str, str]]:
    """(id, name, HTML) of each section that has something to show."""
    loss_charts, faults = charts.loss_charts(summary, folder)
    sweeps = [(s.title, charts.sweep_chart(s) + _series_legend(list(s.series))) for s in summary.sweeps]
    named = [
        ("results", "Results", _results(summary)),
        ("classes", "Each class", _classes(summary)),
        ("sweeps", "Sweeps", _charts("", sweeps, "")),
        ("curves", "Precision and recall", _curves(summary)),
        ("losses", "Losses in training", _losses(summary, loss_charts, faults)),
        ("distributions", "Distributions", _distributions(summary)),
        ("pictures", "Pictures", _pictures(pictures, summary, prefix)),
        ("blocks", "Size of each block", _blocks(summary)),
        ("asked", "What was asked", _asked(summary)),
    ]
    return [
        (prefix + key, name, f'<section id="{prefix}{key}"><h2>{name}</h2>{content}</section>')
        for key, name, content in named
        if content
    ]


def _asked(summary: RunSummary) -> str:
    rows = []
    for name, text in asked_lines(summary):
        shown = f"<code>{escape(text)}</code>" if name == "command" else escape(text)
        rows.append(f"<dt>{escape(name)}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(rows)}</dl>"


def _results(summary: RunSummary) -> str:
    asked = summary.asked
    seeds = f"{len(asked.seeds)} seed{'s' if len(asked.seeds) != 1 else ''}"
    lead = f"{asked.data}, {asked.split}; {summary.protocol}; {seeds}; {formats.duration(asked.seconds)}."
    hint = "Accuracies are times 100"
    if any(len(variant.seeds) > 1 for variant in summary.variants):
        hint += ", mean ± sample standard deviation over seeds"
    if summary.paper:
        hint += f". The paper's numbers are those of {summary.paper}, measured on its own data and machine"
    table = _table_html(results_table(summary), summary, main=summary.metric_names[0])
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    grids = "".join(f"<h3>{escape(grid.title)}</h3>{_plain_table(grid_table(grid))}" for grid in summary.grids)
    figures = charts.size_scatters(summary)
    dots = charts.accuracy_dots(summary)
    if dots:
        figures.insert(0, (f"{summary.metric_names[0]} of every seed", dots))
    key = "Dots are seeds; bars, and dots with whiskers, are means; hollow diamonds are the paper's numbers."
    return (
        f'<p>{escape(lead)}</p>{table}<p class="hint">{escape(hint)}.</p>{grids}'
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + f'<div class="beside">{_figures(figures)}</div>'
        + (f'<p class="hint">{key}</p>' if figures else "")
    )


def _table_html(table: TextTable, summary: RunSummary, main: str) -> str:
    head = "".join(f'<th scope="col">{_title(name)}</th>' for name in table.header)
    rows = []
    for index, (variant, row) in enumerate(zip(summary.variants, table.rows)):
        description = f"<small>{escape(variant.description)}</small>" if variant.description else ""
        cells = [f'<th scope="row" class="c{index % 8}"><i class="swatch"></i>{_title(row[0])}{description}</th>']
        for column, text in enumerate(row[1:], 1):
            css = "paper" if column in table.paper_columns else "main" if table.header[column] == main else ""
            cells.append(f'<td class="{css}">{escape(text)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _scrolled(head, rows)


def _title(text: str) -> str:
    """A name such as ResNet18-1-16 is not broken at its hyphens."""
    words = [f'<span class="word">{escape(w)}</span>' if "-" in w and len(w) <= 20 else escape(w) for w in text.split()]
    return " ".join(words)


def _scrolled(head: str, rows: Sequence[str]) -> str:
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _plain_table(table: TextTable) -> str:
    head = "".join(f'<th scope="col">{_title(name)}</th>' for name in table.header)
    rows = []
    for row in table.rows:
        cells = "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        rows.append(f'<tr><th scope="row">{_title(row[0])}</th>{cells}</tr>')
    return _scrolled(head, rows)


def _classes(summary: RunSummary) -> str:
    """AP by class, shaded by its value."""
    table = class_table(summary)
    if not table.rows:
        return ""
    variants = [variant for variant in summary.variants if variant.class_names]
    head = "".join(f'<th scope="col">{_title(name)}</th>' for name in table.header)
    rows = []
    for row in table.rows:
        cells = []
        for variant, text in zip(variants, row[1:]):
            value = variant.class_mean(row[0])
            cells.append(f'<td class="shaded" style="--a:{value or 0:.3f}">{escape(text)}</td>')
        rows.append(f'<tr><th scope="row">{escape(row[0])}</th>{"".join(cells)}</tr>')
    return _scrolled(head, rows) + '<p class="hint">Average precision times 100, mean over seeds; darker is better.</p>'


def _curves(summary: RunSummary) -> str:
    hint = "Precision is the best at or beyond each recall, mean over seeds."
    return _charts(_legend(summary), charts.precision_recall_charts(summary), hint)


def _losses(summary: RunSummary, loss_charts: charts.NamedCharts, faults: Sequence[str]) -> str:
    hint = (
        "Each component on its own, mean over seeds; the band goes from the lowest seed to the highest. Where a "
        "variant is also taught by mimicking, the last chart shows how much of the sum that loss is: one that "
        "outweighs the others turns the gradient towards itself."
    )
    html = _charts(_legend(summary), loss_charts, hint)
    return html + "".join(f'<p class="hint">{escape(fault)}</p>' for fault in faults)


def _distributions(summary: RunSummary) -> str:
    names = {name for histogram in summary.histograms for name in histogram.shares}
    return _charts(_legend(summary, names), charts.histogram_charts(summary), "")


def _blocks(summary: RunSummary) -> str:
    table = block_table(summary)
    return _plain_table(table) if table.rows else ""


def _pictures(pictures: Pictures | None, summary: RunSummary, prefix: str) -> str:
    if pictures is None or not pictures.rows:
        return ""
    hint = (
        "Solid boxes are right (IoU of at least 0.5 with an object of the class), dashed ones wrong; the number is the "
        "score in per cent, the colour the class. Touch or point at a box for its class."
    )
    return f'<p class="hint">{hint}</p>{gallery_html(pictures, summary, prefix)}'


def _charts(legend: str, named: Sequence[tuple[str, str]], hint: str) -> str:
    if not named:
        return ""
    shown, folded = named[:_MOST_CHARTS_SHOWN], named[_MOST_CHARTS_SHOWN:]
    grid = "beside" if len(shown) in (1, 2, 4) else "charts"
    html = (f'<p class="hint">{escape(hint)}</p>' if hint else "") + legend
    html += f'<div class="{grid}">{_figures(shown)}</div>'
    if folded:
        more = f'<div class="charts">{_figures(folded)}</div>'
        html += f"<details><summary>{len(folded)} more</summary>{more}</details>"
    return html


def _figures(named: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in named)


def _legend(summary: RunSummary, names: set[str] | None = None) -> str:
    """Of all variants, or of those named."""
    buttons = [
        f'<button type="button" class="c{index % 8}" aria-pressed="true" data-group="{charts.group_of(index)}">'
        f'<i class="swatch"></i>{escape(variant.title)}</button>'
        for index, variant in enumerate(summary.variants)
        if names is None or variant.name in names
    ]
    return f'<div class="legend">{"".join(buttons)}</div>'


def _series_legend(names: Sequence[str]) -> str:
    chips = [f'<span class="c{i % 8}"><i class="swatch"></i>{escape(name)}</span>' for i, name in enumerate(names)]
    return f'<div class="legend">{"".join(chips)}</div>'


def _side_by_side(summaries: Sequence[RunSummary]) -> str:
    """Main accuracy of each variant (a row) in each run (a column), and in what the runs differ."""
    names = list(dict.fromkeys(variant.name for summary in summaries for variant in summary.variants))
    rows = []
    for name in names:
        variants = [(summary, summary.variant(name)) for summary in summaries]
        title = next(variant.title for _, variant in variants if variant is not None)
        cells = []
        for summary, variant in variants:
            metric = summary.metric_names[0]
            cells.append(formats.percent(variant.mean(metric), variant.spread(metric)) if variant else formats.MISSING)
        rows.append((title, *cells))
    header = ("variant", *(f"{_short(s)}: {s.metric_names[0]}" for s in summaries))
    differences = [
        f"<dt>{name}</dt><dd>{' | '.join(escape(value) for value in values)}</dd>"
        for name, values in _conditions(summaries)
        if len(set(values)) > 1
    ]
    warning = (
        f'<p class="hint">The runs differ in the following; compare numbers of different columns with care.</p>'
        f"<dl>{''.join(differences)}</dl>"
        if differences
        else '<p class="hint">The same data, split, protocol, seeds, budget and machine.</p>'
    )
    return (
        f'<section id="compare"><h2>Side by side</h2>{_plain_table(TextTable(header, tuple(rows)))}{warning}</section>'
    )


def _conditions(summaries: Sequence[RunSummary]) -> list[tuple[str, list[str]]]:
    return [
        ("data", [s.asked.data for s in summaries]),
        ("split", [s.asked.split for s in summaries]),
        ("metric", [s.metric_names[0] for s in summaries]),
        ("accuracy", [s.protocol for s in summaries]),
        ("seeds", [", ".join(map(str, s.asked.seeds)) for s in summaries]),
        ("budget", [s.asked.budget for s in summaries]),
        ("machine", [s.asked.machine for s in summaries]),
    ]

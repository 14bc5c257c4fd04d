"""`tinydet report`: what runs found, as a page, as tables, as figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinydet.cli import app


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, each with a `summary.json`.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="The page; by default `report.html` in the run's folder."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the tables as Markdown, one section a run.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures of all runs as JSON.")
    ] = None,
) -> None:
    """Make one self-contained HTML page of a run, or of several side by side, and print the tables.

    `tinydet report runs/table7`

    `tinydet report runs/bccd runs/voc --out compared.html --markdown tables.md`
    """
    from rich.console import Console

    from tinydet.files import write_json, write_text
    from tinydet.report.markdown import summary_markdown
    from tinydet.report.page import PAGE_NAME, write_page
    from tinydet.report.summary import read_summary, summary_to_dict
    from tinydet.report.terminal import print_summary

    summaries = [read_summary(run) for run in runs]
    for summary in summaries:
        print_summary(summary)
    first = runs[0] if runs[0].is_dir() else runs[0].parent
    default = first / PAGE_NAME if len(runs) == 1 else Path(PAGE_NAME)
    page = write_page(runs, out or default)
    if markdown is not None:
        write_text(markdown, "\n".join(summary_markdown(summary) for summary in summaries))
    if json_file is not None:
        write_json(json_file, [summary_to_dict(summary) for summary in summaries])
    Console(stderr=True).print(f"wrote {page}", markup=False, highlight=False, soft_wrap=True)
    if open_page:
        typer.launch(page.resolve().as_uri())

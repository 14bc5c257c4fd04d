"""`tinydet mismatch`: how far students' features are from their teacher's, region by region."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tinydet.datasets.selection import Selection
    from tinydet.report.summary import Histogram


@app.command()
def mismatch(
    data: Annotated[str, typer.Option(metavar="PATH", help="A labelled data set, or `digits`.")],
    teacher: Annotated[Path, typer.Option(metavar="CHECKPOINT", help="The teacher that taught them all.")],
    student: Annotated[
        list[Path], typer.Option(metavar="CHECKPOINT", help="A student that mimicked it; may be given several times.")
    ],
    split: Annotated[str | None, typer.Option(metavar="NAME", help="By default test, else val.")] = None,
    threshold: Annotated[float, typer.Option(metavar="X", help="Entries further apart than this mismatch.")] = 0.3,
    regions: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Regions of each image; by default as in training.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a page with the distributions there.")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
) -> None:
    """For each region of interest, the share of entries in which student and teacher differ (Figure 5).

    `tinydet mismatch --data VOCdevkit --teacher runs/figure5/teacher_quantized
    --student runs/figure5/teacher_only/seed0 --student runs/figure5/quantization_mimic/seed0 --out runs/mismatch`
    """
    from tinydet.cli.option_values import one_of
    from tinydet.datasets import open_dataset, usable_samples
    from tinydet.datasets.selection import select_splits
    from tinydet.distill.mismatch import load_pair, measure_mismatch, mismatch_histogram
    from tinydet.files import write_json
    from tinydet.training.engine import choose_device

    if threshold < 0:
        raise InputError(f"--threshold {threshold}: expected a distance of at least 0")
    started = time.monotonic()
    place = choose_device(one_of("device", device, "auto", "cpu", "cuda"))
    pairs = {name: load_pair(teacher, path) for name, path in _named(student).items()}
    chosen = select_splits(open_dataset(data), test=split)
    samples = usable_samples(chosen.dataset, chosen.test)
    ratios = {}
    for name, pair in pairs.items():
        with _progress(name) as progress:
            ratios[name] = measure_mismatch(pair, samples, threshold, regions, place, progress)
    histogram = mismatch_histogram(ratios, threshold)
    _print(ratios, threshold)
    if out is not None:
        _write_page(out, ratios, histogram, chosen, len(samples), time.monotonic() - started)
    if json_file is not None:
        write_json(
            json_file,
            {
                "threshold": threshold,
                "images": len(samples),
                "bin_edges": histogram.edges,
                "students": {
                    name: {"checkpoint": str(path), **_figures(ratios[name]), "shares": histogram.shares[name]}
                    for name, path in _named(student).items()
                },
            },
        )


def _named(students: list[Path]) -> dict[str, Path]:
    """By the end of their paths that tells them apart.

    Raises:
        InputError: one is named twice.
    """
    resolved = [path.resolve() for path in students]
    if len(set(resolved)) != len(resolved):
        raise InputError("--student: the same checkpoint is named twice")
    for parts in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-parts:]) for path in resolved]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, students))


def _progress(name: str) -> Any:
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def showing() -> Any:
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(name, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    return showing()


def _figures(ratios: NDArray[np.float64]) -> dict[str, float | int]:
    import numpy as np

    return {"regions": len(ratios), "mean": float(ratios.mean()), "median": float(np.median(ratios))}


def _print(ratios: dict[str, NDArray[np.float64]], threshold: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("student")
    for title in ("regions", "mean, %", "median, %"):
        table.add_column(title, justify="right")
    for name, values in ratios.items():
        found = _figures(values)
        cells = (name, f"{found['regions']:,}", f"{100 * found['mean']:.2f}", f"{100 * found['median']:.2f}")
        table.add_row(*map(Text, cells))
    console = Console()
    console.print(f"Entries of a region further than {threshold:g} from the teacher's:")
    console.print(table)


def _write_page(
    out: Path,
    ratios: dict[str, NDArray[np.float64]],
    histogram: Histogram,
    chosen: Selection,
    images: int,
    seconds: float,
) -> None:
    from datetime import UTC, datetime

    from tinydet.machine import installed_versions, this_machine
    from tinydet.report.page import write_report
    from tinydet.report.summary import Asked, PaperTable, RunSummary, SeedResult, VariantSummary, write_summary

    found = {name: _figures(values) for name, values in ratios.items()}
    summary = RunSummary(
        recipe="mismatch",
        title="Mismatching ratio of students and their teacher",
        asked=Asked(
            data=chosen.dataset.name,
            split=f"{chosen.test}, {images} images",
            seeds=(),
            budget="",
            command=shlex.join(["tinydet", *sys.argv[1:]]),
            machine=str(this_machine()),
            versions=installed_versions(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=seconds,
        ),
        protocol=histogram.x_label,
        metric_names=("mean", "median"),
        variants=tuple(
            VariantSummary(name, name, seeds=(SeedResult(0, {what: figures[what] for what in ("mean", "median")}),))
            for name, figures in found.items()
        ),
        paper=PaperTable("Wei et al. 2018, Quantization Mimic", "Figure 5"),
        histograms=(histogram,),
    )
    write_summary(summary, out)
    print(f"report: {write_report(out)}", file=sys.stderr)

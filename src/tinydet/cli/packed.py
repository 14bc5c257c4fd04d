"""`pack`, `unpack` and `inspect`: packed files and plain archives of weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app

if TYPE_CHECKING:
    from tinydet.packed import Limits, PackedReport

MaxMib = Annotated[
    int | None,
    typer.Option("--max-mib", min=1, help="Refuse more than this many MiB of tensors; also trusts very regular files."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the figures to this file; - for standard output.")]


@app.command()
def pack(
    weights: Annotated[Path, typer.Argument(help="A .safetensors or .npz file.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The packed file; beside WEIGHTS by default.")] = None,
    max_mib: MaxMib = None,
    json: Json = None,
) -> None:
    """Pack named tensors without loss.

    Each tensor is coded in the way that suits it: floats by their bytes, shared values by a codebook, zeros left out.
    What `unpack` gives back is the same bit for bit.

    Example: `tinydet pack model.safetensors -o model.tinydet`
    """
    from tinydet.packed import PackedFile, write_packed
    from tinydet.packed.archives import read_archive

    tensors = read_archive(weights, _limits(max_mib))
    target = out or weights.with_suffix(".tinydet")
    report = write_packed(target, PackedFile(tensors=tensors))
    before = weights.stat().st_size
    print(f"{target}: {report.packed_bytes:,} bytes, {report.packed_bytes / before:.1%} of {weights.name}'s {before:,}")
    _write_figures(json, _figures(target, report) | {"archive_bytes": before})


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(help="A packed file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .safetensors or .npz file to write.")],
    max_mib: MaxMib = None,
) -> None:
    """Give back the tensors of a packed file, bit for bit.

    Example: `tinydet unpack model.tinydet -o model.safetensors`
    """
    from tinydet.packed import read_packed
    from tinydet.packed.archives import write_archive

    packed = read_packed(file, _limits(max_mib))
    write_archive(out, packed.tensors)
    total = sum(array.nbytes for array in packed.tensors.values())
    print(f"{out}: {len(packed.tensors)} tensors, {total:,} bytes")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A packed file: a detector or an archive of weights.")],
    max_mib: MaxMib = None,
    json: Json = None,
) -> None:
    """Show what is in a packed file, and the bytes of each layer and each kind.

    Example: `tinydet inspect student.tinydet`
    """
    from tinydet.packed import describe

    report = describe(file, _limits(max_mib))
    if json is None or str(json) != "-":
        _print_report(file, report)
    _write_figures(json, _figures(file, report))


def _limits(max_mib: int | None) -> Limits:
    from tinydet.packed import Limits

    if max_mib is None:
        return Limits()
    return Limits(max_tensor_bytes=max_mib << 20, free_bytes=max_mib << 20)


def _figures(file: Path, report: PackedReport) -> dict[str, Any]:
    return {
        "file": str(file),
        "format_version": report.format_version,
        "packed_bytes": report.packed_bytes,
        "original_bytes": report.original_bytes,
        "section_bytes": report.section_bytes,
        "kind_bytes": {kind: round(size, 1) for kind, size in report.kind_bytes.items()},
        "tensors": [
            {
                "name": tensor.name,
                "type": tensor.element_type,
                "shape": list(tensor.shape),
                "coding": tensor.coding,
                "original_bytes": tensor.tensor_bytes,
                "packed_bytes": round(tensor.packed_bytes, 1),
            }
            for tensor in report.tensors
        ],
        "metadata": dict(report.metadata),
    }


def _write_figures(json: Path | None, figures: dict[str, Any]) -> None:
    from json import dumps

    from tinydet.files import write_json

    if json is not None and str(json) == "-":
        print(dumps(figures, indent=2, ensure_ascii=False))
    elif json is not None:
        write_json(json, figures)


def _print_report(file: Path, report: PackedReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    kind = "detector" if "graph" in report.section_bytes else "archive of weights"
    console.print(
        f"[bold]{escape(str(file))}[/]: {kind}, format {report.format_version}, {report.packed_bytes:,} bytes "
        f"for {report.original_bytes:,} ({report.ratio:.2f} to 1)"
    )
    layers = Table(box=None, pad_edge=False)
    for heading in ("tensor", "type", "shape", "coding"):
        layers.add_column(heading, overflow="fold")
    for heading in ("bytes", "packed", "share"):
        layers.add_column(heading, justify="right")
    for tensor in report.tensors:
        layers.add_row(
            escape(tensor.name),
            tensor.element_type,
            "x".join(map(str, tensor.shape)) or "scalar",
            tensor.coding,
            f"{tensor.tensor_bytes:,}",
            f"{tensor.packed_bytes:,.0f}",
            f"{tensor.packed_bytes / max(tensor.tensor_bytes, 1):.0%}",
        )
    console.print(layers)
    kinds = Table("kind", box=None, pad_edge=False)
    kinds.add_column("packed", justify="right")
    modelled = sum(report.kind_bytes.values())
    for name, size in report.kind_bytes.items():
        kinds.add_row(name, f"{size:,.0f}")
    for name, size in report.section_bytes.items():
        own = size - modelled if name == "tensors" else size
        kinds.add_row("names, shapes, tables" if name == "tensors" else name, f"{own:,.0f}")
    console.print(kinds)
    for key, value in report.metadata.items():
        console.print(f"[bold]{escape(key)}[/]: {escape(_short(value))}", soft_wrap=True)


def _short(value: Any) -> str:
    from json import dumps

    text = dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:297]}..."

"""What `prune` and `share` print: layers or channels, and the sizes before and after."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinydet.compression import DetectorSize


def show_pruned(detector: Any, report: Any) -> None:
    from tinydet.prune.layers import layer_sparsities
    from tinydet.prune.remove import RemovalReport

    if isinstance(report, RemovalReport):
        rows = [(row.group, row.block, f"{row.before:,}", f"{row.after:,}") for row in report.groups]
        print_table(("channels made by", "block", "before", "after"), rows)
        return
    print_table(
        ("layer", "block", "weights", "zeros", "sparsity", "zero channels"),
        [
            (row.layer, row.block, f"{row.weights:,}", f"{row.zeros:,}", f"{row.sparsity:.2%}", str(row.zero_channels))
            for row in layer_sparsities(detector)
        ],
    )


def compared(before: DetectorSize, after: DetectorSize) -> list[tuple[str, ...]]:
    size = f"{after.input_hw[1]}x{after.input_hw[0]}"
    pairs = (
        ("parameters", before.parameters, after.parameters),
        ("of them not zero", before.nonzero_weights, after.nonzero_weights),
        (f"multiply-adds at {size}", before.multiply_adds, after.multiply_adds),
        ("packed bytes of the weights", before.packed_bytes, after.packed_bytes),
    )
    return [(name, f"{old:,}", f"{new:,}", f"{new / max(old, 1):.3f}") for name, old, new in pairs]


def print_table(titles: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        is_text = title in ("", "layer", "block", "channels made by")
        table.add_column(title, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)

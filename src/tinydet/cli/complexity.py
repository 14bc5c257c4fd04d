"""`tinydet complexity`: parameters and multiply-adds of each block of a network, at a stated input size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.complexity import Complexity

Model = Annotated[
    str | None, typer.Argument(metavar="[CHECKPOINT]", help="A checkpoint; or name a network by options.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")]


@app.command()
def complexity(
    model: Model = None,
    detector: Annotated[str, typer.Option(help="faster_rcnn, faster_rcnn_fpn or rfcn")] = "faster_rcnn",
    backbone: Annotated[str, typer.Option(help="resnet18, resnet50, vgg16 or mobilenet_v1")] = "resnet18",
    width: Annotated[float, typer.Option(help="n of a -1-n network: every layer's channels divided by n")] = 1.0,
    groups: Annotated[str, typer.Option(help="Of vgg16's convolutions: 1, 2, 3, ... or depthwise")] = "1",
    gray: Annotated[bool, typer.Option("--gray", help="One input channel instead of three.")] = False,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 20,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the network's input in pixels.")] = "1000x600",
    regions: Annotated[int, typer.Option(min=1, help="Regions that the second stage is counted for.")] = 300,
    paper: Annotated[
        bool, typer.Option("--paper", help="The four networks of Quantization Mimic's Table 3, beside its figures.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Parameters and multiply-adds of each block: backbone, proposals, heads.

    One multiply-add counts once, as in the papers' MFLOPs; normalisation, activations and pooling count nothing.

    Examples:

    `tinydet complexity --detector rfcn --backbone vgg16 --width 32 --gray --classes 1`

    `tinydet complexity runs/student/best --size 640x480 --json complexity.json`

    `tinydet complexity --paper`
    """
    input_hw = _size_hw(size)
    if paper:
        rows = _paper_rows(input_hw, gray, regions)
    elif model is not None:
        rows = [_measured(model, _checkpoint(model), input_hw, regions)]
    else:
        rows = [_named(detector, backbone, width, groups, gray, classes, input_hw, regions)]
    _print(rows, size)
    if json_file is not None:
        from tinydet.files import write_json

        write_json(json_file, {"input_hw": list(input_hw), "regions": regions, "networks": rows})


def _size_hw(text: str) -> tuple[int, int]:
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 16):
        raise InputError(f"--size {text}: expected WIDTHxHEIGHT in pixels, each at least 16, such as 1000x600")
    if int(width) * int(height) > 2**26:
        raise InputError(f"--size {text}: more than {2**26} pixels")
    return int(height), int(width)


def _checkpoint(path: str) -> Any:
    from tinydet.training.checkpoint import load_checkpoint

    return load_checkpoint(path)[0]


def _named(
    detector: str,
    backbone: str,
    width: float,
    groups: str,
    gray: bool,
    classes: int,
    input_hw: tuple[int, int],
    regions: int,
) -> dict[str, Any]:
    from dataclasses import replace
    from typing import get_args

    from tinydet.backbones import VGGConfig
    from tinydet.detectors import build_detector
    from tinydet.detectors.choice import BackboneKind, DetectorChoice, DetectorKind, detector_config

    for option, value, known in (("detector", detector, DetectorKind), ("backbone", backbone, BackboneKind)):
        if value not in get_args(known):
            raise InputError(f"--{option} {value}: expected one of {', '.join(get_args(known))}")
    if width <= 0:
        raise InputError(f"--width {width}: expected a number above 0")
    names = tuple(f"class {index}" for index in range(classes))
    chosen = DetectorChoice(detector=detector, backbone=backbone, width=width, gray=gray)  # type: ignore[arg-type]
    config = detector_config(chosen, names)
    if groups != "1":
        if not isinstance(config.backbone, VGGConfig):
            raise InputError(f"--groups {groups}: only vgg16 can be split, not {backbone}")
        if groups != "depthwise" and not (groups.isdecimal() and int(groups) > 0):
            raise InputError(f"--groups {groups}: expected 1, 2, 3, ... or depthwise")
        split = replace(config.backbone, groups=groups if groups == "depthwise" else int(groups))  # type: ignore[arg-type]
        config = replace(config, backbone=split)
    name = f"{backbone}-1-{width:g} {detector}" + (f", groups {groups}" if groups != "1" else "")
    return _measured(name, build_detector(config), input_hw, regions)


def _paper_rows(input_hw: tuple[int, int], gray: bool, regions: int) -> list[dict[str, Any]]:
    from tinydet.detectors import build_detector
    from tinydet.detectors.matched_complexity import TABLE3_INPUT_HW, table3_networks

    if input_hw != TABLE3_INPUT_HW:
        raise InputError(f"--paper: the paper's figures are for 1000x600, not {input_hw[1]}x{input_hw[0]}")
    rows = []
    for channels in ("gray",) if gray else ("gray", "rgb"):
        for network in table3_networks(gray=channels == "gray"):
            row = _measured(
                f"VGG-1-32 R-FCN {network.name}, {channels}", build_detector(network.config), input_hw, regions
            )
            rows.append(row | {"paper_multiply_adds": network.paper_mflops * 1_000_000})
    return rows


def _measured(name: str, detector: Any, input_hw: tuple[int, int], regions: int) -> dict[str, Any]:
    from tinydet.complexity import measure_complexity

    try:
        found: Complexity = measure_complexity(detector, input_hw, regions)
    except ValueError as error:
        raise InputError(f"--size {input_hw[1]}x{input_hw[0]}: {error}") from error
    return {
        "name": name,
        "parameters": found.parameters,
        "multiply_adds": found.multiply_adds,
        "blocks": {
            block: {"parameters": counts.parameters, "multiply_adds": counts.multiply_adds}
            for block, counts in found.blocks.items()
        },
    }


def _print(rows: list[dict[str, Any]], size: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=f"input {size}", title_justify="left", pad_edge=False)
    table.add_column("network, its blocks")
    with_paper = any("paper_multiply_adds" in row for row in rows)
    for title in ("parameters", "float32\nMB", "multiply-\nadds, M", *(("paper,\nM",) if with_paper else ())):
        table.add_column(title, justify="right")
    for row in rows:
        for name, counts in [(row["name"], row), *(("  " + block, counts) for block, counts in row["blocks"].items())]:
            cells = [name, f"{counts['parameters']:,}", f"{counts['parameters'] * 4 / 1e6:.3f}"]
            cells.append(f"{counts['multiply_adds'] / 1e6:,.1f}")
            if with_paper:
                cells.append(f"{counts['paper_multiply_adds'] / 1e6:.0f}" if counts is row else "")
            table.add_row(*map(Text, cells))
    Console().print(table)

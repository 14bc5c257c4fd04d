"""`tinydet recipes`, `tinydet run` and `tinydet demo`: whole tables of the papers, on any data."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinydet.cli import app


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(metavar="N")] = 0,
    budget: Annotated[float, typer.Option(metavar="X", help="Scales the training; 1 is about ten minutes.")] = 1.0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """The whole chain on the built-in digits, on a CPU, in minutes: teacher, students, packed files, report.

    `tinydet demo --out runs/demo`
    """
    run("digits", out, "digits", str(seed), budget, device=device)


@app.command()
def recipes(
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write them as JSON.")] = None,
) -> None:
    """List the recipes: paper and table, cost, the paper's numbers; ours are in docs/results.md.

    `tinydet recipes`
    """
    from rich.console import Console
    from rich.table import Table

    from tinydet.files import write_json
    from tinydet.recipes import RECIPES

    table = Table(show_lines=True)
    table.add_column("recipe", no_wrap=True)  # a name is to be typed
    for title in ("paper", "the paper's numbers", "cost"):
        table.add_column(title)
    for recipe in RECIPES:
        rows = "\n".join(f"{row.row}: {row.value}" for row in recipe.rows)
        table.add_row(recipe.name, str(recipe.paper or ""), rows, recipe.cost)
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # in a file nothing need be cut
    if json_file:
        write_json(
            json_file,
            [
                {
                    "name": recipe.name,
                    "title": recipe.title,
                    "paper": str(recipe.paper) if recipe.paper else None,
                    "cost": recipe.cost,
                    "numbers": {row.row: row.value for row in recipe.rows},
                }
                for recipe in RECIPES
            ],
        )


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A name that `tinydet recipes` lists.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; the same command goes on with it.")],
    data: Annotated[str, typer.Option(metavar="PATH", help="Your data set, or `digits`.")] = "digits",
    seeds: Annotated[str, typer.Option(metavar="A,B,...", help="One student of each variant a seed.")] = "0",
    budget: Annotated[
        float, typer.Option(metavar="X", help="Scales the paper's schedule: 1 is all of it, 0.01 minutes.")
    ] = 1.0,
    train_split: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    test_split: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="resnet18, resnet50, vgg16 or mobilenet_v1.")
    ] = None,
    teacher_width: Annotated[
        float | None, typer.Option(metavar="N", help="The teacher's channels are divided by N.")
    ] = None,
    student_width: Annotated[
        float | None, typer.Option(metavar="N", help="The student's channels are divided by N.")
    ] = None,
    shorter_side: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Of the resized images; for SSD the sides of its square.")
    ] = None,
    anchor_sides: Annotated[str | None, typer.Option(metavar="A,B,...", help="In pixels of the resized image.")] = None,
    anchor_ratios: Annotated[str | None, typer.Option(metavar="A,B,...", help="Height divided by width.")] = None,
    default_boxes: Annotated[
        int | None, typer.Option(metavar="N", help="SSD's default boxes at 300x300: 1917, some of them small, or 3000.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N")] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="X")] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="A teacher that is trained already.")
    ] = None,
    teacher_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The teacher's backbone weights.")
    ] = None,
    student_weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The students' backbone weights, such as `pretrain` makes.")
    ] = None,
    frozen_blocks: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="mobilenet_v1 from weights: conv1 and the first N blocks keep them, and training takes half the time.",
        ),
    ] = 0,
    regions: Annotated[int | None, typer.Option(metavar="N", help="Regions mimicked in each image.")] = None,
    mimic_weight: Annotated[
        float | None, typer.Option("--lambda", metavar="X", help="Weight of the mimic loss, instead of the table's.")
    ] = None,
    per_entry: Annotated[
        bool,
        typer.Option(
            "--per-entry", help="Mimic loss divided by a region's entries, where the table sums it as in Eq. 5."
        ),
    ] = False,
    quantizer_stride: Annotated[float, typer.Option(metavar="S", help="Q's codes are 0, S, 2S, ...")] = 1.0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    latency_images: Annotated[int, typer.Option(metavar="N", help="Images timed; 0: none.")] = 20,
    wider_ground_truth: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="WIDER FACE's official ground truth: measure easy, medium and hard."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the summary there.")
    ] = None,
) -> None:
    """Run a whole recipe: train, measure, and print the paper's table with both numbers.

    `tinydet run quantization_mimic.table7 --data VOCdevkit --out runs/table7`

    `tinydet run quantization_mimic.table7 --data photos/ --out runs/photos --budget 0.02 --teacher-width 2
    --shorter-side 240 --seeds 0,1,2`
    """
    from typing import get_args

    from tinydet.cli.option_values import numbers, one_of
    from tinydet.detectors.choice import BackboneKind
    from tinydet.files import write_json
    from tinydet.recipes import RecipeOptions, find_recipe
    from tinydet.report.summary import summary_to_dict
    from tinydet.report.terminal import print_summary

    chosen = find_recipe(recipe)
    options = RecipeOptions(
        data=data,
        out=out,
        seeds=_seeds(seeds),
        budget=budget,
        train_split=train_split,
        test_split=test_split,
        backbone=one_of("backbone", backbone, *get_args(BackboneKind)) if backbone else None,
        teacher_width=teacher_width,
        student_width=student_width,
        shorter_side=shorter_side,
        anchor_sides=numbers("anchor sides", anchor_sides),
        anchor_ratios=numbers("anchor ratios", anchor_ratios),
        default_boxes=None if default_boxes is None else one_of("default boxes", default_boxes, 1917, 3000),
        batch_size=batch_size,
        learning_rate=learning_rate,
        teacher=teacher,
        teacher_weights=teacher_weights,
        student_weights=student_weights,
        frozen_blocks=frozen_blocks,
        regions=regions,
        mimic_weight=mimic_weight,
        per_entry=per_entry,
        quantizer_stride=quantizer_stride,
        device=one_of("device", device, "auto", "cpu", "cuda"),
        latency_images=latency_images,
        wider_ground_truth=wider_ground_truth,
        command=shlex.join(["tinydet", *sys.argv[1:]]),
    )
    chosen.refuse_what_says_nothing(options)
    summary = chosen.run(options)
    print_summary(summary)
    print(f"report: {out / 'report.html'}", file=sys.stderr)
    if json_file:
        write_json(json_file, summary_to_dict(summary))


def _seeds(text: str) -> tuple[int, ...]:
    from tinydet.errors import InputError

    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise InputError(f"seeds {text!r}: expected whole numbers with commas between, such as 0,1,2")
    return tuple(int(part) for part in parts)

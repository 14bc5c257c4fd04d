"""`tinydet distill`: a student that learns from a teacher's predictions, or from its whole maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.cli.option_records import with_records
from tinydet.cli.option_values import checked, one_of, whole_numbers
from tinydet.cli.starting_network import starting_network
from tinydet.cli.training_options import TEACHING, RunOptions, StudentOptions, TrainingOptions
from tinydet.cli.training_stage import open_splits, print_result, run_stage
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.distill.features import FeatureLossConfig
    from tinydet.distill.logits import LogitConfig


@dataclass(frozen=True)
class DistillOptions:
    """Who teaches, and what; an option that is None is not said."""

    teacher: Annotated[Path, typer.Option(metavar="CHECKPOINT", help="The trained teacher.", rich_help_panel=TEACHING)]
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="logits: class scores (and boxes); pkd, cwd or mgd: whole maps, between detectors of any kind.",
            rich_help_panel=TEACHING,
        ),
    ] = "logits"
    alpha: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weight of the truth; the teacher's is 1 - X. [0.5]", rich_help_panel=TEACHING),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", help="Of logits [2] and of cwd [1].", rich_help_panel=TEACHING),
    ] = None
    t_squared: Annotated[
        bool,
        typer.Option("--t-squared", help="Multiply the divergence by T^2, as Hinton et al.", rich_help_panel=TEACHING),
    ] = False
    over: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH",
            help="counted: what the truth is learned from, or all boxes. [counted]",
            rich_help_panel=TEACHING,
        ),
    ] = None
    boxes: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="Distil boxes too: bounded or imitated.", rich_help_panel=TEACHING),
    ] = None
    box_weight: Annotated[
        float | None, typer.Option(metavar="X", help="Of distilled boxes. [0.5]", rich_help_panel=TEACHING)
    ] = None
    box_margin: Annotated[
        float | None, typer.Option(metavar="M", help="Of distilled boxes. [0]", rich_help_panel=TEACHING)
    ] = None
    weight: Annotated[
        float | None,
        typer.Option(metavar="X", help="Of pkd [6], cwd [50] or mgd [0.00002].", rich_help_panel=TEACHING),
    ] = None
    masked_share: Annotated[
        float | None, typer.Option(metavar="X", help="Cells that mgd hides. [0.65]", rich_help_panel=TEACHING)
    ] = None
    maps: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Maps of pkd, cwd or mgd, 0 the finest. [all]", rich_help_panel=TEACHING),
    ] = None


@app.command()
@with_records
def distill(run: RunOptions, teaching: DistillOptions, network: StudentOptions, training: TrainingOptions) -> None:
    """Train a student on the truth and on what a larger detector makes of the same images.

    `tinydet distill --data VOCdevkit --out runs/kd --teacher runs/wide --detector ssd --backbone mobilenet_v1 --width 1
    --alpha 0.5 --temperature 2 --boxes bounded`

    `tinydet distill --data VOCdevkit --out runs/pkd --teacher runs/wide --method pkd --maps 0,1 --detector ssd
    --backbone mobilenet_v1 --width 1`
    """
    from tinydet.distill.feature_steps import FeatureStep
    from tinydet.distill.frozen import load_teacher
    from tinydet.distill.logit_steps import LogitStep
    from tinydet.distill.logits import LogitConfig

    said = {name: value for name, value in asdict(teaching).items() if name not in ("teacher", "method")}
    said |= {"t_squared": teaching.t_squared or None, "maps": whole_numbers("maps", teaching.maps)}
    config = distillation_config(teaching.method, **said)
    selection = open_splits(run.data, run.train_split, run.test_split)
    teacher = load_teacher(teaching.teacher, selection.dataset.classes)
    start = starting_network(network, selection.dataset.classes, run.seed)
    step: Any
    if isinstance(config, LogitConfig):
        step = LogitStep(start.detector, teacher, config)
    else:
        step = checked(lambda: FeatureStep(start.detector, teacher, config))
    print_result(run_stage(step, start, selection, run, training, teaching.teacher), run.json_file)


def distillation_config(method: str, **options: Any) -> LogitConfig | FeatureLossConfig:
    """The configuration of a method; options that are None have its defaults.

    Raises:
        InputError: an option is another method's, or its value is refused.
    """
    from tinydet.distill.features import CWDConfig, MGDConfig, PKDConfig
    from tinydet.distill.logits import BoxDistillConfig, LogitConfig

    given = {name: value for name, value in options.items() if value is not None}
    kinds: dict[str, tuple[type, tuple[str, ...]]] = {
        "logits": (LogitConfig, ("alpha", "temperature", "t_squared", "over", "boxes", "box_weight", "box_margin")),
        "pkd": (PKDConfig, ("weight", "maps")),
        "cwd": (CWDConfig, ("weight", "temperature", "maps")),
        "mgd": (MGDConfig, ("weight", "masked_share", "maps")),
    }
    kind, known = kinds[one_of("method", method, *kinds)]
    if stray := sorted(given.keys() - set(known)):
        option = stray[0].replace("_", "-")
        raise InputError(f"--{option} says nothing to --method {method}, whose options are: {', '.join(known)}")
    if kind is not LogitConfig:
        return checked(lambda: kind(**given))
    box = {name: given.pop(f"box_{name}") for name in ("weight", "margin") if f"box_{name}" in given}
    if box and "boxes" not in given:
        raise InputError("--box-weight and --box-margin are of distilled boxes: give --boxes bounded or imitated")
    if "over" in given:
        one_of("--over", given["over"], "counted", "all")
    if "boxes" in given:
        named = one_of("--boxes", given["boxes"], "bounded", "imitated")
        given["boxes"] = checked(lambda: BoxDistillConfig(named, **box))
    return checked(lambda: LogitConfig(**given))

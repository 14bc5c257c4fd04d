from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tinydet.cli import _register_verbs, app
from tinydet.cli.option_records import with_records


@dataclass(frozen=True)
class Place:
    data: Annotated[str, typer.Option(metavar="PATH")]
    seed: Annotated[int, typer.Option("--chance")] = 0


@dataclass(frozen=True)
class Far(Place):
    seed: Annotated[int, typer.Option("--chance")] = 7
    away: Annotated[bool, typer.Option("--away")] = False


def made_by(*arguments: str) -> tuple[list[object], str]:
    """What the verb was called with, and what was printed."""
    small, called = typer.Typer(), []

    @small.command()
    @with_records
    def verb(place: Far, times: Annotated[int, typer.Option()], name: str = "x") -> None:
        """A verb."""
        called.extend([place, times, name])

    return called, CliRunner().invoke(small, list(arguments)).output


def test_a_record_is_made_of_its_options_and_inherits_them():
    assert made_by("--data", "a", "--times", "2")[0] == [Far("a", 7, False), 2, "x"]
    called, _ = made_by("--away", "--times", "2", "--chance", "3", "--data", "a", "--name", "y")
    assert called == [Far("a", 3, True), 2, "y"]


def test_a_record_knows_which_of_its_options_were_typed():
    @dataclass(frozen=True)
    class Aware(Place):
        typed: frozenset[str] = frozenset()

    small, called = typer.Typer(), []

    def verb(place, times: int = 1) -> None:
        called.extend([place, times])

    verb.__annotations__["place"] = Aware
    small.command()(with_records(verb))
    for arguments in ((), ("--chance", "0"), ("--chance", "0", "--times", "1")):
        assert CliRunner().invoke(small, ["--data", "a", *arguments]).exit_code == 0
    assert "--typed" not in CliRunner().invoke(small, ["--help"]).output
    names = [{"data"}, {"data", "seed"}, {"data", "seed", "times"}]
    assert called == [part for typed in names for part in (Aware("a", 0, frozenset(typed)), 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--times", "2"), "--data"),
        (("--data", "a"), "--times"),
        (("--data", "a", "--times", "2", "--seed", "1"), "--seed"),
        (("--data", "a", "--times", "2", "--place", "b"), "--place"),
        (("--data", "a", "--times", "2", "--chance", "b"), "--chance"),
    ],
)
def test_options_that_lack_or_are_unknown(arguments, message):
    called, printed = made_by(*arguments)
    assert called == []
    assert message in printed


def test_two_options_of_one_name_are_refused():
    def verb(place: Place, seed: int = 0) -> None: ...

    with pytest.raises(TypeError, match="two options are named 'seed'"):
        with_records(verb)


NETWORK = (
    "detector backbone width shorter_side ssd_head default_boxes gray groups class_agnostic_boxes bins hardest "
    "hidden_channels hidden_kernel norm frozen_blocks anchor_sides anchor_ratios quantizer weights start"
)
TRAINING = (
    "iterations learning_rate milestones warmup batch_size clip_norm ema precision flip jitter ssd_augment "
    "validate_every protocol"
)
MIMIC = "teacher weight regions region_source per_entry region_size maps features_only"
DISTILL = "teacher method alpha temperature t_squared over boxes box_weight box_margin weight masked_share maps"


@pytest.mark.parametrize(
    ("verb", "teaching", "width"), [("train", "", 1.0), ("mimic", MIMIC, 16.0), ("distill", DISTILL, 16.0)]
)
def test_the_training_verbs_options_by_panel(verb: str, teaching: str, width: float):
    _register_verbs()
    panels: dict[str | None, list[str]] = {}
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    for option in command.params:
        panels.setdefault(option.rich_help_panel, []).append(option.name)
    assert panels == {
        None: ["data", "out", "train_split", "test_split", "seed", "device", "json_file"],
        **({"Teaching": teaching.split()} if teaching else {}),
        "Network": NETWORK.split(),
        "Training": TRAINING.split(),
    }
    assert {option.name for option in command.params if option.required} == {"data", "out", *teaching.split()[:1]}
    assert next(option for option in command.params if option.name == "width").default == width
    assert list(panels)[-2:] == ["Network", "Training"]  # the order in which --help shows them

"""Configurations survive JSON, and every mistake in one is named by its field."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tinydet.config import from_plain, to_plain
from tinydet.errors import InputError


@dataclass(frozen=True)
class Big:
    width: float = 1.0


@dataclass(frozen=True)
class Small:
    width: float = 1.0
    levels: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Whole:
    name: str
    network: Big | Small
    quantizer: Small | None = None
    size_hw: tuple[int, int] | None = None
    order: Literal["rgb", "gray"] = "rgb"
    nested: tuple[tuple[float, float], ...] = ()
    parts: tuple[Big | Small, ...] = ()
    path: Path = Path("here")
    extra: dict[str, Any] = field(default_factory=dict)
    limit: Literal["auto"] | float = "auto"
    train: bool = True

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise ValueError("the name cannot be 'bad'")


@pytest.mark.parametrize(
    "config",
    [
        Whole("a", Big()),
        Whole(
            "b", Small(0.5, ()), Small(2.0, (3,)), (4, 5), "gray", ((1.0, 2.0),), (Small(), Big()), Path("/x"), {"k": 1}
        ),
        Whole("c", Big(), limit=0.25, train=False),
    ],
)
def test_returns_what_was_written(config: Whole) -> None:
    plain = json.loads(json.dumps(to_plain(config)))
    assert from_plain(Whole, plain) == config


def test_a_union_reads_by_its_type() -> None:
    assert from_plain(Big | Small, to_plain(Small())) == Small()  # type: ignore[arg-type]


def test_a_missing_field_has_its_default_and_a_whole_number_is_a_float() -> None:
    read = from_plain(Whole, {"name": "a", "network": {"type": "Big", "width": 2}})
    assert read == Whole("a", Big(2.0))
    assert type(read.network.width) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "f.json: name: found int 3, expected str"),
        ({"nmae": "x"}, "f.json: unknown field 'nmae' (the fields are: name, network,"),
        ({"network": {"width": 1.0}}, "f.json: network: 'type' is missing; expected one of: Big, Small"),
        ({"network": {"type": "Huge"}}, "f.json: network: found type 'Huge', expected one of: Big, Small"),
        ({"network": {"type": "Big", "width": "1"}}, "f.json: network.width: found str '1', expected float"),
        (
            {"network": {"type": "Small", "levels": [1, 2.5]}},
            "f.json: network.levels[1]: found float 2.5, expected int",
        ),
        ({"network": None}, "f.json: network: found NoneType None, expected Big or Small"),
        ({"quantizer": {"type": "Big"}}, "f.json: quantizer: found type 'Big', expected one of: Small"),
        ({"quantizer": {"levels": 5}}, "f.json: quantizer.levels: found int 5, expected a list"),
        ({"size_hw": [1]}, "f.json: size_hw: found 1 values, expected 2"),
        ({"size_hw": "12"}, "f.json: size_hw: found str '12', expected a list"),
        ({"size_hw": [1, True]}, "f.json: size_hw[1]: found bool True, expected int"),
        ({"order": "bgr"}, "f.json: order: found str 'bgr', expected one of: 'rgb', 'gray'"),
        ({"nested": [[1, 2], [3]]}, "f.json: nested[1]: found 1 values, expected 2"),
        ({"parts": [{"type": "Big", "w": 1}]}, "f.json: parts[0]: unknown field 'w' (the fields are: width)"),
        ({"limit": "none"}, "f.json: limit: found str 'none', expected"),
        ({"train": 1}, "f.json: train: found int 1, expected bool"),
        ({"extra": []}, "f.json: extra: found list [], expected an object"),
        ({"name": "bad"}, "f.json: the name cannot be 'bad'"),
    ],
)
def test_a_mistake_is_named_by_its_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        from_plain(Whole, {**to_plain(Whole("a", Big())), **change}, "f.json")
    assert message in str(error.value)


def test_every_mistake_is_listed() -> None:
    with pytest.raises(InputError) as error:
        from_plain(Whole, {"network": {"type": "Big", "width": "x"}, "train": "yes"}, "f.json")
    assert len(str(error.value).splitlines()) == 3
    assert "f.json: name: this field is missing" in str(error.value)


@pytest.mark.parametrize("plain", [[], "text", None, 3])
def test_what_is_no_object_is_refused(plain: Any) -> None:
    with pytest.raises(InputError, match="expected an object with the fields of Whole"):
        from_plain(Whole, plain)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        to_plain(Whole("a", Big(), extra={"k": {1}}))

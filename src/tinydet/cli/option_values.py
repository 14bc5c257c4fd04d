"""From the text of an option to its value, or to one message that says what was expected."""

from __future__ import annotations

import math
from typing import Any, Literal

from tinydet.errors import InputError


def numbers(what: str, text: str | None) -> tuple[float, ...] | None:
    """`1,2.5` to numbers; None for nothing."""
    if not text:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
        if not all(map(math.isfinite, values)):
            raise ValueError("not finite")
    except ValueError as error:
        raise InputError(f"{what} {text!r}: expected numbers with commas between, such as 0.5,1,2") from error
    return values


def whole_numbers(what: str, text: str | None) -> tuple[int, ...] | None:
    """`0,1` to whole numbers; None for nothing."""
    values = numbers(what, text)
    if values is not None and any(value != int(value) for value in values):
        raise InputError(f"{what} {text!r}: expected whole numbers with commas between, such as 0,1")
    return None if values is None else tuple(int(value) for value in values)


def groups_named(text: str) -> int | Literal["depthwise"]:
    """`1`, `2`, `3`, ... or `depthwise`."""
    if text == "depthwise":
        return "depthwise"
    if not (text.isdecimal() and int(text) > 0):
        raise InputError(f"groups {text!r}: expected 1, 2, 3, ... or depthwise")
    return int(text)


def quantizer_named(text: str | None) -> Any:
    """`uniform`, `uniform:0.5` or `power_of_two` to a quantizer's configuration."""
    from tinydet.quantizers import PowerOfTwoQuantizerConfig, UniformQuantizerConfig

    if text is None:
        return None
    kind, _, stride = text.partition(":")
    if kind == "uniform":
        strides = numbers("quantizer stride", stride) or (1.0,)
        if len(strides) > 1:
            raise InputError(f"quantizer {text!r}: expected one stride, such as uniform:0.5")
        return UniformQuantizerConfig(strides[0])
    if text == "power_of_two":
        return PowerOfTwoQuantizerConfig()
    raise InputError(f"quantizer {text!r}: expected uniform, uniform:STRIDE or power_of_two")


def one_of(what: str, value: Any, *allowed: Any) -> Any:
    if value not in allowed:
        raise InputError(f"{what} {value!r}: expected one of {', '.join(map(str, allowed))}")
    return value


def checked(make: Any) -> Any:
    """What `make` gives; a configuration that refuses its values is the user's mistake."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error

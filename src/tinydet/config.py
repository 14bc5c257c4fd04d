"""Configurations to plain JSON values and back.

A configuration is a frozen dataclass whose fields are numbers, texts, booleans, paths, None, Literals, tuples, lists,
dictionaries with text keys, other such dataclasses, and unions of these. Each dataclass is written as an object with
its class name under `type` (so no field may have that name), and a field declared `FasterRCNNConfig | SSDConfig` reads
back as what it was.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from cattrs import Converter, transform_error
from cattrs.errors import (
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn

from tinydet.errors import InputError

TAG = "type"
T = TypeVar("T")


class _Wrong(Exception):
    """A value that does not fit its field; the text says what was found and what was expected."""


def to_plain(config: Any) -> Any:
    """`config` as what JSON can hold: dictionaries with a `type`, lists, texts, numbers, booleans, None."""
    match config:
        case None | bool() | int() | float() | str():
            return config
        case Path():
            return str(config)
        case tuple() | list():
            return [to_plain(value) for value in config]
        case Mapping():
            return {str(key): to_plain(value) for key, value in config.items()}
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"a configuration cannot hold a {type(config).__name__}: {config!r}")
    fields = {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    return {TAG: type(config).__name__, **fields}


def from_plain(cls: type[T], plain: Any, where: str | Path = "configuration") -> T:
    """The inverse of `to_plain`.

    Args:
        cls: a dataclass, or a union of them (the `type` in `plain` then chooses). A field that `plain` lacks has its
            default.
        where: the file that `plain` came from, for messages.

    Raises:
        InputError: a field is unknown, missing, of the wrong type or refused by its class; each is named by its path.
    """
    try:
        return _converter.structure(plain, cls)
    except BaseValidationError as error:
        # Each line reads "<what is wrong> @ $.<path of the field>".
        lines = [line.rpartition(" @ $") for line in transform_error(error, "$", _describe)]
        faults = [f"{path.lstrip('.')}: {what}" if path else what for what, _, path in lines]
    except _Wrong as error:
        faults = [str(error)]
    raise InputError("\n".join(f"{where}: {fault}" for fault in faults))


def _describe(error: BaseException, kind: type | None) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        known = ", ".join(field.name for field in dataclasses.fields(error.cl))
        return f"unknown field {', '.join(sorted(map(repr, error.extra_fields)))} (the fields are: {known})"
    if isinstance(error, KeyError):
        return "this field is missing"
    return str(error)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind).replace("typing.", "")


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _is_container(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list, dict)


def _exactly(kind: type, *also: type) -> Callable[[Any, Any], Any]:
    """Takes values of just this type: no text where a number is meant, no boolean where an integer is meant."""

    def structure(value: Any, _: Any) -> Any:
        if type(value) not in (kind, *also):
            raise _Wrong(f"found {_shown(value)}, expected {kind.__name__}")
        return kind(value)

    return structure


def _dataclass_hook(cls: type) -> Callable[[Any, Any], Any]:
    fill: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, _converter, _cattrs_forbid_extra_keys=True)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _Wrong(f"found {_shown(value)}, expected an object with the fields of {cls.__name__}")
        if value.get(TAG, cls.__name__) != cls.__name__:
            raise _Wrong(f"found {TAG} {value[TAG]!r}, expected {cls.__name__}")
        return fill({name: entry for name, entry in value.items() if name != TAG}, cls)

    return structure


def _union_hook(union: Any) -> Callable[[Any, Any], Any]:
    members = get_args(union)
    tagged: dict[str, Any] = {member.__name__: member for member in members if _is_config(member)}
    others = [member for member in members if not _is_config(member)]

    def structure(value: Any, _: Any) -> Any:
        if value is None and type(None) in others:
            return None
        if isinstance(value, dict) and tagged:
            tag = value.get(TAG, next(iter(tagged)) if len(tagged) == 1 else None)
            if tag in tagged:
                return _converter.structure(value, tagged[tag])
            if TAG in value:
                raise _Wrong(f"found {TAG} {tag!r}, expected one of: {', '.join(tagged)}")
            raise _Wrong(f"{TAG!r} is missing; expected one of: {', '.join(tagged)}")
        failures: list[Exception] = []
        for member in others:
            if member is not type(None):
                try:
                    return _converter.structure(value, member)
                except (_Wrong, BaseValidationError) as error:
                    failures.append(error)
        if len(failures) == 1:  # an optional value: the one failure says more than the union does
            raise failures[0]
        raise _Wrong(f"found {_shown(value)}, expected {' or '.join(map(_name, members))}")

    return structure


def _container_hook(kind: Any) -> Callable[[Any, Any], Any]:
    origin, members = get_origin(kind), get_args(kind)

    def structure(value: Any, _: Any) -> Any:
        if origin is dict:
            if not isinstance(value, dict):
                raise _Wrong(f"found {_shown(value)}, expected an object")
            return dict(zip(value, _structured_all(kind, value, value.values(), [members[1]] * len(value))))
        if not isinstance(value, (list, tuple)):
            raise _Wrong(f"found {_shown(value)}, expected a list")
        kinds = members if origin is tuple and Ellipsis not in members else members[:1] * len(value)
        if len(kinds) != len(value):
            raise _Wrong(f"found {len(value)} values, expected {len(kinds)}")
        return origin(_structured_all(kind, range(len(value)), value, kinds))

    return structure


def _structured_all(container: Any, keys: Iterable[Any], values: Iterable[Any], kinds: Iterable[Any]) -> list[Any]:
    structured, failures = [], []
    for key, value, kind in zip(keys, values, kinds):
        try:
            structured.append(_converter.structure(value, kind))
        except (_Wrong, BaseValidationError) as error:
            error.add_note(IterableValidationNote(f"[{key}]", key, kind))
            failures.append(error)
    if failures:
        raise IterableValidationError(f"in {container}", failures, container)
    return structured


def _literal(value: Any, kind: Any) -> Any:
    for choice in get_args(kind):
        if choice == value and type(choice) is type(value):
            return choice
    raise _Wrong(f"found {_shown(value)}, expected one of: {', '.join(map(repr, get_args(kind)))}")


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, (str, Path)):
        raise _Wrong(f"found {_shown(value)}, expected a path")
    return Path(value)


def _strict_converter() -> Converter:
    converter = Converter()
    for kind in (bool, int, str):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _exactly(float, int))
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _literal)
    converter.register_structure_hook_factory(_is_container, _container_hook)
    converter.register_structure_hook_factory(_is_union, _union_hook)
    converter.register_structure_hook_factory(_is_config, _dataclass_hook)
    return converter


_converter = _strict_converter()

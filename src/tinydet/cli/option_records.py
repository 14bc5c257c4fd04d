"""Records of options: a verb takes frozen dataclasses, and typer sees one option for each of their fields.

    @dataclass(frozen=True)
    class RunOptions:
        data: Annotated[str, typer.Option(metavar="PATH", help="A data set.")]
        seed: Annotated[int, typer.Option(metavar="N")] = 0

    @app.command()
    @with_records
    def train(run: RunOptions, verbose: Annotated[bool, typer.Option()] = False) -> None: ...

`tinydet train` then has --data, --seed and --verbose, in that order. Options that several verbs share are written down
once, a verb with another default inherits from the record and sets the field again, and a record is passed on whole.
A record's field `typed` is no option: it gets the names of those that a person typed, whatever their values.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

import typer

TYPED = "typed"


def with_records(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as typer takes it: each parameter that is a dataclass is replaced by parameters for its fields.

    Fields have plain defaults or none. All parameters become keywords, so that one without a default may follow others.

    Raises:
        TypeError: two of them have the same name.
    """
    parameters: dict[str, inspect.Parameter] = {}
    records: dict[str, Any] = {}
    own = inspect.signature(verb, eval_str=True).parameters
    for parameter in own.values():
        expanded = [parameter]
        if is_dataclass(parameter.annotation):
            records[parameter.name] = parameter.annotation
            expanded = _parameters(parameter.annotation)
        for option in expanded:
            if option.name in parameters:
                raise TypeError(f"{verb.__name__}: two options are named {option.name!r}")
            parameters[option.name] = option.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    @functools.wraps(verb)
    def taking_options(context: typer.Context, **given: Any) -> None:
        given[TYPED] = frozenset(name for name in given if _is_typed(context, name))
        made = {
            name: record(**{field.name: given[field.name] for field in fields(record)})
            for name, record in records.items()
        }
        verb(**{name: made[name] if name in made else given[name] for name in own})

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    taking_options.__signature__ = inspect.Signature([context, *parameters.values()])  # type: ignore[attr-defined]
    taking_options.__annotations__ = {name: option.annotation for name, option in parameters.items()}
    taking_options.__annotations__["context"] = typer.Context
    return taking_options


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameters(record: Any) -> list[inspect.Parameter]:
    """Of a dataclass's fields, with what `Annotated` says of them."""
    hints = get_type_hints(record, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(record)
        if field.name != TYPED
    ]

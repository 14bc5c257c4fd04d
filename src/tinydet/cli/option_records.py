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
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints


def with_records(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as typer takes it: each parameter that is a dataclass is replaced by parameters for its fields.

    Fields have plain defaults or none. All parameters become keywords, so that one without a default may follow others.

    Raises:
        TypeError: two of them have the same name.
    """
    parameters: dict[str, inspect.Parameter] = {}
    records: dict[str, Any] = {}
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        expanded = [parameter]
        if is_dataclass(parameter.annotation):
            records[parameter.name] = parameter.annotation
            expanded = _parameters(parameter.annotation)
        for option in expanded:
            if option.name in parameters:
                raise TypeError(f"{verb.__name__}: two options are named {option.name!r}")
            parameters[option.name] = option.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    @functools.wraps(verb)
    def taking_options(**given: Any) -> None:
        made = {
            name: record(**{field.name: given.pop(field.name) for field in fields(record)})
            for name, record in records.items()
        }
        verb(**made, **given)

    taking_options.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    taking_options.__annotations__ = {name: option.annotation for name, option in parameters.items()}
    return taking_options


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
    ]

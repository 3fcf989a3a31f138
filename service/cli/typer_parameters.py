"""Turns options models into typer's parameters: those that stand in `largebatch.jobs.launch.options`."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from largebatch.jobs.launch.options import Option, Parameter, parameters

PLAIN = (bool, int, float, Path, float | None)
"""Types that typer reads by itself; everything else is text to it."""
Command = TypeVar("Command", bound=Callable[..., None])


class Only:
    """Names those fields of an options model that a command takes."""

    def __init__(self, *names: str) -> None:
        self.names = names


def spread(command: Command) -> Command:
    """The same command, whose parameters typer understands.

    A parameter whose type is an options model becomes an option for each of its fields, or for those that `Only` names, and
    `Annotated[type, Option(...)]` becomes typer's own.
    """
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    models: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    spread_out: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        model, *extras = get_args(hints[parameter.name]) or (hints[parameter.name],)
        read: Any = getattr(model, "read", model)
        if is_dataclass(model):
            chosen = [field for field in _fields(model) if not extras or field.name in extras[0].names]
            models[parameter.name] = read, [field.name for field in chosen]
            spread_out += chosen
        elif extras and isinstance(extras[0], Option):
            spread_out.append(_typed(Parameter(parameter.name, model, parameter.default, extras[0])))
        else:
            spread_out.append(parameter.replace(annotation=hints[parameter.name]))

    repeatable = [parameter.name for parameter in signature.parameters.values() if isinstance(parameter.default, tuple)]

    @functools.wraps(command)
    def called_by_typer(**values: Any) -> None:
        values |= {name: tuple(values[name] or ()) for name in repeatable}  # typer gives a list, or nothing
        options = {name: read(**{field: values.pop(field) for field in names}) for name, (read, names) in models.items()}
        command(**options, **values)

    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in spread_out]
    called_by_typer.__signature__ = signature.replace(parameters=keyword_only)  # type: ignore[attr-defined]
    return called_by_typer  # type: ignore[return-value]


def _fields(model: Any) -> list[inspect.Parameter]:
    """A parameter for each annotated field of a model."""
    hints, ours = get_type_hints(model, include_extras=True), {parameter.name: _typed(parameter) for parameter in parameters(model)}
    return [
        ours.get(field.name) or inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        for field in fields(model)
        if get_origin(hints[field.name]) is Annotated
    ]


def _typed(parameter: Parameter) -> inspect.Parameter:
    """The parameter as typer wants it."""
    option, default = parameter.option, parameter.default
    kind: Any = parameter.kind if parameter.kind in PLAIN and not option.is_text else str if default else str | None
    words: dict[str, Any] = {"help": option.help, "metavar": option.metavar, "envvar": option.variable, "show_default": default is not None}
    if isinstance(default, tuple):
        kind, default, words["show_default"] = list[str] | None, None, False
    elif default is inspect.Parameter.empty:
        kind = parameter.kind
    elif option.is_found_out:
        kind, default, words["show_default"] = kind | None, None, False
    info = typer.Argument(**words) if option.is_argument else typer.Option(parameter.flag, min=option.minimum, max=option.maximum, **words)
    if kind is str and default is not inspect.Parameter.empty:
        default = str(default)
    return inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])

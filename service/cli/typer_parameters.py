"""Turns options models into typer's parameters: those that stand in `largebatch.jobs.launch.options`."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from largebatch.jobs.launch.options import Option, Parameter, parameters

PLAIN = (bool, int, float, Path, int | None, float | None, Path | None, list[Path] | None)
"""Types that typer reads by itself; everything else is text to it."""
Command = TypeVar("Command", bound=Callable[..., None])


def spread(command: Command) -> Command:
    """The same command, whose parameters typer understands.

    A parameter whose type is an options model becomes an option for each of its fields, or for those that its annotation names, and
    `Annotated[type, Option(...)]` becomes typer's own.
    """
    signature = inspect.signature(command)
    models: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    spread_out: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        model, *extras = get_args(parameter.annotation) or [parameter.annotation]
        if isinstance(model, type) and is_dataclass(model):
            names = extras or [option.name for option in parameters(model)]
            models[parameter.name] = getattr(model, "read", model), names
            spread_out += [_typed(option) for option in parameters(model) if option.name in names]
        elif extras and isinstance(extras[0], Option):
            spread_out.append(_typed(Parameter(parameter.name, model, parameter.default, extras[0])))
        else:
            spread_out.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    repeatable = [parameter.name for parameter in signature.parameters.values() if isinstance(parameter.default, tuple)]

    @functools.wraps(command)
    def called_by_typer(**values: Any) -> None:
        values |= {name: tuple(values[name] or ()) for name in repeatable}  # typer gives a list, or nothing
        options = {name: read(**{field: values.pop(field) for field in names}) for name, (read, names) in models.items()}
        command(**options, **values)

    called_by_typer.__signature__ = signature.replace(parameters=spread_out)  # type: ignore[attr-defined]
    return called_by_typer  # type: ignore[return-value]


def _typed(parameter: Parameter) -> inspect.Parameter:
    """The parameter as typer wants it."""
    option, default = parameter.option, parameter.default
    kind: Any = parameter.kind if parameter.kind in PLAIN and not option.is_text else str if default else str | None
    if isinstance(default, tuple):
        kind, default = list[str] | None, None
    elif default is inspect.Parameter.empty:
        kind = parameter.kind
    elif option.is_found_out:
        kind, default = kind | None, None
    elif kind is str:
        default = str(default)
    is_bounded = option.minimum is not None or option.maximum is not None
    metavar = option.metavar or ("N" if is_bounded else None)  # "<int range>" would take the room of the options' own names
    words: dict[str, Any] = {"help": option.help, "metavar": metavar, "envvar": option.variable}
    info = typer.Argument(**words) if option.is_argument else typer.Option(parameter.flag, min=option.minimum, max=option.maximum, **words)
    return inspect.Parameter(parameter.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])

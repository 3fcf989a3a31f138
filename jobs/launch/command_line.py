"""The options of `python -m largebatch.jobs`, by argparse: the standard library's, since the engine needs no more."""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from largebatch.jobs.launch.options import Parameter, TrainOptions, parameters


def read_arguments(arguments: Sequence[str] | None, **program: Any) -> TrainOptions:
    """The options in a command's arguments; None: in this process's own.

    Args: program: what argparse is told of the program.
    Raises: InputError; SystemExit (2) for a command line that is none.
    """
    parser = argparse.ArgumentParser(**program)
    for parameter in parameters(TrainOptions):
        _add(parser, parameter)
    return TrainOptions.read(**vars(parser.parse_args(arguments)))


def _add(parser: argparse.ArgumentParser, parameter: Parameter) -> None:
    option, default = parameter.option, parameter.default
    if option.is_argument:
        parser.add_argument(parameter.name, nargs="?", help=option.help)
    elif parameter.kind is bool:
        parser.add_argument(parameter.flag, dest=parameter.name, action="store_true", help=option.help)
    elif isinstance(default, tuple):
        parser.add_argument(parameter.flag, dest=parameter.name, action="append", metavar=option.metavar, help=option.help)
    else:
        default = (os.environ.get(option.variable) if option.variable else None) or default
        shown = f" [env var: {option.variable}]" if option.variable else ""
        shown += "" if default is None else f" [default: {default}]"
        reads = _reader(parameter)
        parser.add_argument(parameter.flag, dest=parameter.name, metavar=option.metavar, help=f"{option.help}{shown}", type=reads, default=default)


def _reader(parameter: Parameter) -> Callable[[str], Any]:
    """What makes the option's value of its text."""
    kinds: dict[Any, Callable[[str], Any]] = {int: int, float | None: float, Path: Path}
    option = parameter.option
    reads: Callable[[str], Any] = str if option.is_text else kinds.get(parameter.kind, str)

    def bounded(text: str) -> Any:
        value = reads(text)
        if option.minimum is not None and value < option.minimum:
            raise argparse.ArgumentTypeError(f"{text} is below {option.minimum}")
        return value

    return bounded

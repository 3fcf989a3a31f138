"""`python -m largebatch.jobs RECIPE`: the command that every door ends in, with the engine's own dependencies alone.

RECIPE may also be env:NAME: a spec as JSON in an environment variable.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    sys.path.pop(0)  # the current folder, before anything is imported: what is called random.py there is not Python's own

import argparse
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from largebatch.jobs.errors import InputError, LargebatchError
from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.openmp_threads import spin_briefly
from largebatch.jobs.launch.options import Parameter, TrainOptions, parameters
from largebatch.jobs.launch.train import exit_code, train
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EvalRecord, Record, StartRecord, StepRecord
from largebatch.jobs.streams import drop_what_nobody_reads, print_answer, standard_output_kept
from largebatch.jobs.tasks.metric import ACCURACY

PROGRAM = "python -m largebatch.jobs"
LINE_EVERY_S = 5.0
READS: dict[Any, Callable[[str], Any]] = {int: int, float | None: float, Path: Path}
"""What makes a value of a type of its text; all else is text."""


class _Parser(argparse.ArgumentParser):
    """A parser that answers what it cannot read in one sentence, without the usage of all options."""

    def error(self, message: str) -> NoReturn:
        """See `ArgumentParser`. Raises: InputError."""
        named = re.fullmatch(r"argument ([^:]+): (.*)", message, re.DOTALL)
        field, problem = (named[1].rpartition("/")[2], named[2]) if named else ("", message)
        raise InputError(field, f"{problem.rstrip('.')}.", f"`{PROGRAM} --help` says what it takes.")


def read_arguments(arguments: Sequence[str] | None) -> TrainOptions:
    """The options in a command's arguments; None: in this process's own. Raises: InputError."""
    parser = _Parser(PROGRAM, description=__doc__, epilog=f"Example: {PROGRAM} digits-lamb --set stop.epochs=10")
    for parameter in parameters(TrainOptions):
        _add(parser, parameter)
    values = vars(parser.parse_args(arguments))
    for parameter in parameters(TrainOptions):
        if (least := parameter.option.minimum) is not None and values[parameter.name] < least:
            raise InputError(parameter.flag, f"{values[parameter.name]} is below {least}.")
    return TrainOptions.read(**values)


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
        reads = str if option.is_text else READS.get(parameter.kind, str)
        parser.add_argument(parameter.flag, dest=parameter.name, metavar=option.metavar, help=f"{option.help}{shown}", type=reads, default=default)


class PlainLines:
    """Prints one line per evaluation, and one every few seconds in between, on standard error."""

    def __init__(self) -> None:
        self._printed_at_s, self._metric, self._part = time.monotonic(), ACCURACY, "test"

    def record(self, record: Record) -> None:
        """Print what a person waits for."""
        if isinstance(record, StartRecord):
            self._metric, self._part = record.headline.metric, record.evaluated_on
        elif isinstance(record, StepRecord) and time.monotonic() - self._printed_at_s > LINE_EVERY_S:
            self.print(f"step {record.step}  epoch {record.epoch:.2f}  loss {record.loss:.4f}  lr {record.learning_rate:.4g}")
        elif isinstance(record, EvalRecord):
            score = f"{self._part} {self._metric.in_words(record.score)}"
            self.print(f"step {record.step}  epoch {record.epoch:.2f}  {score}  {record.training_seconds:.1f} s")

    def print(self, text: str) -> None:
        """Print a line at once."""
        self._printed_at_s = time.monotonic()
        print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Train one spec; prints the summary as JSON; returns the exit code."""
    lines = PlainLines()
    try:
        options = read_arguments(arguments)
        with standard_output_kept():
            summary = train(options, Listener(on_record=lines.record, on_notice=lines.print), program=PROGRAM)
            print_answer(summary.model_dump_json())
    except LargebatchError as error:
        lines.print(f"{type(error).__name__}: {error}")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        lines.print(f"Interrupted. {interrupt}".strip())
        return 130
    return exit_code(summary)


if __name__ == "__main__":
    collect_seldom()
    spin_briefly()
    drop_what_nobody_reads()
    sys.exit(main())

"""`python -m largebatch.jobs RECIPE`: the command that every door ends in, with the engine's own dependencies alone.

RECIPE may also be env:NAME: a spec as JSON in an environment variable.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    sys.path.pop(0)  # the current folder, before anything is imported: what is called random.py there is not Python's own

import time

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.command_line import read_arguments
from largebatch.jobs.launch.openmp_threads import spin_briefly
from largebatch.jobs.launch.train import exit_code, stopped_in_words, train
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import EvalRecord, Record, StepRecord
from largebatch.jobs.streams import drop_what_nobody_reads, print_answer, standard_output_kept

PROGRAM = "python -m largebatch.jobs"
LINE_EVERY_S = 5.0


class PlainLines:
    """Prints one line per evaluation, and one every few seconds in between, on standard error."""

    def __init__(self) -> None:
        self._printed_at_s = time.monotonic()

    def record(self, record: Record) -> None:
        """Print what a person waits for."""
        if isinstance(record, StepRecord) and time.monotonic() - self._printed_at_s > LINE_EVERY_S:
            self.print(f"step {record.step}  epoch {record.epoch:.2f}  loss {record.loss:.4f}  lr {record.learning_rate:.4g}")
        elif isinstance(record, EvalRecord):
            self.print(f"step {record.step}  epoch {record.epoch:.2f}  test accuracy {record.test_accuracy:.4f}  {record.training_seconds:.1f} s")

    def print(self, text: str) -> None:
        """Print a line at once."""
        self._printed_at_s = time.monotonic()
        print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Train one spec; prints the summary as JSON; returns the exit code."""
    lines = PlainLines()
    try:
        options = read_arguments(arguments, prog=PROGRAM, description=__doc__, epilog=f"Example: {PROGRAM} digits-lamb --set stop.epochs=10")
        with standard_output_kept():
            summary = train(options, Listener(on_record=lines.record, on_notice=lines.print), program=PROGRAM)
            if (words := stopped_in_words(summary, options, PROGRAM)) is not None:
                lines.print(words)
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

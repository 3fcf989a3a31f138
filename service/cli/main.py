"""The command `largebatch`. Heavy imports live inside the commands that need them, so that help is quick."""

import io
import sys
from typing import Annotated

import typer

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.openmp_threads import spin_briefly
from largebatch.jobs.streams import drop_what_nobody_reads
from largebatch.service.cli.commands import answer, doctor, ray_jobs, remote, serve, study, sweep, sync, train

app = typer.Typer(
    name="largebatch",
    help="Train with large batches: exact batches, honest clocks, and what each batch size costs.",
    epilog="Example: largebatch train digits-lamb",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (train, study, sweep, answer, sync, ray_jobs, serve, remote, doctor):
    app.add_typer(module.app)


def _say_version(is_set: bool) -> None:
    if is_set:
        from importlib.metadata import version

        print(f"largebatch {version('largebatch')}")
        raise typer.Exit


@app.callback()
def largebatch(
    _: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")] = False,
) -> None:
    """Train with large batches: exact batches, honest clocks, and what each batch size costs."""


def _write_utf_8() -> None:
    """Makes ASCII output streams UTF-8: under a locale that knows ASCII alone the first other letter would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() in {"ascii", "ansi_x3.4-1968", "us-ascii"}:
            stream.reconfigure(encoding="utf-8")


def main() -> None:
    """Run the command; a person's mistakes and the machine's faults end in one sentence, not in a traceback."""
    collect_seldom()
    spin_briefly()
    drop_what_nobody_reads()
    _write_utf_8()
    try:
        app()
    except LargebatchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from largebatch.jobs.launch.final_message import unforeseen

        fault = unforeseen(error, None)
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main()

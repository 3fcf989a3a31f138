"""The command `largebatch`: a table of its commands, each of which is imported when it is called."""

import importlib
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.openmp_threads import spin_briefly
from largebatch.jobs.streams import drop_what_nobody_reads
from largebatch.service.cli.completion import argument_alone, needs_no_module
from largebatch.service.cli.usage import is_of_usage, refusal

COMMANDS = {
    "init": ("commands.init", "Write a recipe, a model, data and a test that run as they stand, to be filled with your own."),
    "train": ("commands.train", "Train one recipe: in this process, on one GPU or the CPU, or with --workers on many."),
    "plan": ("commands.plan", "Print what a recipe would do, and why: split of the batch, steps, learning rate, memory."),
    "tokens": ("commands.tokens", "Turn text into token files that language models train on; what was interrupted goes on where it stopped."),
    "recipes": ("commands.train", "List the recipes that come with this package."),
    "study": ("commands.study", "Profile, sweep, sharpness and report in one go: which batch size reaches the target soonest, on your own model."),
    "profile": ("measure.profile_and_sharpness", "Step time, epoch time, samples per second and memory against the batch size, on this machine."),
    "find-rate": ("measure.find_rate", "Find the learning rate of each batch size by short runs, with the same search for each."),
    "branch": (
        "commands.branch",
        "The critical batch along a run: short branches from its checkpoints, with ever larger batches over the same samples.",
    ),
    "sharpness": (
        "measure.profile_and_sharpness",
        "How sharp the minima are that runs found: Keskar's sharpness, the top Hessian eigenvalue, the lines between two.",
    ),
    "landscape": (
        "measure.landscape",
        "Draw how gradient descent, momentum, Nesterov's and the noise of a small batch move on slopes, plateaus, saddles and hills.",
    ),
    "sweep": (
        "commands.sweep",
        "Run one recipe at many batch sizes, each with its own search for the learning rate, and say which is soonest.",
    ),
    "advise": ("answer.advise", "Say which batch size is soonest, cheapest, best within a limit, and why."),
    "report": ("answer.report", "Write the report of runs that are there: one page that opens without a network, its numbers, its pictures."),
    "scale": ("answer.scale", "Predict time to target and cost on more workers, each at its best batch size, and what limits it."),
    "compare": ("answer.compare", "Put runs side by side: a table that names what they differ in, and a figure of scores against training seconds."),
    "open": (
        "answer.open",
        "Show a sweep's or a study's report, or a run's figure, in the browser; its path is printed, which is all where there is no browser.",
    ),
    "export": ("answer.export", "Write the weights that a run was evaluated with as a plain state_dict, for any program that loads one."),
    "sync": ("commands.sync", "Bring MLflow up to what the runs' journals hold, for instance after its server was down."),
    "submit": ("commands.ray_jobs", "Send one recipe to a Ray cluster as a job that lives without this command."),
    "jobs": ("commands.ray_jobs", "Jobs that were submitted to a Ray cluster."),
    "serve": ("commands.serve", "Start the service: a REST interface, a queue that forgets nothing, and a page."),
    "db": ("commands.serve", "The service's database."),
    "token": ("commands.serve", "Tokens that let people and programs ask the service."),
    "remote": ("commands.remote", "Runs and sweeps on a largebatch service."),
    "doctor": ("commands.doctor", "Say what is installed, found and reachable, what is missing, and how to get it."),
}
"""The module of each command, and the first sentence of its help."""


class ImportedWhenCalled(TyperGroup):
    """The group of all commands; its own help needs the table alone, so that it is quick."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, sentence) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=sentence))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See `TyperGroup`. Imports the command that the arguments name, unless a shell asks for none of its options."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and needs_no_module(name):
            command = argument_alone(name)
        elif name is not None:
            module = importlib.import_module(f"largebatch.service.cli.{COMMANDS[name][0]}")
            command = get_group(module.app).commands[name]
        return name, command, rest

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        """See `TyperGroup`, which answers options that it does not have with a box."""
        try:
            return super().make_context(*arguments, **settings)
        except Exception as error:
            if is_of_usage(error):
                raise refusal(error) from None
            raise

    def invoke(self, ctx: Any) -> Any:
        """See `TyperGroup`, which ends at an interrupt without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            print("Interrupted.", file=sys.stderr)
            raise typer.Exit(130) from interrupt
        except Exception as error:
            if is_of_usage(error):
                raise refusal(error) from None
            raise


app = typer.Typer(
    name="largebatch",
    cls=ImportedWhenCalled,
    epilog="Example: largebatch train digits-lamb",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(is_set: bool) -> None:
    if is_set:
        print(f"largebatch {version('largebatch')}")
        raise typer.Exit


@app.callback()
def largebatch(
    _: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")] = False,
) -> None:
    """Train with large batches: exact batches, honest clocks, and what each batch size costs."""


def main() -> None:
    """The whole process of a command."""
    collect_seldom()
    run()


def run() -> None:
    """Run the command; a person's mistakes and the machine's faults end in one sentence, not in a traceback."""
    spin_briefly()
    drop_what_nobody_reads()
    try:
        app(prog_name="largebatch")  # also where a module or a test is what was called: hints hold what can be typed
    except LargebatchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        from largebatch.jobs.launch.final_message import unforeseen  # which imports what runs need, too slow for help

        fault = unforeseen(error, None)
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main()

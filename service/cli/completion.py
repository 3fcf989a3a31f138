"""Completion: what a shell is told where a person presses the tab key.

Names of commands, recipes and sweeps come from tables and folders. The options of a command need its module, whose import may take seconds; so it
is imported once a dash is typed. Where a shell is told nothing it completes names of files.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

import largebatch

ASKS, WORDS = "_LARGEBATCH_COMPLETE", ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""The variables by which a shell asks, and those that hold the words that were typed, the one under the cursor last."""
RECIPES = Path(largebatch.__file__).parent / "recipes"
NAMES = {**dict.fromkeys(("train", "plan", "study", "profile", "find-rate", "submit"), RECIPES), "sweep": RECIPES / "sweeps"}
"""Commands whose argument may be a name, and the folder of the files that are called so."""


GROUPS = {"jobs", "remote", "db", "token"}
"""Commands that have commands of their own."""


def needs_no_module(name: str) -> bool:
    """Whether a shell asks to complete a word of the command of this name that is none of its options or commands."""
    typed = next((os.environ[variable] for variable in WORDS if variable in os.environ), "")
    word = typed.replace("\n", " ").rpartition(" ")[2]
    return ASKS in os.environ and name not in GROUPS and not word.startswith("-")


def argument_alone(name: str) -> Any:
    """A command that stands for the one of this name: of its words it knows the argument, where that may be a name."""
    stand_in = typer.Typer(add_completion=False)

    def names() -> list[str]:
        return sorted(path.stem for path in NAMES[name].glob("*.yaml")) if name in NAMES else []

    @stand_in.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def command(argument: Annotated[str | None, typer.Argument(autocompletion=names)] = None) -> None: ...

    return get_command(stand_in)

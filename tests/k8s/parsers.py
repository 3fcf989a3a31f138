"""What the programs' own parsers make of a command line, without doing what it says."""

from typing import Any

import typer

from largebatch.service.cli.main import app


def largebatch_parameters(words: list[str]) -> dict[str, Any]:
    """Of `largebatch WORDS`. Raises: click's errors."""
    command: Any = typer.main.get_command(app)
    context, rest = command.make_context("largebatch", list(words)), list(words)
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
    return dict(context.params)

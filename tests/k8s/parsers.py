"""What the programs' own parsers make of a command line, without doing what it says."""

import argparse
from typing import Any

import pytest
import typer

from largebatch.jobs.__main__ import main as jobs_main
from largebatch.service.cli.main import app


def largebatch_parameters(words: list[str]) -> dict[str, Any]:
    """Of `largebatch WORDS`. Raises: click's errors."""
    command: Any = typer.main.get_command(app)
    context, rest = command.make_context("largebatch", list(words)), list(words)
    while hasattr(command, "commands"):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)
    return dict(context.params)


def jobs_parameters(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Of `python -m largebatch.jobs WORDS`. Raises: SystemExit."""
    parse = argparse.ArgumentParser.parse_args
    given: list[argparse.Namespace] = []

    class ParsedError(Exception):
        """Ends the program after its first step."""

    def parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
        given.append(parse(parser, arguments))
        raise ParsedError

    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parsed)
        with pytest.raises(ParsedError):
            jobs_main(words)
    return given[0]

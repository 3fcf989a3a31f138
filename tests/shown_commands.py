"""The commands that README and docs show, and the real parser of the command that reads them."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from small_runs import ROOT
from typer.main import get_command

from largebatch.service.cli.main import app

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Shown(NamedTuple):
    """A line of a page's code."""

    line: str
    is_run: bool
    """Whether its block is marked `sh`."""


def shown_in(page: Path) -> list[Shown]:
    """The lines of a page's code that begin with `largebatch` or `cd`, in their order; one that ends with a backslash goes on."""
    found, fence = list[Shown](), None
    for line in page.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fence = None if fence is not None else line.removeprefix("```").strip()
        is_code = fence in {"", "sh"} or (fence is None and line.startswith("    "))
        if is_code and line.strip().startswith(("largebatch ", "cd ")):
            found.append(Shown(line.strip(), fence == "sh"))
    return found


def parse(line: str) -> None:
    """Read a command as the program does. Raises: typer's error for what it does not take."""
    group: Any = get_command(app)
    context = group.make_context("largebatch", [], resilient_parsing=True)
    program, name, *words = shlex.split(line, comments=True)
    assert program == "largebatch"
    command = group.resolve_command(context, [name])[1]
    parent = context
    while hasattr(command, "commands"):
        parent = command.make_context(name, [], parent=parent, resilient_parsing=True)
        name, command, words = command.resolve_command(parent, words)
    command.make_context(name, words)

"""The commands of docs/batch-size.md are ones that largebatch takes."""

import re
import shlex
from pathlib import Path

from typer.main import get_command

from largebatch.service.cli.main import app

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "batch-size.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


def test_its_commands_are_taken() -> None:
    group = get_command(app)
    context = group.make_context("largebatch", [], resilient_parsing=True)
    for line in COMMANDS:
        program, name, *words = shlex.split(line, comments=True)
        assert program == "largebatch"
        group.resolve_command(context, [name])[1].make_context(name, words)  # raises for what it does not take
    assert [shlex.split(line)[1] for line in COMMANDS] == ["profile", "study", "study", "train", "branch", "advise", "train", "compare", "scale"]

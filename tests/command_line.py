"""The command `largebatch` in this process: importing it takes longer than what it does."""

import sys

import pytest
from typer.testing import CliRunner, Result

from largebatch.service.cli import main as cli


def largebatch(*arguments: object, **environment: str) -> Result:
    """What it ends with and prints. Raises: the error that a person would be told in a sentence."""
    return CliRunner().invoke(cli.app, [*map(str, arguments)], env=environment, catch_exceptions=False)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Its exit code and what it prints, errors told in their sentence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["largebatch", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.run()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def not_served(capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str]:
    """The exit code of a `largebatch serve` that does not begin, and what it says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("log_to_stderr", "open_as_many_files_as_allowed"):  # for processes that are ours alone
            patch.setattr(f"largebatch.service.api.serve.{name}", lambda *_: None)
        code, _, err = said(capsys, "serve", *options)
    return code, err

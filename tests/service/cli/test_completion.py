"""Shell completion, as a real bash asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from largebatch.service.cli.main import app


def bash(script: str, home: Path) -> list[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "HOME": str(home), "PATH": path}
    done = subprocess.run(["bash", "-c", f"{script}; true"], env=environment, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.splitlines()


def test_it_is_installed_and_completes_names_at_once(tmp_path: Path) -> None:
    """What would import torch is not imported: a module of that name raises."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    assert "completion installed" in " ".join(bash("largebatch --install-completion", tmp_path))
    ask = f"export PYTHONPATH={tmp_path}; . ~/.bash_completions/largebatch.sh; complete -p largebatch; "
    for words, complete in [
        ("sw", ["sweep"]),
        ("plan digits-s", ["digits-small-batch"]),
        ("sweep digits", ["digits-batches"]),
        ("remote l", ["list", "logs"]),
        ("advise --device cpu ''", []),
    ]:
        number = len(words.split())
        *_, answer = bash(
            f"{ask} COMP_WORDS=(largebatch {words}); COMP_CWORD={number}; _largebatch_completion largebatch; echo ${{COMPREPLY[*]}}", tmp_path
        )
        assert answer.split() == complete, words


@pytest.mark.parametrize(("typed", "is_offered"), [("largebatch train --dev", True), ("largebatch train --device ", False)])
def test_options_are_offered_once_a_dash_is_typed(typed: str, is_offered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LARGEBATCH_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", typed)
    group = get_command(app)
    _, command, _ = group.resolve_command(group.make_context("largebatch", [], resilient_parsing=True), ["train"])  # type: ignore[attr-defined]
    assert ("device" in {parameter.name for parameter in command.params}) is is_offered

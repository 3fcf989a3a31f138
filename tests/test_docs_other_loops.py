"""The programs that docs/other-loops.md shows: each runs as it stands, and what it leaves is answered about."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import largebatch

from largebatch.jobs.run.load import load_run

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' advice
PAGE = (Path(__file__).resolve().parent.parent / "docs" / "other-loops.md").read_text()
PROGRAMS = {block.split(maxsplit=2)[1]: block for block in re.findall(r"```python\n(# .*?)```", PAGE, flags=re.DOTALL)}


@pytest.fixture
def run_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Runs a program in this process, in the test's folder; returns what it prints. To import a trainer's library takes longer than the rest."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> str:
        exec(compile(PROGRAMS[name], name, "exec"), {"__name__": "shown_program"})
        return capsys.readouterr().out

    return run


def test_six_runs_of_a_plain_loop_are_answered_about(run_program: Callable[[str], str], tmp_path: Path) -> None:
    run_program("plain.py")
    answer = json.loads(largebatch("advise", tmp_path / "runs", "--json").stdout)
    assert answer["headline"]["name"] == "accuracy"
    assert answer["target"] == 0.85
    assert answer["critical_batch"]["critical_batch_size"] > 0
    assert {advice["question"] for advice in answer["advice"]} >= {"soonest", "cheapest"}
    assert {row["num_seeds"] for row in answer["cost_frontier"]} == {2}


@pytest.mark.parametrize(("name", "needs"), [("with_lightning.py", "lightning"), ("with_transformers.py", "accelerate")])
def test_a_trainers_run_is_recorded(name: str, needs: str, run_program: Callable[[str], str], tmp_path: Path) -> None:
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    assert run_program(name).splitlines()[-1] == "reached"
    (run_dir,) = (tmp_path / "runs").iterdir()
    run = load_run(run_dir)
    assert run.summary is not None
    assert (run.summary.global_batch_size, run.summary.samples_seen, len(run.evaluations)) == (64, 14_370, 10)


def test_every_program_of_the_page_is_run() -> None:
    assert PROGRAMS.keys() == {"plain.py", "with_lightning.py", "with_transformers.py"}
    assert len(PROGRAMS) == PAGE.count("```python")

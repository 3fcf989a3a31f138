"""The programs that docs/other-loops.md shows: each runs as it stands, and what it leaves is answered about."""

import json
import re
from pathlib import Path

import pytest
from command_line import largebatch
from forked import Forked

from largebatch.jobs.run.load import load_run

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "other-loops.md").read_text()
PROGRAMS = {block.split(maxsplit=2)[1]: block for block in re.findall(r"```python\n(# .*?)```", PAGE, flags=re.DOTALL)}


def run_program(name: str, folder: Path) -> str:
    done = Forked("-c", PROGRAMS[name], folder=folder)
    out, err = done.communicate(timeout=200)
    assert done.returncode == 0, err
    return out


def test_six_runs_of_a_plain_loop_are_answered_about(tmp_path: Path) -> None:
    run_program("plain.py", tmp_path)
    answer = json.loads(largebatch("advise", tmp_path / "runs", "--json").stdout)
    assert answer["headline"]["name"] == "accuracy"
    assert answer["target"] == 0.85
    assert answer["critical_batch"]["critical_batch_size"] > 0
    assert {advice["question"] for advice in answer["advice"]} >= {"soonest", "cheapest"}
    assert {row["num_seeds"] for row in answer["cost_frontier"]} == {2}


@pytest.mark.parametrize(("name", "needs"), [("with_lightning.py", "lightning"), ("with_transformers.py", "accelerate")])
def test_a_trainers_run_is_recorded(name: str, needs: str, tmp_path: Path) -> None:
    pytest.importorskip(needs, reason=f"{needs} is not installed")
    assert run_program(name, tmp_path).splitlines()[-1] == "reached"
    (run_dir,) = (tmp_path / "runs").iterdir()
    run = load_run(run_dir)
    assert run.summary is not None
    assert (run.summary.global_batch_size, run.summary.samples_seen, len(run.evaluations)) == (64, 14_370, 10)


def test_every_program_of_the_page_is_run() -> None:
    assert PROGRAMS.keys() == {"plain.py", "with_lightning.py", "with_transformers.py"}
    assert len(PROGRAMS) == PAGE.count("```python")

"""The process that answers what is heavy: it is replaced when it takes too long or dies, and errors of ours come back as they are."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from launch_runs import wait_for

from largebatch.jobs.errors import FaultError, InputError, SpecError
from largebatch.service.api.analysis_worker import AnalysisWorker

QUESTIONS = """
import os, time
from largebatch.jobs.errors import SpecError
def pid(): return os.getpid()
def sleeps(): time.sleep(60)
def dies(): os._exit(9)
def refuses(): raise SpecError("batch", "is odd.", "Take an even one.")
def breaks(): return 1 / 0
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AnalysisWorker]:
    (tmp_path / "made_questions.py").write_text(QUESTIONS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    made = AnalysisWorker("made_questions", timeout_s=5.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        ("sleeps", FaultError, "took more than 5 s"),
        ("dies", FaultError, "could not be computed"),
        ("refuses", SpecError, "batch: is odd"),
        ("breaks", InputError, "ZeroDivisionError: division by zero"),
    ],
)
def test_the_next_question_is_answered_whatever_became_of_one(worker: AnalysisWorker, question: str, error: type[Exception], words: str) -> None:
    before = worker.ask("pid")
    with pytest.raises(error, match=words):
        worker.ask(question)
    is_replaced = error is FaultError
    assert (worker.ask("pid") != before) is is_replaced
    wait_for(lambda: psutil.pid_exists(before) is not is_replaced, 10)  # a process that takes too long is ended

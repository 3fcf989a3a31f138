"""What requests wait for: a pool that a database blocks, and the process that answers heavy questions; neither without end."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from small_runs import wait_for

from largebatch.jobs.errors import FaultError, InputError, SpecError
from largebatch.service.api.analysis_worker import AnalysisWorker
from largebatch.service.api.dependencies import run_within
from largebatch.service.db.engine import DatabaseError

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
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[AnalysisWorker]:
    (tmp_path / "made_questions.py").write_text(QUESTIONS)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    made = AnalysisWorker("made_questions", timeout_s=request.param)
    yield made
    made.close()


REFUSES = ("refuses", SpecError, "batch: is odd")
BREAKS = ("breaks", InputError, "ZeroDivisionError: division by zero")
DIES = ("dies", FaultError, "could not be computed")
SLEEPS = ("sleeps", FaultError, "took more than 8 s")


@pytest.mark.parametrize(("worker", "questions"), [(60.0, [REFUSES, BREAKS, DIES]), (8.0, [SLEEPS])], indirect=["worker"], ids=["wrong", "long"])
def test_the_next_question_is_answered_whatever_became_of_one(worker: AnalysisWorker, questions: list[tuple[str, type[Exception], str]]) -> None:
    before = worker.ask("pid")
    for question, error, words in questions:
        with pytest.raises(error, match=words):
            worker.ask(question)
        is_replaced = error is FaultError
        assert (worker.ask("pid") != before) is is_replaced
    wait_for(lambda: psutil.pid_exists(before) is not is_replaced, 10)  # a process that takes too long is ended


def test_nobody_waits_for_ever_behind_a_database_that_hangs() -> None:
    answers, done = threading.Event(), []
    pool = ThreadPoolExecutor(1)

    async def ask() -> list[object]:
        hanging = run_within(0.2, pool, lambda: answers.wait(30))
        waiting = [run_within(0.2, pool, lambda: done.append(1)) for _ in range(3)]
        return await asyncio.gather(hanging, *waiting, return_exceptions=True)

    began_s = time.monotonic()
    refused = asyncio.run(ask())
    assert time.monotonic() - began_s < 20
    assert [type(one) for one in refused] == [DatabaseError] * 4
    answers.set()
    pool.shutdown()
    assert done == [], "what was refused is not done later"


def test_what_a_look_raises_is_handed_on() -> None:
    def fails() -> None:
        raise DatabaseError("database", "does not answer (x).")

    with ThreadPoolExecutor(1) as pool, pytest.raises(DatabaseError, match="does not answer"):
        asyncio.run(run_within(5.0, pool, fails))


def test_neither_the_service_nor_a_plan_waits_for_a_library_that_it_does_not_need() -> None:
    """With torch each replica took 600 MiB where it takes 110; what needs torch or scipy is the analysis worker's."""
    heavy = {"ray", "scipy", "plotly", "mlflow", "optuna"}
    code = (
        f"import sys, largebatch.service.api.serve; print({heavy | {'torch', 'numpy', 'pandas'}} & set(sys.modules)); "
        f"import largebatch.service.api.analysis, largebatch.jobs.job; print({heavy} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["set()", "set()"]

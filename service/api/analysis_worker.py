"""Work that imports torch or scipy, in a process of its own: plans and findings. The service itself stays small.

The process is started when first needed and kept warm; one that takes too long is ended, and the next question
starts another. It computes what a command of ours computes, and runs nothing that a request brings.
"""

import concurrent.futures
import json
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from largebatch.jobs.collector import collect_seldom
from largebatch.jobs.errors import FaultError, InputError, LargebatchError
from largebatch.jobs.spec.train_spec import TrainSpec

TIMEOUT_S = 60.0
MOST_AT_ONCE = 4
"""Questions under way; each keeps one of the service's threads waiting."""
LARGEST_BYTES = 16 << 30


class Heavy:
    """One warm process."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(MOST_AT_ONCE)

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer. Raises: what the question raises; FaultError if it takes too long or its process dies."""
        if not self._turns.acquire(blocking=False):
            raise FaultError("", "many such questions are being answered.", "Ask again in a moment.")
        pool = self._started()
        try:
            return pool.submit(question, *arguments).result(TIMEOUT_S)
        except LargebatchError:
            raise
        except (TimeoutError, BrokenProcessPool, concurrent.futures.CancelledError) as error:
            self._end(pool)
            what = f"took more than {TIMEOUT_S:g} s" if isinstance(error, TimeoutError) else "could not be computed"
            raise FaultError("", f"the answer {what}.", "Use the command on the machine itself.") from error
        except Exception as error:
            raise InputError("", f"it cannot be worked out: {type(error).__name__}: {str(error)[:300]}.", "Look at the arguments.") from error
        finally:
            self._turns.release()

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._end(self._pool)

    def _started(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare)
            return self._pool

    def _end(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare() -> None:
    import os
    import resource
    import signal

    collect_seldom()
    os.environ["OMP_NUM_THREADS"] = "1"
    resource.setrlimit(resource.RLIMIT_DATA, (LARGEST_BYTES, LARGEST_BYTES))
    os.nice(10)  # whoever trains on these cores goes first
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def plan(spec: dict[str, Any], data_dir: str, workers: int | None) -> dict[str, Any]:
    """What `largebatch plan` says: facts and lines. Raises: PlanError, DataError."""
    import torch

    from largebatch.jobs.job import prepare

    torch.set_num_threads(1)
    job = prepare(TrainSpec.model_validate(spec), torch.device("cpu"), Path(data_dir), workers)
    return {"facts": job.plan_in_numbers(), "lines": [{"what": what, "how": how} for what, how in job.plan_in_words()]}


def plan_sweep(sweep: dict[str, Any], base: dict[str, Any], data_dir: str) -> dict[str, Any]:
    """What `largebatch sweep --dry-run` says: how many runs, in which groups. Raises: PlanError, SpecError, DataError."""
    from largebatch.service.cli.sweep_view import plan_facts
    from largebatch.tuning.sweep.space import refuse_impossible
    from largebatch.tuning.sweep.spec import SweepSpec
    from largebatch.tuning.sweep.sweep import num_train_samples

    wanted, spec = SweepSpec.model_validate(sweep), TrainSpec.model_validate(base)
    return plan_facts(wanted, refuse_impossible(wanted, spec, num_train_samples(spec, Path(data_dir))))


def findings(folder: str, with_figures: bool = False) -> dict[str, Any]:
    """What a sweep has found so far: choices, frontier, critical batch, advice. Raises: InputError while no run has ended.

    Args: with_figures: the report's figures too, as plotly's JSON.
    """
    from largebatch.tuning.report.charts import to_plotly
    from largebatch.tuning.report.report import Extras, charts_of
    from largebatch.tuning.results.findings import find_in

    found = find_in(Path(folder))
    told = {**found.as_dict(), "words": found.words(), "rows": found.rows()}
    if with_figures:
        told["figures"] = [
            {"name": chart.name, "title": chart.title, "caption": chart.caption, "figure": json.loads(to_plotly(chart).to_json())}
            for chart in charts_of(found, Extras())
        ]
    return told

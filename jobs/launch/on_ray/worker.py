"""What one Ray Train worker does: take part in the run, from wherever its last checkpoint stands.

Nothing goes through `ray.train.report`: it allows one call per controller poll, and a checkpoint that was reported
is not yet registered when a worker dies. The run's folder, which all workers share, is what a new group goes on from.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import ray
import torch
from ray.train.v2._internal.execution.context import get_train_context

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import CodeError, FaultError, InputError, PlanError
from largebatch.jobs.import_paths import add_folder
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.launch import termination
from largebatch.jobs.launch.local import carry_out
from largebatch.jobs.launch.on_ray.failures import UnfitError, sentence
from largebatch.jobs.launch.on_ray.heartbeat import ANSWER_S, Gone, lifeline
from largebatch.jobs.launch.on_ray.priority import train_first
from largebatch.jobs.launch.on_ray.run_channel import Beginning
from largebatch.jobs.launch.options import TrainOptions, Workers
from largebatch.jobs.launch.stored_runs import fetch_stored, mirrored_spec
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.prepared import Prepared
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome, Record, RunSummary, StepRecord
from largebatch.jobs.run.storage import PATIENCE_S, Storage, probe
from largebatch.jobs.run.stored_run import StoredRun
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_process import MirrorProcess

TELL_EVERY_S = 1.0
"""A call wakes three processes; on cores that are all busy each costs the training more than its own time."""
PREEMPTION_POLL_S = 1.0
OLD_WORKER_S = 120.0
"""How long a worker of an earlier group, or of a driver that died, may still hold the run's folder, at most: Ray ends it within seconds, or it
ends itself when it hears that its driver is dead; on a machine that was cut off it hears nothing, and lives for a minute (`lifeline`)."""

PLACE = "--output-dir"
"""The field of what is wrong with the folder or storage that all workers share."""


class Over(FaultError):
    """The outcome is known; there is nothing left to do."""


def work(config: dict[str, Any]) -> None:
    """Train as one rank until the run ends or this worker does; what no retry would mend is told, not raised."""
    for place in filter(os.path.isdir, config["import_paths"]):
        sys.path[:] = [other for other in sys.path if other != place]  # Ray has put it before Python's own modules
        add_folder(place)
    device = _own_gpu() if config["uses_gpu"] else torch.device("cpu")
    train_first()
    termination.hear()
    torch.set_num_threads(config["num_threads"])
    group = Ranks(device)
    mailbox = config["mailbox"]
    termination.terminated.clear()
    termination.training.set()
    drains = _DrainNotice()
    try:
        with lifeline(lambda: ask_driver(mailbox)):
            summary = _work(config, group, drains)
    except Over:
        return
    except (InputError, CodeError) as error:
        if group.is_first or not error.is_agreed:
            ray.get(mailbox.finish.remote({"error": error}))
        if not error.is_agreed:
            raise  # the other ranks wait for this one: Ray ends them all
        return
    finally:
        termination.training.clear()
    was_asked, num_told = group.sum_numbers(float(group.is_first and ray.get(mailbox.wants_stop.remote())), float(drains.is_given))
    if summary.outcome is Outcome.STOPPED and not was_asked:
        raise termination.PreemptedError(f"{'Ray will take a machine away' if num_told else 'a worker got SIGTERM'}; {termination.SAVED}")
    if group.is_first:
        ray.get(mailbox.finish.remote({"summary": summary.model_dump(mode="json")}))


def ask_driver(mailbox: Any) -> None:
    """Whether the person's process is there. Raises: Gone if Ray knows that it is not; what Ray raises if it does not answer."""
    try:
        ray.get(mailbox.stands.remote(), timeout=ANSWER_S)
    except ray.exceptions.ActorDiedError as error:  # not ActorUnavailableError: that one may come back
        raise Gone(sentence(error)) from error


def _own_gpu() -> torch.device:
    """The one that Ray gave this worker, and from now on this thread's own."""
    from ray.train.torch import get_device

    device = get_device()
    torch.cuda.set_device(device)
    return device


def _work(config: dict[str, Any], group: Ranks, drains: "_DrainNotice") -> RunSummary:
    spec, mailbox = build_spec(config["spec"]), config["mailbox"]
    begun: Beginning = group.from_first(lambda: ray.get(mailbox.begin.remote()))
    if begun.is_over:
        raise Over("", "the run is over.")
    options: TrainOptions = config["options"]
    with contextlib.ExitStack() as stack:
        # Before data and kernels: MLflow's import goes on beside them.
        mirror = stack.enter_context(MirrorProcess(mirrored_spec(spec, options))) if group.is_first else None
        try:
            return _take_part(config, options, spec, group, mirror, begun, drains)
        except InputError as error:
            unfit = excuse(error, group, lambda: load_dataset(spec.dataset, Path(config["data_dir"])), config) if begun.has_trained else None
            if unfit is None:
                raise
            raise unfit from error


def excuse(error: InputError, group: Ranks, load: Callable[[], object], config: dict[str, Any]) -> UnfitError | None:
    """The same as a failure, where workers that have trained before may find it otherwise next time; None: it is bad input, once and for all.

    A folder that refuses, or that a worker of an earlier group holds, is waited for; and a machine may lack the data that others have.

    Args: load: loads the data set on this machine. Every rank calls this for an error that all agree on.
    """
    lacks_data = _refuses(load)
    num_lacking = group.sum_numbers(float(lacks_data))[0] if error.is_agreed else float(lacks_data)
    node_id: str | None = _own_node() if lacks_data else getattr(error, "node_id", None)
    is_of_a_machine = num_lacking > 0 and (config["workers"].is_elastic or num_lacking < group.world_size)
    if is_of_a_machine or error.field in {PLACE, config["run_dir"]}:
        return UnfitError(error.field, error.problem, error.hint, node_id)
    return None


def _refuses(load: Callable[[], object]) -> bool:
    try:
        load()
    except InputError:
        return True
    return False


def _own_node() -> str:
    node_id: str = ray.get_runtime_context().get_node_id()
    return node_id


def _take_part(
    config: dict[str, Any],
    options: TrainOptions,
    spec: TrainSpec,
    group: Ranks,
    mirror: MirrorProcess | None,
    begun: Beginning,
    drains: "_DrainNotice",
) -> RunSummary:
    run_dir, mailbox = Path(config["run_dir"]), config["mailbox"]
    has_begun = begun.has_trained or bool(begun.reasons)
    refuse_unshared(options.store or str(run_dir.parent), group, patience_s=PATIENCE_S if has_begun else 0.0)
    job = prepare(spec, group.device, Path(config["data_dir"]))
    if config["workers"].is_elastic and not begun.has_trained:
        group.agreed(lambda: refuse_unplannable(spec, job.plan, config["workers"]))
    if group.is_first:
        fetch_stored(replace(options, run_id=run_dir.name), has_begun)
    resumes = config["resumes"] or group.sum_numbers(float(group.is_first and bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS))))[0] > 0
    if mirror is None:
        return run_job(job, run_dir, Listener(should_stop=lambda: termination.terminated.is_set() or drains.is_there()), resumes=resumes)
    with _Reporter(mailbox) as reporter:
        listener = Listener(
            on_record=reporter.record,
            on_notice=reporter.notice,
            should_stop=lambda: termination.terminated.is_set() or drains.is_there() or reporter.wants_stop,
        )
        run_dir.joinpath(run_folder.CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        ray.get(mailbox.trains.remote())
        reporter.ready(job)
        stored = StoredRun(Storage(options.store), run_dir, reporter.notice) if options.store else None
        return carry_out(
            job, run_dir, listener, mirror, draw=config["draw"], resumes=resumes, reasons=begun.reasons, patience_s=OLD_WORKER_S, stored=stored
        )


def refuse_unplannable(spec: TrainSpec, plan: TrainPlan, workers: Workers) -> None:
    """Plan for every number of workers that there may be, so that none ends the run when it comes.

    Args: plan: for the workers that there are now.
    Raises: PlanError with the largest number that works.
    """
    asked = spec.batch.micro_batch_size
    micro_batch_size = plan.micro_batch_size if asked == "auto" else asked
    refused: dict[int, PlanError] = {}
    for world_size in range(workers.least, workers.most + 1):
        try:
            make_plan(spec, Facts(plan.num_train_samples, plan.span is not None, micro_batch_size, world_size))
        except PlanError as error:
            refused[world_size] = error
    if not refused:
        return
    world_size, first = next(iter(refused.items()))
    works = [number for number in range(workers.least, workers.most + 1) if number not in refused]
    hint = f"The largest number that works is {max(works)}." if works else ""
    raise PlanError(first.field, f"--workers {workers} may come to {world_size}: {first.problem}", f"{hint} {first.hint}")


def refuse_unshared(place: str, group: Ranks, patience_s: float) -> None:
    """Find out whether all workers read and write one and the same folder or storage.

    Args: patience_s: how long one that worked before may refuse.
    Raises: InputError, on every rank, that names the machine; with its id as `node_id` where rank 0's own reaches the place.
    """
    ends_at = time.monotonic() + patience_s
    while True:
        error = _unshared(place, group)
        waits = group.sum_numbers(float(error is not None))[0] > 0 and time.monotonic() < ends_at
        if not group.sum_numbers(float(group.is_first and waits))[0]:  # rank 0's clock decides for all
            group.raise_first(error)
            return
        time.sleep(1.0)


def _unshared(place: str, group: Ranks) -> InputError | None:
    """What is wrong with the place, as this rank finds it."""
    hint = "Give a folder or storage that all machines share."
    token = f"{group.sum_numbers(float(int.from_bytes(os.urandom(6), 'big')) if group.is_first else 0.0)[0]:.0f}"
    try:
        store: Storage | None = Storage(place)
        problem = None
    except InputError as error:
        store, problem = None, f"cannot be used ({error.problem})"
    if group.sum_numbers(float(store is None))[0] == 0:
        assert store is not None
        problem = probe(store, token, group.rank, group.wait)
    if problem is None:
        return None
    found = InputError(PLACE, f"{place} {problem}, says the worker on node {_own_node()[:8]}.", hint)
    if not group.is_first:
        found.node_id = _own_node()  # type: ignore[attr-defined]
    return found


class _DrainNotice:
    """Whether Ray has said that a machine of this run will be taken away."""

    def __init__(self) -> None:
        self.is_given = False
        self._asked_at_s = 0.0

    def is_there(self) -> bool:
        """Whether it has by now; asked of Ray once a second."""
        now = time.monotonic()
        if not self.is_given and now - self._asked_at_s >= PREEMPTION_POLL_S:
            self._asked_at_s = now
            # The public `ray.train.get_preemption_info` is a barrier through an actor; all ranks are told anyhow.
            self.is_given = get_train_context().preemption_context.preemption_info is not None
        return self.is_given


class _Reporter:
    """Takes rank 0's records to the mailbox once a second, and brings back a wish to stop."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.wants_stop = False

    def ready(self, job: Prepared) -> None:
        """Tell the plan, before anything is trained."""
        self._add({"plan": [job.plan.total_steps, job.plan.total_progress]})

    def record(self, record: Record) -> None:
        """Pass a record on; of the steps within one second only the last."""
        self._add({"record": record.model_dump(mode="json")}, replaces=isinstance(record, StepRecord))

    def notice(self, text: str) -> None:
        """Pass on what a person should know."""
        self._add({"notice": text})

    def _add(self, message: dict[str, Any], replaces: bool = False) -> None:
        with self._lock:
            if replaces and self._waiting and self._waiting[-1].get("record", {}).get("kind") == "step":
                self._waiting[-1] = message
            else:
                self._waiting.append(message)

    def _send(self) -> None:
        with self._lock:
            messages, self._waiting = self._waiting, []
        self.wants_stop = ray.get(self._mailbox.put.remote(messages)) or self.wants_stop

    def _run(self) -> None:
        while not self._over.wait(TELL_EVERY_S):
            with contextlib.suppress(ray.exceptions.RayError):  # without a mailbox this worker ends soon, by Ray's hand
                self._send()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(ray.exceptions.RayError):
            self._send()

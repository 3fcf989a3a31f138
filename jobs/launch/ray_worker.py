"""What one Ray Train worker does: take part in the run, from wherever its last checkpoint stands.

Nothing goes through `ray.train.report`: it allows one call per controller poll, and a checkpoint that was reported
is not yet registered when a worker dies. The run's folder, which all workers share, is what a new group goes on from.
"""

import contextlib
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import ray
import torch
from ray.train.v2._internal.execution.context import get_train_context

from jobs import run_folder
from jobs.checkpoint_files import list_checkpoints
from jobs.engine.group import Group
from jobs.errors import FaultError, InputError, LargebatchError
from jobs.job import Prepared, prepare, run_job
from jobs.launch import termination
from jobs.launch.lifeline import ANSWER_S, lifeline
from jobs.launch.local import carry_out
from jobs.launch.options import LocalOptions, fetch_stored, mirrored_spec
from jobs.launch.priority import train_first
from jobs.listener import Listener
from jobs.records import Outcome, Record, RunSummary, StepRecord
from jobs.spec import TrainSpec
from jobs.spec_reader import build_spec
from jobs.storage import Storage, StoredRun, probe
from jobs.tracking.mirror_process import MirrorProcess

TELL_EVERY_S = 1.0
"""A call wakes three processes; on cores that are all busy each costs the training more than its own time."""
PREEMPTION_POLL_S = 1.0
STORAGE_PATIENCE_S = 120.0
OLD_WORKER_S = 30.0
"""How long a worker of a driver that died may still hold the run's folder."""
CUT_OFF_S = 120.0
"""The same for a worker of a group that was ended: on a machine that was cut off it lives for a minute (`lifeline`)."""


class Over(FaultError):
    """The outcome is known; there is nothing left to do."""


def work(config: dict[str, Any]) -> None:
    """Train as one rank until the run ends or this worker does; what no retry would mend is told, not raised."""
    for place in config["import_paths"]:
        if place not in sys.path and os.path.isdir(place):
            sys.path.append(place)
    device = _own_gpu() if config["uses_gpu"] else torch.device("cpu")
    train_first()
    termination.hear()
    torch.set_num_threads(config["num_threads"])
    group = Group(device)
    mailbox = config["mailbox"]
    termination.terminated.clear()
    termination.training.set()
    try:
        with lifeline(lambda: ray.get(mailbox.stands.remote(), timeout=ANSWER_S)):
            summary = _work(config, group)
    except Over:
        return
    except InputError as error:
        if group.is_first:
            ray.get(mailbox.finish.remote({"error": error}))
        if not error.is_agreed:
            raise  # the other ranks wait for this one: Ray ends them all
        return
    finally:
        termination.training.clear()
    (was_asked,) = group.sum_numbers(float(group.is_first and ray.get(mailbox.wants_stop.remote())))
    if summary.outcome is Outcome.STOPPED and not was_asked:
        raise termination.PreemptedError(termination.SAVED)
    if group.is_first:
        ray.get(mailbox.finish.remote({"summary": summary.model_dump(mode="json")}))


def _own_gpu() -> torch.device:
    """The one that Ray gave this worker, and from now on this thread's own."""
    from ray.train.torch import get_device

    device = get_device()
    torch.cuda.set_device(device)
    return device


def _work(config: dict[str, Any], group: Group) -> RunSummary:
    spec, mailbox = build_spec(config["spec"]), config["mailbox"]
    reasons: list[str] = []
    error: LargebatchError | None = None
    if group.is_first:
        reasons, is_over = ray.get(mailbox.begin.remote())
        if is_over:
            error = Over("", "the run is over.")
    group.raise_first(error)
    options: LocalOptions = config["options"]
    with contextlib.ExitStack() as stack:
        # Before data and kernels: MLflow's import goes on beside them.
        mirror = stack.enter_context(MirrorProcess(mirrored_spec(spec, options))) if group.is_first else None
        return _take_part(config, options, spec, group, mirror, reasons)


def _take_part(
    config: dict[str, Any], options: LocalOptions, spec: TrainSpec, group: Group, mirror: MirrorProcess | None, reasons: list[str]
) -> RunSummary:
    run_dir, mailbox = Path(config["run_dir"]), config["mailbox"]
    waits = group.sum_numbers(float(bool(reasons)))[0] > 0
    refuse_unshared(options.store or str(run_dir.parent), group, patience_s=STORAGE_PATIENCE_S if waits else 0.0)
    job = prepare(spec, group.device, Path(config["data_dir"]))
    if group.is_first:
        fetch_stored(replace(options, run_id=run_dir.name))
    resumes = config["resumes"] or group.sum_numbers(float(group.is_first and bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS))))[0] > 0
    drains = _DrainNotice()
    if mirror is None:
        listener = Listener(should_stop=termination.terminated.is_set, should_save=drains.is_new)
        return run_job(job, run_dir, listener, resumes=resumes)
    with _Reporter(mailbox) as reporter:
        listener = Listener(
            on_record=reporter.record,
            on_notice=reporter.notice,
            should_stop=lambda: termination.terminated.is_set() or reporter.wants_stop,
            should_save=drains.is_new,
        )
        run_dir.joinpath(run_folder.CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        reporter.ready(job)
        stored = StoredRun(options.store, run_dir, reporter.notice) if options.store else None
        patience_s = CUT_OFF_S if reasons else OLD_WORKER_S
        return carry_out(job, run_dir, listener, mirror, draw=config["draw"], resumes=resumes, reasons=reasons, patience_s=patience_s, stored=stored)


def refuse_unshared(place: str, group: Group, patience_s: float) -> None:
    """Find out whether all workers read and write one and the same folder or storage.

    Args: patience_s: how long one that worked before may refuse.
    Raises: InputError, on every rank, that names the machine.
    """
    ends_at = time.monotonic() + patience_s
    store = Storage(place)
    while True:
        token = f"{group.sum_numbers(float(int.from_bytes(os.urandom(6), 'big')) if group.is_first else 0.0)[0]:.0f}"
        problem = probe(store, token, group.rank, group.wait)
        node = ray.get_runtime_context().get_node_id()[:8]
        hint = "Give a folder or storage that all machines share."
        error = InputError("--output-dir", f"{place} {problem}, says the worker on node {node}.", hint) if problem else None
        waits = group.sum_numbers(float(error is not None))[0] > 0 and time.monotonic() < ends_at
        if not group.sum_numbers(float(group.is_first and waits))[0]:  # rank 0's clock decides for all
            group.raise_first(error)
            return
        time.sleep(1.0)


class _DrainNotice:
    """Whether Ray has said that a machine of this run will be taken away; told once for each such notice."""

    def __init__(self) -> None:
        self._seen: Any = None
        self._asked_at_s = 0.0

    def is_new(self) -> bool:
        now = time.monotonic()
        if now - self._asked_at_s < PREEMPTION_POLL_S:
            return False
        self._asked_at_s = now
        # The public `ray.train.get_preemption_info` is a barrier through an actor; all ranks are told anyhow.
        info = get_train_context().preemption_context.preemption_info
        is_new = info is not None and info != self._seen
        self._seen = info
        return is_new


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

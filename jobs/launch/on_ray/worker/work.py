"""What one Ray Train worker does: take part in the run, from wherever its last checkpoint stands.

Nothing goes through `ray.train.report`: it allows one call per controller poll, and a checkpoint that was reported
is not yet registered when a worker dies. The run's folder, which all workers share, is what a new group goes on from.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.train.torch import get_device

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.errors import CodeError, InputError, LargebatchError, PlanError
from largebatch.jobs.import_paths import add_folder
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.launch import termination
from largebatch.jobs.launch.local import kept_run
from largebatch.jobs.launch.on_ray.failures import LostRanksError, UnfitError, is_of_other_ranks, sentence
from largebatch.jobs.launch.on_ray.worker.config import WorkerConfig
from largebatch.jobs.launch.on_ray.worker.heartbeat import ANSWER_S, RunGoneError, heartbeat
from largebatch.jobs.launch.on_ray.worker.preemption import preemption_notice
from largebatch.jobs.launch.on_ray.worker.reporter import Reporter
from largebatch.jobs.launch.on_ray.worker.shared_storage import FIELD, own_node, refuse_unshared
from largebatch.jobs.launch.options import Workers
from largebatch.jobs.launch.stored_runs import fetch_stored, mirrored_spec
from largebatch.jobs.plan.make import Facts, make_plan
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Outcome, RunSummary
from largebatch.jobs.run.storage import PATIENCE_S, Storage
from largebatch.jobs.run.stored_run import StoredRun
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_process import MirrorProcess

OLD_WORKER_S = 120.0
"""How long a worker of an earlier group, or of a driver that died, may still hold the run's folder, at most: Ray ends it within seconds, or it
ends itself when it hears that its driver is dead; on a machine that was cut off it hears nothing, and lives for a minute (`heartbeat`)."""


def work(config: WorkerConfig) -> None:
    """Train as one rank until the run ends or this worker does; what no retry would mend is told, not raised."""
    for folder in filter(os.path.isdir, config.import_paths):
        sys.path[:] = [other for other in sys.path if other != folder]  # Ray has put it before Python's own modules
        add_folder(folder)
    ranks = Ranks(_own_gpu() if config.uses_gpu else torch.device("cpu"))
    torch.set_num_threads(config.num_threads)
    preemption = preemption_notice()
    try:
        with termination.heard_while_training(), heartbeat(lambda: ask_run(config.run_channel)):
            if ranks.from_first(lambda: ray.get(config.run_channel.begin.remote())):
                if ranks.is_first:
                    _finish(config, paused="The run was asked to stop.")
                return
            summary = _train(config, ranks, preemption)
    except (InputError, CodeError) as error:
        if ranks.is_first or not error.is_agreed:
            _finish(config, error=error)
        if not error.is_agreed:
            raise  # the other ranks wait for this one: Ray ends them all
        return
    except Exception as error:
        if is_of_other_ranks(error) and not isinstance(error, LargebatchError | torch.AcceleratorError):
            raise LostRanksError("", sentence(error)) from error
        raise
    num_noticed = ranks.sum_numbers(float(preemption.is_set()))[0]
    if ranks.is_first:
        _finish(config, **_outcome(summary, config, num_noticed > 0))


def ask_run(run_channel: Any) -> None:
    """Whether the run is there. Raises: RunGoneError if Ray knows that it is not; what Ray raises if it does not answer."""
    try:
        ray.get(run_channel.ping.remote(), timeout=ANSWER_S)
    except ray.exceptions.ActorDiedError as error:  # not ActorUnavailableError: that one may come back
        raise RunGoneError(sentence(error)) from error


def _outcome(summary: RunSummary, config: WorkerConfig, is_noticed: bool) -> dict[str, Any]:
    """How this group ended, for the run channel: with a summary, or for another group to go on."""
    stops, pauses = ray.get(config.run_channel.requests.remote())
    if summary.outcome is not Outcome.STOPPED or stops:
        return {"summary": summary.model_dump(mode="json")}
    if is_noticed or not pauses:
        return {"paused": f"Preempted: {'Ray will take a machine away' if is_noticed else 'a worker got SIGTERM'}; the run was saved."}
    return {"paused": "The group of workers was started anew, with those that there are now."}


def _finish(config: WorkerConfig, **outcome: Any) -> None:
    ray.get(config.run_channel.finish.remote(config.group, outcome))


def _own_gpu() -> torch.device:
    """The one that Ray gave this worker; Ray's own context has made it this thread's own."""
    device = get_device()
    assert isinstance(device, torch.device)
    return device


def _train(config: WorkerConfig, ranks: Ranks, preemption: threading.Event) -> RunSummary:
    spec = build_spec(config.spec)
    # Before data and kernels: MLflow's import goes on beside them.
    with MirrorProcess(mirrored_spec(spec, config.options)) if ranks.is_first else contextlib.nullcontext() as mirror:
        try:
            return _take_part(config, spec, ranks, mirror, preemption)
        except InputError as error:
            unfit = (
                excuse(error, ranks, lambda: load_dataset(spec.dataset, config.data_dir, spec.task), config, own_node())
                if config.has_trained
                else None
            )
            if unfit is None:
                raise
            raise unfit from error


def excuse(error: InputError, ranks: Ranks, load: Callable[[], object], config: WorkerConfig, node_id: str) -> UnfitError | None:
    """The same as a failure, where workers that have trained before may find it otherwise next time; None: it is bad input, once and for all.

    A folder that refuses, or that a worker of an earlier group holds, is waited for; and a machine may lack the data that others have.

    Args:
        load: loads the data set on this machine. Every rank calls this for an error that all agree on.
        node_id: Ray's id of this machine.
    """
    lacks_data = _refuses(load)
    num_lacking = ranks.sum_numbers(float(lacks_data))[0] if error.is_agreed else float(lacks_data)
    unfit_node: str | None = node_id if lacks_data else getattr(error, "node_id", None)
    is_of_a_machine = num_lacking > 0 and (config.workers.is_elastic or num_lacking < ranks.world_size)
    if is_of_a_machine or error.field in {FIELD, str(config.run_dir)}:
        return UnfitError(error.field, error.problem, error.hint, unfit_node)
    return None


def _refuses(load: Callable[[], object]) -> bool:
    try:
        load()
    except InputError:
        return True
    return False


def _take_part(config: WorkerConfig, spec: TrainSpec, ranks: Ranks, mirror: MirrorProcess | None, preemption: threading.Event) -> RunSummary:
    run_dir, options = config.run_dir, config.options
    has_begun = config.has_trained or bool(config.reasons)
    refuse_unshared(options.store or str(run_dir.parent), ranks, patience_s=PATIENCE_S if has_begun else 0.0)
    job = prepare(spec, ranks.device, config.data_dir)
    if config.workers.is_elastic and not config.has_trained:
        ranks.agreed(lambda: refuse_unplannable(spec, job.plan, config.workers))
    if ranks.is_first:
        fetch_stored(replace(options, run_id=run_dir.name), has_begun)
    has_checkpoint = ranks.sum_numbers(float(ranks.is_first and bool(list_checkpoints(run_dir / run_folder.CHECKPOINTS))))[0] > 0
    resumes = options.resume is not None or has_checkpoint
    if mirror is None:
        return run_job(job, run_dir, Listener(should_stop=lambda: termination.terminated.is_set() or preemption.is_set()), resumes=resumes)
    with Reporter(config.run_channel) as reporter:
        listener = Listener(
            on_record=reporter.record,
            on_notice=reporter.notice,
            should_stop=lambda: termination.terminated.is_set() or preemption.is_set() or reporter.should_stop,
        )
        run_dir.joinpath(run_folder.CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        ray.get(config.run_channel.trains.remote())
        reporter.plan(job.plan)
        stored = StoredRun(Storage(options.store), run_dir, reporter.notice) if options.store else None
        with kept_run(run_dir, listener, mirror, patience_s=OLD_WORKER_S, stored=stored) as finish:
            return finish(run_job(job, run_dir, listener, resumes=resumes, reasons=config.reasons, draw=config.draw))


def refuse_unplannable(spec: TrainSpec, plan: TrainPlan, workers: Workers) -> None:
    """Plan for every number of workers that there may be, so that none ends the run when it comes.

    Args: plan: for the workers that there are now.
    Raises: PlanError with the largest number that works.
    """
    spec_size = spec.batch.micro_batch_size
    micro_batch_size = plan.micro_batch_size if spec_size == "auto" else spec_size
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

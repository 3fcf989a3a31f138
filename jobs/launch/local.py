"""A job in this process, on one GPU or the CPU: no Ray, no server, no network."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import CodeError
from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.launch.final_message import keep_traceback
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.launch.stored_runs import mirrored_spec
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import Record, RunSummary, StepRecord
from largebatch.jobs.run.storage import Storage
from largebatch.jobs.run.stored_run import StoredRun
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_process import MirrorProcess
from largebatch.jobs.whole_files import write_text


def prepare_locally(spec: TrainSpec, options: TrainOptions, world_size: int | None = None) -> Prepared:
    """Check everything that bad input could spoil; writes nothing.

    Args: world_size: plan for so many workers, to be looked at only.
    """
    device = choose_device(options.device)
    if options.resume is None:
        run_folder.refuse_unwritable(options.output_dir)
    return prepare(spec, device, options.data_dir, world_size)


def train_locally(
    job: Prepared,
    options: TrainOptions,
    listener: Listener,
    *,
    draw: Callable[[Path], None] = lambda run_dir: None,
    mirror: MirrorProcess | None = None,
) -> RunSummary:
    """Run a prepared job, new or resumed, with its MLflow mirror beside it.

    Args:
        draw: draws the run's figure into its folder.
        mirror: the way into MLflow, if it was begun already.
    """
    run_dir = options.resume or run_folder.create(
        options.output_dir, options.run_id or run_folder.new_run_id(job.spec.name), may_exist=options.run_id is not None
    )
    stored = StoredRun(Storage(options.store), run_dir, listener.on_notice) if options.store else None
    with (
        _stop_requests(listener) as stoppable,
        mirror or MirrorProcess(mirrored_spec(job.spec, options)) as mirror,
        kept_run(run_dir, stoppable, mirror, stored=stored) as finish,
    ):
        return finish(run_job(job, run_dir, stoppable, resumes=options.resume is not None, draw=draw))


@contextmanager
def kept_run(
    run_dir: Path,
    listener: Listener,
    mirror: MirrorProcess,
    *,
    patience_s: float = 0.0,
    stored: StoredRun | None = None,
) -> Iterator[Callable[[RunSummary], RunSummary]]:
    """A context in which this process keeps the run's folder, and MLflow follows it.

    Its value completes a summary, once MLflow has everything.

    Args:
        patience_s: how long an earlier process of this run may take to go.
        stored: keeps a copy of the run's folder elsewhere.
    """

    def finish(summary: RunSummary) -> RunSummary:
        mlflow_run_id = mirror.finish()
        summary = summary.model_copy(update={"mlflow_run_id": mlflow_run_id, "run_dir": stored.uri if stored else summary.run_dir})
        write_text(run_dir / run_folder.SUMMARY, summary.model_dump_json(indent=2) + "\n")
        return summary

    with run_folder.exclusive(run_dir, "train", patience_s), stored or nullcontext():
        mirror.follow(run_dir, listener.on_notice)
        listener.on_start(run_dir)
        try:
            yield finish
        except CodeError as error:
            keep_traceback(error, run_dir)
            raise


@contextmanager
def _stop_requests(listener: Listener) -> Iterator[Listener]:
    """Ctrl-C, SIGTERM and SIGHUP ask the job to stop after its step; a second Ctrl-C ends it at once."""
    stops = trains = False

    def ask(number: signal.Signals, is_impatient: bool) -> str:
        nonlocal stops
        if is_impatient:
            raise KeyboardInterrupt
        stops = True
        return f"{number.name}: {'finishing this step and saving' if trains else 'ending after the first step, and saving it'}."

    def take(record: Record) -> None:
        nonlocal trains
        trains |= isinstance(record, StepRecord)
        listener.on_record(record)

    with stop_requests(ask, listener.on_notice):
        yield replace(listener, on_record=take, should_stop=lambda: stops or listener.should_stop())

"""A job on many workers: Ray Train starts them, watches them, and starts them again."""

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray

from largebatch.jobs.launch.on_ray.cluster import connected
from largebatch.jobs.launch.on_ray.resources import worker_resources
from largebatch.jobs.launch.on_ray.worker.config import WorkerConfig
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.stored_runs import is_started_again
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import RunSummary
from largebatch.jobs.run.storage import PATIENCE_S, Storage, read_patiently
from largebatch.jobs.spec.train_spec import TrainSpec


def train_on_ray(
    spec: TrainSpec,
    options: TrainOptions,
    listener: Listener,
    draw: Callable[[Path], None] = lambda run_dir: None,
) -> RunSummary:
    """Train on many workers and leave the whole story in one run folder.

    Args: draw: draws the run's figure; called on rank 0's machine.
    Raises: InputError; FaultError when it failed too often; StoppedError.
    """
    assert options.workers is not None
    if options.store is None:
        run_folder.refuse_unwritable(options.output_dir)
    run_dir = (options.resume or options.output_dir / (options.run_id or run_folder.new_run_id(spec.name))).resolve()
    ended = ended_before(options.store or str(run_dir.parent), run_dir.name, spec) if options.run_id else None
    if ended is not None:
        listener.on_notice(f"Run {run_dir.name} ended before: {ended.outcome}.")
        return ended
    # Ray prints what workers print, and what befell them, on standard output: that is for the summary alone.
    with contextlib.redirect_stdout(sys.stderr), _torch_meanwhile(), connected(options) as connection:
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        resources = worker_resources(options, nodes, is_own=connection.is_own)
        if connection.dashboard_url:
            listener.on_notice(f"Ray's dashboard: {connection.dashboard_url}")
        listener.on_start(run_dir)
        from largebatch.jobs.launch.on_ray.driver import Driver  # torch and Ray Train: seconds that no refusal should wait for

        worker = WorkerConfig(
            group=0,
            run_channel=None,
            spec=spec.model_dump(mode="json"),
            run_dir=run_dir,
            data_dir=options.data_dir.resolve(),
            import_paths=[str(Path.cwd())],
            options=options,
            workers=options.workers,
            uses_gpu=resources.gpus > 0,
            num_threads=resources.num_threads,
            reasons=[],
            has_trained=is_started_again(),
            draw=draw,
        )
        where_logs_are = f"Its journal is in {run_dir}, Ray's logs in {connection.log_folder}."
        had_output_dir = run_dir.parent.exists()
        try:
            return Driver(worker, resources, where_logs_are, listener).run()
        finally:
            if not had_output_dir:
                with contextlib.suppress(OSError):  # there is a run in it; workers that refuse leave it empty
                    run_dir.parent.rmdir()


@contextlib.contextmanager
def _torch_meanwhile() -> Iterator[None]:
    """Imports torch, which the driver needs, beside Ray's start: a second or two of a core that is free then."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        pool.submit(importlib.import_module, "torch")
        yield


def ended_before(address: str, run_id: str, spec: TrainSpec) -> RunSummary | None:
    """The summary of a run that came to its end as this spec says; None if there is more to do, or to refuse. Raises: StorageError."""

    def read() -> list[bytes | None]:
        storage = Storage(address)
        return [storage.read(f"{run_id}/{name}") for name in (run_folder.SUMMARY, run_folder.SPEC)]

    content, ended = read_patiently(address, read, PATIENCE_S if is_started_again() else 0.0)
    if content is None or ended is None:
        return None
    summary = RunSummary.model_validate_json(content)
    if not summary.outcome.is_result or json.loads(ended) != spec.model_dump(mode="json"):
        return None  # the workers go on with it, and refuse what a run that goes on must not change
    return summary

"""A job on many workers: Ray Train starts them, watches them, and starts them again.

    this process  --fit()-->  Ray Train's controller  --starts-->  workers (largebatch.jobs.launch.on_ray.worker)
         ^------- records, outcome ------ mailbox <----------------------'  run folder: journal, checkpoints

The run's folder holds everything that a new group of workers needs, so whatever dies, the last checkpoint goes on.
"""

import contextlib
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from largebatch.jobs.collector import collect_seldom
from largebatch.jobs.errors import FaultError, LargebatchError
from largebatch.jobs.launch.on_ray.cluster import Resources, connected, dashboard_url, log_folder, share_out
from largebatch.jobs.launch.options import TrainOptions
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.launch.spinning import spin_briefly
from largebatch.jobs.launch.stored_runs import is_started_again
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import JournalRecord, RunSummary
from largebatch.jobs.run.storage import PATIENCE_S, Storage, read_patiently
from largebatch.jobs.spec.train_spec import TrainSpec

POLL_S = 1.0
SAY_WAITING_S = 20.0
ANSWER_S = 30.0
"""How long the mailbox, on this machine, may take to answer."""
END_S = 15.0
"""How long the wait for Ray Train's controller may take to end."""
_RECORD: pydantic.TypeAdapter[JournalRecord] = pydantic.TypeAdapter(JournalRecord)


def train_on_ray(
    spec: TrainSpec,
    options: TrainOptions,
    listener: Listener,
    *,
    on_start: Callable[[Path], None] = lambda run_dir: None,
    on_plan: Callable[[int, float], None] = lambda total_steps, total_progress: None,
    draw: Callable[[Path], None] = lambda run_dir: None,
) -> RunSummary:
    """Train on many workers and leave the whole story in one run folder.

    Args:
        on_start: told the run's folder before training starts.
        on_plan: told how many steps and samples the plan has.
        draw: draws the run's figure; called on rank 0's machine.
    Raises: InputError; FaultError when it failed too often; StoppedError.
    """
    if options.store is None:
        run_folder.refuse_unwritable(options.output_dir)
    run_dir = (options.resume or options.output_dir / (options.run_id or run_folder.new_run_id(spec.name))).resolve()
    ended = ended_before(options.store or str(run_dir.parent), run_dir.name, spec) if options.run_id else None
    if ended is not None:
        listener.on_notice(f"Run {run_dir.name} ended before: {ended.outcome}.")
        return ended
    # Ray prints what workers print, and what befell them, on standard output: that is for the summary alone.
    with contextlib.redirect_stdout(sys.stderr), connected(options) as ray:
        resources = share_out(ray, options, options.device)
        url = dashboard_url(ray)
        if url:
            listener.on_notice(f"Ray's dashboard: {url}")
        on_start(run_dir)
        return _Driver(ray, spec, options, resources, run_dir, listener, on_plan).run(draw)


def _work(config: dict[str, Any]) -> None:
    """In a worker. What trains is met there alone: this process needs no torch."""
    collect_seldom()
    spin_briefly()
    from largebatch.jobs.launch.on_ray.worker import work

    work(config)


class StoppedError(LargebatchError):
    """The run was asked to stop while it had no workers: what it saved last stands, and it may go on."""

    exit_code: ClassVar[int] = 4


def ended_before(place: str, run_id: str, spec: TrainSpec) -> RunSummary | None:
    """The summary of a run that came to its end as this spec says; None if there is more to do, or to refuse. Raises: StorageError."""

    def read() -> list[bytes | None]:
        storage = Storage(place)
        return [storage.read(f"{run_id}/{name}") for name in (run_folder.SUMMARY, run_folder.SPEC)]

    content, ended = read_patiently(place, read, PATIENCE_S if is_started_again() else 0.0)
    if content is None or ended is None:
        return None
    summary = RunSummary.model_validate_json(content)
    if not summary.outcome.is_result or json.loads(ended) != spec.model_dump(mode="json"):
        return None  # the workers go on with it, and refuse what a run that goes on must not change
    return summary


class _Driver:
    """The person's side of one launch."""

    def __init__(
        self,
        ray: Any,
        spec: TrainSpec,
        options: TrainOptions,
        resources: Resources,
        run_dir: Path,
        listener: Listener,
        on_plan: Callable[[int, float], None],
    ) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from largebatch.jobs.launch.on_ray.run_channel import Mailbox

        self._ray, self._spec, self._options = ray, spec, options
        self._resources, self._run_dir, self._listener, self._on_plan = resources, run_dir, listener, on_plan
        # On this process's own machine: it may go only when this process does.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        where_logs_are = f"Its journal is in {run_dir}, Ray's logs in {log_folder(ray)}."
        self._mailbox = Mailbox.options(scheduling_strategy=here).remote(  # type: ignore[attr-defined]
            options.max_failures, where_logs_are, is_started_again()
        )
        self._trainer: Any = None
        self._is_over = False
        self._error: BaseException | None = None
        self._outcome: dict[str, Any] | None = None
        self._was_asked = False
        self._signalled: int | None = None
        self._had_output_dir = run_dir.parent.exists()

    def run(self, draw: Callable[[Path], None]) -> RunSummary:
        """Train, pass on what is told, and return the summary."""
        fitting = threading.Thread(target=self._fit, args=(draw,), daemon=True)
        with self._stop_requests():
            fitting.start()
            try:
                self._look_after(fitting)
            except self._ray.exceptions.RayError as error:
                raise FaultError(
                    "ray", f"the run's mailbox, or the whole cluster, is gone ({type(error).__name__}).", self._how_to_go_on()
                ) from error
            finally:
                self._end(fitting)
        self._remove_leftovers()
        if self._outcome is None:
            raise self._fault()
        if "error" in self._outcome:
            raise self._outcome["error"]
        return RunSummary.model_validate(self._outcome["summary"])

    def _look_after(self, fitting: threading.Thread) -> None:
        """Until the run is over: pass on what is told, and a wish to stop. Raises: RayError, StoppedError."""
        said_at = time.monotonic()
        while fitting.is_alive():
            fitting.join(POLL_S)
            self._pass_on()
            num_begun, is_waiting = self._ray.get(self._mailbox.stands.remote(), timeout=ANSWER_S)
            if self._signalled is not None or self._listener.should_stop():
                has_begun = num_begun > 0 or (self._run_dir / run_folder.CHECKPOINTS).is_dir()
                self._ask_to_stop(has_begun, is_waiting and fitting.is_alive())
            if not is_waiting:
                said_at = time.monotonic()
            elif time.monotonic() - said_at > SAY_WAITING_S:
                said_at = time.monotonic()
                self._listener.on_notice(f"Waiting for {self._options.workers} workers; free now: {self._free()}.")
        self._pass_on()

    def _end(self, fitting: threading.Thread) -> None:
        """Leave nobody who waits for Ray: a wait that outlives Ray's connection ends the process."""
        self._is_over = True
        if fitting.is_alive() and self._trainer is not None:
            with contextlib.suppress(Exception):
                self._trainer.end()
        fitting.join(END_S)

    def _fit(self, draw: Callable[[Path], None]) -> None:
        import ray
        import ray.train

        from largebatch.jobs.launch.on_ray.process_group import ProcessGroup
        from largebatch.jobs.launch.on_ray.trainer import WorkersTrainer

        workers, resources = self._options.workers, self._resources
        assert workers is not None
        train: Any = ray.train  # its stubs are those of the older Train
        config = {
            "spec": self._spec.model_dump(mode="json"),
            "run_dir": str(self._run_dir),
            "data_dir": str(self._options.data_dir.resolve()),
            "uses_gpu": resources.gpus > 0,
            "num_threads": resources.num_threads,
            "import_paths": [str(Path.cwd())],
            "options": self._options,
            "workers": workers,
            "resumes": self._options.resume is not None,
            "mailbox": self._mailbox,
            "draw": draw,
        }
        trainer = WorkersTrainer(
            self._mailbox,
            _work,
            train_loop_config=config,
            backend_config=ProcessGroup("nccl" if resources.gpus else "gloo"),
            scaling_config=train.ScalingConfig(
                num_workers=(workers.least, workers.most) if workers.is_elastic else workers.most,
                use_gpu=resources.gpus > 0,
                resources_per_worker={"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})},
                elastic_resize_monitor_interval_s=20.0,
            ),
            run_config=train.RunConfig(
                name=self._run_dir.name,
                storage_path=str(self._run_dir.parent / ".ray"),
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        )
        self._trainer = trainer
        try:
            if not self._is_over:
                trainer.fit()
        except BaseException as error:  # told by the main thread, in one sentence
            self._error = error

    def _pass_on(self) -> None:
        """To the person: what the workers said since the last time."""
        messages, self._outcome = self._ray.get(self._mailbox.take.remote(), timeout=ANSWER_S)
        for message in messages:
            if "record" in message:
                self._listener.on_record(_RECORD.validate_python(message["record"]))
            elif "notice" in message:
                self._listener.on_notice(message["notice"])
            else:
                self._on_plan(*message["plan"])

    def _ask_to_stop(self, has_begun: bool, is_waiting: bool) -> None:
        if not has_begun:
            raise KeyboardInterrupt  # nothing was trained, so there is nothing to finish or save
        if is_waiting and self._outcome is None:
            self._remove_leftovers()
            raise StoppedError("", "stopped while the run waited for workers.", self._how_to_go_on())
        if not self._was_asked:
            self._was_asked = True
            self._mailbox.ask_to_stop.remote()

    @contextmanager
    def _stop_requests(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and SIGHUP stop the run after its step; a second Ctrl-C leaves at once. Set after Ray's own handlers."""

        def ask(number: signal.Signals, is_impatient: bool) -> None:
            if is_impatient:
                raise KeyboardInterrupt
            self._signalled = number
            self._listener.on_notice(f"{number.name}: finishing this step and saving.")

        with stop_requests(ask):
            yield

    def _free(self) -> str:
        free = self._ray.available_resources()
        return f"{free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"

    def _how_to_go_on(self) -> str:
        if self._options.store is None and not (self._run_dir / run_folder.CHECKPOINTS).is_dir():
            return "Nothing was trained; start it again."
        where = f"{self._options.store.rstrip('/')}/{self._run_dir.name}" if self._options.store else self._run_dir
        return f"Go on with: {self._options.resuming(where).command()}"

    def _fault(self) -> FaultError:
        from largebatch.jobs.launch.on_ray.failures import first_cause

        reason = first_cause(self._error) if self._error is not None else "the workers ended without an outcome."
        return FaultError("", f"{reason} Ray's logs: {log_folder(self._ray)}.", self._how_to_go_on())

    def _remove_leftovers(self) -> None:
        """Ray Train's own notes of this run; all that a run needs is in its folder."""
        base = self._run_dir.parent / ".ray"
        shutil.rmtree(base / self._run_dir.name, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run is using it, or there are runs
            base.rmdir()
            if not self._had_output_dir:
                base.parent.rmdir()

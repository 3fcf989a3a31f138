"""The person's side of a run on Ray: one worker group after the other, until the run is over.

    this process  --fit()-->  Ray Train's controller  --starts-->  workers (largebatch.jobs.launch.on_ray.worker.work)
         ^------- records, outcome ---- run channel <---------------'  run folder: journal, checkpoints

Each `fit` of Ray Train starts one worker group and ends with it. Whether another follows, of how many workers and on which machines,
is decided here: the run's folder holds everything that a new group needs, so whatever dies, the last checkpoint goes on.
"""

import contextlib
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pydantic
import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from largebatch.jobs.errors import FaultError, LargebatchError
from largebatch.jobs.launch.on_ray.failures import FailurePolicy, describe, sentence
from largebatch.jobs.launch.on_ray.machines import lost_machines, workers_by_machine
from largebatch.jobs.launch.on_ray.reservation import Growth, Reservation, without_machines
from largebatch.jobs.launch.on_ray.resources import Resources
from largebatch.jobs.launch.on_ray.run_channel import News, RunChannel
from largebatch.jobs.launch.on_ray.worker.config import WorkerConfig
from largebatch.jobs.launch.on_ray.worker.entry import enter
from largebatch.jobs.launch.on_ray.worker.torch_backend import WorkersTorchConfig
from largebatch.jobs.launch.signals import stop_requests
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.run.records import JournalRecord, RunSummary

POLL_S = 1.0
ROOM_POLL_S = 0.2
ROOM_SETTLES_S = 1.0
"""So long an elastic run that could start waits for room for more workers."""
TRIES_WITHOUT_S = 10.0
"""So long a run that is short of workers waits before it takes machines again that it has left out."""
SAY_WAITING_S = 20.0
ANSWER_S = 30.0
"""How long the run channel, on this machine, may take to answer."""
END_S = 20.0
"""How long workers that have lost their run may take to end."""
START_AGAIN_S = 2.0
"""Between a group that could not start and the next: a port is free again, a machine that went is known to be gone."""
_RECORD: pydantic.TypeAdapter[JournalRecord] = pydantic.TypeAdapter(JournalRecord)


class StoppedError(LargebatchError):
    """The run was asked to stop while it had no workers: what it saved last stands, and it may go on."""

    exit_code: ClassVar[int] = 4


class Driver:
    """Starts groups of workers one after the other until the run has ended, and decides after each failure whether there is a next one.

    Args:
        worker: what every worker group is told; this fills in what differs between them.
        where_logs_are: for the person whose run gives up.
        reserve, trainer: how room for workers is kept, and what starts a group of them.
    """

    def __init__(
        self,
        worker: WorkerConfig,
        resources: Resources,
        where_logs_are: str,
        listener: Listener,
        reserve: Callable[[Sequence[int], Resources, Collection[str]], Reservation] = Reservation,
        trainer: Callable[..., TorchTrainer] = TorchTrainer,
    ) -> None:
        self._worker, self._resources = worker, resources
        self._workers, self._listener = worker.workers, listener
        self._where_logs_are = where_logs_are
        self._new_reservation, self._new_trainer = reserve, trainer
        self._policy = FailurePolicy(worker.options.max_failures, where_logs_are)
        # On this process's own machine: it may go only when this process does.
        own_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        channel: Any = ray.remote(RunChannel)
        self._channel = channel.options(num_cpus=0, scheduling_strategy=own_node).remote(worker.has_trained)
        self._workers_on: Counter[str] = Counter()
        """How many workers of the newest group are on which machine."""
        self._has_trained = worker.has_trained
        self._is_signalled = False

    def run(self) -> RunSummary:
        """Train, pass on what is told, and return the summary."""
        # Ray Train's own notes of the run; all that a run needs is in its folder.
        with self._stop_requests(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as notes:
            try:
                while (summary := self._run_group(notes)) is None:
                    pass
                return summary
            except ray.exceptions.RayError as error:
                problem = f"the run channel, or the whole cluster, is gone ({type(error).__name__})."
                raise FaultError("ray", problem, self._how_to_go_on()) from error
            finally:
                with contextlib.suppress(Exception):
                    ray.kill(self._channel)

    def _run_group(self, notes: str) -> RunSummary | None:
        """Start one worker group and look after it to its end. Returns the run's summary; None: the run goes on with another group."""
        num_workers = self._wait_for_room()
        group = ray.get(self._channel.new_group.remote(), timeout=ANSWER_S)
        fit = _Fit(self._trainer(group, num_workers, notes))
        fit.start()
        try:
            news = self._look_after(fit, num_workers)
        finally:
            if fit.is_alive():  # its workers end when the run channel does, and `fit` with them; it must not outlive this process's Ray
                ray.kill(self._channel)
                fit.join(END_S)
        if news.has_begun:
            self._policy.reasons.clear()
        if news.outcome is None:
            self._judge(fit.error, news)
            return None
        if "error" in news.outcome:
            raise news.outcome["error"]
        if "paused" in news.outcome:
            self._policy.reasons.append(news.outcome["paused"])
            return None
        return RunSummary.model_validate(news.outcome["summary"])

    def _wait_for_room(self) -> int:
        """Returns how many workers can be started, once they are enough. Raises: StoppedError, KeyboardInterrupt."""
        self._stop_if_requested()
        with contextlib.ExitStack() as stack:
            self._reserve_least(stack)
            num_more = self._workers.most - self._workers.least
            more = stack.enter_context(self._reserve([1] * num_more))
            settles_at_s = time.monotonic() + ROOM_SETTLES_S
            while (num_ready := more.num_ready()) < num_more and time.monotonic() < settles_at_s:
                time.sleep(ROOM_POLL_S)
            return self._workers.least + num_ready

    def _reserve_least(self, stack: contextlib.ExitStack) -> None:
        """Wait until the least number of workers have room; `stack` keeps it. Raises: StoppedError, KeyboardInterrupt."""
        began_at_s = said_at_s = time.monotonic()
        reservation = stack.enter_context(self._reserve([self._workers.least]))
        while not reservation.num_ready():
            self._pass_on()
            self._stop_if_requested()
            if self._policy.left_out and time.monotonic() - began_at_s > TRIES_WITHOUT_S:
                self._policy.left_out.clear()
                stack.close()
                reservation = stack.enter_context(self._reserve([self._workers.least]))
            if time.monotonic() - said_at_s > SAY_WAITING_S:
                said_at_s = time.monotonic()
                self._listener.on_notice(f"Waiting for {self._workers} workers; free now: {_free()}.")
            time.sleep(ROOM_POLL_S)

    def _reserve(self, sizes: Sequence[int]) -> Reservation:
        return self._new_reservation(sizes, self._resources, self._policy.left_out)

    def _trainer(self, group: int, num_workers: int, notes: str) -> TorchTrainer:
        train: Any = ray.train  # its stubs are those of the older Train
        news = self._pass_on()
        worker = replace(self._worker, group=group, run_channel=self._channel, reasons=[*self._policy.reasons], has_trained=news.has_trained)
        return self._new_trainer(
            enter,
            train_loop_config={"worker": worker},
            torch_config=WorkersTorchConfig(worker.uses_gpu, self._channel),
            scaling_config=train.ScalingConfig(
                num_workers=num_workers,
                use_gpu=worker.uses_gpu,
                resources_per_worker=self._resources.bundle,
                label_selector=without_machines(self._policy.left_out),
            ),
            run_config=train.RunConfig(
                name=f"{worker.run_dir.name}-{group}",
                storage_path=notes,
                failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
                logging_config=train.LoggingConfig(log_level="ERROR"),
            ),
        )

    def _look_after(self, fit: "_Fit", num_workers: int) -> News:
        """Until the worker group has ended: pass on what is told, and a request to stop; and see whether there is room for more workers."""
        stop_is_sent, growth = False, Growth(self._workers.most - num_workers, self._reserve)
        self._workers_on.clear()
        with growth:
            while fit.is_alive():
                fit.join(POLL_S)
                news = self._pass_on()
                self._has_trained |= news.has_trained
                if news.placement_group is not None and not self._workers_on:
                    self._workers_on = workers_by_machine(news.placement_group)
                if self._should_stop() and not stop_is_sent:
                    stop_is_sent = True
                    self._channel.ask_to_stop.remote()
                if news.has_begun and growth.is_due():
                    self._channel.ask_to_pause.remote()
        return self._pass_on()

    def _judge(self, error: BaseException | None, news: News) -> None:
        """A worker group ended without an outcome: count that as a failure. Raises: FaultError when the run is over."""
        if news.placement_group is not None and not isinstance(error, ray.train.WorkerGroupError):
            remove_placement_group(news.placement_group)  # Ray Train leaves it where its controller dies, or a worker as it starts
        if not isinstance(error, ray.exceptions.RayActorError | ray.train.TrainingFailedError):
            reason = "the workers ended without an outcome." if error is None else sentence(error)
            raise FaultError("", f"{reason} {self._where_logs_are}", self._how_to_go_on())
        failure = describe(error)
        if failure is None:
            return
        if not failure.has_cause and (gone := lost_machines(self._workers_on)):
            failure = failure._replace(reason=gone)
        text = self._policy.count(failure, is_elastic=self._workers.is_elastic)
        if not news.has_begun:  # no rank 0 has come that would tell of it
            self._listener.on_notice(text)
            time.sleep(START_AGAIN_S)

    def _pass_on(self) -> News:
        """To the person: what the workers said since the last time."""
        news: News = ray.get(self._channel.take.remote(), timeout=ANSWER_S)
        for message in news.messages:
            if "record" in message:
                self._listener.on_record(_RECORD.validate_python(message["record"]))
            elif "notice" in message:
                self._listener.on_notice(message["notice"])
            else:
                self._listener.on_plan(*message["plan"])
        return news

    def _should_stop(self) -> bool:
        return self._is_signalled or self._listener.should_stop()

    def _stop_if_requested(self) -> None:
        """Where there are no workers that could finish a step. Raises: StoppedError; KeyboardInterrupt if nothing was trained that could go on."""
        if self._should_stop():
            if not self._has_trained and not self._has_checkpoints():
                raise KeyboardInterrupt
            raise StoppedError("", "stopped while the run waited for workers.", self._how_to_go_on())

    def _stop_requests(self) -> contextlib.AbstractContextManager[None]:
        """Ctrl-C, SIGTERM and SIGHUP stop the run after its step; a second Ctrl-C leaves without."""

        def ask(number: signal.Signals, is_impatient: bool) -> str:
            if is_impatient:
                raise KeyboardInterrupt
            self._is_signalled = True
            what_follows = "finishing this step and saving." if self._has_trained else "ending as soon as the workers can; no step has been done yet."
            return f"{number.name}: {what_follows}"

        return stop_requests(ask, self._listener.on_notice)

    def _has_checkpoints(self) -> bool:
        return (self._worker.run_dir / run_folder.CHECKPOINTS).is_dir()

    def _how_to_go_on(self) -> str:
        options, run_dir = self._worker.options, self._worker.run_dir
        if options.store is None and not self._has_checkpoints():
            return "Nothing was trained; start it again."
        address = f"{options.store.rstrip('/')}/{run_dir.name}" if options.store else run_dir
        return f"Go on with: {options.resuming(address).command()}"


class _Fit(threading.Thread):
    """Ray Train's `fit` in a thread of its own: the main thread hears signals."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(name="fit", daemon=True)
        self._trainer = trainer
        self.error: BaseException | None = None

    def run(self) -> None:
        """Train; keep what is raised."""
        try:
            self._trainer.fit()
        except BaseException as error:  # told by the main thread, in one sentence
            self.error = error


def _free() -> str:
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    return f"{free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs"

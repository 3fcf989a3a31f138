"""Rank 0's records on their way to the person, and a request to stop on its way back."""

import contextlib
import threading
from typing import Any, Self

import ray

from largebatch.jobs.launch.on_ray.worker.heartbeat import end_process
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.run.records import Record, StepRecord

REPORT_EVERY_S = 1.0
"""A call wakes three processes; on cores that are all busy each costs the training more than its own time."""


class Reporter:
    """Takes rank 0's records to the run channel once a second, in a thread of its own."""

    def __init__(self, run_channel: Any) -> None:
        self._channel = run_channel
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.should_stop = False
        """Whether the run channel has asked this group to end after its step."""

    def plan(self, plan: TrainPlan) -> None:
        """Pass the plan's length on, before anything is trained."""
        self._add({"plan": [plan.total_steps, plan.total_progress]})

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
        self.should_stop = ray.get(self._channel.put.remote(messages)) or self.should_stop

    def _run(self) -> None:
        while not self._over.wait(REPORT_EVERY_S):
            try:
                self._send()
            except ray.exceptions.ActorDiedError as error:  # nobody is there any more to train for
                end_process(error)
            except ray.exceptions.RayError:  # it may come back; the heartbeat counts
                continue

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(ray.exceptions.RayError):
            self._send()

"""RayActors: actors of one class, each a process of Ray's that is on its way, free, or at work until its answer comes."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from largebatch.tuning.sweep.trials.processes import GoneError, Lost

LOOK_EVERY_S, GONE_AFTER_S = 5.0, 30.0
"""How often to look whether Ray has a machine left; how long it may have none."""


def machines() -> list[dict[str, float]]:
    """What each machine of the Ray that this process is connected to has, by Ray's names."""
    nodes: Any = ray.nodes  # without types
    return [node["Resources"] for node in nodes() if node["Alive"]]


class RayActors:
    """See this file. This process is connected to Ray.

    Args: create: begins one actor, whose method `get_ready` returns when it can work.
    """

    def __init__(self, create: Callable[[], Any]) -> None:
        self._create = create
        self._starting: dict[Any, Any] = {}
        """Actors by the reference that resolves when they are ready."""
        self._working: dict[Any, Any] = {}
        """Actors by the reference to their answer."""
        self._free: list[Any] = []
        self._look_at_s = self._alive_at_s = time.monotonic()

    def provide(self, number: int) -> None:
        """Let so many be free, or on their way to it."""
        while len(self._free) + len(self._starting) < number:
            actor = self._create()
            self._starting[actor.get_ready.remote()] = actor

    def take(self) -> Any:
        """One that is free; None while there is none."""
        return self._free.pop() if self._free else None

    def await_answer(self, actor: Any, reference: Any) -> None:
        """Let `news` tell what comes of a call of the actor's. Args: reference: what the call returned."""
        self._working[reference] = actor

    def release(self, process: Any) -> None:
        """Its work is over: it is free again."""
        self._free.append(process)

    def end(self) -> None:
        """End all of them, also in the middle of their work."""
        for actor in (*self._starting.values(), *self._working.values(), *self._free):
            with contextlib.suppress(RayError, RuntimeError, ConnectionError):  # Ray itself may be gone
                ray.kill(actor)
        self._starting, self._working, self._free = {}, {}, []

    def news(self, seconds: float) -> list[tuple[Any, Any]]:
        """What has come of them; returns as soon as there is something. Raises: GoneError if Ray is gone, or all its machines.

        Returns: an actor, None for one that died before it was ready, with its answer to what it was asked, or `Lost`.
        """
        try:
            ready, _ = ray.wait([*self._working, *self._starting], timeout=seconds)
            self._refuse_empty_cluster()
            return [news for reference in ready if (news := self._news(reference)) is not None]
        except (RayError, RuntimeError, ConnectionError) as error:
            raise GoneError(str(error)) from error

    def _news(self, reference: Any) -> tuple[Any, Any] | None:
        """What came of one reference; nothing where an actor has become ready."""
        starting, working = self._starting.pop(reference, None), self._working.pop(reference, None)
        try:
            answer = ray.get(reference)
        except RayError as error:
            ray.kill(working or starting)
            return working, Lost(isinstance(error, RayActorError) and error.preempted)
        if working is not None:
            return working, answer
        self._free.append(starting)
        return None

    def _refuse_empty_cluster(self) -> None:
        """Raise RuntimeError where no machine is left for long: Ray would wait for one for ever."""
        now = time.monotonic()
        if now < self._look_at_s:
            return
        self._look_at_s = now + LOOK_EVERY_S
        if machines():
            self._alive_at_s = now
        elif now - self._alive_at_s > GONE_AFTER_S:
            raise RuntimeError("Ray has no machine left")

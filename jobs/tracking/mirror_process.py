"""Running the MLflow mirror beside a job, in a process of its own.

A server that is slow, down or dying can then cost no training step, and MLflow's import costs no training
second. The mirror reads the journal; this side only starts it, passes on what it says, and waits at the end.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

from largebatch.jobs.run.leashed_process import LeashedProcess
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_state import MirrorState

POLITE_S = 5.0
"""How long a mirror that must stay at idle priority may take once training is over."""
LOWEST_PRIORITY = 19
"""The largest nice value."""
PATIENCE_S = 60.0
"""How long the end of a run waits for MLflow to take what is left."""


class MirrorProcess:
    """The mirror of one run; a context manager. Does nothing where tracking is off or MLflow is not installed.

    Entered before torch is imported and data are loaded, it gets ready on a core that is idle then; it says and
    writes nothing before `follow`.

    Args: polite_s: how long a mirror that must stay at idle priority may take once training is over.
    """

    def __init__(self, spec: TrainSpec, polite_s: float = POLITE_S) -> None:
        self._is_enabled, self._uri, self._polite_s = spec.tracking.enabled, spec.tracking.mlflow_uri, polite_s
        self._is_possible = importlib.util.find_spec("mlflow") is not None
        self._run_dir: Path | None = None
        self._notify: Callable[[str], None] = lambda text: None
        self._follower: LeashedProcess | None = None
        self._last_reason = ""

    @property
    def process(self) -> "subprocess.Popen[str] | None":
        """The process that mirrors; None before it begins and after its end."""
        return self._follower.popen if self._follower is not None else None

    def __enter__(self) -> Self:
        if self._follower is None and self._is_enabled and self._is_possible:
            self._follower = self._start()
            _give_way(self._follower.popen.pid)
        return self

    def _start(self) -> LeashedProcess:
        follower = LeashedProcess("largebatch.jobs.tracking.follower", self._say)
        _tell(follower, self._uri or "")
        return follower

    def _say(self, _: LeashedProcess, line: str | None) -> None:
        if line is None:
            return
        reason = line.partition(" (")[0]
        if reason != self._last_reason:  # a second mirror that hurries finds the same server away
            self._notify(line.rstrip("\n"))
        self._last_reason = reason

    def follow(self, run_dir: Path, notify: Callable[[str], None]) -> None:
        """Mirror this run from now on. Args: notify: told in words what a person should know."""
        self._run_dir, self._notify = run_dir, notify
        if self._follower is not None:
            _tell(self._follower, str(run_dir.resolve()))
        elif self._is_enabled:
            notify("MLflow is not installed: this run is kept in its folder alone.")

    def finish(self) -> str | None:
        """Wait until MLflow has everything, or cannot have it now; returns MLflow's id of the run, if it has one."""
        self._let_go()
        return MirrorState.read(self._run_dir).run_id if self._is_enabled and self._run_dir else None

    def _let_go(self) -> None:
        follower, self._follower = self._follower, None
        if follower is None:
            return
        if self._run_dir is None:  # no run came of it, so there is nothing to send
            follower.popen.kill()
        # Training is over. On a machine whose cores are all busy an idle-priority mirror starves: it may hurry now, or a new one does.
        may_hurry = _hurry(follower.popen.pid)
        has_ended = follower.ends_within(PATIENCE_S if may_hurry else self._polite_s)
        if not has_ended and not may_hurry:
            second = self._start()
            _tell(second, str(self._run_dir.resolve()) if self._run_dir else "")
            has_ended = second.ends_within(PATIENCE_S)
        if not has_ended:
            self._notify(f"MLflow took more than {PATIENCE_S:.0f} s; `largebatch sync {self._run_dir}` sends the rest.")

    def __exit__(self, *_: object) -> None:
        self._let_go()


def _tell(follower: LeashedProcess, text: str) -> None:
    """As JSON: a folder's name may hold anything."""
    follower.tell(json.dumps(text))


def _give_way(process: int) -> None:
    """From now on it runs only when a core would be idle: no training second may go to MLflow."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, LOWEST_PRIORITY)
        if sys.platform == "linux":
            os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))


def _hurry(process: int) -> bool:
    """Let all of its threads have their share of the cores again; returns whether this system lets us: root may, others not (sched(7))."""
    if sys.platform != "linux":
        return False
    try:
        for thread in map(int, os.listdir(f"/proc/{process}/task")):
            with contextlib.suppress(ProcessLookupError):  # that thread has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, 0)
    except OSError:
        return False
    return True

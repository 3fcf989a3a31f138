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
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from largebatch.jobs.import_paths import environment, python
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.mirror_state import MirrorState

POLITE_S = 5.0
"""How long a mirror that must stay at idle priority may take once training is over."""
LOWEST_PRIORITY = 19
"""The largest nice value."""
PATIENCE_S = 60.0
"""How long the end of a run waits for MLflow to take what is left."""


class _Follower:
    """The mirror's process, and a thread that passes on what it says.

    Its standard input is a leash: when this process ends, in whatever way, the mirror reads its end.
    """

    def __init__(self, uri: str, notify: Callable[[str], None]) -> None:
        self.popen = subprocess.Popen(
            python("-m", "largebatch.jobs.tracking.follower"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Out of a terminal's Ctrl-C, but in this session: Linux gives every session an equal share of the cores
            # (autogroup), and within another one the lowest priority is low among itself alone.
            process_group=0,
            env=environment(),
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._stdin, self._stdout, self._notify = self.popen.stdin, self.popen.stdout, notify
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()
        self.tell(uri)

    def tell(self, line: str) -> None:
        """Write one line to it; a mirror that died costs no run, and `largebatch sync` mends it."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(json.dumps(line) + "\n")  # a folder's name may hold anything
            self._stdin.flush()

    def _pass_on(self) -> None:
        for line in self._stdout:
            self._notify(line.rstrip("\n"))

    def ends_within(self, seconds: float) -> bool:
        """Let go of the leash and wait; a mirror that is still at work then is ended (what it sent may be sent again)."""
        with contextlib.suppress(BrokenPipeError):  # closing sends what a mirror that died has not taken
            self._stdin.close()
        try:
            self.popen.wait(seconds)
            has_ended = True
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            has_ended = False
        self._reader.join()
        self._stdout.close()
        return has_ended


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
        self._follower: _Follower | None = None
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

    def _start(self) -> _Follower:
        return _Follower(self._uri or "", self._say)

    def _say(self, line: str) -> None:
        reason = line.partition(" (")[0]
        if reason != self._last_reason:  # a second mirror that hurries finds the same server away
            self._notify(line)
        self._last_reason = reason

    def follow(self, run_dir: Path, notify: Callable[[str], None]) -> None:
        """Mirror this run from now on. Args: notify: told in words what a person should know."""
        self._run_dir, self._notify = run_dir, notify
        if self._follower is not None:
            self._follower.tell(str(run_dir.resolve()))
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
            second.tell(str(self._run_dir.resolve()) if self._run_dir else "")
            has_ended = second.ends_within(PATIENCE_S)
        if not has_ended:
            self._notify(f"MLflow took more than {PATIENCE_S:.0f} s; `largebatch sync {self._run_dir}` sends the rest.")

    def __exit__(self, *_: object) -> None:
        self._let_go()


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

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
from types import TracebackType
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


class MirrorProcess:
    """The mirror of one run; a context manager. Does nothing where tracking is off or MLflow is not installed.

    Entered before torch is imported and data are loaded, it gets ready on a core that is idle then; it says and
    writes nothing before `follow`.
    """

    def __init__(self, spec: TrainSpec) -> None:
        self._is_wanted, self._uri = spec.tracking.enabled, spec.tracking.mlflow_uri
        self._is_possible = importlib.util.find_spec("mlflow") is not None
        self._run_dir: Path | None = None
        self._notify: Callable[[str], None] = lambda text: None
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._said = ""

    def __enter__(self) -> Self:
        if self._process is None and self._is_wanted and self._is_possible:
            _give_way(self._start().pid)
        return self

    def _start(self) -> "subprocess.Popen[str]":
        # Its standard input is a leash: when this process ends, in whatever way, the mirror reads its end.
        self._process = subprocess.Popen(
            python("-m", "largebatch.jobs.tracking.follower"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Out of a terminal's Ctrl-C, but in this session: Linux gives every session an equal share of the cores
            # (autogroup), and within another one the lowest priority is low among itself alone.
            process_group=0,
            env=environment(),
        )
        self._reader = threading.Thread(target=self._pass_on, args=(self._process,), daemon=True)
        self._reader.start()
        _tell(self._process, self._uri or "")
        return self._process

    def follow(self, run_dir: Path, notify: Callable[[str], None]) -> None:
        """Mirror this run from now on. Args: notify: told in words what a person should know."""
        self._run_dir, self._notify = run_dir, notify
        if self._process is not None:
            self._name_run(self._process)
        elif self._is_wanted:
            notify("MLflow is not installed: this run is kept in its folder alone.")

    def _name_run(self, process: "subprocess.Popen[str]") -> None:
        assert self._run_dir is not None
        _tell(process, str(self._run_dir.resolve()))

    def _pass_on(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            what = line.partition(" (")[0]
            if what != self._said:  # a second mirror that hurries finds the same server away
                self._notify(line.rstrip("\n"))
            self._said = what

    def finish(self) -> str | None:
        """Wait until MLflow has everything, or cannot have it now; returns MLflow's id of the run, if it has one."""
        self._let_go()
        return MirrorState.read(self._run_dir).run_id if self._is_wanted and self._run_dir else None

    def _let_go(self) -> None:
        if self._process is None:
            return
        if self._run_dir is None:  # no run came of it, so there is nothing to send
            self._process.kill()
        # Training is over. On a machine whose cores are all busy an idle-priority mirror starves: it may hurry now, or a new one does.
        may_hurry = _hurry(self._process.pid)
        ended = self._ended_within(PATIENCE_S if may_hurry else POLITE_S)
        if not ended and not may_hurry:
            self._name_run(self._start())
            ended = self._ended_within(PATIENCE_S)
        if not ended:
            self._notify(f"MLflow took more than {PATIENCE_S:.0f} s; `largebatch sync {self._run_dir}` sends the rest.")

    def _ended_within(self, seconds: float) -> bool:
        """Let go of the leash and wait; a mirror that is still at work then is ended (what it sent may be sent again)."""
        process, reader = self._process, self._reader
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        assert reader is not None
        self._process = None
        with contextlib.suppress(BrokenPipeError):  # closing sends what a mirror that died has not taken
            process.stdin.close()
        try:
            process.wait(seconds)
            ended = True
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = False
        reader.join()
        process.stdout.close()
        return ended

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._let_go()


def _tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # a mirror that died costs no run; `largebatch sync` mends it
        process.stdin.write(json.dumps(line) + "\n")  # a folder's name may hold anything
        process.stdin.flush()


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

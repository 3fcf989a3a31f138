"""Reads samples ahead of need in processes of their own: torch's DataLoader, with an end to every wait.

A process that is killed, a chunk that finds no room in shared memory, a sample that never comes: each is one sentence.
Processes that live and are merely slow are waited for.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch

from largebatch.jobs.errors import FaultError
from largebatch.jobs.samples.trees import Tree, leaves, map_leaves

DIES_WITHIN_S = 2.0
"""What a process sent last can fail to arrive shortly before the process is known to be dead."""
SHARED_MEMORY = "/dev/shm"
INSTEAD = f"Set dataset.num_workers=0, or give more: docker run --shm-size=2g, in Kubernetes a volume of medium Memory mounted at {SHARED_MEMORY}."
FIELD = "dataset.num_workers"
GO_ON = "The last checkpoint is whole: resume the run"


class Patience(NamedTuple):
    """Whether a wait for samples should stop, whom it notifies, and how long it lasts."""

    should_stop: Callable[[], bool] = lambda: False
    notify: Callable[[str], None] = lambda text: None
    look_every_s: float = 1.0
    """How often a wait looks whether the processes live, and whether the run was asked to stop."""
    says_after_s: float = 30.0
    """A wait without any sample: when a person is told,"""
    leaves_after_s: float = 10.0
    """when one who asked to stop is no longer kept waiting,"""
    gives_up_after_s: float = 1800.0
    """and when the wait is taken to last for ever."""


NO_ASKING = Patience()
"""The patience of waits that nobody may end but by an exception."""


class ReadingProcesses(Iterator[Any]):
    """Iterates over the chunks that a loader's processes read, until nothing refers to this any more.

    Args: loader: with processes, and a time-out.
    Raises: FaultError if they cannot be started.
    """

    def __init__(self, loader: "torch.utils.data.DataLoader[Any]", patience: Patience) -> None:
        self._patience, others = patience, multiprocessing.active_children()
        # torch's handler of ended children raises wherever the process that trains happens to be, amid an update or a reduction. Without it,
        # a process that died is met by the next read that needs it, where all ranks can agree on it.
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            multiprocessing.Lock()  # where there is no room for one, torch's loader would fail half made, and say so twice
            self._chunks: Iterator[Any] = iter(loader)
        except OSError as error:
            problem = f"{loader.num_workers} reading processes cannot be started ({error.strerror or error}; {_shared_memory_in_words()})."
            raise FaultError(FIELD, problem, INSTEAD) from error
        finally:
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, handler)
        self._processes = [process for process in multiprocessing.active_children() if process not in others]

    def __next__(self) -> Any:
        """The next chunk. Raises: FaultError."""
        began_s, has_told, fault = time.monotonic(), False, None
        while fault is None:
            try:
                return next(self._chunks)
            except Exception as error:
                fault = None if self._is_merely_late(error) else self._fault(error)
            waited_s = time.monotonic() - began_s
            if fault is None and (
                waited_s > self._patience.gives_up_after_s or (waited_s > self._patience.leaves_after_s and self._patience.should_stop())
            ):
                fault = self._given_up(waited_s)
            if waited_s > self._patience.says_after_s and not has_told:
                self._patience.notify(f"Waiting for samples: none has come for {waited_s:.0f} s; the processes that read live.")
                has_told = True
        # Not from inside the `except`: an error that is remembered keeps the loader, and so its processes.
        self._chunks = iter(())
        raise fault

    def _is_merely_late(self, error: Exception) -> bool:
        return isinstance(error, RuntimeError) and "timed out" in str(error) and all(process.is_alive() for process in self._processes)

    def _fault(self, error: Exception) -> FaultError:
        ended = wait([process.sentinel for process in self._processes], DIES_WITHIN_S)
        for process in (process for process in self._processes if process.sentinel in ended):
            process.join(DIES_WITHIN_S)  # its pipes close shortly before it is over
            code = process.exitcode
            if code is not None and code < 0:
                words = f"a reading process was ended by {_signal_in_words(-code)}."
                return FaultError(FIELD, words, f"{GO_ON}, with a smaller dataset.num_workers if it happens again.")
            if code is not None:
                return FaultError(FIELD, f"a reading process ended by itself, with exit code {code}.", f"{GO_ON}; dataset.num_workers=0 shows where.")
        reason = str(error).strip().rpartition("\n")[2]
        return FaultError(FIELD, f"the reading processes cannot hand samples over: {type(error).__name__}: {reason}.", INSTEAD)

    def _given_up(self, waited_s: float) -> FaultError:
        for process in self._processes:  # they would not answer a wish to end
            process.kill()
        reason = "though the processes that read live" if waited_s > self._patience.gives_up_after_s else "and the run was asked to stop"
        return FaultError(FIELD, f"no sample has come for {waited_s:.0f} s, {reason}.", f"{GO_ON}, with dataset.num_workers=0 if reading hangs.")


def shared(chunk: Tree) -> Tree | FaultError:
    """A chunk where the process that trains finds it; in that process itself as it is. Where there is no room, an error that says so.

    Left to the queue between the processes, a chunk without room is dropped with a message, and waited for for ever.
    """
    if torch.utils.data.get_worker_info() is None:
        return chunk
    try:
        # A history of gradients does not travel.
        return map_leaves(lambda tensor: tensor.detach().share_memory_(), chunk)
    except (RuntimeError, OSError) as error:
        size = sum(tensor.nbytes for tensor in leaves(chunk))
        reason = str(error).strip().rpartition(": ")[2]
        words = f"no room for {size / 2**20:,.1f} MiB of samples in shared memory: {_shared_memory_in_words()} ({reason})."
        return FaultError(FIELD, words, INSTEAD)


def _signal_in_words(number: int) -> str:
    if number == signal.SIGKILL:
        return "SIGKILL (as the system does where memory runs out)"
    if number == signal.SIGBUS:
        return f"SIGBUS ({_shared_memory_in_words()})"
    return signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"


def _shared_memory_in_words() -> str:
    try:
        facts = os.statvfs(SHARED_MEMORY)
    except OSError:
        return "its size is not known"
    total, free = (blocks * facts.f_frsize / 2**20 for blocks in (facts.f_blocks, facts.f_bavail))
    return f"{SHARED_MEMORY} has {total:,.0f} MiB, {free:,.0f} of them free"


def leave_the_terminal_to_the_trainer(number: int) -> None:
    """A terminal's Ctrl-C, and its end, reach every process; those that read must outlive them, for the step that is finished needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

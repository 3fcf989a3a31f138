"""Reading processes that die, hang, or find no room: an error in a sentence, soon, and nothing left behind."""

import itertools
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_runs import Samples
from torch import Tensor

from largebatch.jobs.data.loaders import CHUNK, LoaderBatches
from largebatch.jobs.data.reading import Patience
from largebatch.jobs.errors import DataError, FaultError
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.slice import Slice

NUM_SAMPLES, BAD = 10 * CHUNK, 2 * CHUNK
QUICK = Patience(look_every_s=0.1)


def odd(act: Callable[[], object] = lambda: None, size: int = 1) -> Samples:
    """Does something in the reading process that comes to sample BAD."""

    def sample(index: int) -> tuple[Tensor, int]:
        if index == BAD:
            act()
        return torch.full((size,), float(index)), index % 2

    return Samples(NUM_SAMPLES, sample, num_classes=2)


def batches(part: Samples, patience: Patience = QUICK, num_workers: int = 1) -> LoaderBatches:
    dataset = Dataset("odd", part, part, 2, tuple(part[0][0].shape))
    stream = lambda epoch: (Slice(number, 0, NUM_SAMPLES) for number in itertools.count(epoch))  # noqa: E731
    return LoaderBatches(
        part, dataset, torch.device("cpu"), num_workers=num_workers, stream=stream, channels_last=False, shuffles=False, patience=patience
    )


def read_all(source: LoaderBatches, start: int = 0) -> list[float]:
    starts = range(start, NUM_SAMPLES, CHUNK)
    return torch.cat([source.read(Slice(0, start, start + CHUNK))[0] for start in starts])[:, 0].tolist()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process, no thread, no handler."""
    before, handler, threads = multiprocessing.active_children(), signal.getsignal(signal.SIGCHLD), threading.active_count()
    yield
    assert multiprocessing.active_children() == before
    assert signal.getsignal(signal.SIGCHLD) == handler
    ends_at_s = time.monotonic() + 10  # a queue's thread is not waited for
    while threading.active_count() > threads and time.monotonic() < ends_at_s:
        time.sleep(0.01)
    assert threading.active_count() == threads


ENDS: dict[str, tuple[Callable[[], object], str]] = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), "a reading process was ended by SIGKILL .*where memory runs out"),
    "no page for shared memory": (lambda: os.kill(os.getpid(), signal.SIGBUS), r"a reading process was ended by SIGBUS \(/dev/shm has .* free\)"),
    "exit at once": (lambda: os._exit(0), "a reading process ended by itself, with exit code 0"),
}


@pytest.mark.parametrize(("act", "words"), ENDS.values(), ids=ENDS)
def test_a_process_that_ends_is_named_with_its_end(act: Callable[[], object], words: str) -> None:
    with pytest.raises(FaultError, match=f"dataset.num_workers: {words}.*The last checkpoint is whole"):
        read_all(batches(odd(act), num_workers=2))


def test_sys_exit_in_a_reading_process_names_the_sample() -> None:
    with pytest.raises(DataError, match=r"training sample \d+ cannot be read: SystemExit: 3"):
        read_all(batches(odd(lambda: sys.exit(3)), num_workers=2))


def test_a_process_that_is_killed_is_met_by_a_read_and_by_nothing_else() -> None:
    """Torch's own handler would raise amid whatever this process does: an update, a reduction, a checkpoint."""
    source = batches(odd())
    source.read(Slice(0, 0, CHUNK))
    (process,) = multiprocessing.active_children()
    process.kill()
    process.join()
    time.sleep(0.05)
    with pytest.raises(FaultError, match="SIGKILL"):
        read_all(source, CHUNK)


def test_samples_without_room_in_shared_memory() -> None:
    """A limit on files holds for shared memory too, and torch meets it as it meets a full /dev/shm."""
    part = odd(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)), size=2**14)
    with pytest.raises(FaultError, match=r"no room for 2\.0 MiB of samples in shared memory: /dev/shm has .*num_workers=0.*--shm-size"):
        read_all(batches(part))


def test_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
        with pytest.raises(FaultError, match=r"1 reading processes cannot be started \(No space left on device; /dev/shm"):
            batches(odd()).read(Slice(0, 0, CHUNK))


def test_a_sample_that_is_merely_slow_is_waited_for() -> None:
    notices: list[str] = []
    patience = QUICK._replace(should_stop=lambda: True, notify=notices.append, says_after_s=0.3)
    assert read_all(batches(odd(lambda: time.sleep(0.6)), patience)) == list(range(NUM_SAMPLES))
    assert "none has come for" in notices[0]


@pytest.mark.parametrize(
    ("patience", "words"),
    [(QUICK._replace(leaves_after_s=0.3, should_stop=lambda: True), "asked to stop"), (QUICK._replace(gives_up_after_s=0.3), "read live")],
)
def test_a_sample_that_never_comes_is_given_up(patience: Patience, words: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(FaultError, match=f"no sample has come for .*{words}.*num_workers=0 if reading hangs"):
        read_all(batches(odd(lambda: time.sleep(1000)), patience, num_workers=2))
    assert time.monotonic() - began_s < 20  # not torch's five seconds for each of them


def test_a_sample_that_cannot_be_read_ends_the_processes_too() -> None:
    def fail() -> None:
        raise OSError("truncated")

    with pytest.raises(DataError, match=f"sample {BAD} cannot be read"):
        read_all(batches(odd(fail), num_workers=2))


def test_a_jump_ends_the_processes_of_before() -> None:
    source = batches(odd(), num_workers=2)
    for epoch in (0, 3, 5):
        source.read(Slice(epoch, CHUNK, 2 * CHUNK))
        assert len(multiprocessing.active_children()) == 2

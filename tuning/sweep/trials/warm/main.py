"""A warm process: `python -m largebatch.tuning.sweep.trials.warm.main`; on standard input what to train, on standard output what came of it.

It imports everything that trains, loads the data, and then does nothing itself: each run is a forked child's, which is as clean as this process
was when it began. So nothing here may start a thread: a child has its parent's memory and not its threads, and OpenMP's would be waited for in
vain.
"""

import gc
import importlib
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from largebatch.jobs.garbage_collection import collect_seldom
from largebatch.jobs.launch.openmp_threads import spin_briefly
from largebatch.tuning.sweep.trials.resources import TrialReport
from largebatch.tuning.sweep.trials.warm.lines import READY, REQUEST, Answer, Begin, news_line

if TYPE_CHECKING:
    from largebatch.jobs.samples.dataset import Dataset

LOG = "trials.log"
"""In the sweep's folder: what its runs print."""
STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


class Child:
    """The process of one run, forked a moment ago. Args: tell: where evaluations are told; end: where the last report goes."""

    def __init__(self, tell: BinaryIO, end: BinaryIO) -> None:
        self._tell, self._end = tell, end
        self._answers: SimpleQueue[bool] = SimpleQueue()

    def train(self, request: Begin, loaded: "Dataset | None") -> NoReturn:
        """Train the run, tell how it ended, and end. Args: loaded: its data set, if this process's parent has it."""
        from largebatch.tuning.sweep.trials.train import train_trial  # see main

        _print_into(request.options.folder / LOG)
        threading.Thread(target=self._listen, daemon=True).start()
        report = train_trial(request.spec, request.options, request.run_id, self._evaluated, loaded)
        self._end.write(news_line(report).encode())
        self._end.flush()
        sys.stdout.flush()
        os._exit(0)  # at once: a thread waits for an answer, and a person's model may have left others

    def _evaluated(self, report: TrialReport) -> bool:
        self._tell.write(news_line(report).encode())
        self._tell.flush()
        return self._answers.get()

    def _listen(self) -> None:
        """Take the answers; where whoever asks has ended, so does this process."""
        for line in sys.stdin:
            request = REQUEST.validate_json(line)
            assert isinstance(request, Answer)
            self._answers.put(request.ends_early)
        os._exit(1)


def _print_into(log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, STANDARD_OUTPUT)
    os.dup2(file, STANDARD_ERROR)
    os.close(file)


def train_in_child(request: Begin, replies: BinaryIO, loaded: "Dataset | None") -> None:
    """Train a run in a child, and pass on how it ended once the child is gone: then nobody else reads this process's standard input."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        Child(replies, os.fdopen(writing, "wb")).train(request, loaded)
    os.close(writing)
    with os.fdopen(reading, "rb") as end:
        report = end.read()
    os.waitpid(child, 0)
    replies.write(report or news_line(None).encode())
    replies.flush()


def main() -> None:
    """Get ready, then train what is asked for until standard input ends."""
    collect_seldom()
    spin_briefly()
    replies = os.fdopen(os.dup(STANDARD_OUTPUT), "wb")
    os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)  # what is printed must not be taken for a reply
    importlib.import_module("largebatch.tuning.sweep.trials.train")  # which brings torch: it must come after spin_briefly
    from largebatch.tuning.sweep.trials.warm.held_data import HeldData  # and so does this

    held = HeldData()
    gc.freeze()  # the children share what was made until here, and need not walk through it
    replies.write(READY.encode())
    replies.flush()
    for line in sys.stdin:
        request = REQUEST.validate_json(line)
        if isinstance(request, Begin):  # an answer to a child that died meanwhile is nobody's
            train_in_child(request, replies, held.of(request.spec, request.options.data_dir))


if __name__ == "__main__":
    main()

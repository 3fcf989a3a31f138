"""`python -m largebatch.jobs.launch.supervise ARGUMENTS`: `python -m largebatch.jobs ARGUMENTS`, started again when it is killed.

What a Ray job runs: its driver can die of a kill -9 or of the machine's memory, and nobody is there to start it
again. The run has its id from outside, so the next driver goes on from the newest checkpoint, and waits for storage
that refuses. An exit code that says something (done, bad input, diverged, stopped, a fault) is passed on.
"""

import signal
import subprocess
import sys
import time
from types import FrameType

from largebatch.jobs.import_paths import environment, python
from largebatch.jobs.launch.signals import stop_signals

STARTED_AGAIN = "LARGEBATCH_STARTED_AGAIN"
"""Set in the environment of a driver whose predecessor was killed."""
MAX_DEATHS = 20
PAUSE_S = 2.0


def main(arguments: list[str]) -> int:
    """The exit code of the last driver."""
    is_asked, untold = False, list[int]()
    child: subprocess.Popen[bytes] | None = None

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked
        is_asked = True
        if child is None:
            untold.append(number)
        else:
            child.send_signal(number)

    for number in stop_signals():
        signal.signal(number, ask)
    code = 0
    for death in range(MAX_DEATHS + 1):
        again = {STARTED_AGAIN: "1"} if death else {}
        child = subprocess.Popen(python("-m", "largebatch.jobs", *arguments), env=environment() | again)
        for each in untold:  # what came while the driver was being started, and there was nobody to tell yet
            child.send_signal(each)
        code, child = child.wait(), None
        if code >= 0 or is_asked:
            break
        print(f"The driver was ended by {signal.Signals(-code).name} ({death + 1}); starting it again.", file=sys.stderr, flush=True)
        time.sleep(PAUSE_S)
        if is_asked:
            break
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

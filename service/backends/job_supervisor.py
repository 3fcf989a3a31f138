"""`python job_supervisor.py FOLDER ATTEMPT`: runs one attempt of a job, and writes down how it ended, with or without a service.

Begun by the service, alive without it. The job's lock is held as long as the supervisor or the job's process lives, so
whether a job runs is asked of the kernel, and no two attempts run at once. An attempt that is no longer the newest
finds that out under the lock, and does nothing. Standard library only: each job starts one, beside trainings.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

LOCK, NEWEST, COMMAND, PID, EXIT, LOG = "lock", "newest", "command.json", "pid", "exit", "log"


def main(folder: Path, attempt: str) -> int:
    """Hold the lock, run the command, write its exit code."""
    attempt_dir = folder / attempt
    with (folder / LOCK).open("ab") as lock, (attempt_dir / LOG).open("ab", buffering=0) as log:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        if (folder / NEWEST).read_text() != attempt or (attempt_dir / EXIT).exists():
            return 0
        document = json.loads((attempt_dir / COMMAND).read_text())
        write_whole(attempt_dir / PID, str(os.getpid()))
        child: subprocess.Popen[bytes] | None = None
        signals: list[int] = []

        def stop(number: int, frame: object) -> None:
            signals.append(number)
            if child is not None:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGTERM)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        try:
            child = subprocess.Popen(
                document["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=document["cwd"],
                pass_fds=(lock.fileno(),),
            )  # fmt: skip
            if signals:
                child.send_signal(signal.SIGTERM)
            code = child.wait()
        except OSError as error:
            log.write(f"{error}\n".encode())
            code = 1
        write_whole(attempt_dir / EXIT, str(code))
    return 0


def write_whole(path: Path, text: str) -> None:
    """Replace a file at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))

"""What `forked.py` starts once: it has imported what commands import, and forks a process for each that it is told of.

Nothing here starts a thread: a child has its parent's memory and not its threads.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import socket
import sys
from types import TracebackType
from typing import Any

NUM_FILES = 3
"""Of a command: its standard output and error, and where its number and exit code are told."""


def run(command: dict[str, Any]) -> None:
    """Be the command, in the process that was forked for it: as `python` with these words, in its folder and environment."""
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    if command["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_bytes"], resource.RLIM_INFINITY))
    further = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[0:1] = [command["folder"], *further]
    if further:
        sys.modules.pop("sitecustomize", None)
        with contextlib.suppress(ImportError):
            importlib.import_module("sitecustomize")
    option, code, *arguments = command["words"]
    sys.argv = [option, *arguments]
    if option == "-c":
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(code, run_name="__main__", alter_sys=True)


def fork(command: dict[str, Any], files: list[int]) -> bool:
    """Fork its process, and one that waits for its end and tells of it. Returns whether this is the command's."""
    output, error, told = files
    if os.fork():
        return False
    pid = os.fork()
    if pid:
        os.close(output)
        os.close(error)
        os.write(told, f"{pid}\n".encode())
        os.write(told, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    if command["new_session"]:
        os.setsid()
    os.dup2(output, 1)
    os.dup2(error, 2)
    for file in files:
        os.close(file)
    return True


def next_command(connection: socket.socket) -> dict[str, Any] | None:
    """That of the process which this is from now on; None where nobody will tell of any more."""
    while True:
        message, files, _, _ = socket.recv_fds(connection, 2**20, NUM_FILES)
        if not message:
            return None
        command = json.loads(message)
        if fork(command, files):
            return command
        for file in files:
            os.close(file)
        with contextlib.suppress(ChildProcessError):  # none is left
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


class End:
    """A command's end, once its threads and its own functions at exit are over, without taking apart what was imported, which takes a second."""

    exit_code = 0

    def leave(self) -> None:
        """What Python does last."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            self.exit_code = 120
        os._exit(self.exit_code)

    def __enter__(self) -> None:
        """The command begins."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """What Python says of an error, it says meanwhile."""
        if isinstance(error, SystemExit):
            self.exit_code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif isinstance(error, Exception):
            self.exit_code = 1
        elif error is not None:  # an interrupt, which ends the process by its signal
            atexit.unregister(self.leave)


if __name__ == "__main__":
    end = End()
    atexit.register(end.leave)  # the first of all is the last
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        found = next_command(asked)
    if found is not None:
        with end:
            run(found)

"""Jobs as processes of this machine; they outlive the service, and a service that comes back finds them again."""

import contextlib
import fcntl
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen

import psutil

from largebatch.jobs.errors import InputError, StorageError
from largebatch.jobs.import_paths import environment, python
from largebatch.jobs.whole_files import refusal
from largebatch.service.backends import job_supervisor
from largebatch.service.backends.base import SPEC, CannotStart, Presence, Seen, job_arguments, no_code, prepare
from largebatch.service.backends.job_supervisor import COMMAND, EXIT, LOCK, LOG, NEWEST, PID, write_whole
from largebatch.service.bundle import unpack_once
from largebatch.service.job import Capacity, Job, Kind, Machine

SECRETS = ("LARGEBATCH_DATABASE_URL", "LARGEBATCH_TOKEN", "RAY_AUTH_TOKEN", "PGPASSWORD")
"""Of the service's environment, what jobs do not get."""
CODE = "code"
"""Of a job's folder among the attempts, where its own code lies, which no attempt changes."""
LAST_BYTES = 4096
STARTS_WITHIN_S = 30.0
"""A supervisor holds its lock within this time of its start; until then its GPUs count as taken."""


class LocalBackend:
    """One supervisor process for each attempt, with its files in `state_dir`/JOB/ATTEMPT.

    Args:
        arguments: what follows `python` in a job's command, for the job, its runs' folder and the folder of data.
        code: the zip of a job's own code, by its SHA-256.
    """

    name = "local"

    def __init__(
        self,
        state_dir: Path,
        runs_dir: Path,
        data_dir: Path,
        capacity: Capacity,
        arguments: Callable[[Job, Path, Path], list[str]] = job_arguments,
        code: Callable[[str], bytes] = no_code,
    ) -> None:
        self._state_dir, self._runs_dir, self._data_dir = state_dir.resolve(), runs_dir.resolve(), data_dir.resolve()
        self._capacity, self._arguments, self._code = capacity, arguments, code
        self._supervisors: list[Popen[bytes]] = []

    def capacity(self) -> Capacity:
        """What the operator allows."""
        return self._capacity

    def machines(self) -> list[Machine]:
        """The machine of the service."""
        return [Machine(platform.node() or "this machine", self._capacity)]

    def start(self, job: Job) -> None:
        """Write down the command, then start its supervisor; twice is as good as once."""
        attempt_dir = self._attempt_dir(job)
        try:
            attempt_dir.mkdir(parents=True, exist_ok=True)
            prepare(job, self._runs_dir)
            if not (attempt_dir / COMMAND).exists():
                command = python(*self._arguments(job, self._runs_dir, self._data_dir))
                document = {"command": command, "cwd": str(self._folder_of(job)), "gpus": self._free_gpus(job.gpus)}
                write_whole(attempt_dir / COMMAND, json.dumps(document))
            gpus = json.loads((attempt_dir / COMMAND).read_text())["gpus"]
            write_whole(attempt_dir.parent / NEWEST, str(job.attempt))
            command = python(job_supervisor.__file__, str(attempt_dir.parent), str(job.attempt))
            self._supervisors.append(
                Popen(command, env=job_environment(job, gpus), start_new_session=True, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            )
        except InputError as error:
            raise CannotStart("local", f"its own code cannot be run: {error.problem}", error.hint) from error
        except (OSError, StorageError) as error:
            reason = error.problem if isinstance(error, StorageError) else refusal(error)
            raise CannotStart("local", f"its process cannot be started ({reason}).", "Free some space or memory.") from error

    def _folder_of(self, job: Job) -> Path:
        """The folder that a job's process works in, where its modules are looked for: its own code's, unpacked once, or the service's."""
        if job.code is None:
            return Path.cwd()
        folder, packed = self._state_dir / job.id / CODE, self._code(job.code)
        if not folder.exists():
            unpack_once(packed, folder)
        return folder

    def _attempt_dir(self, job: Job) -> Path:
        """The folder of the job's newest attempt, inside the job's own."""
        return self._state_dir / job.id / str(job.attempt)

    def _free_gpus(self, num_gpus: int) -> list[int]:
        if not num_gpus:
            return []
        used: set[int] = set()
        for folder in self._state_dir.iterdir():
            with contextlib.suppress(OSError, ValueError):
                attempt_dir = folder / (folder / NEWEST).read_text()
                is_new = time.time() - (attempt_dir / COMMAND).stat().st_mtime < STARTS_WITHIN_S
                if _is_held(folder) or (is_new and not (attempt_dir / EXIT).exists()):
                    used.update(json.loads((attempt_dir / COMMAND).read_text())["gpus"])
        return [number for number in range(self._capacity.gpus) if number not in used][:num_gpus]

    def look(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """Whether each one's lock is held, and if not, what its attempt left."""
        self._supervisors = [process for process in self._supervisors if process.poll() is None]
        return {job.id: self._look(job) for job in jobs}

    def _look(self, job: Job) -> Seen:
        attempt_dir = self._attempt_dir(job)
        is_held = _is_held(attempt_dir.parent)  # asked before the exit code is read: it is written before the lock is let go
        with contextlib.suppress(FileNotFoundError, ValueError):
            code = int((attempt_dir / EXIT).read_text())
            if not is_held:
                return Seen(Presence.ENDED, code, _last_line(attempt_dir / LOG))
        return Seen(Presence.PRESENT if is_held else Presence.ABSENT)

    def fence(self, job: Job) -> bool:
        """Under the lock, let no number be the newest."""
        folder = self._state_dir / job.id
        try:
            with (folder / LOCK).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                write_whole(folder / NEWEST, "")
        except FileNotFoundError:
            return True  # it was never written down
        except BlockingIOError:
            return False
        return True

    def stop(self, job: Job, is_urgent: bool) -> bool:
        """SIGTERM to the supervisor, which passes it on; urgent: SIGKILL to all that the attempt started."""
        try:
            pid = int((self._attempt_dir(job) / PID).read_text())
        except (OSError, ValueError):
            return False
        if not _is_held(self._state_dir / job.id):
            return True
        with contextlib.suppress(ProcessLookupError):
            if not _is_of(pid, job.id):  # its supervisor was killed, and left it
                for orphan in _orphans(pid, job.id):
                    os.kill(orphan, signal.SIGKILL if is_urgent else signal.SIGTERM)
            elif is_urgent:
                os.killpg(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGTERM)
        return True

    def logs(self, job: Job, attempt: int, offset: int, limit: int) -> bytes:
        """From the attempt's log file."""
        try:
            with (self._state_dir / job.id / str(attempt) / LOG).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""


def job_environment(job: Job, gpus: list[int]) -> dict[str, str]:
    """The service's own, without its secrets; a thread for each of the job's cores, or fewer where the operator's environment says so."""
    cores, most = max(1, int(job.cpus)), os.environ.get("OMP_NUM_THREADS", "")
    threads = str(min(cores, int(most)) if most.isdecimal() and int(most) else cores)
    variables = {name: value for name, value in environment().items() if name not in SECRETS}
    variables |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return {**variables, SPEC: json.dumps(job.spec)} if job.kind is Kind.RUN else variables


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:1000] if lines else ""


def _is_held(folder: Path) -> bool:
    """Whether a supervisor, or a job that it left, holds the lock: the job inherited it, which filelock's cannot be."""
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_of(pid: int, job_id: str) -> bool:
    """Whether a process is one of this job's, and not another that got its number since."""
    try:
        return any(job_id in argument for argument in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def _orphans(group: int, job_id: str) -> Iterator[int]:
    """The processes of a killed supervisor's session that are the job's."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == group and _is_of(pid, job_id):
                yield pid

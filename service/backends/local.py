"""Jobs as processes of this machine; they outlive the service, and a service that comes back finds them again."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from largebatch.jobs.errors import StorageError
from largebatch.jobs.import_paths import environment, python
from largebatch.service.backends import job_supervisor
from largebatch.service.backends.base import CannotStart, Presence, Seen
from largebatch.service.backends.command import SPEC, job_arguments, prepare
from largebatch.service.job import Capacity, Job, Kind

SECRETS = ("LARGEBATCH_DATABASE_URL", "LARGEBATCH_TOKEN", "RAY_AUTH_TOKEN", "PGPASSWORD")
"""Of the service's environment, what jobs do not get."""
LAST_BYTES = 4096
STARTS_WITHIN_S = 30.0
"""A supervisor holds its lock within this time of being asked; until then its GPUs are taken by its word."""


class LocalBackend:
    """One supervisor process for each attempt, with its files in `state_dir`/JOB/ATTEMPT."""

    name = "local"

    def __init__(self, state_dir: Path, runs_dir: Path, data_dir: Path, capacity: Capacity) -> None:
        self._state_dir, self._runs_dir, self._data_dir = state_dir.resolve(), runs_dir.resolve(), data_dir.resolve()
        self._capacity = capacity
        self._supervisors: list[subprocess.Popen[bytes]] = []

    def capacity(self) -> Capacity:
        """What the operator gave."""
        return self._capacity

    def start(self, job: Job) -> None:
        """Write down the command, then start its supervisor; twice is as good as once."""
        folder = self._state_dir / job.id
        here = folder / str(job.attempt)
        try:
            here.mkdir(parents=True, exist_ok=True)
            prepare(job, self._runs_dir)
            if not (here / job_supervisor.COMMAND).exists():
                command = python(*job_arguments(job, self._runs_dir, self._data_dir))
                given = {"command": command, "cwd": str(Path.cwd()), "gpus": self._free_gpus(job.gpus)}
                job_supervisor.write_whole(here / job_supervisor.COMMAND, json.dumps(given))
            gpus = json.loads((here / job_supervisor.COMMAND).read_text())["gpus"]
            job_supervisor.write_whole(folder / job_supervisor.NEWEST, str(job.attempt))
            self._supervisors.append(
                subprocess.Popen(
                    python(job_supervisor.__file__, str(folder), str(job.attempt)), env=_environment(job, gpus), start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            )  # fmt: skip
        except (OSError, StorageError) as error:
            reason = error.problem if isinstance(error, StorageError) else error.strerror or str(error)
            raise CannotStart("local", f"its process cannot be started ({reason}).", "Free some space or memory.") from error

    def _free_gpus(self, wanted: int) -> list[int]:
        if not wanted:
            return []
        used: set[int] = set()
        for folder in self._state_dir.iterdir():
            with contextlib.suppress(OSError, ValueError):
                here = folder / (folder / job_supervisor.NEWEST).read_text()
                given, is_new = here / job_supervisor.COMMAND, time.time() - (here / job_supervisor.COMMAND).stat().st_mtime < STARTS_WITHIN_S
                if _is_held(folder) or (is_new and not (here / job_supervisor.EXIT).exists()):
                    used.update(json.loads(given.read_text())["gpus"])
        return [number for number in range(self._capacity.gpus) if number not in used][:wanted]

    def look(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """Whether each one's lock is held, and if not, what its attempt left."""
        self._supervisors = [process for process in self._supervisors if process.poll() is None]
        return {job.id: self._look(job) for job in jobs}

    def _look(self, job: Job) -> Seen:
        folder = self._state_dir / job.id
        here = folder / str(job.attempt)
        is_held = _is_held(folder)  # asked before the exit code is read: it is written before the lock is let go
        with contextlib.suppress(FileNotFoundError, ValueError):
            code = int((here / job_supervisor.EXIT).read_text())
            if not is_held:
                return Seen(Presence.ENDED, code, self._last_line(here / job_supervisor.LOG))
        return Seen(Presence.PRESENT if is_held else Presence.ABSENT)

    def _last_line(self, path: Path) -> str:
        with contextlib.suppress(OSError), path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LAST_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1][:1000] if lines else ""
        return ""

    def fence(self, job: Job) -> bool:
        """Under the lock, let no number be the newest."""
        folder = self._state_dir / job.id
        try:
            with (folder / job_supervisor.LOCK).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                job_supervisor.write_whole(folder / job_supervisor.NEWEST, "")
        except FileNotFoundError:
            return True  # it was never written down
        except BlockingIOError:
            return False
        return True

    def stop(self, job: Job, is_urgent: bool) -> bool:
        """SIGTERM to the supervisor, which passes it on; urgent: SIGKILL to all that the attempt started."""
        folder = self._state_dir / job.id
        try:
            pid = int((folder / str(job.attempt) / job_supervisor.PID).read_text())
        except (OSError, ValueError):
            return False
        if _is_held(folder) and _is_of(pid, job.id):
            with contextlib.suppress(ProcessLookupError):
                if is_urgent:
                    os.killpg(pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGTERM)
        elif _is_held(folder):  # its supervisor was killed, and left it
            for orphan in _group(pid, job.id):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGKILL if is_urgent else signal.SIGTERM)
        return True

    def logs(self, job: Job, attempt: int, offset: int, limit: int) -> bytes:
        """From the attempt's log file."""
        try:
            with (self._state_dir / job.id / str(attempt) / job_supervisor.LOG).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""


def _environment(job: Job, gpus: list[int]) -> dict[str, str]:
    """The service's own, without its secrets; a thread for each of the job's cores, or fewer where the operator's environment says so."""
    cores, most = max(1, int(job.cpus)), os.environ.get("OMP_NUM_THREADS", "")
    threads = str(min(cores, int(most)) if most.isdecimal() and int(most) else cores)
    found = {name: value for name, value in environment().items() if name not in SECRETS}
    found |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    if job.kind is Kind.RUN:
        found[SPEC] = json.dumps(job.spec)
    return found


def _is_held(folder: Path) -> bool:
    try:
        with (folder / job_supervisor.LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_of(pid: int, job_id: str) -> bool:
    """Whether a process is one of this job's, and not another that got its number since."""
    try:
        return job_id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _group(group: int, job_id: str) -> list[int]:
    """The processes of a supervisor's session that are the job's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _is_of(int(entry.name), job_id):
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == group:
                    found.append(int(entry.name))
    return found

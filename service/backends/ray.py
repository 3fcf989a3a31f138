"""Jobs as submitted Ray jobs. Ray forgets them when its head restarts; the reconciler then starts them anew."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.backends.base import BackendDown, CannotStart, Presence, Seen
from largebatch.service.backends.command import job_arguments, prepare
from largebatch.service.job import Capacity, Job, Kind

if TYPE_CHECKING:
    from largebatch.service.backends.ray_jobs import RayJobs

STOPPED = 4
"""What a stopped job's exit code would have been."""


class RayBackend:
    """One Ray job for each attempt; its submission id is the job's and the attempt's, which Ray takes only once."""

    name = "ray"

    def __init__(self, address: str, place: Path | str, data_dir: Path, python: str) -> None:
        """Args: place: where run folders go, a folder that the cluster's machines share or a URI."""
        self._address, self._place, self._data_dir, self._python = address, place, data_dir.resolve(), python
        self._cluster: RayJobs | None = None

    def _ray(self) -> "RayJobs":
        from largebatch.service.backends.ray_jobs import RayJobs

        if self._cluster is None:
            try:
                self._cluster = RayJobs(self._address)
            except LargebatchError as error:
                raise BackendDown("ray", error.problem, error.hint) from error
        return self._cluster

    def capacity(self) -> Capacity:
        """What the cluster's nodes have together."""
        try:
            found = self._ray().resources()
        except (ConnectionError, RuntimeError, OSError) as error:
            raise self._down(error) from error
        return Capacity(found.get("CPU", 0.0), int(found.get("GPU", 0.0)))

    def start(self, job: Job) -> None:
        """Submit the attempt, unless Ray has it."""
        from largebatch.service.backends.ray_jobs import Submission

        if self.look([job])[job.id].presence is not Presence.ABSENT:
            return
        # Without workers the driver would train, on cores that Ray has promised to others.
        arguments = job_arguments(job.model_copy(update={"workers": job.workers or "1"}), self._place, self._data_dir)
        if job.kind is Kind.RUN:
            arguments[1] = "largebatch.jobs.launch.supervise"
        try:
            spec = TrainSpec.model_validate(job.spec if job.kind is Kind.RUN else job.base)
            prepare(job, Path(self._place))
            self._ray().send(Submission(job.id, spec, [], _environment(), True, self._python), _submission_id(job), arguments)
        except BackendDown:
            raise
        except (LargebatchError, ValueError) as error:
            raise CannotStart("ray", f"Ray does not take it ({str(error)[:300]}).") from error
        except (ConnectionError, RuntimeError, OSError) as error:
            raise self._down(error) from error

    def fence(self, job: Job) -> bool:
        """Ray begins nothing late: what it does not know was never submitted."""
        return self.look([job])[job.id].presence is Presence.ABSENT

    def look(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """One question for all."""
        try:
            found = {job.submission_id: job for job in self._ray().all()}
        except (ConnectionError, RuntimeError, OSError, LargebatchError) as error:
            raise self._down(error) from error
        seen = {}
        for job in jobs:
            there = found.get(_submission_id(job))
            if there is None:
                seen[job.id] = Seen(Presence.ABSENT)
            elif not there.is_over:
                seen[job.id] = Seen(Presence.PRESENT)
            else:
                code = {"SUCCEEDED": 0, "STOPPED": STOPPED}.get(there.status, there.exit_code)
                seen[job.id] = Seen(Presence.ENDED, code, there.message.strip().splitlines()[-1][:1000] if there.message.strip() else "")
        return seen

    def stop(self, job: Job, is_urgent: bool) -> bool:
        """Ray sends SIGTERM, and SIGKILL after two minutes."""
        try:
            self._ray().stop(_submission_id(job))
        except BackendDown:
            raise
        except LargebatchError:
            return False  # Ray does not know it: there is nothing to stop
        except (ConnectionError, RuntimeError, OSError) as error:
            raise self._down(error) from error
        return True

    def logs(self, job: Job, attempt: int, offset: int, limit: int) -> bytes:
        """What Ray kept of the driver's output."""
        try:
            text = self._ray().logs(f"{job.id}.{attempt}")
        except LargebatchError:
            return b""
        except (ConnectionError, RuntimeError, OSError) as error:
            raise self._down(error) from error
        return text.encode()[offset : offset + limit]

    def _down(self, error: Exception) -> BackendDown:
        self._cluster = None  # a head that comes back is another one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return BackendDown("ray", f"Ray at {self._address} does not answer ({reason[:200]}).", "Is its head up?")


def _environment() -> dict[str, str]:
    """Where MLflow is, as the operator told the service. Never with a password: Ray shows its jobs' environment to all."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return {"MLFLOW_TRACKING_URI": uri} if uri and "@" not in uri else {}


def _submission_id(job: Job) -> str:
    return f"{job.id}.{job.attempt}"

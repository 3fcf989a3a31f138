"""Jobs as submitted Ray jobs. Ray forgets them when its head restarts; the reconciler then starts them anew."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ray.exceptions import RayError

from largebatch.jobs.errors import LargebatchError
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.backends.base import BackendDown, CannotStart, Presence, Seen, job_arguments, no_code, prepare
from largebatch.service.backends.ray_jobs import RayJobs, Submission, first_line
from largebatch.service.db.engine import DatabaseError
from largebatch.service.job import Capacity, Job, Kind, Machine
from largebatch.service.memory import GIB

STOPPED = 4
"""What a stopped job's exit code would have been."""


class RayBackend:
    """One Ray job for each attempt; its submission id is the job's and the attempt's, which Ray takes only once."""

    name = "ray"

    def __init__(
        self,
        address: str,
        output_dir: Path | str,
        data_dir: Path,
        python: str,
        code: Callable[[str], bytes] = no_code,
        most_memory_gib: float = math.inf,
    ) -> None:
        """Args:
        output_dir: where run folders go, a folder that the cluster's machines share or a URI.
        code: the zip of a job's own code, by its SHA-256.
        most_memory_gib: what jobs may hold together, however much the cluster has.
        """
        self._code, self._most_memory_gib = code, most_memory_gib
        self._address, self._output_dir, self._data_dir, self._python = address, output_dir, data_dir.resolve(), python
        self._cluster: RayJobs | None = None

    @contextmanager
    def _ray(self) -> Iterator[RayJobs]:
        """The cluster's jobs. Raises: BackendDown where it does not answer; the next question looks for its head anew."""
        try:
            self._cluster = self._cluster or self._connect()
            yield self._cluster
        except BackendDown:
            raise
        except (ConnectionError, RuntimeError, OSError, RayError) as error:
            self._cluster = None
            raise BackendDown("ray", f"Ray at {self._address} does not answer ({first_line(error)[:200]}).", "Is its head up?") from error

    def _connect(self) -> RayJobs:
        try:
            return RayJobs(self._address)
        except LargebatchError as error:
            raise BackendDown("ray", error.problem, error.hint) from error

    def capacity(self) -> Capacity:
        """What the cluster's nodes have together; of memory what Ray gives to tasks, as far as it counts any."""
        cpus, gpus, memory_gib = (sum(amounts) for amounts in zip(*(machine.there for machine in self.machines()), strict=True))
        return Capacity(cpus, int(gpus), min(memory_gib or math.inf, self._most_memory_gib))

    def machines(self) -> list[Machine]:
        """The nodes that are alive, by their addresses."""
        with self._ray() as cluster:
            nodes = cluster.nodes()
        return [Machine(name, Capacity(there.get("CPU", 0.0), int(there.get("GPU", 0.0)), there.get("memory", 0.0) / GIB)) for name, there in nodes]

    def start(self, job: Job) -> None:
        """Submit the attempt, unless Ray has it."""
        if self.look([job])[job.id].presence is not Presence.ABSENT:
            return
        # Without workers the driver would train, on cores that Ray has promised to others.
        arguments = job_arguments(job.model_copy(update={"workers": job.workers or "1"}), self._output_dir, self._data_dir)
        if job.kind is Kind.RUN:
            arguments[1] = "largebatch.jobs.launch.supervise"
        try:
            spec = TrainSpec.model_validate(job.spec if job.kind is Kind.RUN else job.base)
            prepare(job, Path(self._output_dir))
            with self._ray() as cluster:
                bundle = None if job.code is None else self._code(job.code)
                submission = Submission(job.id, spec, [], mlflow_environment(), True, self._python, bundle)
                cluster.send(submission, _submission_id(job), arguments)
        except (BackendDown, DatabaseError):
            raise
        except (LargebatchError, ValueError) as error:
            raise CannotStart("ray", f"Ray does not take it ({str(error)[:300]}).") from error

    def fence(self, job: Job) -> bool:
        """Ray begins nothing late: what it does not know was never submitted."""
        return self.look([job])[job.id].presence is Presence.ABSENT

    def look(self, jobs: Sequence[Job]) -> dict[str, Seen]:
        """One question for all."""
        with self._ray() as cluster:
            submitted = {attempt.submission_id: attempt for attempt in cluster.all()}
        seen = {}
        for job in jobs:
            attempt = submitted.get(_submission_id(job))
            if attempt is None:
                seen[job.id] = Seen(Presence.ABSENT)
            elif not attempt.is_over:
                seen[job.id] = Seen(Presence.PRESENT)
            else:
                code = {"SUCCEEDED": 0, "STOPPED": STOPPED}.get(attempt.status, attempt.exit_code)
                seen[job.id] = Seen(Presence.ENDED, code, attempt.reason[:1000])
        return seen

    def stop(self, job: Job, is_urgent: bool) -> bool:
        """Ray sends SIGTERM, and SIGKILL after two minutes."""
        with self._ray() as cluster:
            try:
                cluster.stop(_submission_id(job))
            except LargebatchError:
                return False  # Ray does not know it: there is nothing to stop
        return True

    def logs(self, job: Job, attempt: int, offset: int, limit: int) -> bytes:
        """What Ray kept of the driver's output."""
        with self._ray() as cluster:
            try:
                text = cluster.logs(f"{job.id}.{attempt}")
            except LargebatchError:
                return b""
        return text.encode()[offset : offset + limit]


def mlflow_environment() -> dict[str, str]:
    """Where MLflow is, as the operator told the service. Never with a password: Ray shows its jobs' environment to all."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return {"MLFLOW_TRACKING_URI": uri} if uri and "@" not in uri else {}


def _submission_id(job: Job) -> str:
    return f"{job.id}.{job.attempt}"

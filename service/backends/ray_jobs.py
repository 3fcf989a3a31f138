"""Runs as submitted Ray jobs: sent to a cluster's head, followed from here, alive without us.

A job's name is also its run's id. Submitting a name again after a failure is a further attempt, which goes on from
the run's newest checkpoint; submitting a name that runs or has ended well is a mistake, and refused.
"""

import asyncio
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobSubmissionClient
from ray.util.state import list_nodes

from largebatch.jobs.errors import FaultError, InputError, SpecError
from largebatch.jobs.import_paths import PACKAGES
from largebatch.jobs.spec.read import entry_points
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.backends.base import SPEC
from largebatch.service.backends.own_code import own_code
from largebatch.service.bundle import module_of, unpack

STOP_S = 120
"""Seconds that a stopped job has for finishing its step and saving."""
NAME = "largebatch.name"
LOOK_AT_NODES_EVERY_S = 5.0
CONNECT_S, ANSWER_S = 5.0, 10.0
"""How long a dashboard may take to be reached, and then to answer at all."""
EXAMPLE = "Example: http://127.0.0.1:8265."
WHICH_PORT = "Is the head up, with its dashboard? The dashboard's port is 8265 by default; the head's own, 6379, is for `largebatch train`."


class Job(NamedTuple):
    """One attempt at a named job, as Ray tells it."""

    name: str
    submission_id: str
    status: str
    message: str
    exit_code: int | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in {"SUCCEEDED", "FAILED", "STOPPED"}

    @property
    def reason(self) -> str:
        """Why it ended, in one line: of what Ray says, which begins with where its logs are, the last is what the job said last."""
        lines = self.message.strip().splitlines()
        return lines[-1].strip() if lines else ""


class Submission(NamedTuple):
    """What to run, and how."""

    name: str
    spec: TrainSpec
    arguments: list[str]
    """Of `python -m largebatch.jobs`; its spec is in the environment, `env:LARGEBATCH_SPEC`."""
    environment: dict[str, str]
    ships_code: bool = True
    python: str = "python"
    bundle: bytes | None = None
    """The zip of own code that goes along; None: the current folder's, where the spec calls it."""


class RayJobs:
    """The jobs of one Ray cluster. Raises: InputError for an address that does not answer or wants a token."""

    def __init__(
        self,
        address: str,
        client: JobSubmissionClient | None = None,
        list_alive: Callable[[str], list[Any]] | None = None,
        answer_s: float = ANSWER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        client, list_alive: what asks Ray for jobs and for machines, for a cluster that a test makes up.
        answer_s: how long the dashboard may take to answer at all.
        clock: seconds, by which machines are asked for now and then.
        """
        if not re.match(r"https?://", address):
            raise SpecError("--address", f"{address!r} is not the address of a Ray dashboard.", EXAMPLE)
        self.address = address
        self._list_alive = list_alive or list_alive_nodes
        self._alive: frozenset[str] = frozenset()
        self._looked_at_s, self._clock = 0.0, clock
        if client is None:
            _refuse_silence(address, answer_s)
        try:
            self._client = client or JobSubmissionClient(address)
            self._client.get_version()
        except AuthenticationError as error:
            hint = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
            raise InputError("--address", f"Ray at {address} wants another token ({first_line(error)}).", hint) from error
        except (ConnectionError, RuntimeError, RayError) as error:
            raise InputError("--address", f"no Ray dashboard answers at {address} ({first_line(error)}).", WHICH_PORT) from error

    def all(self) -> list[Job]:
        """Every attempt that Ray remembers, newest first."""
        jobs = sorted(self._client.list_jobs(), key=lambda details: details.start_time or 0, reverse=True)
        return [self._job(details) for details in jobs if (details.metadata or {}).get(NAME)]

    def _job(self, details: Any) -> Job:
        """A job as Ray has it, but one whose driver went down with its machine has failed.

        A head that comes back with what Redis kept calls it running until the next job is submitted.
        """
        job = Job(details.metadata[NAME], details.submission_id, str(details.status.value), details.message or "", details.driver_exit_code)
        driver = details.driver_node_id
        if job.is_over or driver is None:
            return job
        if driver not in self._alive or self._clock() - self._looked_at_s > LOOK_AT_NODES_EVERY_S:
            self._alive, self._looked_at_s = frozenset(node.node_id for node in self._list_alive(self.address)), self._clock()
        return job if driver in self._alive else job._replace(status="FAILED", message="The machine of its driver is gone.")

    def nodes(self) -> list[tuple[str, dict[str, float]]]:
        """The addresses of the nodes that are alive, and what each has, by Ray's names. Raises: ConnectionError."""
        return [(node.node_ip, node.resources_total) for node in self._list_alive(self.address)]

    def find(self, name: str) -> Job:
        """The newest attempt at a name. Raises: InputError if there is none."""
        jobs = self.all()
        for job in jobs:
            if name in {job.name, job.submission_id}:
                return job
        names = ", ".join(dict.fromkeys(job.name for job in jobs)) or "none"
        raise InputError("NAME", f"Ray at {self.address} knows no job {name!r}.", f"It knows: {names}.")

    def submit(self, submission: Submission) -> Job:
        """Send a job. Raises: InputError for a name that is taken."""
        name = submission.name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise SpecError("--name", f"{name!r} cannot name a job.", "Use letters, digits, '-', '_' and '.'.")
        attempts = [job for job in self.all() if job.name == name]
        if attempts and (not attempts[0].is_over or attempts[0].status == "SUCCEEDED"):
            state = "has ended well" if attempts[0].is_over else f"is {attempts[0].status.lower()}"
            raise InputError("--name", f"job {name} {state}.", f"Look with `largebatch jobs logs {name}`, or give another name.")
        submission_id = f"{name}.{len(attempts) + 1}" if attempts else name
        self.send(submission, submission_id, ["-m", "largebatch.jobs.launch.supervise", *submission.arguments])
        return self.find(submission_id)

    def send(self, submission: Submission, submission_id: str, arguments: list[str]) -> None:
        """Hand Ray one attempt. Args: arguments: what follows `python`. Raises: FaultError."""
        with _shipped(submission) as folder:
            spec = submission.spec.model_dump_json()
            variables = {SPEC: spec, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **submission.environment}
            entrypoint = shlex.join(["exec", submission.python, *arguments])
            environment = {"env_vars": variables, **({} if folder is None else {"working_dir": str(folder)})}

            def submit() -> None:
                self._client.submit_job(entrypoint=entrypoint, submission_id=submission_id, metadata={NAME: submission.name}, runtime_env=environment)

            try:
                try:
                    submit()
                except RuntimeError:
                    # Two submits at a time can meet in one temporary folder of the head's; whatever it was, it may have taken the job all the same.
                    if all(job.submission_id != submission_id for job in self._client.list_jobs()):
                        submit()
            except (RuntimeError, ValueError) as error:
                raise FaultError("submit", f"Ray at {self.address} refuses the job: {error}.") from error

    def logs(self, name: str) -> str:
        """Everything the newest attempt has printed so far."""
        return str(self._client.get_job_logs(self.find(name).submission_id))

    def follow(self, name: str) -> Iterator[str]:
        """What the newest attempt prints, as it does, until it is over."""
        lines = self._client.tail_job_logs(self.find(name).submission_id)

        async def following() -> str | None:
            return await anext(lines, None)

        with asyncio.Runner() as runner:
            while (text := runner.run(following())) is not None:
                yield text

    def stop(self, name: str) -> Job:
        """Ask a job to finish its step, save and end."""
        job = self.find(name)
        if not job.is_over:
            self._client.stop_job(job.submission_id)
        return self.find(job.submission_id)

    def delete(self, name: str) -> int:
        """Make Ray forget every attempt at a name; the run's folder stays. Raises: InputError while it runs."""
        name = self.find(name).name
        attempts = [job for job in self.all() if job.name == name]
        if not attempts[0].is_over:
            raise InputError("NAME", f"job {name} is {attempts[0].status.lower()}.", f"Stop it first: largebatch jobs stop {name}")
        for job in attempts:
            self._client.delete_job(job.submission_id)
        return len(attempts)


def _refuse_silence(address: str, answer_s: float) -> None:
    """Raise InputError if what listens at an address does not answer: Ray's client would wait for ever. Whatever else is wrong, that one says."""
    try:
        httpx.get(f"{address.rstrip('/')}/api/version", timeout=httpx.Timeout(answer_s, connect=CONNECT_S))
    except httpx.TimeoutException:
        raise InputError("--address", f"nothing at {address} has answered within {answer_s:g} s as a Ray dashboard does.", WHICH_PORT) from None
    except httpx.InvalidURL as error:
        raise SpecError("--address", f"{address!r} is not the address of a Ray dashboard ({error}).", EXAMPLE) from error
    except httpx.HTTPError:
        pass


@contextmanager
def _shipped(submission: Submission) -> Iterator[Path | None]:
    """A folder with this project's packages, and with the bundle, or the current folder's code if the spec calls it."""
    if not submission.ships_code:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="largebatch-code-") as name:
        folder = Path(name)
        shutil.copytree(PACKAGES / "largebatch", folder / "largebatch", ignore=shutil.ignore_patterns("__pycache__"))
        if submission.bundle is not None:
            unpack(submission.bundle, folder)
        elif references := entry_points(submission.spec):
            _send_own_code(Path.cwd(), references.values(), folder)
        yield folder


def _send_own_code(source: Path, references: Iterable[str], folder: Path) -> None:
    """Copy a person's own code, and say what stays behind."""
    own = own_code(source, set(map(module_of, references)))
    for path in own.files:
        if not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / path, folder / path)
    if own.left_out:
        print(own.sentence(), file=sys.stderr)


def list_alive_nodes(address: str) -> list[Any]:
    """The machines that are alive: the head at least. Raises: ConnectionError."""
    try:
        nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")], limit=10_000, raise_on_missing_output=False)
    except Exception as error:  # Ray's own, which are no kind of ConnectionError
        raise ConnectionError(first_line(error)) from error
    if not nodes:
        raise ConnectionError("Ray names no machine")
    return list(nodes)


def first_line(error: Exception) -> str:
    """What an error of Ray's says first."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__

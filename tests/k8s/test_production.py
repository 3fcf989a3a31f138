"""The production layout, end to end: the local overlay's containers run here, a run goes through, and a replica dies."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from build import built, documents
from production_layout import PATIENCE_S, ROOT, Layout, Process, containers, laid_out
from servers import NO_TLS, Postgres, postgres
from small_runs import wait_for

from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import EndRecord, StepRecord

pytestmark = pytest.mark.filterwarnings("ignore")  # of MLflow's client and boto3

SERVE, MIGRATE, ADMIN, MLFLOW = "largebatch/serve", "largebatch/migrate", "largebatch-admin/shell", "mlflow/mlflow"
HEAD, WORKER, BUCKET = "largebatch/ray-head", "largebatch/ray-worker", "s3-bucket/bucket"
BACKUP, POSTGRES_SHELL = "largebatch-backup/dump", "largebatch-admin/postgres"
RUN_HERE = {SERVE, MIGRATE, ADMIN, MLFLOW, HEAD, WORKER, BUCKET, BACKUP, POSTGRES_SHELL}
STAND_INS = {"postgres/postgres": "the tests' PostgreSQL", "s3/minio": "moto's server", "redis/redis": "nothing: test_head_restart.py has a real one"}
RUN: dict[str, Any] = {
    "recipe": "digits-lamb",
    "set": {
        "stop.epochs": 100_000, "stop.max_seconds": 4.0, "learning_rate.decay": "constant", "evaluation.every_epochs": 200.0,
        "checkpoint.every_seconds": 1.0, "tracking.log_checkpoint": True, "tracking.step_every_seconds": 0.5,
    },
}  # fmt: skip


class Story(NamedTuple):
    """What happened, and what is still up."""

    layout: Layout
    survivor: Process
    head: Process
    mlflow: Process
    token: str
    database_url: str
    job: dict[str, Any]
    step_seen: int
    """While the survivor followed it."""
    run_dir: Path

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def told(self) -> str:
        """What the replicas decided and what the run printed, for whoever reads a failure."""
        decided = [line for log in (self.layout.log("one"), self.layout.log("two")) for line in log.splitlines() if '"event": "request"' not in line]
        printed = httpx.get(f"{self.survivor.url(8080)}/v1/runs/{self.job['id']}/logs", headers=self.bearer(), timeout=30).text
        return "\n".join([*decided[-40:], printed[-4000:]])


def test_every_container_is_run_or_has_a_stand_in() -> None:
    assert containers(overlay()).keys() == RUN_HERE | STAND_INS.keys()


def overlay() -> list[dict[str, Any]]:
    """And the administrator's shell beside it."""
    return [*built(ROOT / "k8s/overlays/local"), *documents(ROOT / "k8s/examples/admin/pod.yaml")]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """A run by way of one replica, which is killed while it runs; the other follows it to its end.

    Nine containers' programs take three minutes of a processor: what looks at it is slow.
    """
    with postgres() as database, laid_out(overlay()) as layout, s3(layout):
        make_databases(layout, database)
        mlflow, head, bucket = layout.start(MLFLOW, "mlflow"), layout.start(HEAD, "head"), layout.start(BUCKET, "s3-bucket")
        assert "was empty" in layout.run(MIGRATE, "one")
        again = layout.start(MIGRATE, "two")
        token = layout.run(ADMIN, "admin", ["largebatch", "token", "create", "alice", "--scope", "submit"]).splitlines()[-1]
        one = layout.start(SERVE, "one")
        assert "was empty" not in again.result(), "each replica's pod asks for it"
        bucket.result()
        head.wait_ready()
        one.wait_ready()
        bearer = {"Authorization": f"Bearer {token}"}
        job_id = submit(one, bearer, RUN)
        worker = layout.start(WORKER, "worker")  # nothing runs before it is there
        two = layout.start(SERVE, "two").wait_ready()
        mlflow.wait_ready()
        worker.wait_ready()
        wait_for(lambda: asked(two, job_id, bearer)["state"] == "running" or is_over(asked(two, job_id, bearer)), PATIENCE_S)
        assert job_id in one.log, "the first replica starts jobs"
        one.kill()
        wait_for(lambda: is_over(asked(two, job_id, bearer)) or asked(two, job_id, bearer)["progress"].get("step", 0) > 0, PATIENCE_S)
        step_seen = asked(two, job_id, bearer)["progress"].get("step", 0)
        wait_for(lambda: is_over(asked(two, job_id, bearer)), PATIENCE_S)
        run_dir = layout.path("two", SERVE, f"/shared/runs/{job_id}")
        url = layout.environment("one", MIGRATE)["LARGEBATCH_DATABASE_URL"]
        yield Story(layout, two, head, mlflow, token, url, asked(two, job_id, bearer), step_seen, run_dir)


@contextmanager
def s3(layout: Layout) -> Iterator[None]:
    """A server that speaks S3, where the overlay's is."""
    port = str(layout.port("s3", 9000))
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}"), 60)
        yield
    finally:
        server.kill()
        server.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, verify=NO_TLS).status_code < 500
    except httpx.TransportError:
        return False


def make_databases(layout: Layout, server: Postgres) -> None:
    """As PostgreSQL's image does: a user and a database by the environment, then what init.sql says."""
    import psycopg

    given = layout.containers["postgres/postgres"].environment
    user, name, password = given["POSTGRES_USER"], given["POSTGRES_DB"], given["POSTGRES_PASSWORD"]
    superuser = server.new_database()
    port = int(re.findall(r":(\d+)/", superuser)[0])
    layout.place("postgres", 5432, port)
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'")
        connection.execute(f"CREATE DATABASE {name} OWNER {user}")
        shown = connection.execute("SHOW hba_file").fetchone()
        Path(shown[0]).write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        connection.execute("SELECT pg_reload_conf()")
    init = layout.path("postgres", "postgres/postgres", "/docker-entrypoint-initdb.d")
    with psycopg.connect(f"postgresql://{user}:{password}@127.0.0.1:{port}/{name}", autocommit=True) as connection:
        for file in sorted(init.glob("*.sql")):
            connection.execute(file.read_text())


def submit(replica: Process, bearer: dict[str, str], run: dict[str, Any]) -> str:
    answer = httpx.post(f"{replica.url(8080)}/v1/runs", json=run, headers=bearer, timeout=30, verify=NO_TLS)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def asked(replica: Process, job_id: str, bearer: dict[str, str]) -> dict[str, Any]:
    """What a replica says of a job."""
    answer = httpx.get(f"{replica.url(8080)}/v1/runs/{job_id}", headers=bearer, timeout=30, verify=NO_TLS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def is_over(job: dict[str, Any]) -> bool:
    return job["state"] in {"succeeded", "failed", "cancelled"}


@pytest.mark.slow
def test_a_run_outlives_the_replica_that_took_it(story: Story) -> None:
    job = story.job
    assert (job["state"], job["outcome"], job["attempt"], job["failures"]) == ("succeeded", "completed", 1, 0), story.told()
    assert 0 < story.step_seen <= job["summary"]["steps"]
    assert f'"job": "{job["id"]}", "before": "running", "now": "succeeded"' in story.survivor.log
    assert story.layout.ran == RUN_HERE - {BACKUP, POSTGRES_SHELL}


@pytest.mark.slow
def test_a_backup_is_whole_and_is_restored(story: Story) -> None:
    """By the commands of docs/kubernetes.md, here into databases of other names."""
    import psycopg

    layout = story.layout
    layout.run(BACKUP, "backup")
    folder = layout.path("backup", BACKUP, "/backups")
    dumps = {path.name.partition("-")[0]: path for path in folder.iterdir()}
    assert dumps.keys() == {"service", "mlflow"}
    assert all(path.suffix == ".dump" for path in folder.iterdir())
    rows = {"service": "SELECT id FROM jobs", "mlflow": "SELECT value FROM tags WHERE key = 'largebatch.run_id'"}
    for name, dump in dumps.items():
        with psycopg.connect(story.database_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE restored_{name}")
        url = re.sub(r"[^/]+$", f"restored_{name}", story.database_url)
        layout.run(POSTGRES_SHELL, "backup", ["pg_restore", "--clean", "--if-exists", "--exit-on-error", f"--dbname={url}", str(dump)])
        with psycopg.connect(url) as connection:
            assert connection.execute(rows[name]).fetchall() == [(story.job["id"],)]


@pytest.mark.slow
def test_there_is_one_run_and_each_step_of_it_once(story: Story) -> None:
    import psycopg

    with psycopg.connect(story.database_url) as connection:
        assert connection.execute("SELECT id, owner FROM jobs").fetchall() == [(story.job["id"], "alice")]
    records = read_records(story.run_dir)
    steps = [record.step for record in records if isinstance(record, StepRecord)]
    assert steps == list(range(1, story.job["summary"]["steps"] + 1))
    assert isinstance(records[-1], EndRecord)


@pytest.mark.slow
def test_its_result_is_in_mlflow(story: Story) -> None:
    (run,) = mlflow_runs(story)
    tags, metrics, params = ({each["key"]: each["value"] for each in run["data"][kind]} for kind in ("tags", "metrics", "params"))
    summary = story.job["summary"]
    assert (run["info"]["status"], tags["largebatch.run_id"], tags["largebatch.outcome"]) == ("FINISHED", story.job["id"], "completed")
    assert metrics["test_accuracy"] == pytest.approx(summary["score"])
    assert metrics["final_best_test_accuracy"] > 0.9
    assert params["optimizer.name"] == "lamb"


def mlflow_runs(story: Story) -> list[Any]:
    """All that MLflow has of our experiment, by its REST interface: its client takes seconds to import."""
    url = f"{story.mlflow.url(5000)}/api/2.0/mlflow"
    experiment = httpx.get(f"{url}/experiments/get-by-name", params={"experiment_name": "largebatch"}, timeout=30, verify=NO_TLS).json()["experiment"]
    answer = httpx.post(f"{url}/runs/search", json={"experiment_ids": [experiment["experiment_id"]]}, timeout=30, verify=NO_TLS)
    return list(answer.json()["runs"])


@pytest.mark.slow
def test_its_checkpoint_is_in_s3(story: Story) -> None:
    import boto3

    (run,) = mlflow_runs(story)
    given = story.layout.environment("s3-bucket", BUCKET)
    store = boto3.client(
        "s3", endpoint_url=given["AWS_ENDPOINT_URL"], region_name=given["AWS_DEFAULT_REGION"],
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"], aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    bucket, _, prefix = given["ARTIFACTS_DESTINATION"].removeprefix("s3://").partition("/")
    keys = [found["Key"] for found in store.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]]
    (key,) = [key for key in keys if key.endswith(".pt")]
    assert f"/{run['info']['run_id']}/artifacts/checkpoints/step-" in key
    here = story.run_dir / "checkpoints" / key.rpartition("/")[2]
    assert store.get_object(Bucket=bucket, Key=key)["Body"].read() == here.read_bytes()
    assert int(re.findall(r"step-(\d+)", key)[0]) == story.job["summary"]["steps"]
    assert any(key.endswith("/summary.json") for key in keys)


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer demo-token-of-somebody-else-0123456789"}], ids=["none", "wrong"])
def test_nobody_comes_in_without_the_right_token(story: Story, given: dict[str, str]) -> None:
    assert httpx.get(f"{story.survivor.url(8080)}/v1/runs", headers=given, timeout=30).status_code == 401
    assert httpx.get(f"{story.head.url(8265)}/api/jobs/", headers=given, timeout=30).status_code in {401, 403}


@pytest.mark.slow
def test_ray_lets_in_its_own_token_alone(story: Story) -> None:
    right = {"Authorization": f"Bearer {story.layout.containers[HEAD].environment['RAY_AUTH_TOKEN']}"}
    (job,) = httpx.get(f"{story.head.url(8265)}/api/jobs/", headers=right, timeout=30).json()
    assert (job["submission_id"], job["status"]) == (f"{story.job['id']}.1", "SUCCEEDED")
    # The worker has joined with the right one; with another nobody does.
    given = {**story.layout.environment("head", HEAD), "RAY_AUTH_TOKEN": "somebody-elses-0123456789abcdef"}
    joining = [Path(sys.executable).parent / "ray", "health-check", "--address", story.head.url(6379).removeprefix("http://")]
    done = subprocess.run(joining, capture_output=True, text=True, timeout=120, env=given, check=False)
    assert done.returncode == 1
    assert "AuthenticationError" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("token", "code", "words"), [(None, 0, '"status": "SUCCEEDED"'), ("another-token-of-more-than-32-letters", 2, "token")])
def test_the_jobs_command_brings_the_token_that_it_is_given(story: Story, token: str | None, code: int, words: str) -> None:
    right = story.layout.containers[HEAD].environment["RAY_AUTH_TOKEN"]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-m", "largebatch", "jobs", "list", "--json", "--address", story.head.url(8265)],
        env={**bare, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or right}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, words in done.stdout + done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr

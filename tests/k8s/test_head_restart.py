"""Ray's head dies with its machine and comes back empty but for what Redis kept: its workers stay, and its job is taken up again."""

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from production_layout import PATIENCE_S, Layout, laid_out, pids, with_redis
from servers import postgres
from small_runs import wait_for
from test_production import ADMIN, HEAD, MIGRATE, RUN, SERVE, WORKER, answers, asked, is_over, make_databases, overlay, submit

from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import StepRecord

REDIS = "redis/redis"
UNTRACKED: dict[str, Any] = {"recipe": RUN["recipe"], "set": {**RUN["set"], "tracking.enabled": False, "stop.max_seconds": 15.0}}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="this test needs Redis' server: apt-get install redis-server")
def test_a_job_goes_on_after_rays_head_has_died() -> None:
    with postgres() as database, laid_out(overlay()) as layout:
        make_databases(layout, database)
        layout.start(REDIS, "redis", [*layout.containers[REDIS].command, "--port", "6379"])
        layout.containers[HEAD] = with_redis(overlay(), layout.containers[HEAD])
        head = layout.start(HEAD, "head")
        layout.run(MIGRATE, "one")
        token = layout.run(ADMIN, "admin", ["largebatch", "token", "create", "alice", "--scope", "submit"]).splitlines()[-1]
        head.wait_ready()
        worker, service = layout.start(WORKER, "worker").wait_ready(), layout.start(SERVE, "one")
        wait_for(lambda: answers(f"{service.url(8080)}/healthz"), PATIENCE_S)
        bearer = {"Authorization": f"Bearer {token}"}
        job_id = submit(service, bearer, UNTRACKED)
        run_dir = layout.path("one", SERVE, f"/shared/runs/{job_id}")
        wait_for(lambda: bool(list_checkpoints(run_dir / "checkpoints")), PATIENCE_S)
        kill_machine(layout, "head", HEAD, head.popen.pid)
        head.kill()
        layout.start(HEAD, "head").wait_ready()
        wait_for(lambda: is_over(asked(service, job_id, bearer)), 2 * PATIENCE_S)
        job = asked(service, job_id, bearer)
        assert job["state"] == "succeeded", service.log[-4000:]
        assert job["attempt"] >= 2, "its driver is gone, also where its worker has trained on to the end meanwhile"
        steps = {record.step for record in read_records(run_dir) if isinstance(record, StepRecord)}
        assert steps == set(range(1, job["summary"]["steps"] + 1))
        assert worker.popen.poll() is None, "the workers wait for their head"


def kill_machine(layout: Layout, instance: str, name: str, session: int) -> None:
    """All processes of a pod at once, and its disk."""
    folder = Path(layout.path(instance, name, "/tmp")).parent
    for pid in pids(folder, {session}):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder)

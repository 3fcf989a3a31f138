"""What /metrics says of checkpoints, and what it and /readyz say when a part is away or full; the rest is asked of a real service in test_api."""

import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from largebatch.service.api.dependencies import Dependencies, make_dependencies
from largebatch.service.api.routes.operations import LEAST_FREE_BYTES, STALE_S, metrics, readiness
from largebatch.service.backends.base import BackendDown
from largebatch.service.backends.local import LocalBackend
from largebatch.service.db.tokens import ANYONE_HERE
from largebatch.service.job import Capacity, Job, Kind, State
from largebatch.service.present.elsewhere import Elsewhere, backend_server
from largebatch.service.settings import Settings


@pytest.fixture
def deps(tmp_path: Path) -> Dependencies:
    return make_dependencies(Settings(runs_dir=tmp_path, cpus=3.0))


def value(deps: Dependencies, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", bytes(metrics(deps, ANYONE_HERE).body).decode(), re.MULTILINE)
    assert found, name
    return float(found[1])


def accept_running(deps: Dependencies, job_id: str, kind: Kind, began_s: float) -> Path:
    job = Job(
        id=job_id, kind=kind, owner="ann", name="run", recipe=None, cpus=1.0, gpus=0, created_at_s=began_s, started_at_s=began_s, state=State.RUNNING
    )
    deps.store.accept(job, None, "", 10)
    (deps.settings.runs_dir / job_id / "checkpoints").mkdir(parents=True)
    return deps.settings.runs_dir / job_id / "checkpoints"


def save(folder: Path, step: int, at_s: float) -> None:
    file = folder / f"step-{step:08}.{'0' * 32}.pt"
    file.touch()
    os.utime(file, (at_s, at_s))


def test_the_age_of_checkpoints_is_that_of_the_run_that_is_worst_off(deps: Dependencies) -> None:
    name, now = "largebatch_checkpoint_age_seconds", time.time()
    assert value(deps, name) == 0
    accept_running(deps, "sweep", Kind.SWEEP, now - 9000)  # saves nothing itself
    assert value(deps, name) == 0
    first = accept_running(deps, "first", Kind.RUN, now - 1000)
    assert value(deps, name) == pytest.approx(1000, abs=30), "before the first checkpoint: since it began"
    save(first, 1, now - 600)
    save(first, 2, now - 100)
    assert value(deps, name) == pytest.approx(100, abs=30)
    save(accept_running(deps, "second", Kind.RUN, now - 800), 7, now - 300)
    assert value(deps, name) == pytest.approx(300, abs=30)


class Away(LocalBackend):
    """Does not answer."""

    def capacity(self) -> Capacity:
        raise BackendDown("ray", "Ray does not answer.")


def test_metrics_are_there_while_the_backend_is_away(deps: Dependencies) -> None:
    assert (value(deps, "largebatch_backend_up"), value(deps, "largebatch_cpus")) == (1, 3)
    accept_running(deps, "run", Kind.RUN, time.time())
    away = replace(deps, backend=Away(deps.settings.state_dir, deps.settings.runs_dir, deps.settings.data_dir, Capacity(1, 0)))
    assert value(away, "largebatch_backend_up") == 0
    assert value(away, 'largebatch_jobs{state="running"}') == 1


PARTS = {"backend", "reconciler", "watcher", "tracking", "storage", "disk"}


def well(deps: Dependencies) -> dict[str, float]:
    """What /metrics says of each part."""
    return {part: value(deps, f'largebatch_part_up{{part="{part}"}}') for part in PARTS}


def checks(deps: Dependencies) -> tuple[int, str, dict[str, str]]:
    """What /readyz says."""
    status, told = readiness(deps)
    return status, told["status"], told["checks"]


def test_each_part_that_is_not_well_is_named_by_readyz_and_by_its_metric(deps: Dependencies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=LEAST_FREE_BYTES))
    assert checks(deps) == (200, "ready", dict.fromkeys({"database", *PARTS}, "ok"))
    assert well(deps) == dict.fromkeys(PARTS, 1.0)
    away = Away(deps.settings.state_dir, deps.settings.runs_dir, deps.settings.data_dir, Capacity(1, 0))
    ailing = replace(deps, backend=away, backend_server=backend_server(away), tracking=Elsewhere(lambda: "does not answer (ConnectError)"))
    ailing.reconciler.last_pass_s = time.monotonic() - 2 * STALE_S
    status, word, told = checks(ailing)
    assert (status, word) == (200, "degraded"), "lists, pages and submits work"
    assert {part for part, text in told.items() if text != "ok"} == {"backend", "reconciler", "tracking"}
    assert (told["backend"], told["tracking"]) == ("Ray does not answer.", "does not answer (ConnectError)")
    assert told["reconciler"].startswith("no pass for 60 s")
    assert well(ailing) == {"backend": 0, "reconciler": 0, "watcher": 1, "tracking": 0, "storage": 1, "disk": 1}


def test_a_disk_that_is_all_but_full_is_called_so(deps: Dependencies, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Path]()

    def usage(folder: Path) -> SimpleNamespace:
        asked.append(folder)
        return SimpleNamespace(free=LEAST_FREE_BYTES - 1)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    status, word, told = checks(deps)
    assert (status, word, told["disk"]) == (200, "degraded", "255 MiB are free where the runs lie")
    assert well(deps)["disk"] == 0
    assert set(asked) == {deps.settings.runs_dir}

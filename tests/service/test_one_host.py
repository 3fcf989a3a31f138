"""Local jobs on a database that two machines share: one of them runs them, the other says so and does not begin."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from largebatch.jobs.errors import InputError
from largebatch.service.api.dependencies import make_dependencies
from largebatch.service.db.engine import connect, upgrade
from largebatch.service.db.store import Store
from largebatch.service.job import Job, Kind
from largebatch.service.queue import one_host
from largebatch.service.queue.one_host import claim
from largebatch.service.queue.reconcile import Reconciler
from largebatch.service.settings import Settings
from largebatch.service.states import State


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    engine = connect(database_url)
    upgrade(engine)
    yield Store(engine)
    engine.dispose()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_host, "LEASE_S", 1.0)


def at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on that machine from here on."""
    monkeypatch.setattr(one_host.socket, "gethostname", lambda: name)


def folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name


def running(store: Store) -> None:
    job = Job(id="a", kind=Kind.RUN, owner="ann", name="a", recipe=None, cpus=1.0, gpus=0, created_at_s=0.0, state=State.RUNNING, attempt=1)
    store.accept(job, None, "", 10)


def test_a_second_machine_is_refused_while_the_first_one_works(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("one", monkeypatch)
    claim(store, folder(tmp_path, "one"), False)
    claim(store, folder(tmp_path, "one"), False)  # another replica there
    monkeypatch.setattr(one_host, "PATIENCE_S", 0.0)
    at("two", monkeypatch)
    with pytest.raises(InputError, match="a service on one runs this database's jobs"):
        claim(store, folder(tmp_path, "two"), False)


def test_a_service_that_moved_waits_for_the_lease_and_goes_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("pod-1", monkeypatch)
    claim(store, folder(tmp_path, "shared"), False)
    running(store)
    at("pod-2", monkeypatch)
    began_s = time.monotonic()
    claim(store, folder(tmp_path, "shared"), False)  # the same folder: it sees the attempts
    assert 0.4 < time.monotonic() - began_s < 3.0


def test_jobs_that_it_cannot_see_keep_a_service_from_beginning(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("one", monkeypatch)
    claim(store, folder(tmp_path, "one"), False)
    running(store)
    at("two", monkeypatch)
    with pytest.raises(InputError, match="begun on one may still run there"):
        claim(store, folder(tmp_path, "two"), False)
    claim(store, folder(tmp_path, "two"), True)
    claim(store, folder(tmp_path, "two"), False)  # from now on it is its own
    store.move(store.active()[0], State.SUCCEEDED)
    at("one", monkeypatch)
    claim(store, folder(tmp_path, "one"), False)  # nothing runs: whoever comes may


def test_a_machine_that_lost_its_lease_makes_no_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deps = make_dependencies(Settings(runs_dir=tmp_path))
    at("two", monkeypatch)
    monkeypatch.setattr(one_host, "LEASE_S", 100.0)
    time.sleep(1.1)
    assert Reconciler(deps.store, deps.backend, deps.settings)._holds_lease()
    at("one", monkeypatch)
    assert not deps.reconciler._holds_lease()
    deps.store.engine.dispose()

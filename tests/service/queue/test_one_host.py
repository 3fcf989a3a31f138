"""Local jobs on a database that two machines share: one of them runs them, the other says so and does not begin."""

import time
from pathlib import Path

import pytest

from largebatch.jobs.errors import InputError
from largebatch.service.backends.local import LocalBackend
from largebatch.service.db.store import Store
from largebatch.service.job import ACTIVE, Capacity, Job, Kind, State
from largebatch.service.queue.one_host import OneHost
from largebatch.service.queue.reconcile import Reconciler
from largebatch.service.settings import Settings


class Machine:
    """One of two machines with services on one database, whose leases are short unless a test says how long."""

    def __init__(self, store: Store, state_dir: Path, name: str, lease_s: float = 1.0) -> None:
        state_dir.mkdir(exist_ok=True)
        self.one_host = OneHost(store, state_dir, name, lease_s=lease_s)

    def claim(self, takes_over: bool = False, patience_s: float = 3.0) -> None:
        self.one_host.claim(takes_over, patience_s)


def running(store: Store) -> None:
    job = Job(id="a", kind=Kind.RUN, owner="ann", name="a", recipe=None, cpus=1.0, gpus=0, created_at_s=0.0, state=State.RUNNING, attempt=1)
    store.accept(job, None, "", 10)


def test_a_second_machine_is_refused_while_the_first_one_works(store: Store, tmp_path: Path) -> None:
    Machine(store, tmp_path / "one", "one", lease_s=60.0).claim()
    Machine(store, tmp_path / "one", "one", lease_s=60.0).claim()  # another replica there
    with pytest.raises(InputError, match="a service on one runs this database's jobs"):
        Machine(store, tmp_path / "two", "two", lease_s=60.0).claim(patience_s=0.0)


def test_a_service_that_moved_waits_for_the_lease_and_goes_on(store: Store, tmp_path: Path) -> None:
    Machine(store, tmp_path / "shared", "pod-1").claim()
    running(store)
    began_s = time.monotonic()
    Machine(store, tmp_path / "shared", "pod-2").claim()  # the same folder: it sees the attempts
    assert 0.4 < time.monotonic() - began_s < 3.0


def test_jobs_that_it_cannot_see_keep_a_service_from_beginning(store: Store, tmp_path: Path) -> None:
    one, two = (Machine(store, tmp_path / name, name) for name in ("one", "two"))
    one.claim()
    running(store)
    with pytest.raises(InputError, match="begun on one may still run there"):
        two.claim()
    two.claim(takes_over=True)
    two.claim()  # from now on it is its own
    store.move(store.in_states(ACTIVE)[0], State.SUCCEEDED)
    one.claim()  # nothing runs: whoever comes may


def test_a_machine_that_lost_its_lease_makes_no_passes(store: Store, tmp_path: Path) -> None:
    one, two = (Machine(store, tmp_path / name, name) for name in ("one", "two"))
    one.claim()
    backend = LocalBackend(tmp_path / "one", tmp_path, tmp_path, Capacity(1.0, 0))
    reconcilers = [Reconciler(store, backend, Settings(runs_dir=tmp_path), one_host=machine.one_host) for machine in (two, one)]
    time.sleep(1.1)
    assert [reconciler.holds_lease() for reconciler in reconcilers] == [True, False]

"""Bundles in either database: each zip once, its owners, and that no job loses its code."""

import pytest
from zips import zipped

from largebatch.jobs.errors import InputError
from largebatch.service.bundle import digest_of_bundle
from largebatch.service.db.bundles import Bundles
from largebatch.service.db.store import ConflictError, Store
from largebatch.service.job import Job, Kind, State

PACKED = zipped(("my_code.py", b"x = 1\n"))
DIGEST = digest_of_bundle(PACKED)


def job(job_id: str, owner: str, state: State = State.QUEUED) -> Job:
    return Job(id=job_id, kind=Kind.RUN, owner=owner, name="a", recipe=None, cpus=1.0, gpus=0, created_at_s=1.0, state=state, code=DIGEST)


def test_sent_twice_it_is_kept_once_and_each_sender_owns_it(store: Store) -> None:
    bundles = Bundles(store.engine, 1 << 20)
    first = bundles.keep(PACKED, "ann")
    assert bundles.keep(PACKED, "ann") == first
    assert (first.sha256, first.owners, [file.path for file in first.files], first.unpacked_bytes) == (DIGEST, ["ann"], ["my_code.py"], 6)
    assert bundles.find(DIGEST, "bob") is None
    assert bundles.keep(PACKED, "bob").owners == ["bob"], "who else has sent it is not told"
    everybody = bundles.find(DIGEST, None)
    assert everybody is not None
    assert everybody.owners == ["ann", "bob"]
    assert [bundle.sha256 for bundle in bundles.all(None)] == [DIGEST]
    assert bundles.content(DIGEST) == PACKED
    bundles.remove(DIGEST, "ann")
    assert bundles.all("ann") == []
    assert bundles.content(DIGEST) == PACKED, "it is still bob's"
    bundles.remove(DIGEST, "bob")
    with pytest.raises(InputError, match="there is no bundle"):
        bundles.content(DIGEST)


def test_a_job_keeps_its_code_until_it_is_deleted(store: Store) -> None:
    bundles = Bundles(store.engine, 1 << 20)
    with pytest.raises(ConflictError, match="was deleted meanwhile"):
        store.accept(job("early", "ann"), None, "", 10)
    for owner in ("ann", "bob"):
        bundles.keep(PACKED, owner)
    over = job("a-1", "ann", State.SUCCEEDED)
    store.accept(over, None, "", 10)
    found = store.find("a-1")
    assert found is not None
    assert found.code == DIGEST
    for owner in ("ann", None):
        with pytest.raises(ConflictError, match="job a-1 uses it"):
            bundles.remove(DIGEST, owner)
    listed = bundles.all(None)[0]
    assert [(used.id, used.kind, used.owner) for used in listed.used_by] == [("a-1", Kind.RUN, "ann")]
    assert bundles.all("bob")[0].used_by == []
    bundles.remove(DIGEST, "bob")
    with pytest.raises(ConflictError, match="was deleted meanwhile"):
        store.accept(job("b-1", "bob"), None, "", 10)
    store.delete(over)
    bundles.remove(DIGEST, "ann")
    assert bundles.all(None) == []


def test_one_owner_keeps_no_more_than_their_share(sqlite_store: Store) -> None:
    other = zipped(("other.py", b"y = 2\n"))
    bundles = Bundles(sqlite_store.engine, len(PACKED) + 10)
    bundles.keep(PACKED, "ann")
    bundles.keep(PACKED, "ann")
    with pytest.raises(ConflictError, match="1 bundles of ann are kept"):
        bundles.keep(other, "ann")
    bundles.keep(other, "bob")
    bundles.remove(DIGEST, "ann")
    bundles.keep(other, "ann")

"""Bundles of people's own code in the database, which all replicas share: each zip once, by its SHA-256, with who sent it and which jobs use it."""

import time
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from largebatch.jobs.errors import InputError
from largebatch.service.bundle import FIELD, BundleFile, digest_of_bundle, files_in_bundle
from largebatch.service.db.engine import DatabaseError, reading, writing
from largebatch.service.db.store import ConflictError
from largebatch.service.db.tables import bundle_owners, bundles, jobs
from largebatch.service.job import Described, Kind

FILES_LISTED = 20
"""Names of files that a list shows of each bundle."""
MOST_LISTED = 200
JOBS_LISTED = 20
TRIES = 3


class UsedBy(BaseModel):
    """A job that runs a bundle's code."""

    id: str
    kind: Kind
    owner: str


class CodeBundle(Described):
    """A person's own code, as it was sent."""

    sha256: str
    """What it is called: the SHA-256 of its zip."""
    owners: list[str]
    """Who sent it; an administrator sees all of them, others themselves."""
    created_at_s: float
    """When it was sent first."""
    packed_bytes: int
    unpacked_bytes: int
    num_files: int
    files: list[BundleFile]
    """In lists the first twenty."""
    used_by: list[UsedBy]
    """Jobs that use it, the newest twenty of those that the asker owns; an administrator's are all owners'. While there are any it stays."""


class Bundles:
    """The bundles in one database. Raises: DatabaseError from every method while it does not answer.

    Args: most_bytes_of_one: how many bytes of zips one owner may keep.
    """

    def __init__(self, engine: Engine, most_bytes_of_one: int) -> None:
        self._engine, self._most_bytes_of_one = engine, most_bytes_of_one

    def keep(self, packed: bytes, owner: str) -> CodeBundle:
        """Check a zip and keep it, once however often it is sent. Raises: InputError; ConflictError where its owner keeps too much already."""
        digest, files = digest_of_bundle(packed), files_in_bundle(packed)
        row = {"sha256": digest, "packed_bytes": len(packed), "files": [(file.path, file.bytes) for file in files], "content": packed}
        for _ in range(TRIES):  # another replica may keep or remove the same at this moment: then the next look finds what it did
            try:
                with writing(self._engine) as connection:
                    self._keep(connection, row, owner)
                break
            except IntegrityError:
                continue
        bundle = self.find(digest, owner)
        if bundle is None:
            raise DatabaseError("database", "has the bundle not kept.", "Try again in a moment.")
        return bundle

    def _keep(self, connection: Connection, row: dict[str, Any], owner: str) -> None:
        mine = sa.select(bundles.c.packed_bytes, bundles.c.sha256).join(bundle_owners).where(bundle_owners.c.owner == owner)
        kept = {sha256: num_bytes for num_bytes, sha256 in connection.execute(mine)}
        if row["sha256"] in kept:
            return
        in_all = sum(kept.values()) + row["packed_bytes"]
        if in_all > self._most_bytes_of_one:
            problem = f"{len(kept)} bundles of {owner} are kept, and with this one they are {in_all / 2**20:.1f} MiB."
            hint = f"One owner's may be {self._most_bytes_of_one >> 20} MiB together. Delete some, once no job uses them: DELETE /v1/code/SHA256."
            raise ConflictError(FIELD, problem, hint)
        now = time.time()
        if connection.execute(sa.select(bundles.c.sha256).where(bundles.c.sha256 == row["sha256"])).first() is None:
            connection.execute(bundles.insert().values(**row, created_at_s=now))
        connection.execute(bundle_owners.insert().values(sha256=row["sha256"], owner=owner, created_at_s=now))

    def all(self, owner: str | None) -> list[CodeBundle]:
        """The newest bundles, in brief. Args: owner: whose; None: everybody's."""
        with reading(self._engine) as connection:
            rows = connection.execute(_of(owner).order_by(bundles.c.created_at_s.desc()).limit(MOST_LISTED)).all()
            return [_bundle(connection, row, owner, FILES_LISTED) for row in rows]

    def find(self, sha256: str, owner: str | None) -> CodeBundle | None:
        """One bundle with all its files. Args: owner: who must have sent it; None: anybody."""
        with reading(self._engine) as connection:
            row = connection.execute(_of(owner).where(bundles.c.sha256 == sha256)).first()
            return None if row is None else _bundle(connection, row, owner, None)

    def content(self, sha256: str) -> bytes:
        """A bundle's zip. Raises: InputError where there is none."""
        with reading(self._engine) as connection:
            content = connection.execute(sa.select(bundles.c.content).where(bundles.c.sha256 == sha256)).scalar_one_or_none()
        if content is None:
            raise InputError(FIELD, f"there is no bundle {sha256[:12]}.", "Send it again.")
        return bytes(content)

    def remove(self, sha256: str, owner: str | None) -> None:
        """Forget that an owner sent it, and it with the last one. Args: owner: None: all of them. Raises: ConflictError while a job uses it."""
        try:
            with writing(self._engine) as connection:
                theirs = () if owner is None else (jobs.c.owner == owner,)
                using = connection.execute(sa.select(jobs.c.id).where(jobs.c.code == sha256, *theirs).limit(1)).scalar_one_or_none()
                if using is not None:
                    raise ConflictError(FIELD, f"job {using} uses it, and may go on with it.", "Delete the jobs that use it first.")
                of_owner = () if owner is None else (bundle_owners.c.owner == owner,)
                connection.execute(bundle_owners.delete().where(bundle_owners.c.sha256 == sha256, *of_owner))
                left = connection.execute(sa.select(sa.func.count()).where(bundle_owners.c.sha256 == sha256)).scalar_one()
                if not left:
                    connection.execute(bundles.delete().where(bundles.c.sha256 == sha256))
        except IntegrityError as error:  # the database itself keeps what a job or an owner names
            raise ConflictError(FIELD, "somebody began to use it just now.", "Look at it again.") from error


def _of(owner: str | None) -> sa.Select[Any]:
    """Bundles without their zips. Args: owner: who must have sent them."""
    told = sa.select(bundles.c.sha256, bundles.c.packed_bytes, bundles.c.files, bundles.c.created_at_s)
    return told if owner is None else told.join(bundle_owners).where(bundle_owners.c.owner == owner)


def _bundle(connection: Connection, row: Any, owner: str | None, most_files: int | None) -> CodeBundle:
    owners = sa.select(bundle_owners.c.owner).where(bundle_owners.c.sha256 == row.sha256).order_by(bundle_owners.c.created_at_s)
    using = sa.select(jobs.c.id, jobs.c.kind, jobs.c.owner).where(jobs.c.code == row.sha256).order_by(jobs.c.created_at_s.desc()).limit(JOBS_LISTED)
    files = [BundleFile(path=path, bytes=size) for path, size in row.files]
    return CodeBundle(
        sha256=row.sha256, owners=[owner] if owner is not None else list(connection.execute(owners).scalars()), created_at_s=row.created_at_s,
        packed_bytes=row.packed_bytes, unpacked_bytes=sum(file.bytes for file in files), num_files=len(files), files=files[:most_files],
        used_by=[UsedBy.model_validate(job._asdict())
                 for job in connection.execute(using if owner is None else using.where(jobs.c.owner == owner))],
    )  # fmt: skip

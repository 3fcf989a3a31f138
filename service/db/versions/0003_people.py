"""What people say of jobs and tokens, who shares them, and the settings of a run that lists are sorted by."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
AT_ONCE = 500
SETTINGS = ("optimizer", "learning_rate", "momentum", "seed")


def upgrade() -> None:
    """Add them. Jobs that are there stay their owner's alone, and get their settings from their spec; tokens are of the one project."""
    op.add_column("jobs", sa.Column("project", sa.String(100)))
    op.add_column("jobs", sa.Column("tags", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("jobs", sa.Column("notes", sa.Text, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("optimizer", sa.String(200)))
    for name in ("learning_rate", "momentum"):
        op.add_column("jobs", sa.Column(name, sa.Float))
    op.add_column("jobs", sa.Column("seed", sa.BigInteger))
    op.add_column("tokens", sa.Column("name", sa.String(100), nullable=False, server_default=""))
    op.add_column("tokens", sa.Column("project", sa.String(100), nullable=False, server_default="main"))
    connection = op.get_bind()
    jobs = sa.table("jobs", *(sa.column(name) for name in ("id", "kind", *SETTINGS)), sa.column("spec", sa.JSON))
    ids = list(connection.execute(sa.select(jobs.c.id).where(jobs.c.kind == "run")).scalars())
    for first in range(0, len(ids), AT_ONCE):
        rows = connection.execute(sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.id.in_(ids[first : first + AT_ONCE]))).all()
        found = [{"of_id": job_id, **_settings(spec)} for job_id, spec in rows]
        update = sa.update(jobs).where(jobs.c.id == sa.bindparam("of_id"))
        connection.execute(update.values({name: sa.bindparam(name) for name in SETTINGS}), found)


def _settings(spec: Any) -> dict[str, Any]:
    """What a spec of any earlier version says of them."""
    spec = json.loads(spec) if isinstance(spec, str) else spec
    optimizer, rate = spec.get("optimizer") or {}, spec.get("learning_rate") or {}
    named = optimizer.get("entry_point") or optimizer.get("name")
    return dict(zip(SETTINGS, (named and str(named)[:200], rate.get("base"), optimizer.get("momentum"), spec.get("seed")), strict=True))

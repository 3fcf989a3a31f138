"""The tables. Times are Unix seconds, so that both databases compare them alike; JSON is kept as text they can read."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(160), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("owner", String(100), nullable=False),
    Column("name", String(100), nullable=False),
    Column("recipe", String(100)),
    Column("spec", JSON, nullable=False),
    Column("base", JSON(none_as_null=True)),
    Column("global_batch_size", BigInteger),
    Column("device", String(16), nullable=False),
    Column("workers", String(32)),
    Column("cpus", Float, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("memory_gib", Float, nullable=False, server_default="0"),
    Column("priority", Integer, nullable=False),
    Column("priority_among_owners", Integer, nullable=False, server_default="0"),
    Column("project", String(100)),
    Column("tags", JSON, nullable=False, server_default="[]"),
    Column("notes", Text, nullable=False, server_default=""),
    Column("optimizer", String(200)),
    Column("learning_rate", Float),
    Column("momentum", Float),
    Column("seed", BigInteger),
    Column("deadline_at_s", Float),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("attempt", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("is_cancel_asked", Boolean, nullable=False),
    Column("stop_asked_at_s", Float),
    Column("not_before_s", Float),
    Column("created_at_s", Float, nullable=False),
    Column("started_at_s", Float),
    Column("ended_at_s", Float),
    Column("progress", JSON, nullable=False),
    Column("outcome", String(16)),
    Column("summary", JSON(none_as_null=True)),
    Column("code", String(64), ForeignKey("bundles.sha256")),
    Column("added_bytes", BigInteger),
    # Every list is of one kind, newest first, perhaps of one state or owner; the reconciler asks by state.
    Index("jobs_by_time", "created_at_s", "id"),
    Index("jobs_by_kind", "kind", "created_at_s", "id"),
    Index("jobs_by_state", "state", "kind", "created_at_s", "id"),
    Index("jobs_by_owner", "owner", "kind", "created_at_s", "id"),
    Index("jobs_by_code", "code"),
)

bundles = Table(
    "bundles",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("packed_bytes", Integer, nullable=False),
    Column("files", JSON, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""People's own code, each zip once; `files` are pairs of path and bytes. A job that names one keeps it from going."""

bundle_owners = Table(
    "bundle_owners",
    metadata,
    Column("sha256", String(64), ForeignKey("bundles.sha256"), primary_key=True),
    Column("owner", String(100), primary_key=True),
    Column("created_at_s", Float, nullable=False),
)
"""Who sent which bundle: having sent it is the right to use it."""

submissions = Table(
    "submissions",
    metadata,
    Column("owner", String(100), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("job_id", String(160), nullable=False),
    Column("created_at_s", Float, nullable=False),
)
"""Idempotency keys, with what was asked for under them. They outlive their job: a late retry makes no second one."""

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("owner", String(100), nullable=False),
    Column("scopes", String(100), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at_s", Float, nullable=False),
    Column("expires_at_s", Float),
    Column("revoked_at_s", Float),
    Column("name", String(100), nullable=False, server_default=""),
    Column("project", String(100), nullable=False, server_default="main"),
    Column("made_with", String(16)),
)

sessions = Table(
    "sessions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("token_id", String(16), nullable=False),
    Column("expires_at_s", Float, nullable=False),
)
"""Browsers that have shown a token."""

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("expires_at_s", Float, nullable=False),
)
"""Which replica reconciles."""

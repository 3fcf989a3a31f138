"""Jobs, idempotency keys, tokens, sessions, leases."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(160), primary_key=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("recipe", sa.String(100)),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("base", sa.JSON),
        sa.Column("global_batch_size", sa.BigInteger),
        sa.Column("device", sa.String(16), nullable=False),
        sa.Column("workers", sa.String(32)),
        sa.Column("cpus", sa.Float, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("deadline_at_s", sa.Float),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("is_cancel_asked", sa.Boolean, nullable=False),
        sa.Column("stop_asked_at_s", sa.Float),
        sa.Column("not_before_s", sa.Float),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("started_at_s", sa.Float),
        sa.Column("ended_at_s", sa.Float),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("outcome", sa.String(16)),
        sa.Column("summary", sa.JSON),
    )
    op.create_index("jobs_by_time", "jobs", ["created_at_s", "id"])
    op.create_index("jobs_by_kind", "jobs", ["kind", "created_at_s", "id"])
    op.create_index("jobs_by_state", "jobs", ["state", "kind", "created_at_s", "id"])
    op.create_index("jobs_by_owner", "jobs", ["owner", "kind", "created_at_s", "id"])
    op.create_table(
        "submissions",
        sa.Column("owner", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(200), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(160), nullable=False),
        sa.Column("created_at_s", sa.Float, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("expires_at_s", sa.Float),
        sa.Column("revoked_at_s", sa.Float),
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("token_id", sa.String(16), nullable=False),
        sa.Column("expires_at_s", sa.Float, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("expires_at_s", sa.Float, nullable=False),
    )

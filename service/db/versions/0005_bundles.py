"""People's own code: bundles, who sent them, and the jobs that use them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add them; no job that is there uses any."""
    op.create_table(
        "bundles",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("packed_bytes", sa.Integer, nullable=False),
        sa.Column("files", sa.JSON, nullable=False),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "bundle_owners",
        sa.Column("sha256", sa.String(64), sa.ForeignKey("bundles.sha256"), primary_key=True),
        sa.Column("owner", sa.String(100), primary_key=True),
        sa.Column("created_at_s", sa.Float, nullable=False),
    )
    # As text: alembic would add the reference by a second statement, which SQLite does not have.
    op.execute("ALTER TABLE jobs ADD COLUMN code VARCHAR(64) REFERENCES bundles (sha256)")
    op.create_index("jobs_by_code", "jobs", ["code"])

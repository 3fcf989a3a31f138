"""What a job holds of memory, and how it stands among other owners' jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both; jobs that are there hold no memory, and go before or behind others as they did."""
    op.add_column("jobs", sa.Column("memory_gib", sa.Float, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("priority_among_owners", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE jobs SET priority_among_owners = priority")

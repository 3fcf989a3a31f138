"""Runs that were trained elsewhere and added: the size of their files."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add it; the service ran every job that is there."""
    op.add_column("jobs", sa.Column("added_bytes", sa.BigInteger))

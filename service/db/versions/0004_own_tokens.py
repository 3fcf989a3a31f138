"""With which token a token was made: it ends with that one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add it. The tokens that are there were made by the operator."""
    op.add_column("tokens", sa.Column("made_with", sa.String(16)))

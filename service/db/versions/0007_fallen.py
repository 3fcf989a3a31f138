"""Runs of earlier versions that ended noticeably worse than their best: lists say from where they fell."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
AT_ONCE = 500
NOTICEABLE = 0.02
"""By what part of the larger one the last score must be off the best."""


def upgrade() -> None:
    """Take the best score from the summary; at which step it was is not there."""
    connection = op.get_bind()
    jobs = sa.table("jobs", *(sa.column(name) for name in ("id", "kind")), *(sa.column(name, sa.JSON) for name in ("progress", "summary")))
    ids = list(connection.execute(sa.select(jobs.c.id).where(jobs.c.kind == "run")).scalars())
    update = sa.update(jobs).where(jobs.c.id == sa.bindparam("of_id")).values(progress=sa.bindparam("now", type_=sa.JSON))
    for first in range(0, len(ids), AT_ONCE):
        rows = connection.execute(sa.select(jobs.c.id, jobs.c.progress, jobs.c.summary).where(jobs.c.id.in_(ids[first : first + AT_ONCE]))).all()
        found = [{"of_id": job_id, "now": {**progress, "best_score": best}} for job_id, progress, summary in rows
                 if "best_score" not in progress and (best := _fallen_from(summary or {})) is not None]  # fmt: skip
        if found:
            connection.execute(update, found)


def _fallen_from(summary: dict[str, Any]) -> float | None:
    """The best score of a run that ended noticeably worse, by a summary of any earlier version; None of any other."""
    last, best = (summary.get(name, summary.get(earlier)) for name, earlier in (("score", "test_accuracy"), ("best_score", "best_test_accuracy")))
    return best if isinstance(last, float) and isinstance(best, float) and abs(best - last) > NOTICEABLE * max(abs(best), abs(last)) else None

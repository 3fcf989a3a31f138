"""The folders of the service's runs, which lie on this machine's disk."""

import shutil
from pathlib import Path

from largebatch.jobs.run.run_folder import SUMMARY

FRESH_S = 2.0


class RunFolders:
    """The run folders below one folder. `RunCopies` keeps copies there of runs that lie on storage by URI."""

    are_copies = False
    problem: str | None = None
    """Why the copies could not be kept up at the last try."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self) -> None:
        """Begin to keep copies up."""

    def stop(self) -> None:
        """End, and remove the copies."""

    def refresh(self, job_id: str, max_age_s: float = FRESH_S) -> None:
        """Have a copy of a job's folder that is no older than this. Raises: StorageError."""

    def forget_summary(self, job_id: str) -> None:
        """Before a run that has failed goes on. Raises: StorageError."""
        (self.root / job_id / SUMMARY).unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """Remove a job's folder. Raises: StorageError."""
        shutil.rmtree(self.root / job_id, ignore_errors=True)

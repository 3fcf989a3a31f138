"""What an operator decides when starting the service."""

import os
from dataclasses import dataclass, field
from pathlib import Path

EMBEDDED = "sqlite:///{runs_dir}/service.sqlite"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Settings:
    """All of it; `largebatch serve --help` says what each is."""

    host: str = "127.0.0.1"
    port: int = 8080
    database_url: str | None = None
    """None: an SQLite file in runs_dir."""
    ray_address: str | None = None
    """Dashboard of the Ray cluster that runs the jobs; None: this machine's own cores."""
    data_dir: Path = Path("data")
    runs_dir: Path = Path("runs")
    entry_points: frozenset[str] = frozenset()
    """Own code that requests may name."""
    max_running_per_owner: int = 100
    max_gpus_per_owner: int = 10_000
    max_queued_per_owner: int = 20_000
    max_failures: int = 5
    """Attempts that may end by a fault before the job has failed."""
    rate_per_minute: int = 60_000
    """Requests of one owner (or address) in a minute."""
    allows_download: bool = False
    cpus: float = field(default_factory=lambda: float(os.cpu_count() or 1))
    """Cores of this machine that jobs may hold together."""
    gpus: int = 0
    poll_s: float = 0.5
    """Between two looks at the backend."""
    wants_tokens: bool = False
    """Ask for tokens on loopback too."""
    ray_python: str = "python"
    """The cluster's Python."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        return self.host in LOOPBACK

    @property
    def needs_tokens(self) -> bool:
        """Whether requests must carry a token."""
        return self.wants_tokens or not self.is_loopback

    @property
    def url(self) -> str:
        """The database's address."""
        return self.database_url or EMBEDDED.format(runs_dir=self.runs_dir.resolve())

    @property
    def state_dir(self) -> Path:
        """Attempts, their logs and locks."""
        return self.runs_dir / ".service"

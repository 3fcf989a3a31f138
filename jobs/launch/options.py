"""What a launch needs beside the spec; light, so that commands can read it before torch is imported."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalOptions:
    """Where data lies and results go, and on what to train."""

    data_dir: Path = Path("data")
    output_dir: Path = Path("runs")
    device: str = "auto"
    resume: Path | None = None

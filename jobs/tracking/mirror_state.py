"""How far a run's mirror has come: `mlflow.json` in the run's folder."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from largebatch.jobs.run.run_folder import MLFLOW
from largebatch.jobs.whole_files import write_text


@dataclass
class MirrorState:
    """What MLflow has of a run."""

    uri: str | None = None
    run_id: str | None = None
    experiment: str | None = None
    """The name that MLflow's experiment had when the run began there; None: an earlier version kept none."""
    base_ms: int = 0
    """The time that MLflow shows for zero training seconds."""
    bytes_read: int = 0
    """How much of the journal was taken over."""
    step: int | None = None
    """Where the run stands, by the part of the journal that was taken over; None: an earlier version kept none."""
    last_step: int = 0
    """Step records up to this one were weighed; a resumed run that repeats them sends them no second time."""
    last_evaluation_step: int = 0
    evaluated_on: str = "test"
    """The part that evaluations are of."""
    last_sent_s: float | None = None
    """Training seconds of the last step record that was sent."""
    last_sent_step: int = 0
    has_model: bool = False
    """MLflow has the model, where it was asked for."""
    levels: dict[str, str] = field(default_factory=dict)
    """Of a folder of runs: MLflow's ids of the runs between its parent and its runs, by their names."""
    is_complete: bool = False
    """MLflow has everything up to the journal's last end record, artifacts included."""

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """The state on disk, or a fresh one."""
        path = run_dir / MLFLOW
        return cls(**json.loads(path.read_text())) if path.is_file() else cls()

    def write(self, run_dir: Path) -> None:
        """Replace the state on disk."""
        write_text(run_dir / MLFLOW, json.dumps(asdict(self), indent=2) + "\n")

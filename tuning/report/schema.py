"""What `report.json` is, field by field, with the version that programs may rely on.

The version rises where a field goes, or means something else; fields that are added leave it. `largebatch report --schema` prints it as JSON schema.
"""

import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter

from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import Answer
from largebatch.tuning.results.whole_answer import SweepNumbers

SCHEMA_VERSION: Literal[1] = 1


class Origin(Answer):
    """When a report was made, and by which command."""

    made_at: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """UTC, ISO 8601."""
    command: str = Field(default_factory=lambda: command_line(sys.argv))


class FailedPart(Answer):
    """What could not be made, and why."""

    what: str
    why: str

    @property
    def in_words(self) -> str:
        """One sentence."""
        return f"Left out: {self.what}. {self.why}"


class PredictedCost(Answer):
    """What was expected of a batch size before the sweep."""

    global_batch_size: int
    seconds: float
    samples: float
    steps: float
    learning_rate: float
    is_reference: bool


class PredictionError(Answer):
    """How far it was off."""

    global_batch_size: int
    predicted_s: float
    measured_s: float
    is_reference: bool
    """Of the run that the prediction was made from, so none."""
    error: float
    """Relative: 0.3 is thirty per cent too high."""


class ReportNumbers(SweepNumbers):
    """The numbers of a report."""

    schema_version: Literal[1] = SCHEMA_VERSION
    origin: Origin = Field(default_factory=Origin)
    failed: list[FailedPart]
    profile: Profile | None
    predicted: list[PredictedCost]
    prediction_errors: list[PredictionError]
    tables: dict[str, list[dict[str, str]]]
    """More tables, by their titles: rows of texts."""


class ReportOfNothing(Answer):
    """The report where no run has ended."""

    schema_version: Literal[1] = SCHEMA_VERSION
    origin: Origin = Field(default_factory=Origin)
    words: list[str]
    """What there is to wait for, or what went wrong."""
    num_runs: Literal[0] = 0
    batches: list[Any] = Field(default_factory=list, max_length=0)
    advice: list[Any] = Field(default_factory=list, max_length=0)


def json_schema() -> dict[str, Any]:
    """Of `report.json`."""
    return TypeAdapter(ReportNumbers | ReportOfNothing).json_schema(mode="serialization")


def command_line(words: list[str]) -> str:
    """A process' own command, without the passwords of addresses in it. Args: words: as `sys.argv` has them."""
    name = Path(words[0]).name
    shown = [re.sub(r"://[^/@\s]+@", "://***@", word) for word in words[1:]]
    return shlex.join(["largebatch" if name == "__main__.py" else name, *shown])

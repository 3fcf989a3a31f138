"""What a study or a sweep answers, for MLflow: a description of its run, and numbers by batch, which MLflow draws with the batch as their axis.

`answer.json` beside `parent.json` holds it, as whoever compares the runs has written it.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel

from largebatch.jobs.tracking.metrics import Point
from largebatch.jobs.tracking.params import LONGEST_TAG
from largebatch.jobs.whole_files import write_text

ANSWER = "answer.json"


class ByBatch(BaseModel):
    """One number of one batch size."""

    name: str
    batch: int
    value: float


class ParentAnswer(BaseModel):
    """The answer of a study or a sweep, as MLflow gets it."""

    words: list[str]
    by_batch: list[ByBatch]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What lies in a folder of runs; None where nothing was answered yet."""
        path = folder / ANSWER
        return cls.model_validate_json(path.read_text()) if path.is_file() else None

    def write(self, folder: Path) -> None:
        """Leave it there. Raises: StorageError."""
        write_text(folder / ANSWER, self.model_dump_json(indent=2) + "\n")

    @property
    def note(self) -> str:
        """As MLflow's description, in paragraphs."""
        return "\n\n".join(self.words)[:LONGEST_TAG]

    @property
    def points(self) -> list[Point]:
        """As metrics whose steps are batch sizes."""
        return [Point(f"by_batch/{number.name}", number.value, 0.0, number.batch) for number in self.by_batch]

"""The journal `records.jsonl`: one typed record a line, written at once, never rewritten.

A process that takes a run up again appends a start record; steps that an earlier process did beyond it are
superseded, and readers leave them out. A line cut short by a kill is left out too.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pydantic

from largebatch.jobs.run.json_lines import LineAppender, read_all_lines
from largebatch.jobs.run.records import FAILED, EndRecord, EvalRecord, JournalRecord, NoticeRecord, Record, StartRecord, StepRecord
from largebatch.jobs.run.run_folder import JOURNAL
from largebatch.jobs.whole_files import storage_errors

LONGEST_LINE = 1 << 20
"""Bytes; no record of ours comes near it, and whoever shows records need not hold more of somebody else's."""
_ADAPTER: pydantic.TypeAdapter[JournalRecord] = pydantic.TypeAdapter(JournalRecord)


class Journal(AbstractContextManager["Journal"]):
    """Appends records to a run's journal. Use as a context manager."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / JOURNAL
        with storage_errors(self.path):
            self._file = LineAppender(self.path)

    def write(self, record: Record) -> None:
        """Append one record; it is with the operating system when this returns. Raises: StorageError."""
        # A summary's nulls say something (a miss); a step's would only repeat what was not measured.
        line = record.model_dump_json(exclude_none=not isinstance(record, EndRecord)).encode()
        with storage_errors(self.path):
            self._file.append(line)

    def sync(self) -> None:
        """Ask the operating system to put everything on disk."""
        with storage_errors(self.path):
            self._file.sync()

    def __exit__(self, *_: object) -> None:
        self._file.close()


def parse_line(line: bytes | str) -> JournalRecord | None:
    """The record of one line; None if the line was cut short or is not ours."""
    try:
        return _ADAPTER.validate_json(line) if len(line) <= LONGEST_LINE else None
    except pydantic.ValidationError:
        return None


def read_records(run_dir: Path) -> list[JournalRecord]:
    """Every readable record of a run in the order written, superseded ones left out."""
    return current(record for line in read_all_lines(run_dir / JOURNAL) if (record := parse_line(line.content)) is not None)


def current(records: Iterable[JournalRecord]) -> list[JournalRecord]:
    """The records without those that a later start superseded."""
    kept: list[JournalRecord] = []
    for record in records:
        if isinstance(record, StartRecord):
            kept = [old for old in kept if not (isinstance(old, (StepRecord, EvalRecord, NoticeRecord)) and old.step > record.step)]
        kept.append(record)
    return kept


def steps(records: Iterable[JournalRecord]) -> Iterator[StepRecord]:
    """The step records among them."""
    return (record for record in records if isinstance(record, StepRecord))


def failure(records: Iterable[JournalRecord]) -> str | None:
    """What a run failed of last, if it did."""
    notices = [record.text for record in records if isinstance(record, NoticeRecord) and record.text.startswith(FAILED)]
    return notices[-1].removeprefix(FAILED) if notices else None


def evaluations(records: Iterable[JournalRecord]) -> Iterator[EvalRecord]:
    """The evaluation records among them."""
    return (record for record in records if isinstance(record, EvalRecord))


class NoJournal(Journal):
    """The journal of ranks other than the first: rank 0 writes for all."""

    def __init__(self) -> None:
        pass

    def write(self, record: Record) -> None:
        """Write nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def __exit__(self, *_: object) -> None:
        pass

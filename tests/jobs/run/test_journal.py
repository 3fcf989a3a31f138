"""The journal: whole lines alone are read, from any byte on; typed records, superseded steps left out, anything unreadable passed over."""

import json
import math
from pathlib import Path

import pytest
from made_records import evaluation, start, step, summary
from pydantic import ValidationError

from largebatch.jobs.run.journal import Journal, current, evaluations, parse_line, read_records, steps
from largebatch.jobs.run.json_lines import Line, LineAppender, parse_object, read_all_lines, read_last_lines, read_lines
from largebatch.jobs.run.records import EndRecord, NoticeRecord, Record, StartRecord


def test_every_kind_of_record_comes_back_as_it_was(tmp_path: Path) -> None:
    written: list[Record] = [start(0), step(1), NoticeRecord(step=1, text='é \u2028 \n quoted "'), evaluation(1), EndRecord(summary=summary())]
    with Journal(tmp_path) as journal:
        for record in written:
            journal.write(record)
            assert read_records(tmp_path)[-1] == record, "each is readable as soon as it is written"
        journal.sync()
    assert read_records(tmp_path) == written
    assert (tmp_path / "records.jsonl").read_bytes().count(b"\n") == len(written)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_measurement_that_overflowed_counts_as_not_made(tmp_path: Path, value: float) -> None:
    """JSON has no word for it; whatever reads the line besides us must not stumble."""
    with Journal(tmp_path) as journal:
        journal.write(step(1).model_copy(update={"covariance_trace": value}))
    line = json.loads((tmp_path / "records.jsonl").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert line["covariance_trace"] is None
    assert read_records(tmp_path) == [step(1)]


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    losses = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.pi, 1e16 + 2]
    with Journal(tmp_path) as journal:
        for number, loss in enumerate(losses, start=1):
            journal.write(step(number, loss=loss))
    assert [record.loss for record in steps(read_records(tmp_path))] == losses


def test_a_miss_is_written_as_null_and_an_unmeasured_step_value_is_left_out(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(step(1))
        journal.write(EndRecord(summary=summary()))
    first, last = (json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines())
    assert "covariance_trace" not in first
    assert last["summary"]["time_to_target_seconds"] is None


def test_a_journal_is_appended_to_never_rewritten(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.write(start(0))
    before = (tmp_path / "records.jsonl").read_bytes()
    with Journal(tmp_path) as journal:
        journal.write(start(0))
    assert (tmp_path / "records.jsonl").read_bytes().startswith(before)


def test_a_later_start_supersedes_what_lies_beyond_it() -> None:
    story = [
        start(0), step(1), step(2), evaluation(2), step(3, loss=3.0), evaluation(3), NoticeRecord(step=3, text="lost"),
        start(2), step(3, loss=4.0), step(4), evaluation(4),
        start(3), step(4, loss=5.0),
    ]  # fmt: skip
    kept = current(story)
    assert [(record.step, record.loss) for record in steps(kept)] == [(1, 1.0), (2, 1.0), (3, 4.0), (4, 5.0)]
    assert [record.step for record in evaluations(kept)] == [2]
    assert not any(isinstance(record, NoticeRecord) for record in kept)
    assert [record.step for record in kept if isinstance(record, StartRecord)] == [0, 2, 3]


def test_a_run_that_begins_anew_supersedes_everything() -> None:
    assert current([start(0), step(1), step(2), start(0), step(1, loss=9.0)]) == [start(0), start(0), step(1, loss=9.0)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "1e999",
        '{"kind":"step"}',
        '{"kind":"other","step":1}',
        '{"step":1}',
        "[" * 100,
        "[" * 100_000,
        '{"kind":"step","step":' + "9" * 5000 + "}",
        step(1).model_dump_json()[:-1],
        step(1).model_dump_json().replace('"step":1', '"step":1.5'),
        step(1).model_dump_json()[:-1] + ',"unknown":1}',
    ],
)
def test_a_line_that_is_not_a_record_is_none(line: str) -> None:
    assert parse_line(line) is None


def test_unreadable_lines_cost_nothing_but_themselves(tmp_path: Path) -> None:
    good = [step(number).model_dump_json(exclude_none=True).encode() for number in (1, 2, 3)]
    (tmp_path / "records.jsonl").write_bytes(b"\n".join([good[0], b"\xff\xfe\x00", b"", good[1], good[2][:20], good[2]]) + b"\n" + good[0][:-3])
    assert [record.step for record in steps(read_records(tmp_path))] == [1, 2, 3]


def test_no_journal_is_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []


def test_records_are_immutable() -> None:
    record = step(1)
    with pytest.raises(ValidationError):
        record.loss = 2.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


def append(path: Path, *lines: bytes) -> None:
    appender = LineAppender(path)
    for line in lines:
        appender.append(line)
    appender.sync()
    appender.close()


def test_a_line_is_read_once_it_is_whole(path: Path) -> None:
    assert read_lines(path) == read_last_lines(path) == list(read_all_lines(path)) == []
    path.write_bytes(b'{"a":1}\n{"a"')
    assert read_lines(path) == [Line(b'{"a":1}', 8)]
    assert read_lines(path, 8) == []
    with path.open("ab") as file:
        file.write(b":2}\r\n")
    assert read_lines(path, 8) == [Line(b'{"a":2}', 17)]
    assert read_lines(path, 0, end=8) == [Line(b'{"a":1}', 8)]


def test_a_writer_ends_the_line_that_another_was_killed_in(path: Path) -> None:
    append(path, b'{"a":1}')
    with path.open("ab") as file:
        file.write(b'{"a"')
    append(path, b'{"a":2}', '{"a":"\u2028"}'.encode())
    append(path)
    assert [parse_object(line.content) for line in read_all_lines(path)] == [{"a": 1}, None, {"a": 2}, {"a": "\u2028"}]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 8, 9, 1000])
def test_lines_are_the_same_in_chunks_of_any_size(path: Path, chunk_bytes: int) -> None:
    append(path, *(b"%d" % 10**length for length in range(20)))
    lines, start = list[Line](), 0
    while chunk := read_lines(path, start, chunk_bytes=chunk_bytes):
        lines += chunk
        start = chunk[-1].end
    assert lines == list(read_all_lines(path))
    assert [line.content for line in lines] == [b"%d" % 10**length for length in range(20)]
    assert start == path.stat().st_size
    last = read_last_lines(path, chunk_bytes)
    assert last == lines[len(lines) - len(last) :]


@pytest.mark.parametrize("line", [b"", b"null", b"[]", b"1", b'{"a":', b"\xff\xfe", b"[" * 100_000], ids=lambda line: line[:9])
def test_what_is_no_object_is_none(line: bytes) -> None:
    assert parse_object(line) is None

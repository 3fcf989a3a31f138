"""Files of JSON lines: whole lines alone are read, from any byte on; a line that was cut short costs nothing but itself."""

from pathlib import Path

import pytest

from largebatch.jobs.run.json_lines import Line, LineAppender, parse_object, read_all_lines, read_last_lines, read_lines


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

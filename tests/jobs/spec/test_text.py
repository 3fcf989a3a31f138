"""What a spec's text means: the same numbers, keys and limits in YAML and JSON."""

from pathlib import Path

import pytest

from largebatch.jobs.errors import SpecError
from largebatch.jobs.spec.text import HERE, LARGEST_TEXT, OVER_THE_NETWORK, Limits, parse_yaml, read_document, refuse_beyond


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("0x10", 16),
        ("0", 0),
        ("-7", -7),
        ("010", "010"),
        ("-010", "-010"),
        ("1:40", "1:40"),
        ("1:40.5", "1:40.5"),
        ("2026-11-30", "2026-11-30"),
        ("0.10", 0.1),
        ("true", True),
    ],
)
def test_a_number_is_what_a_person_would_read(text: str, value: object) -> None:
    """PyYAML by itself reads 010 as 8 and 1:40 as 100."""
    parsed = parse_yaml(f"a: {text}", "here")["a"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ['{"a": {"b": 1, "b": 2}}', '{"a": 1, "c": [{"b": 1, "b": 1}]}'])
def test_a_key_given_twice_is_refused_in_json_too(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"spec\.json: key 'b' is given twice"):
        read_document(path)


@pytest.mark.parametrize("name", ["spec.json", "spec.yaml"])
def test_a_mark_at_the_beginning_is_no_part_of_the_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_document(path) == {"a": 1}


def test_a_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"a: \xff")
    with pytest.raises(SpecError, match=r"is not UTF-8 text \(byte 3 is 0xff\)"):
        read_document(path)


def test_no_more_is_read_than_a_spec_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte that takes no room: reading it would
    with pytest.raises(SpecError, match=f"is longer than {LARGEST_TEXT >> 10} KiB"):
        read_document(path)


@pytest.mark.parametrize("limits", [HERE, OVER_THE_NETWORK])
def test_what_lies_beyond_the_limits_is_refused(limits: Limits) -> None:
    nested: list[object] = []
    for _ in range(limits.deepest - 1):
        nested = [nested]
    refuse_beyond([nested, ["x"] * 9000], "here", limits)
    refuse_beyond({"a": {1: [True, None, 0.5, 2**53]}}, "here", limits)
    circle: list[object] = []
    circle.append(circle)
    beyond = [[nested], [0] * limits.most_values, circle, {(1, 2): 3}, "\0", "\ud800", {"\ud800": 1}]
    for document in beyond:
        with pytest.raises(SpecError, match=r"^here: (holds|has)"):
            refuse_beyond([document], "here", limits)


def test_over_the_network_numbers_are_those_that_all_readers_of_json_agree_on() -> None:
    refuse_beyond([2**64, 1e300], "here")
    for number in (2**53 + 1, -(2**64), 1e300):
        with pytest.raises(SpecError, match="holds a number beyond 9,007,199,254,740,992"):
            refuse_beyond({"a": [number]}, "here", OVER_THE_NETWORK)

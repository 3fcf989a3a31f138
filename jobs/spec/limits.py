"""The limits of size and nesting for every document that becomes a spec, through whichever door it comes.

They lie far above any spec, and below what would stall or break a reader: aliases without end, texts that cannot be written.
"""

from dataclasses import dataclass
from typing import Any

from largebatch.jobs.errors import SpecError

LARGEST_TEXT = 256 << 10
"""Bytes."""


@dataclass(frozen=True)
class Limits:
    """How large a document may be."""

    deepest: int = 30
    """Levels of nesting."""
    most_values: int = 10_000
    largest_number: int | None = None
    """Beyond it no number is taken; None: any is."""


HERE = Limits()
"""For a person at the machine."""
OVER_THE_NETWORK = Limits(deepest=12, most_values=1 << 20, largest_number=1 << 53)
"""For whoever asks over the network. A body's bytes limit its values already; beyond 2^53 JSON's readers differ."""


def refuse_long(content: bytes, field: str) -> None:
    """Raise SpecError for a text that is longer than any spec."""
    if len(content) > LARGEST_TEXT:
        raise SpecError(field, f"is longer than {LARGEST_TEXT >> 10} KiB.", "No spec is.")


def refuse_beyond(document: Any, field: str, limits: Limits = HERE) -> None:
    """Raise SpecError for plain data that lies beyond the limits, or holds keys or texts that no file can hold."""
    values, count = [(document, 0)], 0
    while values:
        value, depth = values.pop()
        count += 1
        if depth > limits.deepest or count > limits.most_values:
            problem = f"holds more than {limits.most_values} values, or some nested more than {limits.deepest} deep."
            raise SpecError(field, problem, "No spec does.")
        if isinstance(value, str):
            refuse_unwritable(value, field)
        elif isinstance(value, int | float) and limits.largest_number is not None and abs(value) > limits.largest_number:
            raise SpecError(field, f"holds a number beyond {limits.largest_number:,}.", "No field needs that.")
        elif isinstance(value, dict):
            if not all(isinstance(key, str | int | float | None) for key in value):
                raise SpecError(field, "has a key that is no text.", "Put it in quotes.")
            values += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            values += [(part, depth + 1) for part in value]


def refuse_unwritable(text: str, field: str) -> None:
    """Raise SpecError for a text that is not UTF-8, or holds NUL."""
    try:
        is_fine = b"\0" not in text.encode()
    except UnicodeEncodeError:
        is_fine = False
    if not is_fine:
        raise SpecError(field, "holds a text with characters that cannot be written.", "Leave out NUL and what is not UTF-8.")

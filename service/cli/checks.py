"""Checks of typed options that several commands make before any work is done."""

import math
from pathlib import Path

from largebatch.jobs.errors import InputError, SpecError
from largebatch.jobs.run.run_folder import refuse_unwritable


def refuse_unless_positive(option: str, value: float | None, hint: str = "") -> None:
    """Raise SpecError for a number that is not above 0, is infinite or is nan."""
    if value is not None and not 0 < value < math.inf:
        raise SpecError(option, f"{value:g} is not a number above 0.", hint)


def refuse_unwritable_file(option: str, path: Path | None) -> None:
    """Raise InputError for a file that cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise InputError(option, f"{path} is a folder, not a file.", "Give a file's name in it.")
    refuse_unwritable(path.parent, option)


def whole_numbers(option: str, text: str) -> list[int]:
    """`64,256,1024` as numbers. Raises: SpecError."""
    try:
        numbers = [int(part) for part in text.replace("_", "").split(",")]
    except ValueError:
        raise SpecError(option, f"{text!r} is not a list of whole numbers.", "Example: 64,256,1024.") from None
    if min(numbers) < 1:
        raise SpecError(option, f"{min(numbers)} is below 1.")
    return numbers

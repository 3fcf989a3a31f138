"""What every part of a spec has in common."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
LONGEST_NAME = 100
"""Bytes of a run's name; its folder's name is longer by 21, and file systems take 255."""


def _is_a_file_name(name: str) -> str:
    if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith((".", "-")):
        raise ValueError("may hold letters, digits, '-', '_' and '.', and not begin with '.' or '-'")
    if (length := len(name.encode())) > LONGEST_NAME:
        raise ValueError(f"has {length} bytes; it names a folder, so give at most {LONGEST_NAME} (a letter beyond ASCII has two to four)")
    return name


RunName = Annotated[str, AfterValidator(_is_a_file_name)]


class Spec(BaseModel):
    """Base of every part: immutable, no unknown keys, no silent conversion of types, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

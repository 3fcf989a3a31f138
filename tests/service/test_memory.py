"""Memory that a container may take, by control groups made by hand."""

from pathlib import Path

import psutil
import pytest

from largebatch.service.memory import GIB, memory_bytes
from largebatch.service.settings import Settings

TOTAL = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("memory.max", f"{3 * GIB}\n", 3 * GIB),
        ("memory.max", "max\n", TOTAL),
        ("memory/memory.limit_in_bytes", f"{2 * GIB}\n", 2 * GIB),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", TOTAL),
        ("else", "1", TOTAL),
    ],
)
def test_the_container_s_limit(name: str, text: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert memory_bytes(tmp_path) == expected


def test_what_jobs_may_hold_is_found_out_or_given() -> None:
    assert Settings.read(memory_gib=2.0).memory_gib == 2.0
    assert 0.1 < Settings.read().memory_gib <= TOTAL / GIB

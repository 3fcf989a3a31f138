"""Memory that a container, or a service of systemd's, may take, by control groups made by hand; and that the planner takes no more."""

from pathlib import Path

import psutil
import pytest

from largebatch.service.api.analysis_worker import AnalysisWorker, most_of
from largebatch.service.api.errors import TooHeavyError
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


SLICE, SERVICE = "system.slice", "system.slice/largebatch.service"


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        (f"0::/{SERVICE}", {f"{SERVICE}/memory.max": "3"}, 3),
        (f"0::/{SERVICE}", {f"{SERVICE}/memory.max": "max", f"{SLICE}/memory.max": "2"}, 2),
        (f"0::/{SERVICE}", {f"{SERVICE}/memory.max": "3", f"{SLICE}/memory.max": "2", "memory.max": "4"}, 2),
        (f"0::/{SERVICE}", {f"{SERVICE}/memory.max": "1", f"{SLICE}/memory.max": "2"}, 1),
        (f"0::/{SERVICE}", {"system.slice/other.service/memory.max": "1"}, None),
        ("0::/kubepods/pod1/of-the-host", {"memory.max": "3"}, 3),
        ("0::/../../outside", {"memory.max": "3"}, 3),
        ("11:cpu,memory:/docker/1a2b\n0::/", {"memory/docker/1a2b/memory.limit_in_bytes": "2"}, 2),
        ("11:cpu,memory:/docker/1a2b\n0::/", {"memory/memory.limit_in_bytes": "2"}, 2),
        ("nothing that is known\n\n4:memory", {"memory.max": "3"}, 3),
    ],
)
def test_the_least_limit_from_the_own_group_up(own: str, limits: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{int(text) * GIB if text.isdecimal() else text}\n")
    (tmp_path / "own").write_text(own + "\n")
    assert memory_bytes(tmp_path, tmp_path / "own") == (TOTAL if expected is None else expected * GIB)


def test_the_planner_keeps_to_three_fifths_of_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No plan takes more than 1.8 of the 3 GiB that its container may take, whatever its machine has."""
    (tmp_path / "large_lists.py").write_text("def holds(num_bytes): return len(bytearray(num_bytes))\n")
    (tmp_path / "memory.max").write_text(str(3 * GIB))
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = AnalysisWorker("large_lists", most_bytes=most_of(memory_bytes(tmp_path)))
    try:
        assert worker.ask("holds", GIB) == GIB
        with pytest.raises(TooHeavyError, match=r"needs more than 1\.8 GiB"):
            worker.ask("holds", 2 * GIB)
    finally:
        worker.close()


def test_what_jobs_may_hold_is_found_out_or_given() -> None:
    assert Settings.read(memory_gib=2.0).memory_gib == 2.0
    assert 0.1 < Settings.read().memory_gib <= TOTAL / GIB

"""From `largebatch train --workers 2` to the first optimizer step, split: what is Ray's and what is ours.

Each time the command runs in a new process and starts and ends its own Ray, dashboard included, as a person's does.
"""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

WHOSE = {
    "Python, imports, recipe": "ours",
    "Ray starts": "Ray",
    "workers start": "Ray",
    "data, model, plan": "ours",
    "kernels, first step": "ours",
}
POLL_S = 0.01


def main() -> None:
    """Measure and print."""
    from _report import parser, publish

    given = parser(__doc__, repetitions=5).parse_args()
    seen: dict[str, list[float]] = {}
    for _ in range(given.repetitions):
        times = list(_times())
        for what, (before, after) in zip(WHOSE, itertools.pairwise(times), strict=True):
            seen.setdefault(what, []).append(after - before)
        seen.setdefault("all", []).append(times[-1] - times[0])
        print({what: round(values[-1], 2) for what, values in seen.items()}, file=sys.stderr, flush=True)
    rows = [
        {
            "what": what,
            "whose": WHOSE.get(what, ""),
            "seconds, median": f"{median(values):.2f}",
            "min": f"{min(values):.2f}",
            "max": f"{max(values):.2f}",
        }
        for what, values in seen.items()
    ]
    ours = [sum(seen[what][index] for what, whose in WHOSE.items() if whose == "ours") for index in range(given.repetitions)]
    notes = [
        f"Ours, added up: {median(ours):.2f} s median ({min(ours):.2f} ... {max(ours):.2f}); target 2 s.",
        "Workers start: Ray Train's controller, placement, processes, torch's import in each and the process group.",
    ]
    publish("From the command to the first step of two workers", rows, notes, given)


def _times() -> Iterator[float]:
    """Unix times of one run: the command given, and then the end of each part of WHOSE."""
    with tempfile.TemporaryDirectory() as folder:
        yield time.time()
        process = subprocess.Popen([sys.executable, __file__, "--command", folder], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        stepped_at_s = _first_step(process, Path(folder))
        output, _ = process.communicate()
        marks = json.loads(output.splitlines()[-1])
        (journal,) = Path(folder).glob("*/records.jsonl")
        start = json.loads(journal.read_text().splitlines()[0])
        yield from (marks["imported"], marks["connected"], marks["begun"], start["at_s"], stepped_at_s)


def _first_step(process: "subprocess.Popen[str]", folder: Path) -> float:
    while process.poll() is None:
        if any('"kind":"step"' in journal.read_text() for journal in folder.glob("*/records.jsonl")):
            return time.time()
        time.sleep(POLL_S)
    raise SystemExit("the command ended without a step")


def _command(folder: str) -> None:
    """The command itself, noting on its way when Ray was asked for, when it was there, and when rank 0 was."""
    from largebatch.jobs.launch.on_ray import train
    from largebatch.service.cli.main import app

    marks: dict[str, float] = {}
    connected = train.connected

    def noting_connected(*given: Any, **options: Any) -> Any:
        marks["imported"] = time.time()
        return connected(*given, **options)

    class NotingDriver(train._Driver):
        def __init__(self, *given: Any) -> None:
            marks["connected"] = time.time()
            super().__init__(*given)

        def _pass_on(self) -> None:
            super()._pass_on()
            marks["begun"] = self._ray.get(self._mailbox.begun_at.remote())

    train.connected, train._Driver = noting_connected, NotingDriver  # type: ignore[misc]
    app(["train", "digits-lamb", "--workers", "2", "--set", "stop.epochs=2", "--output-dir", folder, "--device", "cpu"], standalone_mode=False)
    print(json.dumps(marks))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--command"]:
        _command(sys.argv[2])
    else:
        main()

"""From `largebatch train --workers 2` to the first optimizer step, in parts, and what it costs in seconds of a core.

Each time the command runs in a new process and starts and ends its own Ray, dashboard included, as a person's does.
"""

import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import psutil
from _report import parser, publish

PARTS = ["Python, imports, Ray starts", "workers start, data, model, plan", "kernels, first step"]
POLL_S = 0.05


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, repetitions=5).parse_args()
    measured: dict[str, list[float]] = {}
    for _ in range(options.repetitions):
        times, cores_s = _measure()
        values = [later - earlier for earlier, later in itertools.pairwise(times)]
        row = dict(zip([*PARTS, "all", "seconds of a core"], [*values, times[-1] - times[0], cores_s], strict=True))
        for what, value in row.items():
            measured.setdefault(what, []).append(value)
        print({what: round(value, 2) for what, value in row.items()}, file=sys.stderr, flush=True)
    rows = [
        {"what": what, "seconds, median": f"{median(values):.2f}", "min": f"{min(values):.2f}", "max": f"{max(values):.2f}"}
        for what, values in measured.items()
    ]
    notes = [
        "Workers start: room in the cluster, Ray Train's controller, processes, torch's import in each and the process group.",
        "Seconds of a core: of the command and of all processes that it started, up to the first step.",
    ]
    publish("From the command to the first step of two workers", rows, notes, options)


def _measure() -> tuple[list[float], float]:
    """Unix times of one run: the command, and then the end of each of PARTS; with the seconds of a core that it took up to there."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "largebatch", "train", "digits-lamb", "--workers", "2", "--set", "stop.epochs=2", "--output-dir", folder, "--device", "cpu"]
        began_at_s = time.time()
        process = psutil.Popen([sys.executable, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        connected_at_s: list[float] = []

        def listen() -> None:
            for line in process.stderr:
                if "Ray's dashboard" in line:
                    connected_at_s.append(time.time())

        listening = threading.Thread(target=listen)
        listening.start()
        stepped_at_s, cores_s = _first_step(process, Path(folder))
        process.wait()
        listening.join()
        (journal,) = Path(folder).glob("*/records.jsonl")
        started_at_s = json.loads(journal.read_text().splitlines()[0])["at_s"]
        return [began_at_s, connected_at_s[0], started_at_s, stepped_at_s], cores_s


def _first_step(process: psutil.Process, folder: Path) -> tuple[float, float]:
    """When it was done, and the seconds of a core of all processes until then."""
    seconds: dict[int, float] = {}
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                used = each.cpu_times()
                seconds[each.pid] = used.user + used.system
        if any('"kind":"step"' in journal.read_text() for journal in folder.glob("*/records.jsonl")):
            return time.time(), sum(seconds.values())
        time.sleep(POLL_S)
    raise SystemExit("the command ended without a step")


if __name__ == "__main__":
    main()

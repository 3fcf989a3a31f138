"""From `largebatch train --workers 2` to the first optimizer step, split: what is Ray's and what is ours.

The command's own Ray is started and ended each time, dashboard included, as a person's is.
"""

import itertools
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from _report import parser, publish


def main() -> None:
    """Measure and print."""
    given = parser(__doc__, repetitions=3).parse_args()
    seen: dict[str, list[float]] = {}
    for _ in range(given.repetitions):
        times = _once()
        for (_, before), (what, after) in itertools.pairwise(times):
            seen.setdefault(what, []).append(after - before)
        seen.setdefault("all", []).append(times[-1][1] - times[0][1])
        print({what: round(values[-1], 2) for what, values in seen.items()}, file=sys.stderr, flush=True)
    whose = {"imports": "ours", "Ray starts": "Ray", "workers start": "Ray", "data, model, plan": "ours", "kernels, first step": "ours", "all": ""}
    rows = [
        {"what": what, "whose": whose[what], "seconds, median": f"{median(values):.2f}", "min": f"{min(values):.2f}", "max": f"{max(values):.2f}"}
        for what, values in seen.items()
    ]
    ours = [sum(values[index] for what, values in seen.items() if whose[what] == "ours") for index in range(given.repetitions)]
    notes = [
        f"Ours, added up: {median(ours):.2f} s median; target 2 s.",
        "Imports: the command's modules and the recipe, in the first round only. Workers start: Ray Train's controller, placement, processes,"
        " torch's import in each and the process group.",
    ]
    publish("From the command to the first step of two workers", rows, notes, given)


def _once() -> list[tuple[str, float]]:
    """(what has just ended, when) for one run; imports are measured in the first round only, later ones find them loaded."""
    began = time.time()
    from jobs.job import Listener
    from jobs.launch.mailbox import Mailbox
    from jobs.launch.options import LocalOptions, RayOptions, Workers
    from jobs.launch.ray_train import train_on_ray
    from jobs.spec_reader import read_spec

    spec = read_spec("digits-lamb", ["stop.epochs=2"])
    times = [("begin", began), ("imports", time.time())]
    handles = []
    options_of = Mailbox.options  # type: ignore[attr-defined]

    def options(**given: object) -> object:
        made = options_of(**given)

        class Noting:
            @staticmethod
            def remote(*arguments: object) -> object:
                handles.append(made.remote(*arguments))
                return handles[-1]

        return Noting

    Mailbox.options = options  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        first = threading.Event()

        def watch() -> None:
            while not first.is_set():
                for path in Path(folder).glob("run/records.jsonl"):
                    if '"kind":"step"' in path.read_text():
                        times.append(("kernels, first step", time.time()))
                        first.set()
                time.sleep(0.01)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()

        def on_start(run_dir: Path) -> None:
            times.append(("Ray starts", time.time()))

        marks: dict[str, float] = {}
        given = LocalOptions(output_dir=Path(folder), device="cpu", run_id="run")
        train_on_ray(spec, given, RayOptions(Workers(2, 2)), Listener(on_record=lambda record: _mark(marks, record, handles)), on_start=on_start)
        first.wait(10)
    Mailbox.options = options_of  # type: ignore[attr-defined]
    step = times.pop()
    return [*times, ("workers start", marks["begun"]), ("data, model, plan", marks["start"]), step]


def _mark(marks: dict[str, float], record: object, handles: list[object]) -> None:
    import ray

    from jobs.records import StartRecord

    if isinstance(record, StartRecord):
        marks["start"] = record.at_s
        marks["begun"] = ray.get(handles[-1].begun_at.remote())  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()

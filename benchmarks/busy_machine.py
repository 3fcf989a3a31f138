"""What waiting by spinning costs a run on a busy machine, and what not spinning costs it on an idle one.

OpenMP's threads wait for each other some hundred times in a step. GNU's runtime spins while it waits, unless told otherwise: on an idle
machine the next piece of work then begins at once; on a busy one a thread that spins takes the core from the thread that it waits for.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from _report import in_turn, parser, publish, ratios, spread

BASE = {
    "optimizer": {"name": "adamw"},
    "learning_rate": {"base": 0.001},
    "stop": {"steps": 1_000_000},
    "evaluation": {"every_epochs": 1e6},
}
MLP = {"name": "mlp", "arguments": {"width": 512, "depth": 4, "batch_norm": True}}
IMAGES = {"name": "synthetic", "arguments": {"num_train": 2048, "num_test": 10}}
GREY = {"name": "synthetic", "arguments": {"num_train": 8192, "num_test": 10, "shape": [1, 28, 28]}}
RUNS = {
    "digits, mlp with batch-norm, whole set": {
        "dataset": {"name": "digits"},
        "model": {"name": "mlp", "arguments": {"width": 128, "depth": 2, "batch_norm": True}},
        "batch": {"global_batch_size": "full"},
    },
    "28x28, Keskar's F1, batch 256": {"dataset": GREY, "model": {"name": "keskar-f1"}, "batch": {"global_batch_size": 256}},
    "28x28, Keskar's F1, batch 4,096": {"dataset": GREY, "model": {"name": "keskar-f1"}, "batch": {"global_batch_size": 4096}},
    "32x32, resnet9, batch 64": {"dataset": IMAGES, "model": {"name": "resnet9"}, "batch": {"global_batch_size": 64}},
}
SIDES: dict[str, dict[str, str]] = {
    "as the runtime comes": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    **{f"spins {count}": {"GOMP_SPINCOUNT": str(count)} for count in (300, 2000, 5000, 10_000, 30_000)},
}
SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
INSIDE = """
import json, sys, time
from pathlib import Path
import torch
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.engine.warm_up import warm_up
from largebatch.jobs.job import prepare
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.spec.read import build_spec
document, seconds = json.loads(sys.argv[1]), float(sys.argv[2])
job = prepare(build_spec(document), torch.device("cpu"), Path("."))
state, batches = new_state(job), training_batches(job)
warm_up(state, job.plan, job.dataset)
for _ in range(3):
    optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), batches, print)
print("ready", flush=True)
for _ in sys.stdin:  # one line, one measurement
    samples, began = state.progress.samples_seen, time.perf_counter()
    while time.perf_counter() < began + seconds:
        optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), batches, print)
    print((state.progress.samples_seen - samples) / (time.perf_counter() - began), flush=True)
"""


class Trainer:
    """A process of its own that trains under these settings for a while whenever it is asked to."""

    def __init__(self, document: dict[str, object], settings: dict[str, str], seconds: float) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in SETTINGS} | settings
        command = [sys.executable, "-c", INSIDE, json.dumps({**BASE, **document}), str(seconds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def samples_per_second(self) -> float:
        """Of one stretch."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


@contextmanager
def others_at_work(count: int) -> Iterator[None]:
    """So many processes that compute without end."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.2)
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(given: argparse.Namespace) -> list[dict[str, str]]:
    """One row for each run and number of others."""
    rows = []
    sides = {name: settings for name, settings in SIDES.items() if not given.only or name in given.only}
    for run, document in ((run, document) for run, document in RUNS.items() if given.run in run):
        trainers = {name: Trainer(document, settings, given.seconds) for name, settings in sides.items()}
        for count in given.others:
            with others_at_work(count):
                seen = in_turn({name: trainer.samples_per_second for name, trainer in trainers.items()}, given.repetitions)
            first = next(iter(seen))
            times = {name: ratios(values, seen[first]) for name, values in seen.items() if name != first}
            rows.append(
                {
                    "run": run,
                    "others at work": str(count),
                    f"{first}, samples/s": spread(seen[first], ",.0f"),
                    **{f"{name}, times": spread(values, ".2f") for name, values in times.items()},
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
        for trainer in trainers.values():
            trainer.end()
    return rows


def main() -> None:
    """Measure and publish."""
    options = parser(__doc__, repetitions=5)
    options.add_argument("--seconds", type=float, default=1.5, help="how long each process trains (default 1.5)")
    options.add_argument("--others", type=int, nargs="+", default=[0, 3], help="processes that compute beside it (default 0 and 3)")
    options.add_argument("--only", nargs="+", choices=[*SIDES], help="these settings alone; the first is what the others are held against")
    options.add_argument("--run", default="", help="only runs whose name holds this")
    given = options.parse_args()
    publish(
        "Waiting on a busy machine", measure(given), ["Samples a second of the engine's steps; evaluation, start and warm-up not counted."], given
    )


if __name__ == "__main__":
    main()

"""From the command to the first optimizer step on the digits: a real `largebatch train`, timed from outside; and to the end of its help."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from _report import parser, publish

OURS = {"largebatch"}
NAMED = 8
"""Packages that are named, of all that the help imports."""
INSIDE = """
import json, sys, time
marks = [("python", time.time())]
def mark(name): marks.append((name, time.time()))
import torch
mark("import torch")
import largebatch.jobs.launch.local, largebatch.service.cli.main, largebatch.service.cli.console
import largebatch.tuning.results.collect, largebatch.tuning.report.run_figures
mark("import largebatch")
from pathlib import Path
from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.spec.read import read_spec
spec = read_spec("digits-lamb")
load_dataset(spec.dataset, Path("."))
mark("spec and data")
from largebatch.jobs.job import prepare
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.engine.warm_up import warm_up
job = prepare(spec, torch.device("cpu"), Path("."))
mark("data again, model, plan")
state = new_state(job)
warm_up(state, job.plan, job.dataset)
mark("kernel warm-up")
optimizer_step(state, job.plan, job.plan.step_at(state.progress.position), training_batches(job), print)
mark("first step")
print(json.dumps(marks))
"""


def command_to_first_step() -> float:
    """Seconds until the journal of `largebatch train digits-lamb` has its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("largebatch")), "train", "digits-lamb", "--output-dir", folder]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        began = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        seen: float | None = None
        while seen is None and process.poll() is None:
            journals = list(Path(folder).glob("*/records.jsonl"))
            if journals and '"kind":"step"' in journals[0].read_text():
                seen = time.time() - began
            time.sleep(0.01)
        process.wait()
        if seen is None:
            raise SystemExit("the command ended without a step")
        return seen


def parts() -> list[tuple[str, float]]:
    """Seconds of each part, in a process of its own that does the same in the same order."""
    began = time.time()
    out = subprocess.run([sys.executable, "-c", INSIDE], check=True, stdout=subprocess.PIPE, text=True).stdout
    marks = json.loads(out.splitlines()[-1])
    times = [began, *(at for _, at in marks)]
    return [(name, later - earlier) for (name, _), earlier, later in zip(marks, times, times[1:], strict=False)]


def command_to_help() -> float:
    """Seconds of `largebatch --help`."""
    began = time.time()
    subprocess.run([str(Path(sys.executable).with_name("largebatch")), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.time() - began


def imports_of_help() -> dict[str, float]:
    """Seconds that `largebatch --help` spends in importing each package, what that imports in turn not counted; slower than usual, being watched."""
    command = [sys.executable, "-X", "importtime", "-m", "largebatch", "--help"]
    told = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr
    seconds: dict[str, float] = defaultdict(float)
    for line in told.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdecimal():
            package = name.strip().partition(".")[0]
            seconds["largebatch" if package in OURS else package] += int(own) / 1e6
    return seconds


def measure_help(given: argparse.Namespace) -> None:
    """The help's table: the whole, and the packages that take most."""
    whole, split = [], []
    for _ in range(given.repetitions):
        whole.append(command_to_help())
        split.append(imports_of_help())
    middle = {name: median(run.get(name, 0.0) for run in split) for name in {name for run in split for name in run}}
    most = sorted(middle, key=lambda name: -middle[name])[:NAMED]
    measured = {
        "largebatch --help": whole,
        **{f"import {name}": [run.get(name, 0.0) for run in split] for name in most},
        f"import {len(middle) - len(most)} others": [sum(run.values()) - sum(run.get(name, 0.0) for name in most) for run in split],
    }
    rows = [
        {"part": name, "median s": f"{median(seconds):.3f}", "range s": f"{min(seconds):.3f} ... {max(seconds):.3f}"}
        for name, seconds in measured.items()
    ]
    notes = ["Target: under 0.5 s. Imports are those of a second process under `python -X importtime`, each package's own."]
    publish("Help of the command", rows, notes, given)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__, repetitions=5)
    options.add_argument("--only-help", action="store_true", help="measure `largebatch --help` alone")
    given = options.parse_args()
    if given.only_help:
        measure_help(given)
        return
    whole, split = [], []
    for _ in range(given.repetitions):
        whole.append(command_to_first_step())
        split.append(parts())
    rows = [
        {
            "part": "whole command, to the first step in the journal",
            "median s": f"{median(whole):.2f}",
            "range s": f"{min(whole):.2f} ... {max(whole):.2f}",
        }
    ]
    for index, (name, _) in enumerate(split[0]):
        seconds = [run[index][1] for run in split]
        rows.append({"part": name, "median s": f"{median(seconds):.2f}", "range s": f"{min(seconds):.2f} ... {max(seconds):.2f}"})
    notes = ["Target: under 5 s on two cores. The parts come from a second process that does the same in the same order, without the command line."]
    publish("From command to first optimizer step, digits", rows, notes, given)


if __name__ == "__main__":
    main()

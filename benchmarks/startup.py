"""From the command to the first optimizer step on the digits: a real `largebatch train`, timed from outside."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _report import parser, publish

INSIDE = """
import json, sys, time
marks = [("python", time.time())]
def mark(name): marks.append((name, time.time()))
import torch
mark("import torch")
import jobs.launch.local, service.cli, service.console, tuning.collect, tuning.figures
mark("import largebatch")
from pathlib import Path
from jobs.data.sources import load_dataset
from jobs.spec_reader import read_spec
spec = read_spec("digits-lamb")
load_dataset(spec.dataset, Path("."))
mark("spec and data")
from jobs.job import prepare, new_state, training_batches
from jobs.engine.step import optimizer_step
from jobs.engine.warm_up import warm_up
job = prepare(spec, torch.device("cpu"), Path("."))
mark("data again, model, plan")
state = new_state(job)
warm_up(state, job.plan, job.dataset)
mark("kernel warm-up")
optimizer_step(state, job.plan, training_batches(job), print)
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


def main() -> None:
    """Measure and print."""
    given = parser(__doc__, repetitions=5).parse_args()
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

"""What tracking, journal and noise scale cost together: F1 on MNIST at batch 256, all of it on against all of it off.

Two measurements. Whole runs: the command `largebatch train` in a process of its own, as a person starts it, on and off
in turn; these machines drift by more than what is asked for. Within one run: blocks of steps with everything on and
with everything off in turn, half a second each, so that drift falls on both sides of a pair.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, stdev

import torch
from _report import in_turn, parser, publish, ratios, spread

from jobs.engine.step import optimizer_step
from jobs.engine.warm_up import warm_up
from jobs.job import new_state, prepare, training_batches
from jobs.records import StartRecord
from jobs.spec_reader import build_spec
from jobs.tracking.journal import Journal
from jobs.tracking.mirror_process import MirrorProcess

BATCH = 256
BLOCK = 40
"""Steps; two of them measure the noise scale."""
WITHOUT_JOURNAL = """
import jobs.job
class NoJournal(jobs.job.Journal):
    def write(self, record): pass
jobs.job.Journal = NoJournal
"""
COMMAND = "from service.cli import main; main()"


def document(is_on: bool, num_steps: int) -> dict[str, object]:
    """The same training, watched or not."""
    return {
        "name": "overhead",
        "dataset": {"name": "mnist"},
        "model": {"name": "keskar-f1"},
        "batch": {"global_batch_size": BATCH},
        "optimizer": {"name": "sgd"},
        "learning_rate": {"base": 0.01},
        "stop": {"steps": num_steps},
        "evaluation": {"every_epochs": 1000},
        "checkpoint": {"every_seconds": None, "best": False},
        "gradient": {"noise_every_steps": "auto" if is_on else 0},
        "tracking": {"enabled": is_on},
    }


def within_one_run(folder: Path, data_dir: Path, num_blocks: int) -> dict[str, list[float]]:
    """Seconds of each block, by side."""
    run_dir = folder / "blocks"
    (run_dir / "checkpoints").mkdir(parents=True)
    jobs = {name: prepare(build_spec(document(name == "on", 10**6)), torch.device("cpu"), data_dir) for name in ("on", "off")}
    state, batches = new_state(jobs["on"]), training_batches(jobs["on"])
    plans = {name: job.plan for name, job in jobs.items()}
    warm_up(state, plans["on"], jobs["on"].dataset)
    for name, content in (("spec.json", jobs["on"].spec.model_dump_json()), ("plan.json", "{}"), ("environment.json", "{}")):
        (run_dir / name).write_text(content)
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    with Journal(run_dir) as journal, MirrorProcess(jobs["on"].spec) as mirror:
        journal.write(StartRecord(at_s=time.time(), step=0, training_seconds=0.0, world_size=1, device="cpu"))
        mirror.follow(run_dir, lambda text: None)
        assert mirror._process is not None
        pid = mirror._process.pid

        def block(name: str) -> float:
            os.kill(pid, signal.SIGCONT if name == "on" else signal.SIGSTOP)
            began = time.perf_counter()
            for _ in range(BLOCK):
                with state.clock.training():
                    record = optimizer_step(state, plans[name], batches, lambda text: None)
                if name == "on":
                    journal.write(record.model_copy(update={"training_seconds": state.clock.training_s}))
            return time.perf_counter() - began

        for _ in range(20):  # the mirror imports MLflow meanwhile
            block("on")
        for number in range(num_blocks):
            for name in ("on", "off") if number % 2 else ("off", "on"):
                seconds[name].append(block(name))
        os.kill(pid, signal.SIGCONT)
    return seconds


def _error(blocks: dict[str, list[float]]) -> float:
    """Standard error of the mean ratio."""
    values = ratios(blocks["on"], blocks["off"])
    return stdev(values) / len(values) ** 0.5


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repetitions=7)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--steps", type=int, default=700, help="optimizer steps of one run")
    arguments.add_argument("--blocks", type=int, default=100, help="blocks of 40 steps on each side within one run")
    given = arguments.parse_args()
    walls: dict[str, list[float]] = {"on": [], "off": []}

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def measure(name: str) -> Callable[[], float]:
            spec = folder / f"{name}.json"
            spec.write_text(json.dumps(document(name == "on", given.steps)))
            code = COMMAND if name == "on" else WITHOUT_JOURNAL + COMMAND
            command = [sys.executable, "-c", code, "train", str(spec), "--data-dir", str(given.data_dir), "--output-dir", str(folder / "runs")]

            def run() -> float:
                done = subprocess.run([*command, "--device", "cpu", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                summary = json.loads(done.stdout)
                walls[name].append(summary["wall_seconds"] - summary["evaluation_seconds"])
                print(f"{name}: {summary['training_seconds']:.2f} s training, {walls[name][-1]:.2f} s wall", file=sys.stderr)
                return float(summary["training_seconds"])

            return run

        measure("on")()  # MLflow's database is made once, by the first run in a folder
        walls["on"].clear()
        seconds = in_turn({"on": measure("on"), "off": measure("off")}, given.repetitions)
        blocks = within_one_run(folder, given.data_dir, given.blocks)
    rows = [
        {
            "clock": clock,
            "all on, s": f"{median(taken['on']):.2f}",
            "all off, s": f"{median(taken['off']):.2f}",
            "on / off": spread(ratios(taken["on"], taken["off"])),
        }
        for clock, taken in (
            ("whole runs, training seconds", seconds),
            ("whole runs, wall without evaluation", walls),
            ("blocks within one run", blocks),
        )
    ]
    notes = [
        f"F1 on MNIST, batch {BATCH}, {given.steps} steps a run. On: journal, MLflow mirror (SQLite), noise scale every twentieth step. Off: none.",
        f"Blocks: {given.blocks} of {BLOCK} steps on each side, every second one first on; in a block that is off the mirror is stopped (SIGSTOP),"
        f" nothing is journalled and no noise measured. The mean over blocks is known to {_error(blocks):.3f} (standard error).",
        "Target: at most 2 % of training time. Wall: the job from beginning to end but for evaluation, so journal, checkpoint and warm-up are in it.",
    ]
    publish("Overhead of tracking, journal and noise scale", rows, notes, given)


if __name__ == "__main__":
    main()

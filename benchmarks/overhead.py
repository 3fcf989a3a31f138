"""What tracking, journal and noise scale cost together: F1 on MNIST at batch 256, all of it on against all of it off.

Two measurements. Whole runs: the command `largebatch train` in a process of its own, as a person starts it, on and off
in turn; these machines drift by more than what is asked for. Within one run: blocks of steps with everything on and
with everything off in turn, some seconds each, so that drift falls on both sides of a pair. The mirror is stopped where all
is off. What it did not do then it does when it may go on, so a block is as long as the mirror waits between two looks:
it looks once in each, as often as in a run where it is never stopped.
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

from largebatch.jobs.engine.step import optimizer_step
from largebatch.jobs.engine.warm_up import warm_up
from largebatch.jobs.job import prepare
from largebatch.jobs.preparing.batches import training_batches
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.reporting import write_facts
from largebatch.jobs.run.journal import Journal, read_records, steps
from largebatch.jobs.run.records import StartRecord
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.tracking.mirror_process import MirrorProcess
from largebatch.jobs.tracking.mirror_state import MirrorState

BATCH = 256
BLOCK = 900
"""Steps, about ten seconds on two cores; 30 of them measure the noise scale."""
WITHOUT_JOURNAL = "from largebatch.jobs.run.journal import Journal; Journal.write = lambda self, record: None; "
"""Brings no torch along: both sides import it where the command does."""
COMMAND = "from largebatch.service.cli.main import main; main()"


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
    write_facts(jobs["on"], run_dir)
    seconds: dict[str, list[float]] = {"on": [], "off": []}
    with Journal(run_dir) as journal, MirrorProcess(jobs["on"].spec) as mirror:
        journal.write(StartRecord(at_s=time.time(), step=0, training_seconds=0.0, world_size=1, device="cpu"))
        mirror.follow(run_dir, lambda text: None)
        assert mirror.process is not None
        pid = mirror.process.pid

        def block(name: str) -> float:
            os.kill(pid, signal.SIGCONT if name == "on" else signal.SIGSTOP)
            began = time.perf_counter()
            for _ in range(BLOCK):
                with state.clock.training():
                    step = plans[name].step_at(state.progress.position)
                    record = optimizer_step(state, plans[name], step, batches, lambda text: None)
                if name == "on":
                    journal.write(record)
            return time.perf_counter() - began

        block("on")
        _wait_for_mirror(run_dir)  # it imports MLflow and makes its database
        for number in range(num_blocks):
            for name in ("on", "off") if number % 2 else ("off", "on"):
                seconds[name].append(block(name))
        os.kill(pid, signal.SIGCONT)
        _wait_for_mirror(run_dir)
    return seconds


def _wait_for_mirror(run_dir: Path) -> None:
    """Until MLflow has what the journal has: what is measured must be a mirror at work."""
    step = max(record.step for record in steps(read_records(run_dir)))
    ends_at = time.monotonic() + 60
    while MirrorState.read(run_dir).last_step < step:
        if time.monotonic() > ends_at:
            raise SystemExit("The mirror sends nothing; without it this measures too little.")
        time.sleep(0.1)


def _error(blocks: dict[str, list[float]]) -> float:
    """Standard error of the mean ratio."""
    values = ratios(blocks["on"], blocks["off"])
    return stdev(values) / len(values) ** 0.5


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repetitions=7)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--steps", type=int, default=700, help="optimizer steps of one run")
    arguments.add_argument("--blocks", type=int, default=16, help=f"blocks of {BLOCK} steps on each side within one run")
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
        f"F1 on MNIST, batch {BATCH}, {given.steps} steps a run. On: journal, MLflow mirror (SQLite), noise scale every thirtieth step. Off: none.",
        f"Blocks: {given.blocks} of {BLOCK} steps on each side, every second one first on; in a block that is off the mirror is stopped (SIGSTOP),"
        f" nothing is journalled and no noise measured. The mean over blocks is known to {_error(blocks):.3f} (standard error).",
        "Target: at most 2 % of training time. Wall: the job from beginning to end but for evaluation, so journal, checkpoint and warm-up are in it.",
    ]
    publish("Overhead of tracking, journal and noise scale", rows, notes, given)


if __name__ == "__main__":
    main()

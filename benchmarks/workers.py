"""Many workers against one process, on one machine's cores: what Ray costs, what the reduction costs, what compression saves.

Every side is `python -m largebatch.jobs` in a process of its own; samples per second are those of the training clock, without the
first step. Two workers have one thread each, one process has two. One worker and one process are there at the same time and train
in turn, some seconds each, while all processes of the other run are held still: a noisy machine slows both sides of such a pair alike.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import psutil
from _ray import SETTLE_S, head
from _report import in_turn, parser, publish, ratios, spread

CASES: dict[str, dict[str, Any]] = {
    "F1/MNIST, 1,024": {"dataset": {"name": "mnist"}, "model": {"name": "keskar-f1"}, "batch": {"global_batch_size": 1024}, "stop": {"steps": 300}},
    "F1/MNIST, 8,192": {"dataset": {"name": "mnist"}, "model": {"name": "keskar-f1"}, "batch": {"global_batch_size": 8192}, "stop": {"steps": 28}},
    "C1/CIFAR-10, 8,192": {
        "dataset": {"name": "cifar10"},
        "model": {"name": "keskar-c1"},
        "batch": {"global_batch_size": 8192},
        "stop": {"steps": 3},
    },
}
BLOCK_S = 4.0
SETTLED_STEPS = 30
PARTS = ["one", "two", "ways"]
ONE_PROCESS: list[str] = []
TWO_WORKERS = ["--workers", "2", "--cpus-per-worker", "1"]
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"compression": "bfloat16"},
    "PowerSGD, rank 4": {"compression": "powersgd", "powersgd_rank": 4},
    "local steps, 4": {"local_steps": 4},
    "no reduction": {"local_steps": 1000},
}


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repetitions=3)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--blocks", type=int, default=20, help="of each of one worker and one process (default 20)")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="one worker, two workers, or two workers' ways to reduce")
    given = arguments.parse_args()
    rows = []
    if "one" in given.only:
        rows += [_in_blocks(given, "F1/MNIST, 1,024", threads, "0.97") for threads in (2, 1)]
    with head() if {"two", "ways"} & {*given.only} else nullcontext(None) as address:
        if address is not None:
            os.environ["RAY_ADDRESS"] = address
        if "two" in given.only:
            rows += [
                _compared(given, "F1/MNIST, 8,192", TWO_WORKERS, "two workers, one thread each", "reported"),
                _compared(given, "C1/CIFAR-10, 8,192", TWO_WORKERS, "two workers, one thread each", "0.90"),
            ]
        if "ways" in given.only:
            rows += _ways(given)
    notes = [
        "Side over one process: samples/s of the side over those of one process with two threads, pair by pair.",
        f"One worker, with the Ray that its command brings: {given.blocks} blocks of {BLOCK_S:g} s of each side in turn, all processes of the other"
        " run and its Ray held still meanwhile (SIGSTOP); the first step of a block is left out. Ray was up for 25 s.",
        "More workers: Ray's head had the settings of the command's own Ray, was up for 25 s, and idle beside one process too.",
    ]
    if "one" not in given.only or len(given.only) > 1:
        notes.append(
            "F1's gradient has 1.5 million numbers, 5.8 MB in float32; gloo on one machine moves it through memory that both workers compute in."
        )
    if "ways" in given.only:
        notes.append(
            "The last rows are F1 on MNIST at 8,192 with two workers, over the float32 reduction of the same round; accuracy is the test set's"
            " after 28 steps (four epochs). The last one never reduces before its end: what a free reduction would give."
        )
    publish("Workers against one process", rows, notes, given)


def _compared(given: argparse.Namespace, case: str, options: list[str], side: str, target: str) -> dict[str, str]:
    sides = {"one": _measure(given, CASES[case], ONE_PROCESS), "many": _measure(given, CASES[case], options)}
    seen = in_turn({name: (lambda run=run: run()[0]) for name, run in sides.items()}, given.repetitions)
    rate = f"{sorted(seen['many'])[len(seen['many']) // 2]:,.0f}"
    return {"case": case, "side": side, "samples/s": rate, "ratio": spread(ratios(seen["many"], seen["one"])), "target": target, "accuracy": ""}


@dataclass
class Alternating:
    """One run that trains when it is told to."""

    processes: list[psutil.Process]
    journal: Path

    def hold(self) -> int:
        """Hold all its processes still. Returns the steps done."""
        self.send(signal.SIGSTOP)
        return len(self._steps())

    def send(self, number: signal.Signals) -> None:
        """A signal to all that are still there: Ray lets idle ones go."""
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def train(self, seconds: float, step_samples: int) -> float:
        """Go on for so long; returns samples per second of the training clock."""
        before = self.hold()
        self.send(signal.SIGCONT)
        time.sleep(seconds)
        self.hold()
        clock = self._steps()[before:]  # the first of them was cut in two by the last pause
        return step_samples / mean(later - earlier for earlier, later in pairwise(clock))

    def _steps(self) -> list[float]:
        lines = [json.loads(line) for line in self.journal.read_text().splitlines() if line.endswith("}")]
        return [line["training_seconds"] for line in lines if line["kind"] == "step"]


@contextmanager
def _held(given: argparse.Namespace, case: dict[str, Any], options: list[str], threads: int) -> Iterator[Alternating]:
    """A run without end, begun and then held still."""
    with tempfile.TemporaryDirectory() as folder:
        endless = {**case, "stop": {"steps": 1_000_000}}
        driver = psutil.Popen(
            _command(given, folder, options), env=_environment(endless, threads), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not (found := list(Path(folder).glob("*/records.jsonl"))) or len(found[0].read_text().splitlines()) < SETTLED_STEPS:
                assert driver.poll() is None
                time.sleep(0.2)
            time.sleep(SETTLE_S if options else 0.0)
            run = Alternating([driver, *driver.children(recursive=True)], found[0])
            run.hold()
            yield run
        finally:
            run.send(signal.SIGCONT)
            driver.terminate()
            driver.wait(120)


def _in_blocks(given: argparse.Namespace, case: str, threads: int, target: str) -> dict[str, str]:
    """One worker with its own Ray against one process of as many threads."""
    samples, side = CASES[case]["batch"]["global_batch_size"], f"one worker of {threads} thread{'s' * (threads > 1)}"
    one_worker = ["--workers", "1", "--cpus-per-worker", str(threads)]
    with _held(given, CASES[case], ONE_PROCESS, threads) as one, _held(given, CASES[case], one_worker, threads) as worker:
        sides = {"one": lambda: one.train(BLOCK_S, samples), "many": lambda: worker.train(BLOCK_S, samples)}
        seen = in_turn(sides, given.blocks)
    rate = f"{median(seen['many']):,.0f}"
    return {"case": case, "side": side, "samples/s": rate, "ratio": spread(ratios(seen["many"], seen["one"])), "target": target, "accuracy": ""}


def _ways(given: argparse.Namespace) -> list[dict[str, str]]:
    accuracies: dict[str, float] = {}

    def side(name: str, run: Callable[[], tuple[float, float]]) -> Callable[[], float]:
        def measure() -> float:
            rate, accuracies[name] = run()
            return rate

        return measure

    case = CASES["F1/MNIST, 8,192"]
    sides = {name: side(name, _measure(given, {**case, "reduction": way}, TWO_WORKERS)) for name, way in WAYS.items()}
    seen = in_turn(sides, given.repetitions)
    return [
        {
            "case": "F1/MNIST, 8,192",
            "side": f"two workers, {name}",
            "samples/s": f"{sorted(rates)[len(rates) // 2]:,.0f}",
            "ratio": spread(ratios(rates, seen["float32"])),
            "target": "reported",
            "accuracy": f"{accuracies[name]:.4f}",
        }
        for name, rates in seen.items()
    ]


def _measure(given: argparse.Namespace, case: dict[str, Any], options: list[str]) -> Callable[[], tuple[float, float]]:
    """A run's (samples per second, test accuracy)."""

    def run() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(_command(given, folder, options), env=_environment(case), check=True, capture_output=True, text=True)
            summary = json.loads(done.stdout.splitlines()[-1])
            lines = [json.loads(line) for line in (Path(summary["run_dir"]) / "records.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "step"]
        seconds = steps[-1]["training_seconds"] - steps[0]["training_seconds"]
        rate = (steps[-1]["samples_seen"] - steps[0]["samples_seen"]) / seconds
        print(
            f"{case['model']['name']} {case['batch']['global_batch_size']} {options} {case.get('reduction')}: {rate:,.0f}",
            file=sys.stderr,
            flush=True,
        )
        return rate, float(summary["score"])

    return run


def _command(given: argparse.Namespace, folder: str, options: list[str]) -> list[str]:
    places = ["--data-dir", str(given.data_dir), "--output-dir", folder]
    return [sys.executable, "-m", "largebatch.jobs", "env:SPEC", *places, "--device", "cpu", *options]


def _environment(case: dict[str, Any], threads: int = 2) -> dict[str, str]:
    document = {
        "name": "workers",
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "learning_rate": {"base": 0.1},
        "batch_norm": {"span": 128},
        "evaluation": {"every_epochs": 1_000_000},
        "checkpoint": {"every_seconds": None, "best": False},
        "tracking": {"enabled": False},
        **case,
    }
    return {**os.environ, "SPEC": json.dumps(document), "OMP_NUM_THREADS": str(threads)}


if __name__ == "__main__":
    main()

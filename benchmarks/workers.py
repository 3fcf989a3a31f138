"""Many workers against one process, on one machine's cores: what Ray costs, what the reduction costs, what compression saves.

Every side is `python -m jobs` in a process of its own; samples per second are those of the training clock, without the
first step. Two workers have one thread each, one process has two.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _ray import head
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
PARTS = ["one", "two", "ways"]
ONE_PROCESS: list[str] = []
ONE_WORKER = ["--workers", "1", "--cpus-per-worker", "2"]
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
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="one worker, two workers, or two workers' ways to reduce")
    given = arguments.parse_args()
    with head() as os.environ["RAY_ADDRESS"]:
        rows = []
        if "one" in given.only:
            rows += [_compared(given, "F1/MNIST, 1,024", ONE_WORKER, "one worker, two threads", "0.97")]
        if "two" in given.only:
            rows += [
                _compared(given, "F1/MNIST, 8,192", TWO_WORKERS, "two workers, one thread each", "reported"),
                _compared(given, "C1/CIFAR-10, 8,192", TWO_WORKERS, "two workers, one thread each", "0.90"),
            ]
        if "ways" in given.only:
            rows += _ways(given)
    notes = [
        "Side over one process: samples/s of the side over those of one process with two threads, pair by pair.",
        "Ray's head had the settings of the command's own Ray, was up for 25 s before anything was measured, and idle beside one process too.",
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
    document = {
        "name": "workers",
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "learning_rate": {"base": 0.1},
        "batch_norm": {"span": 128},
        "evaluation": {"every_epochs": 1000},
        "checkpoint": {"every_seconds": None, "best": False},
        "tracking": {"enabled": False},
        **case,
    }

    def run() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "jobs",
                "env:SPEC",
                "--data-dir",
                str(given.data_dir),
                "--output-dir",
                folder,
                "--device",
                "cpu",
                *options,
            ]
            environment = {**os.environ, "SPEC": json.dumps(document), "OMP_NUM_THREADS": "2"}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            summary = json.loads(done.stdout.splitlines()[-1])
            lines = [json.loads(line) for line in (Path(summary["run_dir"]) / "records.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "step"]
        seconds = steps[-1]["training_seconds"] - steps[0]["training_seconds"]
        rate = (steps[-1]["samples_seen"] - steps[0]["samples_seen"]) / seconds
        print(
            f"{document['model']['name']} {document['batch']['global_batch_size']} {options} {case.get('reduction')}: {rate:,.0f}",
            file=sys.stderr,
            flush=True,
        )
        return rate, float(summary["test_accuracy"])

    return run


if __name__ == "__main__":
    main()

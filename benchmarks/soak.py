"""Random kills over one training run of two workers: the same parameters at the end, no record lost or doubled.

Each kill is a SIGKILL, drawn from the seed: a worker, the driver, or the worker that writes a checkpoint while it
does. The run is supervised as a submitted job is; before it, the same run goes undisturbed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from _report import parser, publish

DOCUMENT: dict[str, Any] = {
    "name": "soak",
    "dataset": {"name": "digits", "augment": {"translate": 1}},
    "model": {"name": "mlp", "arguments": {"width": 256, "depth": 3, "batch_norm": True}},
    "batch": {"global_batch_size": 250, "micro_batch_size": 125},
    "batch_norm": {"span": 25},
    "optimizer": {"name": "lamb", "weight_decay": 0.01},
    "learning_rate": {"base": 0.002, "warmup_epochs": 1.0},
    "evaluation": {"every_epochs": 20},
    "checkpoint": {"every_steps": 20, "keep": 3, "every_seconds": None},
}


def main() -> None:
    """Run, kill, compare and print."""
    arguments = parser(__doc__, repetitions=1)
    arguments.add_argument("--kills", type=int, default=20)
    arguments.add_argument("--steps", type=int, default=4000, help="optimizer steps of the whole run")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calm = _run(Path(folder) / "calm", given.steps, 0, random.Random(0))
        disturbed = _run(Path(folder) / "disturbed", given.steps, given.kills, random.Random(given.seed))
    rows = [_row("undisturbed", calm), _row(f"{disturbed['kills']} kills", disturbed)]
    same = calm["sha"] == disturbed["sha"]
    notes = [
        f"Final parameters: {'equal bit for bit' if same else 'DIFFERENT'} (SHA-256 {calm['sha'][:16]} and {disturbed['sha'][:16]}).",
        f"Killed: {', '.join(f'{what} {count}' for what, count in disturbed['what'].items())}.",
        f"From a kill to the next new step: median {median(disturbed['recoveries']):.1f} s, longest {max(disturbed['recoveries']):.1f} s."
        if disturbed["recoveries"]
        else "Nothing was killed.",
        f"Steps done again: at most {max(disturbed['redone'], default=0)} after one kill, where checkpoints are 20 steps apart.",
        "Steps in the journal and in MLflow: each number from 1 to the last exactly once, those that the journal supersedes left out there.",
    ]
    publish("A soak of random kills", rows, notes, given)
    sys.exit(0 if same and all(run["is_whole"] and run["is_mirrored"] for run in (calm, disturbed)) else 1)


def _row(name: str, run: dict[str, Any]) -> dict[str, str]:
    return {
        "run": name,
        "steps": str(run["steps"]),
        "starts": str(run["starts"]),
        "journal whole": "yes" if run["is_whole"] else "NO",
        "MLflow whole": "yes" if run["is_mirrored"] else "NO",
        "wall seconds": f"{run['seconds']:.0f}",
    }


def _run(folder: Path, steps: int, kills: int, draws: random.Random) -> dict[str, Any]:
    document = {**DOCUMENT, "stop": {"steps": steps}, "tracking": {"step_every_seconds": 0, "mlflow_uri": f"sqlite:///{folder}/mlflow.db"}}
    folder.mkdir()
    environment = {**os.environ, "SPEC": json.dumps(document), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "largebatch.jobs.launch.supervise", "env:SPEC", "--workers", "2", "--cpus-per-worker", "1", "--run-id", "run"]
    began = time.monotonic()
    supervisor = subprocess.Popen(
        [*command, "--output-dir", str(folder), "--device", "cpu", "--max-failures", "1000"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    run_dir = folder / "run"
    what: dict[str, int] = {}
    recoveries: list[float] = []
    redone: list[int] = []
    done = 0
    while done < kills and supervisor.poll() is None:
        target = int(steps * (done + 1) / (kills + 1))
        if not _wait_for_step(supervisor, run_dir, target):
            break
        kind = draws.choice(["worker", "driver", "checkpoint writer"])
        step = _kill(kind, supervisor, run_dir, draws)
        if step is None:
            continue
        done += 1
        what[kind] = what.get(kind, 0) + 1
        killed_at = time.monotonic()
        starts = _num_starts(run_dir)
        if not _wait_for_step(supervisor, run_dir, step + 1, after_starts=starts):
            break
        recoveries.append(time.monotonic() - killed_at)
        redone.append(_steps_redone(run_dir))
        print(f"{kind} killed at step {step}, on again from {_last_start(run_dir)} after {recoveries[-1]:.1f} s", file=sys.stderr, flush=True)
    output, _ = supervisor.communicate()
    summary = json.loads(output.splitlines()[-1])
    from largebatch.jobs.run.journal import read_records
    from largebatch.jobs.run.records import StepRecord

    numbers = [record.step for record in read_records(run_dir) if isinstance(record, StepRecord)]
    return {
        "sha": summary["parameters_sha256"],
        "steps": summary["steps"],
        "kills": done,
        "what": what,
        "recoveries": recoveries,
        "redone": redone,
        "starts": _num_starts(run_dir),
        "is_whole": numbers == list(range(1, steps + 1)),
        "is_mirrored": _mirrored_steps(folder, summary["mlflow_run_id"]) == list(range(1, steps + 1)),
        "seconds": time.monotonic() - began,
    }


def _mirrored_steps(folder: Path, run_id: str) -> list[int]:
    from mlflow.tracking import MlflowClient

    return sorted(metric.step for metric in MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(run_id, "loss"))


def _lines(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "records.jsonl"
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def _num_starts(run_dir: Path) -> int:
    return sum(line["kind"] == "start" for line in _lines(run_dir))


def _last_start(run_dir: Path) -> int:
    return int([line["step"] for line in _lines(run_dir) if line["kind"] == "start"][-1])


def _steps_redone(run_dir: Path) -> int:
    """How many steps the newest start did away with; workers go on for a moment when only their driver was killed."""
    lines = _lines(run_dir)
    newest = max(index for index, line in enumerate(lines) if line["kind"] == "start")
    before = [int(line["step"]) for line in lines[:newest] if line["kind"] == "step"]
    return max(before, default=0) - int(lines[newest]["step"])


def _wait_for_step(supervisor: "subprocess.Popen[str]", run_dir: Path, step: int, after_starts: int = 0) -> bool:
    while supervisor.poll() is None:
        lines = _lines(run_dir)
        starts = [index for index, line in enumerate(lines) if line["kind"] == "start"]
        if len(starts) > after_starts and any(line["kind"] == "step" and line["step"] >= step for line in lines[starts[-1] :]):
            return True
        time.sleep(0.1)
    return False


def _kill(kind: str, supervisor: "subprocess.Popen[str]", run_dir: Path, draws: random.Random) -> int | None:
    """Kill one; returns the last step that was journalled before, or None if there was nobody."""
    workers = _workers()
    if kind == "driver":
        children = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text().split()
        victims = [int(child) for child in children]
    elif kind == "worker":
        victims = [draws.choice(workers)] if workers else []
    else:
        victims = _writer(run_dir, workers)
    if not victims:
        return None
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    return max((int(line["step"]) for line in _lines(run_dir) if line["kind"] == "step"), default=0)


def _workers() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"ray::") and b"Worker" in command and b"Controller" not in command:
                found.append(int(entry.name))
    return sorted(found)


def _writer(run_dir: Path, workers: list[int]) -> list[int]:
    """The worker that is writing a checkpoint at this moment; waits for one."""
    ends_at = time.monotonic() + 20
    while time.monotonic() < ends_at:
        for partial in (run_dir / "checkpoints").glob(".*.part"):
            pid = int(partial.name.split(".")[-2])
            if pid in workers:
                return [pid]
    return []


if __name__ == "__main__":
    main()

"""What a sweep costs beside its training: wall time over the sum of its runs' training seconds, and memory over many tiny runs.

One run at a time with the whole machine, as times to accuracy are measured. The target: at most 5 % above the sum of the training
seconds, and 3 s a run; no growth of memory over 200 tiny runs.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import psutil
import yaml
from _report import parser, publish

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run, measure, print."""
    arguments = parser(__doc__, repetitions=1)
    arguments.add_argument("--runs", type=int, default=24, help="of about five seconds of training; 0: leave them out")
    arguments.add_argument("--tiny", type=int, default=200, help="runs of a few steps; 0: leave them out")
    given = arguments.parse_args()
    rows = [_row(name, runs, epochs) for name, runs, epochs in (("runs of seconds", given.runs, 120.0), ("tiny runs", given.tiny, 0.25)) if runs]
    notes = [
        "The digits recipe at batch 64; wall: the command from its beginning to its end.",
        "Memory: resident set of the sweep's process and all it started, mean of the second quarter of the time against the last.",
    ]
    publish("What a sweep costs beside its training", rows, notes, given)


def _row(name: str, runs: int, epochs: float) -> dict[str, str]:
    sweep = {
        "name": "cost",
        "recipe": "digits-small-batch",
        "set": {"stop.epochs": epochs, "stop.target_accuracy": None, "tracking.enabled": False},
        "each": {"batch.global_batch_size": [64]},
        "repeats": runs,
        "resources": {"max_concurrent": 1, "cpus_per_worker": 2},
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cost.yaml"
        file.write_text(yaml.safe_dump(sweep))
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "largebatch", "sweep", str(file), "--output-dir", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        sizes = []
        while process.poll() is None:
            sizes.append(_resident(process.pid))
            time.sleep(1.0)
        wall = time.perf_counter() - began
        assert process.returncode == 0
        summaries = [json.loads(path.read_text()) for path in Path(folder).glob("cost-*/*/summary.json")]
    assert len(summaries) == runs
    training = sum(one["training_seconds"] for one in summaries)
    quarter = max(len(sizes) // 4, 1)
    growth = (mean(sizes[-quarter:]) - mean(sizes[quarter : 2 * quarter])) / 2**20
    return {
        "sweep": name,
        "runs": str(runs),
        "training seconds, sum": f"{training:.1f}",
        "wall seconds": f"{wall:.1f}",
        "beside training, s a run": f"{(wall - training) / runs:.2f}",
        "allowed": f"{(0.05 * training + 3 * runs) / runs:.2f}",
        "memory growth": f"{growth:+.0f} MiB of {mean(sizes[-quarter:]) / 2**20:.0f}",
    }


def _resident(pid: int) -> int:
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        try:
            total += process.memory_info().rss - process.memory_info().shared
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()

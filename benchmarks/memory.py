"""Peak memory of the whole training set in one step against a batch of 1,000, at the same micro-batch; each in a fresh process."""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from _report import in_turn, parser, publish, ratios, spread

SMALL, WHOLE = 1_000, 60_000
MICRO_BATCH = 1_000
SPAN = 125
"""Divides both batches and the micro-batch."""
SAMPLES = 60_000
"""Each side trains on so many: one step of the whole set, sixty of the small batch."""


def _train(global_batch_size: int, data_dir: Path) -> None:
    """In a fresh process: train, print the peak of this process's resident memory in bytes."""
    from largebatch.jobs.launch.local import prepare_locally, train_locally
    from largebatch.jobs.launch.options import TrainOptions
    from largebatch.jobs.run.listener import Listener
    from largebatch.jobs.spec.train_spec import TrainSpec

    spec = TrainSpec.model_validate(
        {
            "name": "memory",
            "dataset": {"name": "mnist"},
            "model": {"name": "keskar-f1"},
            "batch": {"global_batch_size": global_batch_size, "micro_batch_size": MICRO_BATCH},
            "batch_norm": {"span": SPAN},
            "optimizer": {"name": "adamw"},
            "learning_rate": {"base": 0.001},
            "stop": {"steps": SAMPLES // global_batch_size},
            "tracking": {"enabled": False},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(data_dir=data_dir, output_dir=Path(folder), device="cpu")
        train_locally(prepare_locally(spec, options), options, Listener())
    unit = 1 if sys.platform == "darwin" else 1024
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit))


def _peak_bytes(global_batch_size: int, data_dir: Path) -> Callable[[], float]:
    command = [sys.executable, __file__, "--worker", str(global_batch_size), "--data-dir", str(data_dir)]
    return lambda: float(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    arguments = parser(__doc__, repetitions=3)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.worker:
        _train(given.worker, given.data_dir)
        return
    seen = in_turn({str(size): _peak_bytes(size, given.data_dir) for size in (SMALL, WHOLE)}, given.repetitions)
    rows = [
        {
            "global batch": f"{int(size):,}",
            "peak, MiB": spread([peak / 2**20 for peak in peaks], ".0f"),
            f"peak / batch {SMALL:,}'s": spread(ratios(peaks, seen[str(SMALL)])),
            "target": "at most 1.2" if int(size) == WHOLE else "",
        }
        for size, peaks in seen.items()
    ]
    notes = [
        f"Keskar's F1 on MNIST, fused AdamW, micro-batch {MICRO_BATCH:,}, batch-norm span {SPAN}; {SAMPLES:,} samples of training on each side, then"
        " evaluation and checkpoint, without the MLflow mirror (a process of its own).",
        "Peak: largest resident set of the training process, interpreter and libraries included.",
    ]
    publish("Peak memory: the whole set in one step", rows, notes, given)


if __name__ == "__main__":
    main()

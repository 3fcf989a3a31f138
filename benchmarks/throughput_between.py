"""Whether two checkouts train equally fast: the loop of benchmarks/throughput.py in a process for each, short blocks in turn.

CPU seconds of one thread are compared, not wall seconds: what else the machine does costs both sides cache, but no turn. Each side starts anew
several times, since where a process's memory lies is worth a percent by itself.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev

from _report import parser, publish, ratios, spread

BLOCK = 4096
"""Samples; about a third of a second."""


class Side:
    """A checkout's loop in a process of its own, which trains one block whenever it is asked to."""

    def __init__(self, checkout: Path, global_batch_size: int, data_dir: Path) -> None:
        environment = os.environ | {"PYTHONPATH": f"{checkout}:{checkout / 'benchmarks'}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", str(Path(__file__).resolve()), "--serve", str(global_batch_size), "--data-dir", str(data_dir)]
        self._process = subprocess.Popen(command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.where = self._answer()

    def block(self) -> float:
        """CPU seconds of one block."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("One side has ended; its error stands above.")
        return line.strip()


def _serve(global_batch_size: int, data_dir: Path) -> None:
    """One side: what is imported here is the checkout's own, by PYTHONPATH."""
    import tempfile

    import throughput
    import torch

    import largebatch
    from largebatch.jobs.job import prepare
    from largebatch.jobs.run.journal import Journal

    spec_of = getattr(throughput, "spec_of", None) or vars(throughput)["_spec"]  # what checkouts before 39d7dc3 called it
    job = prepare(spec_of(global_batch_size), torch.device("cpu"), data_dir)
    num_steps = max(BLOCK // global_batch_size, 1)
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        ours = throughput.Ours(job, journal)
        ours.run(num_steps)
        print(Path(str(largebatch.__file__)).parent.parent, flush=True)
        for _ in sys.stdin:
            began_s = time.process_time()
            ours.run(num_steps)
            print(time.process_time() - began_s, flush=True)


def _row(global_batch_size: int, given: argparse.Namespace) -> dict[str, str]:
    here = Path(__file__).resolve().parent.parent
    of_pairs, of_starts = [], []
    for start in range(given.repetitions):
        checkouts = [here, given.other.resolve()]
        sides = {checkout: Side(checkout, global_batch_size, given.data_dir.resolve()) for checkout in (checkouts if start % 2 else checkouts[::-1])}
        assert all(Path(side.where) == checkout for checkout, side in sides.items()), "each side imports its own checkout"
        seen: dict[Path, list[float]] = {checkout: [] for checkout in sides}
        for _ in range(given.blocks):
            for checkout, side in sides.items():
                seen[checkout].append(side.block())
        for side in sides.values():
            side.close()
        of_pairs += ratios(seen[checkouts[1]], seen[here])
        of_starts.append(sum(seen[checkouts[1]]) / sum(seen[here]))
    error = stdev(of_starts) / len(of_starts) ** 0.5 if len(of_starts) > 1 else float("nan")
    return {
        "global batch": f"{global_batch_size:,}",
        "throughput, here / other": f"{mean(of_starts):.4f}",
        "standard error over starts": f"{error:.4f}",
        "pair by pair": spread(of_pairs),
    }


def main() -> None:
    arguments = parser(__doc__, repetitions=6)
    arguments.add_argument("other", type=Path, nargs="?", help="the other checkout: git worktree add --detach FOLDER COMMIT")
    arguments.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 8192], help="global batch sizes")
    arguments.add_argument("--blocks", type=int, default=20, help="blocks of each side for each start (default 20)")
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.serve:
        _serve(given.serve, given.data_dir)
        return
    if given.other is None:
        arguments.error("the other checkout is missing")
    notes = [
        f"CPU seconds of one thread, in turn, {given.blocks} blocks of {BLOCK:,} samples a side and start; above 1 means this checkout is faster.",
        "The standard error is over starts: processes differ by more than blocks of one process do.",
    ]
    publish("Throughput between two checkouts: F1 on MNIST", [_row(batch, given) for batch in given.batches], notes, given)


if __name__ == "__main__":
    main()

"""What tracking, journal and noise scale cost together: F1 on MNIST at batch 256, all of it on against all of it off.

Each run is the command `largebatch train` in a process of its own, as a person starts it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from _report import in_turn, parser, publish, ratios, spread

BATCH = 256
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


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__, repetitions=7)
    arguments.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments.add_argument("--steps", type=int, default=700, help="optimizer steps of one run")
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
    rows = [
        {
            "clock": clock,
            "all on, s": f"{median(taken['on']):.2f}",
            "all off, s": f"{median(taken['off']):.2f}",
            "on / off": spread(ratios(taken["on"], taken["off"])),
        }
        for clock, taken in (("training seconds", seconds), ("wall without evaluation", walls))
    ]
    notes = [
        f"F1 on MNIST, batch {BATCH}, {given.steps} steps a run. On: journal, MLflow mirror (SQLite), noise scale every tenth step. Off: none.",
        "Target: at most 2 % of training time. Wall: the job from beginning to end but for evaluation, so journal, checkpoint and warm-up are in it.",
    ]
    publish("Overhead of tracking, journal and noise scale", rows, notes, given)


if __name__ == "__main__":
    main()

"""What tracking, journal and noise scale cost together: F1 on MNIST at batch 256, all of it on against all of it off."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

from _report import in_turn, parser, publish, ratios, spread

BATCH = 256


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

    from jobs import job as job_module
    from jobs.job import Listener
    from jobs.launch.local import LocalOptions, prepare_locally, train_locally
    from jobs.records import Record
    from jobs.spec_reader import build_spec
    from jobs.tracking.journal import Journal

    class NoJournal(Journal):
        """The same journal, but step records are thrown away."""

        def write(self, record: Record) -> None:
            """Nothing."""

    walls: dict[str, list[float]] = {"on": [], "off": []}

    def measure(name: str) -> Callable[[], float]:
        def run() -> float:
            with tempfile.TemporaryDirectory() as folder:
                options = LocalOptions(given.data_dir, Path(folder), "cpu")
                prepared = prepare_locally(build_spec(document(name == "on", given.steps)), options)
                job_module.Journal = Journal if name == "on" else NoJournal  # type: ignore[misc]
                summary = train_locally(prepared, options, Listener())
                walls[name].append(summary.wall_seconds - summary.evaluation_seconds)
                # Journal and mirror run outside of the training clock; counting them in is the honest comparison.
                print(f"{name}: {summary.training_seconds:.2f} s training, {walls[name][-1]:.2f} s wall", file=sys.stderr)
                return summary.training_seconds
            raise AssertionError

        return run

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
        "Target: at most 2 % of training time. Wall: everything but evaluation, so journal, checkpoint and warm-up are in it.",
    ]
    publish("Overhead of tracking, journal and noise scale", rows, notes, given)


if __name__ == "__main__":
    main()

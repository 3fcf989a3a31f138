"""Training seconds to 99 % test accuracy on MNIST, on the CPU: PyTorch's MNIST example at batch 64 against our recipes at 512, 2,048 and 8,192.

The example's recipe is written here from its description: two 3x3 convolutions (32, 64), max-pooling, dropout
0.25 and 0.5, a hidden layer of 128, Adadelta at rate 1.0, times 0.7 after every epoch, images read through
torchvision's ToTensor and Normalize by a DataLoader.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
from _report import command_line, page, processor
from torch import nn
from torch.nn import functional

TARGET = 0.99
BASELINE = "PyTorch's example"
RECIPES = ("mnist-99", "mnist-99-2048", "mnist-99-8192")


class Run(NamedTuple):
    """One run of one side."""

    global_batch_size: int
    is_reached: bool
    epochs: float
    seconds: float
    """Training seconds to the target, or until the run ended without it."""
    wall_seconds: float
    """The same with all that a clock of training leaves out, but evaluation."""


def main() -> None:
    """Measure every side once per seed, in turn, and print one table."""
    given = _arguments().parse_args()
    load_at_start = os.getloadavg()[0]
    runs: dict[str, list[Run]] = {side: [] for side in (BASELINE, *RECIPES)}
    for seed in range(max(given.seeds, given.baseline_seeds)):
        # Side after side within a seed: what slows the machine for a while slows all of them alike.
        for side in runs:
            if seed >= (given.baseline_seeds if side == BASELINE else given.seeds):
                continue
            run = train_example(seed, given) if side == BASELINE else train_recipe(side, seed, given.data_dir)
            runs[side].append(run)
            outcome = "reached" if run.is_reached else "missed"
            print(f"{side}, seed {seed}: {outcome} after {run.epochs:.1f} epochs, {run.seconds:.1f} s", file=sys.stderr, flush=True)
    measured = {side: done for side, done in runs.items() if done}
    rows = [_row(side, done, runs[BASELINE]) for side, done in measured.items()]
    text = page("MNIST to 99 % on the CPU", rows, _conditions(given, load_at_start), _notes(given))
    print(text)
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text, encoding="utf-8")


def _arguments() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, default=5, help="seeds of each of our recipes (default 5)")
    made.add_argument("--baseline-seeds", type=int, default=1, help="seeds of the example; about five minutes each (default 1)")
    made.add_argument("--baseline-max-epochs", type=int, default=14, help="end the example after so many epochs, target met or not (default 14)")
    made.add_argument("--baseline-workers", type=int, default=1, help="reading processes of the example (default 1)")
    made.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST lies, as torchvision lays it out (default data)")
    made.add_argument("--output", type=Path, metavar="FILE.md", help="also write the table here, as markdown")
    return made


def train_recipe(recipe: str, seed: int, data_dir: Path) -> Run:
    """One run of ours, as the command `largebatch train` makes it; it ends at the target."""
    from largebatch.jobs.launch.local import prepare_locally, train_locally
    from largebatch.jobs.launch.options import TrainOptions
    from largebatch.jobs.run.listener import Listener
    from largebatch.jobs.spec.read import read_spec

    # The example is looked at once an epoch; looking at ours more often would find its target sooner.
    same_for_all = ["evaluation.every_epochs=1.0", f"stop.target_accuracy={TARGET}", "stop.at_target=true", "tracking.enabled=false"]
    spec = read_spec(recipe, [f"seed={seed}", *same_for_all])
    with tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(data_dir=data_dir, output_dir=Path(folder), device="cpu")
        summary = train_locally(prepare_locally(spec, options), options, Listener())
    return Run(
        summary.global_batch_size,
        summary.time_to_target_seconds is not None,
        summary.epochs,
        summary.training_seconds,
        summary.wall_seconds - summary.evaluation_seconds,
    )


class ExampleNet(nn.Module):
    """The example's network: 1,199,882 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()
        )
        self.classifier = nn.Sequential(nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(dim=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (N, 10) of images (N, 1, 28, 28)."""
        scores: torch.Tensor = self.classifier(self.features(images))
        return scores


def train_example(seed: int, given: argparse.Namespace) -> Run:
    """One run of the example, until the first epoch's end at which the target is met."""
    from torchvision import datasets, transforms

    torch.manual_seed(seed)
    to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    train, test = (datasets.MNIST(str(given.data_dir), train=part, transform=to_input) for part in (True, False))
    batches = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True, num_workers=given.baseline_workers)
    test_batches = torch.utils.data.DataLoader(test, batch_size=1000)
    model = ExampleNet()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    functional.nll_loss(model(torch.zeros(64, 1, 28, 28)), torch.zeros(64, dtype=torch.int64)).backward()  # kernels are warm, as ours are
    seconds = 0.0
    for epoch in range(1, given.baseline_max_epochs + 1):
        began = time.perf_counter()
        model.train()
        for images, labels in batches:
            optimizer.zero_grad()
            functional.nll_loss(model(images), labels).backward()
            optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - began
        accuracy = _accuracy(model, test_batches)
        print(f"{BASELINE}, seed {seed}: epoch {epoch}, {accuracy:.2%}, {seconds:.1f} s", file=sys.stderr, flush=True)
        if accuracy >= TARGET:
            break
    return Run(64, accuracy >= TARGET, float(epoch), seconds, seconds)


@torch.no_grad()
def _accuracy(model: nn.Module, batches: torch.utils.data.DataLoader) -> float:
    model.eval()
    correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return correct / 10_000


def _row(side: str, runs: Sequence[Run], baseline: Sequence[Run]) -> dict[str, str]:
    """A side's line. A side that missed has no time to 99 %, so neither a mean nor a ratio of its own."""
    reached = [run for run in runs if run.is_reached]
    seconds = [run.seconds for run in reached]
    is_whole = len(reached) == len(runs)
    return {
        "side": side,
        "global batch": f"{runs[0].global_batch_size:,}",
        "reached": f"{len(reached)} of {len(runs)}",
        "epochs": f"{mean(run.epochs for run in reached):.1f}" if reached else "-",
        "seconds, mean": f"{mean(seconds):.1f}" if is_whole else f"> {mean(run.seconds for run in runs):.1f}",
        "min": f"{min(seconds):.1f}" if reached else "-",
        "max": f"{max(seconds):.1f}" if is_whole else "-",
        "with warm-up and checkpoint": f"{mean(run.wall_seconds for run in runs):.1f}",
        "of the example's time": _ratio(runs, baseline),
    }


def _ratio(runs: Sequence[Run], baseline: Sequence[Run]) -> str:
    """Mean over mean; an example that was cut off gives an upper bound, a side that missed gives nothing."""
    if not baseline or not all(run.is_reached for run in runs):
        return "-"
    bound = "" if all(run.is_reached for run in baseline) else "< "
    return f"{bound}{mean(run.seconds for run in runs) / mean(run.seconds for run in baseline):.3f}"


def _notes(given: argparse.Namespace) -> list[str]:
    return [
        "Seconds: training until the first evaluation with at least 99 % test accuracy. Both sides evaluate at the end of every epoch;"
        " evaluation is counted for neither.",
        "The example's clock starts at the first batch's reading, after its kernels are warm, as ours are;"
        f" {given.baseline_workers} process(es) read for it, beside the one that trains.",
        "Ours: reading, forward, backward, update. The column with warm-up and checkpoint adds kernel warm-up, the journal and the last"
        " checkpoint; MLflow is off.",
        "A mean with > counts all runs of a side of which some ended without the target.",
        "A ratio with < is against an example that was cut off before its target.",
    ]


def _conditions(given: argparse.Namespace, load_at_start: float) -> list[str]:
    """What the numbers hold for. Not `_report.publish`'s: it speaks of medians over pairs, and here are means over seeds."""
    load = f"load average {load_at_start:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    return [
        f"`{command_line()}`",
        f"seeds 0 ... {given.seeds - 1} for each recipe, 0 ... {given.baseline_seeds - 1} for the example, all sides in turn within a seed",
        f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.system()} {platform.machine()}, {load}",
        f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {version('torchvision')}",
    ]


if __name__ == "__main__":
    main()

"""What the parameters of other programs' runs in MLflow mean: read from a file, or asked once in a terminal and kept in it."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic
import typer
import yaml

from largebatch.jobs.errors import SpecError
from largebatch.jobs.spec.mistakes import first_mistake
from largebatch.jobs.spec.text import read_document
from largebatch.jobs.whole_files import write_text
from largebatch.tuning.results.foreign_runs import AskNames, ForeignRuns, MlflowNames

USUAL = {
    "batch": ("global_batch_size", "batch_size", "train_batch_size", "per_device_train_batch_size", "batch", "bs"),
    "learning_rate": ("learning_rate", "lr", "base_lr", "max_lr", "opt_lr", "optimizer_learning_rate"),
    "momentum": ("momentum", "beta1", "adam_beta1"),
    "optimizer": ("optimizer", "optimizer_name", "optim", "opt"),
    "seed": ("seed", "random_seed", "random_state"),
    "model": ("model", "model_name", "arch"),
    "dataset": ("dataset", "dataset_name", "data"),
}
"""What parameters are usually called, the likeliest first."""
LOWER = re.compile(r"loss|error|perplexity|rmse|mse|mae|wer|bits")
NONE = "-"
"""Typed where no parameter says it."""


def asking_once(mapping: Path | None) -> AskNames:
    """Whoever is asked what an experiment's names mean: the file, where it is there; else a person at a terminal. Args: mapping: None: beside."""

    def ask(runs: ForeignRuns) -> MlflowNames | None:
        file = mapping or Path(f"mlflow-{re.sub(r'[^A-Za-z0-9_.-]+', '-', runs.experiment)}.yaml")
        if file.exists():
            try:
                return MlflowNames.model_validate(read_document(file))
            except pydantic.ValidationError as error:
                raise first_mistake(error, MlflowNames) from None
        if mapping is None and runs.has_ours:
            return None
        if not sys.stdin.isatty():
            problem = f"{file} is not there, and nobody has said what the parameters of {runs.experiment}'s runs mean ({_listed(runs.parameters)})."
            raise SpecError("--mapping", problem, "Ask once in a terminal, which writes it.")
        names = _asked(runs)
        text = f"# What MLflow's names mean in the experiment {runs.experiment!r}: largebatch advise mlflow:{runs.experiment}\n"
        write_text(file, text + yaml.safe_dump(names.model_dump(mode="json", exclude_defaults=True), sort_keys=False))
        typer.echo(f"Kept in {file}: change it there, or remove it to be asked again.", err=True)
        return names

    return ask


def _asked(runs: ForeignRuns) -> MlflowNames:
    typer.echo(f"The runs of {runs.experiment} are of another program. What do their names mean?", err=True)
    typer.echo(f"Parameters: {', '.join(runs.parameters)}\nMetrics: {', '.join(runs.metrics)}", err=True)

    def parameter(field: str, question: str, *, is_needed: bool = False) -> str | None:
        usual = next((name for name in USUAL[field] if name in runs.parameters), None)
        answer: str | None = _prompt(question, usual or (None if is_needed else NONE), [*runs.parameters, *([] if is_needed else [NONE])])
        return answer

    metric = _prompt("Metric that runs are judged by", next((name for name in runs.metrics if "val" in name), None), runs.metrics)
    return MlflowNames(
        batch=parameter("batch", "Parameter with the global batch size", is_needed=True) or "",
        learning_rate=parameter("learning_rate", "Parameter with the learning rate", is_needed=True) or "",
        metric=metric,
        better=_prompt("It is better when", "lower" if LOWER.search(metric) else "higher", ["higher", "lower"]),
        part=_prompt("It is of the data's part", "test" if "test" in metric else "validation", ["validation", "test"]),
        counts=_prompt("MLflow's step of it counts", "epochs from 0", ["steps", "epochs", "epochs from 0", "samples"]),
        train_samples=typer.prompt("Training samples in an epoch", type=int, err=True),
        seconds=_prompt("Metric that counts training seconds (- for MLflow's clock)", NONE, [*runs.metrics, NONE]),
        optimizer=parameter("optimizer", "Parameter with the optimizer (- for none)"),
        momentum=parameter("momentum", "Parameter with the momentum (- for none)"),
        seed=parameter("seed", "Parameter with the seed (- for none)"),
        model=parameter("model", "Parameter with the model (- for none)"),
        dataset=parameter("dataset", "Parameter with the data set (- for none)"),
    )  # fmt: skip


def _prompt(question: str, usual: str | None, known: Sequence[str]) -> Any:
    """An answer among those known, asked until it is one; None for `NONE`."""
    while (answer := typer.prompt(question, default=usual, err=True)) not in known:
        typer.echo(f"{answer!r} is none of {', '.join(known)}.", err=True)
    return None if answer == NONE else answer


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "they have none"

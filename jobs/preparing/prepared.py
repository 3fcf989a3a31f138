"""Prepared: a job that is ready to run, and its plan in words and in numbers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from largebatch.jobs.data.fingerprint import DatasetFingerprint
from largebatch.jobs.engine.model_check.kept.carried_state import Findings
from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.engine.warm_up import activation_bytes_per_sample
from largebatch.jobs.optim.parameter_groups import shapes_by_main_rule
from largebatch.jobs.plan.describe import plan_facts, plan_lines
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tasks.base import Task
from largebatch.jobs.tasks.metric import Metric


@dataclass(frozen=True)
class Prepared:
    """A job that is ready to run: everything that bad input could spoil was checked."""

    spec: TrainSpec
    plan: TrainPlan
    dataset: Dataset
    task: Task
    model: nn.Module
    device: torch.device
    ranks: Ranks
    fingerprint: DatasetFingerprint
    """Of the data, on every rank the same."""
    findings: Findings
    """About a person's own model."""
    began: float
    """What `time.perf_counter` said when this process began to prepare it."""
    beginning: tuple[str, ...] = ()
    """What its model begins with besides fresh weights, and how it is run, in words."""
    heads: tuple[str, ...] = ()
    """Names of the output heads' weights, where the optimizer asks."""
    data_dir: Path = Path("data")
    """Where its data were looked for."""

    @property
    def metric(self) -> Metric:
        """What the run is judged by: the target's metric, or the task's headline."""
        wanted = self.spec.stop.target_metric or self.task.headline.name
        return next(metric for metric in self.task.all_metrics() if metric.name == wanted)

    def plan_in_words(self) -> list[tuple[str, str]]:
        """(what, how and why) for a person."""
        per_sample = activation_bytes_per_sample(self.spec, self.task, self.model, self.dataset)
        main_shapes = shapes_by_main_rule(self.model, self.spec.optimizer, self.heads)
        lines = plan_lines(self.plan, self.model, self.dataset, per_sample, main_shapes)
        parts = [notice.partition(": ") for notice in self.beginning]
        return [*lines, *((what.lower(), words) for what, _, words in parts)]

    def plan_in_numbers(self) -> dict[str, Any]:
        """Everything the plan decided, and what it was made for, as plain data."""
        return {
            **plan_facts(self.plan),
            "num_validation_samples": self.dataset.num_validation_samples,
            "num_test_samples": len(self.dataset.test),
            "evaluated_on": self.dataset.evaluated_on,
            "num_classes": self.dataset.num_classes,
            "headline": self.metric._asdict(),
        }

"""How a study is carried out: where, on what, for how long, and what a person is told meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.spec import SweepSpec

PROFILE, REFERENCE, SIZED, PREDICTION, SHARPNESS = "profile.json", "reference", "sized-sweep.json", "prediction.json", "sharpness.json"
"""What each stage leaves in the study's folder."""


class Stage(NamedTuple):
    """What a person is told before each stage."""

    number: int
    of: int
    name: str


@dataclass(frozen=True)
class StudyOptions:
    """Where, on what, and for how long."""

    folder: Path
    data_dir: Path
    device: str
    budget_s: float
    """Wall-clock seconds of the whole study."""
    on_stage: Callable[[Stage], None]
    on_notice: Callable[[str], None]
    on_fraction: Callable[[float, str], None] = lambda fraction, text: None
    """How much of the stage is done, and what is under way."""
    profile_share: float = 0.08
    """Of the budget, for the profile."""
    reference_share: float = 0.35
    """Of the budget, for the reference run, at most."""


SweepRunner = Callable[[Path, SweepSpec, TrainSpec], int]
"""Runs a sweep in a folder and shows it; returns how many runs are left."""

"""The sweep of a study in this process, without Ray."""

from pathlib import Path

import torch

from largebatch.jobs.job import prepare, run_job
from largebatch.jobs.run import run_folder
from largebatch.jobs.run.listener import Listener
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.sweep.ledger import SWEEP, Ledger, Trial, begin_sweep
from largebatch.tuning.sweep.search import Search
from largebatch.tuning.sweep.spec import SweepSpec


def run_here(place: Path, sweep: SweepSpec, base: TrainSpec) -> int:
    """Run what is left of it, one run after another."""
    if not (place / SWEEP).is_file():
        begin_sweep(place, sweep, base)
    with Ledger(place) as ledger:
        search = Search(sweep, base, ledger)
        while isinstance(trial := search.next_trial(), Trial):
            run_job(prepare(trial.spec(base), torch.device("cpu"), Path("data")), run_folder.create(place, trial.run_id), Listener())
            search.ended(trial)
    return 0

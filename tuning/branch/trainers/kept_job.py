"""KeptJob: a run's job in a process that trains its branches, whose data and model are loaded once for all of them."""

import socket
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch

from largebatch.jobs.device import choose_device
from largebatch.jobs.errors import InputError, LargebatchError
from largebatch.jobs.launch.final_message import unforeseen
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.run.run_folder import SPEC
from largebatch.tuning.branch.origin import BranchPoint, branchable_spec, open_job
from largebatch.tuning.branch.train import Branch, BranchResult, train_branch
from largebatch.tuning.files import BRANCHES
from largebatch.tuning.sweep.trials.resources import Shares


class Told(NamedTuple):
    """What is told of a branch."""

    result: BranchResult | LargebatchError
    """What came of it, or what it failed of."""
    notices: list[str]
    """What a person should be told besides."""


class KeptJob:
    """See this file. Args: shares: what each branch gets; its cores are this process's threads."""

    def __init__(self, run_dir: Path, data_dir: Path, shares: Shares) -> None:
        self._run_dir, self._data_dir, self._device = run_dir, data_dir, shares.device
        torch.set_num_threads(max(int(shares.cpus_per_worker), 1))

    @cached_property
    def _job(self) -> Prepared:
        if not (self._run_dir / SPEC).is_file():
            problem = f"{self._run_dir} is not there on {socket.gethostname()}, where a branch was to be trained."
            raise InputError("RUN", problem, "Let it lie in a folder that all of Ray's machines share.")
        return open_job(self._run_dir, branchable_spec(self._run_dir), choose_device(self._device), self._data_dir)

    def train(self, point: BranchPoint, branch: Branch) -> Told:
        """Train a branch to its end; what it fails of is told, not raised, for the process could go on."""
        notices: list[str] = []
        try:
            result = train_branch(self._job, point, branch, lambda: False, notices.append)
        except LargebatchError as error:
            return Told(error, notices)
        except Exception as error:
            return Told(unforeseen(error, self._run_dir / BRANCHES), notices)
        assert result is not None, "nothing asks it to stop"
        return Told(result, notices)

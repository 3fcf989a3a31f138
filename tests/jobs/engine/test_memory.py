"""Host memory that is kept from step to step."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import resource
from pathlib import Path

import torch

from largebatch.jobs.job import prepare
from largebatch.jobs.prepared import new_state
from largebatch.jobs.spec.read import build_spec

document = {"dataset": {"name": "synthetic"}, "model": {"name": "mlp"}, "optimizer": {"name": "sgd"}, "learning_rate": {"base": 0.1},
            "batch": {"global_batch_size": 8}, "stop": {"steps": 1}, "tracking": {"enabled": False}}
new_state(prepare(build_spec(document), torch.device("cpu"), Path("nowhere")))

def step():
    blocks = [torch.zeros(6 * 2**20) for _ in range(4)]

for _ in range(8):  # until every block has found its place
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    """Pages that five rounds of four blocks of 24 MiB had to fetch anew; a round has 24,576."""
    known = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", CODE], env={**known, **environment}, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_what_a_step_frees_is_kept_for_the_next() -> None:
    assert faults() < 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_a_person_who_has_told_glibc_what_to_keep_is_heeded() -> None:
    assert faults(MALLOC_MMAP_THRESHOLD_="131072") > 50_000

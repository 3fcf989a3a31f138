"""An optimizer is added by its config, named in one union, and its own file: nothing else of the program names one."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest
from pydantic import Field
from small_runs import CPU, ROOT, document, trained
from torch.optim import Optimizer, RMSprop

from largebatch.jobs.errors import SpecError
from largebatch.jobs.job import prepare
from largebatch.jobs.optim.config_base import OptimizerConfig
from largebatch.jobs.optim.configs.registry import OPTIMIZERS, AnyOptimizer
from largebatch.jobs.spec.mistakes import first_mistake
from largebatch.jobs.spec.train_spec import TrainSpec


class RmspropConfig(OptimizerConfig):
    """All that is written to add an optimizer."""

    name: Literal["rmsprop"]
    """rmsprop is torch's."""
    smoothing: float = 0.9
    """Decay of the mean square."""

    momentum_option = "smoothing"
    batch_power = 0.5

    @property
    def num_state_tensors(self) -> int:
        """The mean square."""
        return 1

    def class_and_options(self) -> tuple[type[Optimizer], dict[str, Any]]:
        """See `OptimizerConfig`."""
        return RMSprop, {"alpha": self.smoothing}


class Extended(TrainSpec):
    """A spec that knows one optimizer more."""

    optimizer: AnyOptimizer | RmspropConfig = Field(discriminator="name")  # type: ignore[assignment]


def test_a_line_more_is_an_optimizer_more(tmp_path: Path) -> None:
    spec = Extended.model_validate({**document(), "optimizer": {"name": "rmsprop", "smoothing": 0.8, "weight_decay": 0.1}})
    assert Extended.model_validate_json(spec.model_dump_json()) == spec
    job = prepare(spec, CPU, tmp_path)
    assert trained(job, tmp_path / "toy").steps == 8
    assert job.plan.spec.optimizer.state_bytes(10) == 40


KNOWN = ", ".join(f'"{name}"' for name in OPTIMIZERS)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "rmsprpo"}, f'optimizer.name: must be {KNOWN}, "own" or "rmsprop", not "rmsprpo". Did you mean rmsprop'),
        (
            {"name": "rmsprop", "beta1": 0.5},
            "optimizer: rmsprop does not read beta1; it reads decay_biases_and_norms, groups, smoothing, weight_decay.",
        ),
        (
            {"name": "sgd", "smoothing": 0.5},
            "optimizer: sgd does not read smoothing; it reads decay_biases_and_norms, groups, momentum, ",
        ),
        ({"name": "rmsprop", "smothing": 0.5}, "optimizer.smothing: is not a known key. Did you mean smoothing"),
    ],
    ids=str,
)
def test_sentences_know_the_line_too(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(pydantic.ValidationError) as refused:
        Extended.model_validate({**document(), "optimizer": options})
    error = first_mistake(refused.value, Extended)
    assert isinstance(error, SpecError)
    assert str(error).startswith(sentence)


TEXTBOOK = {"tuning/landscape/paths.py", "service/cli/measure/landscape.py"}
"""Begin with gradient descent, of which the textbook's pictures are; their tests draw every optimizer there is."""
LITERATURE = {"tuning/results/analysis/growing.py"}
"""Tells which optimizers published comparisons were made with; of others it says that there are none."""


def test_no_other_file_names_an_optimizer() -> None:
    own = ROOT / "jobs" / "optim"
    naming = {
        str(path.relative_to(ROOT))
        for package in ("jobs", "tuning", "service")
        for path in (ROOT / package).rglob("*.py")
        if not (path.is_relative_to(own) and (path.stem == "config" or path.parent.name == "configs")) and path.stem not in OPTIMIZERS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in OPTIMIZERS
    }
    assert naming - TEXTBOOK - LITERATURE == set()


def test_specs_are_read_without_torch() -> None:
    """The service, the client and the mirror read them: torch is 2 s of start-up."""
    code = "import sys\nfrom largebatch.jobs.spec.read import read_spec\nread_spec('digits-lamb')\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

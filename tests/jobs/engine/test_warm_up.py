"""What is found out before the training clock starts: models that do not fit, compilers that are not there, every shape compiled."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from torch import Tensor, nn

from largebatch.jobs.data.sources.table import load_dataset
from largebatch.jobs.device import refuse_without_compiler
from largebatch.jobs.engine.warm_up import refuse_misfit, warm_up
from largebatch.jobs.errors import PlanError
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.spec.model_and_data import DatasetSpec
from largebatch.jobs.tasks.classification import Classification

DIGITS = load_dataset(DatasetSpec(name="digits"), Path("nowhere"))
InceptionOutputs = namedtuple("InceptionOutputs", ["logits", "aux_logits"])  # torchvision's


def auxiliary(m: Any, images: Tensor) -> Any:
    logits = m.layer(images.flatten(1))
    return InceptionOutputs(logits, logits) if m.training else logits


def test_auxiliary_outputs_are_named_with_the_arguments_that_turn_them_off() -> None:
    with pytest.raises(PlanError, match="model: gives InceptionOutputs") as refused:
        refuse_misfit(prepared().spec, Classification(10), small_runs.Net(auxiliary, layer=nn.Linear(64, 10)), DIGITS)
    assert "model.arguments.aux_logits=false" in refused.value.hint
    assert "model.arguments.init_weights=true" in refused.value.hint


def prepared(**parts: Any) -> Prepared:
    own = {"model": {"name": "mlp", "arguments": {"width": 8}}, "batch": {"global_batch_size": 300, "micro_batch_size": 128}}
    return small_runs.prepared(**{"dataset": {"name": "digits"}, **own, "learning_rate": {"base": 0.1}, "stop": {"epochs": 2}, **parts})


@pytest.mark.parametrize(("compiles", "every", "sizes"), [(False, 0, [44, 128]), (True, 0, [44, 109, 128]), (True, 1, [44, 118, 119, 128])])
def test_a_compiled_model_meets_every_micro_batch_of_the_run_beforehand(
    compiles: bool, every: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,437 = 4 x (128 + 128 + 44) + (128 + 109); where the noise is measured the last are 119 + 118."""
    seen: list[int] = []
    monkeypatch.setattr(torch, "compile", lambda model: model)
    job = prepared(compile=compiles, gradient={"noise_every_steps": every})
    job.model.register_forward_pre_hook(lambda model, inputs: seen.append(len(inputs[0])))
    warm_up(new_state(job), job.plan, job.dataset)
    assert seen == sizes


def test_a_compiler_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -v")
    with pytest.raises(
        PlanError, match=r"compile: torch\.compile needs a C\+\+ compiler, and no-such-compiler -v is not there\. Install one, or set"
    ):
        prepared(compile=True)
    refuse_without_compiler(torch.device("cuda"))  # comes with one
    assert prepared().plan.total_steps == 10


def test_what_the_compiler_says_is_one_sentence() -> None:
    class Refusal(RuntimeError):
        pass

    Refusal.__module__ = "torch._dynamo.exc"

    def fails(*_: Any) -> None:
        raise Refusal("cannot compile this\nand a page more")

    job = prepared()
    job.model.register_forward_pre_hook(fails)
    with pytest.raises(PlanError, match=r"^compile: the model cannot be compiled on this machine: cannot compile this\. Install"):
        warm_up(new_state(job), job.plan, job.dataset)


@pytest.mark.slow
def test_a_compiled_model_trains_as_the_other(tmp_path: Path) -> None:
    """Losses agree to what another order of float32 sums leaves after ten steps; no step waits for a compiler."""
    summaries = [small_runs.trained(prepared(compile=compiles), tmp_path / str(compiles)) for compiles in (False, True)]
    assert summaries[1].score == pytest.approx(summaries[0].score, abs=0.01)
    assert summaries[1].steps == summaries[0].steps == 10

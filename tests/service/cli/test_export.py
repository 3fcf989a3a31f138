"""`largebatch export`: the weights that were evaluated, as any program loads them."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from command_line import largebatch
from small_runs import CPU, ROOT, Net, parameters, prepared, same, synthetic, trained
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.errors import InputError
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.resume import load_checkpoint, save_checkpoint
from largebatch.jobs.run.checkpoints import list_checkpoints
from largebatch.jobs.run.load import load_run
from largebatch.jobs.samples.slice import Slice

LOADING = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "use-a-trained-model.md").read_text(), flags=re.DOTALL)
EMA = {"ema": {"decay": 0.5}}


def build(num_classes: int) -> nn.Module:
    """An entry point: batch-norm, dropout, and a weight under two names."""
    model = Net(
        lambda self, inputs: self.head(self.again(functional.relu(self.norm(self.hidden(self.dropout(inputs.flatten(1))))))),
        dropout=nn.Dropout(0.2), hidden=nn.Linear(16, 16), norm=nn.BatchNorm1d(16), again=nn.Linear(16, 16), head=nn.Linear(16, num_classes),
    )  # fmt: skip
    model.again.weight = model.hidden.weight
    return model


class WithExtra(nn.Linear):
    """A layer that saves something besides tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 3}


def with_extra(num_classes: int) -> nn.Module:
    """An entry point."""
    return nn.Sequential(nn.Flatten(), WithExtra(16, num_classes))


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as the module `own_code`."""
    monkeypatch.setitem(sys.modules, "own_code", sys.modules[__name__])


def run_of(folder: Path, function: str = "build", **parts: Any) -> Any:
    job = prepared(model={"entry_point": f"own_code:{function}"}, batch_norm={"span": 16}, dataset=synthetic(), **parts)
    trained(job, folder)
    return job


def loss_of(model: nn.Module, job: Any) -> float:
    """The mean loss over the test set, computed by torch alone."""
    inputs, labels = evaluation_batches(job, job.dataset.test).read(Slice(0, 0, len(job.dataset.test)))
    return functional.cross_entropy(model(inputs), labels).item()


@pytest.mark.parametrize("parts", [{}, EMA], ids=["weights", "averages"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_what_is_loaded_gives_the_loss_that_the_run_was_evaluated_with(
    name: str, parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run_of(tmp_path / "run", **parts)
    said = largebatch("export", tmp_path / "run", "--output", tmp_path / "made" / name).stdout
    assert f"the {'moving averages' if parts else 'weights'} of step 8: " in said
    monkeypatch.chdir(tmp_path / "made")
    lines, _ = LOADING  # the other loads it from MLflow
    if name.endswith(".pt"):
        lines = lines.replace('safetensors.torch.load_file("model.safetensors")', 'torch.load("model.pt", weights_only=True)')
    scope: dict[str, Any] = {"build": lambda num_classes: build(4), "safetensors": safetensors, "torch": torch}
    exec(lines, scope)
    assert loss_of(scope["model"], job) == pytest.approx(load_run(tmp_path / "run").evaluations[-1].scores["loss"], rel=1e-6)
    exported = scope["model"].state_dict()
    assert same(exported, parameters(tmp_path / "run")) == (not parts), "averages are other numbers"
    assert torch.equal(exported["again.weight"], exported["hidden.weight"])


def test_the_best_checkpoint_is_exported_where_it_is_asked_for(tmp_path: Path) -> None:
    job = run_of(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    state = load_checkpoint(list_checkpoints(folder)[0].path, CPU)["state"]
    later = {**state, "progress": {**state["progress"], "step": 99}, "model": {name: value * 0 for name, value in state["model"].items()}}
    save_checkpoint(folder, later, job.spec, is_best=False)
    assert "of step 8:" in largebatch("export", tmp_path / "run", "--best", "--output", tmp_path / "best.pt").stdout
    assert same(torch.load(tmp_path / "best.pt", weights_only=True), state["model"])
    assert "of step 99:" in largebatch("export", tmp_path / "run", "--output", tmp_path / "newest.pt").stdout
    assert same(torch.load(tmp_path / "newest.pt", weights_only=True), later["model"])


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path: Path) -> None:
    run_of(tmp_path / "run", checkpoint={"every_steps": 4, "best": False})
    newest = list_checkpoints(tmp_path / "run" / "checkpoints")[0].path
    newest.write_bytes(newest.read_bytes()[:-1])
    done = largebatch("export", tmp_path / "run", "--output", tmp_path / "model.pt")
    assert "is damaged" in done.stderr
    assert "of step 4:" in done.stdout


def test_nothing_is_overwritten_and_what_is_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    run_of(tmp_path / "run", checkpoint={"best": False})
    (tmp_path / "there.pt").write_text("mine")
    for arguments, sentence in {
        ("run", "there.pt"): r"--output: .*there\.pt is there already\.",
        ("run", "model.bin"): r"--output: model\.bin ends in neither \.safetensors nor \.pt\.",
        ("nowhere", "model.pt"): r"RUN: .*nowhere is not a run's folder",
        ("run", "--best", "model.pt"): r"--best: .* keeps no best checkpoint\.",
        ("run", "there.pt/model.pt"): r"--output: .*there\.pt is a file, not a folder\.",
    }.items():
        run, *flags, output = arguments
        with pytest.raises(InputError, match=sentence):
            largebatch("export", tmp_path / run, *flags, "--output", tmp_path / output)
    assert (tmp_path / "there.pt").read_text() == "mine"
    for checkpoint in list_checkpoints(tmp_path / "run" / "checkpoints"):
        checkpoint.path.unlink()
    with pytest.raises(InputError, match="RUN: there is no checkpoint in "):
        largebatch("export", tmp_path / "run", "--output", tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


def test_extra_state_goes_into_a_pt_alone(tmp_path: Path) -> None:
    run_of(tmp_path / "run", "with_extra")
    with pytest.raises(InputError, match=r"--output: a \.safetensors holds tensors alone, and 1\._extra_state is none\."):
        largebatch("export", tmp_path / "run", "--output", tmp_path / "model.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))
    largebatch("export", tmp_path / "run", "--output", tmp_path / "model.pt")
    with_extra(4).load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))


def test_an_old_run_is_exported(tmp_path: Path) -> None:
    largebatch("export", ROOT / "tests" / "jobs" / "run" / "old_run", "--output", tmp_path / "model.safetensors")
    weights: dict[str, Tensor] = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert weights

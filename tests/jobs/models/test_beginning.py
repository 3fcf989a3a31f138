"""Weights to start from, parameters that stay as they are, and those with a learning rate of their own."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from small_runs import CPU, Net, notices, parameters, prepared, same, trained
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.errors import SpecError
from largebatch.jobs.resume import load_checkpoint
from largebatch.jobs.run.checkpoints import list_checkpoints

ENTRY_POINT = "own_code:build"
BODY = ("hidden.*", "norm.*")


def build(num_classes: int, width: int = 8, frozen: bool = False) -> nn.Module:
    """An entry point. Args: frozen: freeze all but the head here, in the model's own code."""
    model = Net(
        lambda self, inputs: self.head(self.again(functional.relu(self.norm(self.hidden(inputs.flatten(1)))))),
        hidden=nn.Linear(16, width), norm=nn.BatchNorm1d(width), again=nn.Linear(width, width), head=nn.Linear(width, num_classes),
    )  # fmt: skip
    if frozen:
        for part in (model.hidden, model.norm):
            part.requires_grad_(False)
    return model


def tied(num_classes: int) -> nn.Module:
    """An entry point: one weight under two names."""
    model = Net(lambda self, inputs: self.head(self.again(self.hidden(inputs.flatten(1)))),
                hidden=nn.Linear(16, 16), again=nn.Linear(16, 16), head=nn.Linear(16, num_classes))  # fmt: skip
    model.again.weight = model.hidden.weight
    return model


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file as the module `own_code`."""
    monkeypatch.setitem(sys.modules, "own_code", sys.modules[__name__])


def job_of(data_dir: Path = Path("nowhere"), arguments: dict[str, Any] | None = None, entry_point: str = ENTRY_POINT, **model: Any) -> Any:
    parts = {name: model.pop(name) for name in ("stop", "optimizer") if name in model}
    return prepared(data_dir, model={"entry_point": entry_point, "arguments": arguments or {}, **model}, batch_norm={"span": 16}, **parts)


def other_weights() -> dict[str, Tensor]:
    """Of the same model, drawn by another seed."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return build(4).state_dict()


@pytest.mark.parametrize("name", ["body.safetensors", "body.pt"])
def test_a_run_starts_from_a_file_and_says_what_is_missing_and_left_over(name: str, tmp_path: Path) -> None:
    weights = {"spare.bias": torch.ones(3), **other_weights()}
    for part in ("weight", "bias"):
        del weights[f"head.{part}"]
    (safetensors.torch.save_file if name.endswith("s") else torch.save)(weights, tmp_path / name)
    fresh, job = job_of(), job_of(tmp_path, weights=name)
    for parameter, value in job.model.state_dict().items():
        assert torch.equal(value, weights[parameter] if parameter in weights else fresh.model.state_dict()[parameter]), parameter
    said = f"9 of the model's 11 tensors are those of {name}. Not in the file, so they start fresh: head.weight, head.bias."
    said += " Left over in the file: spare.bias."
    assert ("weights", said) in job.plan_in_words()
    assert job.fingerprint == fresh.fingerprint
    trained(job, tmp_path / "run")
    assert f"Weights: {said}" in notices(tmp_path / "run")
    straight = parameters(tmp_path / "run")
    trained(job_of(tmp_path, weights=name, stop={"steps": 4}), tmp_path / "stopped")
    trained(job_of(tmp_path, weights=name), tmp_path / "stopped", resumes=True)
    assert same(straight, parameters(tmp_path / "stopped"))


def test_a_relative_path_is_looked_for_in_the_data_folder_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    weights = other_weights()
    torch.save({name: value * 0 for name, value in weights.items()}, tmp_path / "w.pt")
    assert not job_of(tmp_path / "data", weights="w.pt").model.head.weight.any(), "as it is given"
    torch.save(weights, tmp_path / "data" / "w.pt")
    assert torch.equal(job_of(tmp_path / "data", weights="w.pt").model.head.weight, weights["head.weight"])
    assert not job_of(tmp_path / "data", weights=str(tmp_path / "w.pt")).model.head.weight.any()


def test_a_tied_weight_may_be_in_the_file_under_one_of_its_names(tmp_path: Path) -> None:
    weights = tied(4).state_dict()
    del weights["again.weight"]
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    job = job_of(tmp_path, entry_point="own_code:tied", weights="w.safetensors")
    assert job.model.again.weight is job.model.hidden.weight
    assert torch.equal(job.model.again.weight, weights["hidden.weight"])
    assert job.beginning == ("Weights: 6 of the model's 6 tensors are those of w.safetensors.",)


class Evil:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_file_of_weights_cannot_run_code(tmp_path: Path) -> None:
    torch.save({**other_weights(), "hidden.weight": Evil(tmp_path / "made-by-unpickling")}, tmp_path / "evil.pt")
    with pytest.raises(
        SpecError, match=r"evil\.pt cannot be read: it is damaged, or holds more than tensors .* Where you trust it, load it yourself"
    ):
        job_of(tmp_path, weights="evil.pt")
    assert not (tmp_path / "made-by-unpickling").exists()


def test_a_file_that_does_not_fit_is_refused_in_a_sentence(tmp_path: Path) -> None:
    torch.save(build(4, width=5).state_dict(), tmp_path / "narrow.pt")
    torch.save({"module.x": torch.ones(2)}, tmp_path / "strange.pt")
    torch.save({"spec": {}, "state": {"model": other_weights()}}, tmp_path / "checkpoint.pt")
    torch.save({"epoch": 3, "state_dict": other_weights(), "optimizer": {"state": {}}}, tmp_path / "trainer.pt")
    torch.save({f"_orig_mod.module.{name}": value for name, value in other_weights().items()}, tmp_path / "wrapped.pt")
    torch.save({name.removeprefix("hidden."): value for name, value in other_weights().items() if name.startswith("hidden.")}, tmp_path / "part.pt")
    (tmp_path / "torn.pt").write_bytes(b"PK")
    (tmp_path / "torn.safetensors").write_bytes(b"PK")
    for name, sentence in {
        "narrow.pt": r"hidden\.weight has the shape \(5, 16\) in narrow\.pt and \(8, 16\) in the model\.",
        "strange.pt": r"nothing in strange\.pt bears a name of this model's\. The file begins with module\.x, the model with hidden\.weight\.",
        "trainer.pt": r"trainer\.pt holds no plain state_dict\. .* 'state_dict': torch\.save\(torch\.load\('.*trainer\.pt'\)\['state_dict'\], path\)",
        "wrapped.pt": r"nothing in .* The file's names begin with '_orig_mod\.module\.', which a wrapper gave them: write the state_dict",
        "part.pt": r"nothing in part\.pt .* The model's names begin with 'hidden\.': write the file with names that do",
        "checkpoint.pt": r"checkpoint\.pt holds no plain state_dict\. It is a checkpoint of a run: largebatch export RUN --output weights\.pt",
        "torn.pt": r"torn\.pt cannot be read: ",
        "torn.safetensors": r"torn\.safetensors cannot be read: ",
        "nowhere.pt": r"there is no file nowhere\.pt, neither in the data folder .* nor as it is given\.",
        "n" * 300 + ".pt": r"there is no file n",
        "model.bin": r"must end in \.safetensors or \.pt",
    }.items():
        with pytest.raises(SpecError, match=f"model.weights: .*{sentence}"):
            job_of(tmp_path, weights=name)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars", "lamb"])
def test_what_is_frozen_stays_and_trains_as_if_the_model_had_frozen_it_itself(optimizer: str, tmp_path: Path) -> None:
    job = job_of(freeze=BODY, optimizer={"name": optimizer})
    before = {name: value.clone() for name, value in job.model.state_dict().items()}
    trained(job, tmp_path / "run")
    after = parameters(tmp_path / "run")
    frozen = {"hidden.weight", "hidden.bias", "norm.weight", "norm.bias"}
    assert {name for name, _ in job.model.named_parameters() if torch.equal(before[name], after[name])} == frozen
    assert all(param.grad is None for param in job.model.parameters() if not param.requires_grad)
    assert not torch.equal(before["norm.running_mean"], after["norm.running_mean"]), "a norm's statistics move as ever"
    state = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[0].path, CPU)["state"]
    assert not frozen & set(state["parameters"])
    assert len(state["optimizer"]["state"]) == 4
    assert ("frozen", "4 of the model's 8 parameters, 152 numbers.") in job.plan_in_words()
    assert "Frozen: 4 of the model's 8 parameters, 152 numbers." in notices(tmp_path / "run")
    trained(job_of(arguments={"frozen": True}, optimizer={"name": optimizer}), tmp_path / "own")
    assert same(after, parameters(tmp_path / "own"))
    trained(job_of(freeze=BODY, optimizer={"name": optimizer}, stop={"steps": 4}), tmp_path / "stopped")
    trained(job_of(freeze=BODY, optimizer={"name": optimizer}), tmp_path / "stopped", resumes=True)
    assert same(after, parameters(tmp_path / "stopped"))


def test_a_pattern_of_nothing_and_of_everything_are_refused() -> None:
    with pytest.raises(SpecError, match=r"model\.freeze: 'layer4\.\*' matches no parameter of this model\. Known: hidden\.weight, "):
        job_of(freeze=["hidden.*", "layer4.*"])
    with pytest.raises(SpecError, match=r"'hiden\.weight' matches no parameter of this model\. Did you mean hidden\.weight"):
        job_of(freeze=["hiden.weight"])
    with pytest.raises(SpecError, match=r"model\.freeze: freezes all 8 parameters of the model: nothing would train\."):
        job_of(freeze=["*.weight", "*.bias"])


def test_a_model_by_name_is_frozen_too(tmp_path: Path) -> None:
    job = prepared(model={"name": "mlp", "arguments": {"width": 4}, "freeze": ["*.bias"]})
    biases = {name for name, param in job.model.named_parameters() if not param.requires_grad}
    assert biases
    assert all(name.endswith(".bias") for name in biases)
    trained(job, tmp_path / "run")


GROUPS = [{"pattern": "hidden.*", "learning_rate_factor": 0.25, "weight_decay": 0.5}, {"pattern": "*.weight", "learning_rate_factor": 2.0}]


@pytest.mark.parametrize(("decays", "said"), [(False, "no weight decay: biases and norms"), (True, "weight decay 0.5")])
def test_a_group_of_biases_alone_is_told_no_decay_that_it_has_not(decays: bool, said: str) -> None:
    group = {"pattern": "*.bias", "weight_decay": 0.5}
    words = job_of(optimizer={"name": "sgd", "decay_biases_and_norms": decays, "groups": [group]}).plan_in_words()
    assert f"match '*.bias' (learning rate x 1, {said}); " in dict(words)["groups"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars", "lamb"])
def test_groups_train_at_their_own_rate_and_resume_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    options = {"name": optimizer, "weight_decay": 0.01}
    trained(job_of(optimizer={**options, "groups": GROUPS}), tmp_path / "run")
    said = (
        "2 parameters match 'hidden.*' (learning rate x 0.25, weight decay 0.5 but for biases and norms); 3 parameters match '*.weight' "
        "(learning rate x 2, weight decay 0.01 but for biases and norms); 3 are as the optimizer says."
    )
    assert f"Groups: {said}" in notices(tmp_path / "run")
    assert ("groups", said) in job_of(optimizer={**options, "groups": GROUPS}).plan_in_words()
    after = parameters(tmp_path / "run")
    trained(job_of(optimizer={**options, "groups": GROUPS}, stop={"steps": 4}), tmp_path / "stopped")
    trained(job_of(optimizer={**options, "groups": GROUPS}), tmp_path / "stopped", resumes=True)
    assert same(after, parameters(tmp_path / "stopped"))
    trained(job_of(optimizer=options), tmp_path / "plain")
    assert not torch.equal(after["hidden.weight"], parameters(tmp_path / "plain")["hidden.weight"])
    trained(job_of(optimizer={**options, "groups": [{"pattern": "h*"}]}), tmp_path / "same")
    assert same(parameters(tmp_path / "plain"), parameters(tmp_path / "same")), "a group without options of its own changes nothing"


def test_a_group_that_takes_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match=r"optimizer\.groups: has the pattern 'tail', which matches no parameter that is trained\. Known: hidden"):
        job_of(optimizer={"name": "sgd", "groups": [{"pattern": "tail"}]})
    with pytest.raises(SpecError, match=r"the pattern 'hidden\.\*', which matches no parameter that is trained\. Known: norm"):
        job_of(optimizer={"name": "sgd", "groups": [{"pattern": "hidden.*"}]}, freeze=["hidden.*"])
    with pytest.raises(SpecError, match=r"the pattern 'hidden\.bias', whose parameters all match an earlier group\."):
        job_of(optimizer={"name": "sgd", "groups": [*GROUPS, {"pattern": "hidden.bias"}]})


def test_a_tied_weight_is_not_two_in_the_file(tmp_path: Path) -> None:
    """The last of them was taken, and the other said to be, too."""
    weights = {name: value.clone() for name, value in tied(4).state_dict().items()}
    torch.save(weights, tmp_path / "w.pt")
    assert torch.equal(job_of(tmp_path, entry_point="own_code:tied", weights="w.pt").model.again.weight, weights["again.weight"])
    weights["again.weight"] += 1
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(SpecError, match=r"hidden\.weight and again\.weight are one parameter of the model, and w\.pt has other numbers for each"):
        job_of(tmp_path, entry_point="own_code:tied", weights="w.pt")


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_weights_of_a_run_that_diverged_are_refused(number: float, tmp_path: Path) -> None:
    """They were said to be two numbers for one parameter: NaN is not equal to itself."""
    weights = other_weights()
    name = next(name for name, value in weights.items() if value.is_floating_point())
    weights[name] = weights[name].clone()
    weights[name].view(-1)[-1] = number
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(SpecError, match=rf"model.weights: {name} holds NaN or infinity in w\.pt\. Give the weights of a run that has not diverged"):
        job_of(tmp_path, weights="w.pt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_weights_of_another_kind_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    """What was made whole, without its scale, trained as if it were the weights; half precision is the same numbers."""
    weights = other_weights()
    torch.save({**weights, "head.weight": weights["head.weight"].half()}, tmp_path / "w.pt")
    assert torch.equal(job_of(tmp_path, weights="w.pt").model.head.weight, weights["head.weight"].half().float())
    torch.save({**weights, "head.weight": (100 * weights["head.weight"]).to(dtype)}, tmp_path / "w.pt")
    with pytest.raises(SpecError, match=rf"head\.weight is {str(dtype).removeprefix('torch.')} in w\.pt and float32 in the model"):
        job_of(tmp_path, weights="w.pt")

"""What can be done from a run on: the commands that do the same, and what to change after a failure; test_code goes on with a later end."""

import shlex
from typing import Any

import pytest

from largebatch.jobs.spec.read import read_spec
from largebatch.service.api.requests import RunSubmit, SweepSubmit, job_of_run, job_of_sweep
from largebatch.service.job import Job, State
from largebatch.service.present.next_steps import next_steps
from largebatch.service.settings import Settings


def run(state: State = State.SUCCEEDED, outcome: str | None = None, reason: str | None = None, **asked: Any) -> Job:
    job = job_of_run(RunSubmit(**{"recipe": "digits-small-batch", **asked}), "ann", Settings(cpus=2.0, gpus=2))
    return job.model_copy(update={"state": state, "outcome": outcome, "reason": reason})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stop.epochs": 3, "seed": 2, "learning_rate.base": 1e-5, "description": "it's $HOME", "stop.target_accuracy": None},
        {"optimizer.name": "lamb", "optimizer.weight_decay": 0.02, "learning_rate.decay": "constant"},
        {"optimizer.momentum_half_life_samples": 1024.0, "name": "true"},
    ],
)
def test_a_command_trains_the_same(changes: dict[str, Any]) -> None:
    job = run(set=changes)
    steps = next_steps(job)
    words = shlex.split(steps.train_command.replace("\\\n", ""))
    assert words[:3] == ["largebatch", "train", "digits-small-batch"]
    assert read_spec(words[2], words[4::2]).model_dump(mode="json") == job.spec
    assert set(words[3::2]) <= {"--set"}
    assert steps.submit_command == steps.train_command.replace("largebatch train", "largebatch remote submit")


def test_a_spec_without_a_recipe_is_given_whole() -> None:
    whole = run(set={"stop.epochs": 3})
    job = run(recipe=None, spec=whole.spec, workers="2", gpus=2)
    command = next_steps(job).submit_command
    assert command.startswith("largebatch remote submit - --workers 2 --gpus 2 <<'END'\n{")
    assert '"epochs": 3' in command
    sweep = job_of_sweep(
        SweepSubmit.model_validate({"sweep": {"recipe": "digits-lamb", "each": {"batch.global_batch_size": [32]}}}), "ann", Settings()
    )
    assert next_steps(sweep).train_command.endswith("END\nlargebatch sweep sweep.json")


def test_a_run_that_went_wrong_says_what_to_change() -> None:
    assert next_steps(run(outcome="reached")).remedies == []
    diverged = next_steps(run(State.FAILED, "diverged", "It diverged.")).remedies
    assert diverged[0].set == {"learning_rate.base": 0.017}
    assert {"gradient.clip_norm": 1.0} in [remedy.set for remedy in diverged]
    while_warming = run(State.FAILED, "diverged", set={"learning_rate.base": 1000.0, "learning_rate.warmup_epochs": 1.0})
    while_warming = while_warming.model_copy(update={"progress": {"step": 14, "epoch": 0.3}})
    remedy = next_steps(while_warming).remedies[0]
    assert remedy.set == {"learning_rate.base": 100.0}, "a third of what was in force"
    assert "at step 14 of its warm-up, at about 300: lower the learning rate from 1000 to 100" in remedy.text
    (longer,) = next_steps(run(outcome="missed")).remedies
    assert (longer.set, longer.resumes) == ({"stop.epochs": 80.0}, True)
    killed = run(State.FAILED, reason="Attempt 6 ended by signal 9.", set={"batch.micro_batch_size": 16})
    assert next_steps(killed).remedies[0].set == {"batch.micro_batch_size": 8}
    assert "Mend what the reason" in next_steps(run(State.FAILED, reason="dataset: is not there.")).remedies[0].text
    own = next_steps(run(State.FAILED, reason="model.entry_point: failed.").model_copy(update={"code": "f" * 64}))
    assert "--code FOLDER" in own.remedies[0].text
    assert f" --code {'f' * 64}" in own.submit_command

"""Branches whose answer would be of another run, or by a rule that is not known, are refused."""

from pathlib import Path
from typing import Any

import pytest
from small_branches import PARTS
from small_runs import CPU, prepared, stopping_after, trained

from largebatch.jobs.errors import CheckpointError, PlanError
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.branch.origin import Wanted, open_origin
from largebatch.tuning.branch.run_branches import Ask, BranchListener, power_of, run_branches


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"optimizer": {"name": "sgd"}, "learning_rate": {"base": 0.1, "decay": "cosine"}}, "the cosine decay ends with the run, so that the rate"),
        ({"optimizer": {"name": "adamw", "weight_decay_time_scale": 0.5}, "learning_rate": {"base": 0.01}}, "so that weight decay would leap"),
        ({"optimizer": {"name": "sgd"}, "learning_rate": {"base": 0.1}}, None),
    ],
    ids=["cosine", "time scale", "constant"],
)
def test_a_checkpoint_from_before_the_run_had_another_end(parts: dict[str, Any], why: str | None, tmp_path: Path) -> None:
    """Its rate was another one, so the branch of the run's own batch would not be the run that went on."""
    own = PARTS | parts
    trained(prepared(**own), tmp_path, stopping_after(20))
    trained(prepared(**(own | {"stop": {"epochs": 8}})), tmp_path, resumes=True)

    def branched(step: int) -> None:
        origin = open_origin(tmp_path, Wanted(steps=[step], multiples=[2], num_samples=64), CPU, Path("nowhere"))
        run_branches(origin, Ask(2, 0.5), BranchListener())

    branched(21)
    unchosen = open_origin(tmp_path, Wanted(multiples=[2], num_samples=64), CPU, Path("nowhere"))
    assert unchosen.points[0].checkpoint.step == (1 if why is None else 21)
    if why is None:
        branched(9)
        return
    with pytest.raises(CheckpointError, match=rf"step 9 was made when stop.epochs was 5.0, now it is 8.0: .*{why}.*from after the run was resumed"):
        branched(9)


def optimizer(**options: Any) -> TrainSpec:
    return build_spec({"dataset": {"name": "digits"}, "model": {"name": "mlp"}, "batch": {"global_batch_size": 8}, "learning_rate": {"base": 0.1},
                       "stop": {"epochs": 1}, "optimizer": options})  # fmt: skip


@pytest.mark.parametrize("rate", ["auto", "tuned"])
def test_a_rule_that_is_not_known_is_asked_for(rate: str) -> None:
    """Under momentum SGD by its half-life steps add up to rate / (1 - momentum), so that a rate in proportion to the batch is no rule."""
    unruled = [
        optimizer(name="sgd", momentum_half_life_samples=100.0),
        optimizer(name="lars", momentum_half_life_samples=100.0),
        optimizer(name="muon", other={"name": "sgd"}),
        optimizer(entry_point="torch.optim:NAdam"),
    ]
    for spec in unruled:
        with pytest.raises(PlanError, match=rf"^--rate: {rate} is by the optimizer's rule, .* is not known of .*Say none, sqrt or linear"):
            power_of(rate, spec.optimizer)
        assert [power_of(name, spec.optimizer) for name in ("none", "sqrt", "linear")] == [0.0, 0.5, 1.0]
    for name, kind in OPTIMIZERS.items():
        assert power_of(rate, kind.model_validate({"name": name})) == (1.0 if name in {"sgd", "lars", "rmsprop-sgd", "schedule-free-sgd"} else 0.5)
    assert power_of(rate, optimizer(name="adamw", beta1_half_life_samples=100.0).optimizer) == 0.5

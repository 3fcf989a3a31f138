"""Optimizers beside each other in a sweep: each with its own rates, all with as many runs; what cannot be is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import said
from made_runs import BASE, sweep, work

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.tuning.sweep.ledger import Ledger
from largebatch.tuning.sweep.space import count_runs, group_name, groups, read_sweep, refuse_impossible, with_fields
from largebatch.tuning.sweep.spec import RangeSpec, SweepSpec

RATE, BATCH, OPTIMIZER = "learning_rate.base", "batch.global_batch_size", "optimizer"
OWN = "mine.optimizers:twice"


def compared(*optimizers: Any, search: dict[str, Any] | None = None, **fields: Any) -> SweepSpec:
    return sweep(each={OPTIMIZER: [*optimizers], BATCH: [64, 1024]}, search={"method": "random", "trials": 3, **(search or {})}, **fields)


def ranges(spec: SweepSpec) -> dict[tuple[str, int], tuple[float, float]]:
    found = {}
    for group in groups(spec):
        domain = group.space[RATE]
        assert isinstance(domain, RangeSpec)
        found[group.fields["optimizer.name"], group.fields[BATCH]] = (domain.low, domain.high)
    return found


def test_each_has_its_usual_range_that_moves_with_the_root_of_the_batch() -> None:
    """Restated: at a batch of 256 from a sixth to six times 0.1 for sgd, 0.02 for lamb."""
    found = ranges(compared("sgd", "lamb"))
    for name, usual in (("sgd", 0.1), ("lamb", 0.02)):
        for batch in (64, 1024):
            middle = usual * (batch / 256) ** 0.5
            assert found[name, batch] == pytest.approx((middle / 6, middle * 6)), (name, batch)


def test_all_ranges_are_as_wide() -> None:
    names = [name for name in OPTIMIZERS if OPTIMIZERS[name].usual_rate is not None]
    assert names == list(OPTIMIZERS), "each of ours is known"
    widths = {round(high / low, 6) for low, high in ranges(compared(*names)).values()}
    assert widths == {36.0}


def test_a_range_that_is_given_goes_first() -> None:
    own = {"lamb": {RATE: {"low": 0.002, "high": 0.02}}}
    found = ranges(compared("sgd", "lamb", search={"by_optimizer": own}))
    assert found["lamb", 1024] == (0.002, 0.02)
    assert found["sgd", 64] == pytest.approx((0.05 / 6, 0.3))
    everywhere = {RATE: {"low": 0.1, "high": 1.0}}
    found = ranges(compared("sgd", "lamb", search={"space": everywhere, "by_optimizer": own}))
    assert (found["sgd", 64], found["lamb", 64]) == ((0.1, 1.0), (0.002, 0.02))


def test_optimizers_keep_their_options_and_are_called_by_name() -> None:
    spec = compared("sgd", {"name": "lamb", "weight_decay": 0.02}, OWN, search={"space": {RATE: {"low": 0.1, "high": 1.0}}})
    by_name = {group_name(group): with_fields(BASE, group.fields).optimizer for group in groups(spec)}
    assert list(by_name) == [
        "optimizer sgd, batch 64", "optimizer sgd, batch 1024",
        "optimizer lamb, weight decay 0.02, batch 64", "optimizer lamb, weight decay 0.02, batch 1024",
        f"optimizer {OWN}, batch 64", f"optimizer {OWN}, batch 1024",
    ]  # fmt: skip
    assert [optimizer.label for optimizer in by_name.values()] == ["sgd", "sgd", "lamb", "lamb", OWN, OWN]
    assert by_name["optimizer lamb, weight decay 0.02, batch 64"].weight_decay == 0.02
    assert spec.optimizers == ["sgd", "lamb", OWN]


def test_every_optimizer_has_as_many_runs_at_every_batch_and_they_take_turns(tmp_path: Path) -> None:
    momenta = {"sgd": {"optimizer.momentum": [0.0, 0.9], RATE: {"low": 0.05, "high": 0.5}}}
    spec = compared("sgd", "lamb", search={"by_optimizer": momenta}, repeats=2)
    assert count_runs(spec) == 4 * (3 + 2)
    work(tmp_path, spec)
    trials = Ledger(tmp_path).trials
    pairs = [(trial.fields["optimizer.name"], trial.fields[BATCH]) for trial in trials]
    assert {pair: pairs.count(pair) for pair in pairs} == {(name, batch): 5 for name in ("sgd", "lamb") for batch in (64, 1024)}
    assert len(set(pairs[:4])) == 4, "a sweep that is cut short has tried all"
    assert {trial.run_id.split("-")[1] for trial in trials} == {"sgd", "lamb"}
    assert all(("optimizer.momentum" in trial.fields) == (trial.fields["optimizer.name"] == "sgd") for trial in trials)


def test_a_sweep_of_one_optimizer_names_its_runs_as_before(tmp_path: Path) -> None:
    work(tmp_path, sweep())
    assert Ledger(tmp_path).trials[0].run_id == "0000-batch-32-seed-0"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"each": {OPTIMIZER: ["sgd", "lam"], BATCH: [64]}}, "each holds 'lam', which is no optimizer .Did you mean lamb"),
        ({"each": {OPTIMIZER: ["sgd", 3], BATCH: [64]}}, "neither an optimizer's name nor a mapping"),
        ({"each": {OPTIMIZER: ["sgd", {"momentum": 0.9}], BATCH: [64]}}, "neither an optimizer's name nor a mapping"),
        ({"each": {OPTIMIZER: ["sgd", OWN], BATCH: [64]}}, f"no rates are known as usual for {OWN}; give search.by_optimizer"),
        ({"each": {OPTIMIZER: ["sgd", "lamb"]}}, "usual ones follow batch.global_batch_size, which each does not hold"),
        ({"each": {OPTIMIZER: ["sgd"], "optimizer.name": ["sgd"], BATCH: [64]}}, "say the same"),
        ({"each": {OPTIMIZER: ["sgd", "lamb"], BATCH: [64]}}, "needs trials"),
        (
            {"each": {OPTIMIZER: ["sgd"], BATCH: [64]}, "search": {"trials": 2, "by_optimizer": {"lamb": {RATE: [0.1]}}}},
            "search.by_optimizer has lamb, and each compares sgd",
        ),
        ({"search": {"trials": 2, "by_optimizer": {"lamb": {RATE: [0.1]}}}}, "each compares none"),
        (
            {"each": {OPTIMIZER: ["sgd", "lamb"], BATCH: [64]}, "search": {"method": "grid", "by_optimizer": {"lamb": {RATE: [0.1, 0.2]}}}},
            "unequal numbers of runs .sgd 5, lamb 2",
        ),
        (
            {"each": {OPTIMIZER: ["sgd", "lamb"], BATCH: [64]}, "search": {"trials": 2, "by_optimizer": {"lamb": {BATCH: [64]}}}},
            "is in each and in search.space",
        ),
    ],
)  # fmt: skip
def test_what_no_sweep_of_optimizers_can_be(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"recipe": "digits-small-batch", **fields}))
    with pytest.raises(SpecError, match=words):
        read_sweep(path)


def test_an_option_of_another_optimizer_is_refused_before_anything_runs() -> None:
    spec = compared("sgd", {"name": "lamb", "momentum": 0.9})
    with pytest.raises(SpecError, match="lamb does not read momentum"):
        refuse_impossible(spec, BASE)
    assert nearest("muonn", OPTIMIZERS) == "Did you mean muon?"


def test_an_optimizer_that_cannot_train_the_model_is_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Muon has no matrix to update in a model whose only one is its output head."""
    path = tmp_path / "heads.yaml"
    path.write_text(json.dumps({
        "recipe": "digits-small-batch", "set": {"model.arguments.depth": 0, "tracking.enabled": False},
        "each": {OPTIMIZER: ["sgd", "muon"], BATCH: [64]}, "search": {"trials": 1},
    }))  # fmt: skip
    code, _, refused = said(capsys, "sweep", path, "--output-dir", tmp_path / "runs")
    assert code == 2
    assert "muon has no hidden matrix" in refused
    assert not (tmp_path / "runs").exists()

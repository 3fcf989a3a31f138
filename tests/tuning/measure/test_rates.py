"""Learning rates by short runs: the search on planted losses, and short runs that are, to the bit, runs of the recipe in miniature."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from command_line import largebatch
from small_runs import CPU, document, prepared, trained

from largebatch.jobs.engine.model_state import digest
from largebatch.jobs.errors import InputError, PlanError
from largebatch.jobs.job import prepare
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.run.load import load_run
from largebatch.jobs.spec.read import build_spec, read_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.measure.rate_search import find_rate
from largebatch.tuning.measure.rates import find_rates, loss_of_short_run, rates_chart, short_spec
from largebatch.tuning.report.picture_pen import write_png


def ready(spec: TrainSpec) -> Any:
    return prepare(spec, CPU, Path("nowhere"))


class TestTheSearch:
    @pytest.mark.parametrize("first", [1e-6, 0.02, 0.3, 300.0])
    def test_it_comes_to_the_best_rate_from_anywhere(self, first: float) -> None:
        """Planted: lowest at 0.05, and from 0.4 on it diverges."""
        found = find_rate(lambda rate: math.inf if rate >= 0.4 else math.log(rate / 0.05) ** 2, first)
        assert found is not None
        assert 2**-0.25 <= found.rate / 0.05 <= 2**0.25 * 1.01, "no rate of its grid is nearer"
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0.05 < found.high
        assert found.high / found.low == pytest.approx(2, rel=0.02)

    def test_the_same_care_for_each(self) -> None:
        """Two losses that differ by a factor of the rate alone take the same number of runs, at rates that differ by that factor."""
        one, other = (find_rate(lambda rate, best=best: abs(math.log(rate / best)), best * 3) for best in (0.01, 0.1))
        assert one is not None
        assert other is not None
        assert [rate * 10 for rate in one.losses] == pytest.approx(list(other.losses), rel=0.01)

    def test_a_loss_that_falls_for_ever_has_no_rate_above(self) -> None:
        found = find_rate(lambda rate: -rate, 0.1)
        assert found is not None
        assert found.high is None

    def test_everything_diverges(self) -> None:
        assert find_rate(lambda rate: math.inf, 0.1) is None


RECIPE = document(
    learning_rate={"base": 0.1, "base_global_batch_size": 8, "scaling": "sqrt", "warmup_epochs": 2.0, "decay": "cosine"},
    optimizer={"name": "rmsprop-sgd", "transition_epoch": 4.0, "transition_period_epochs": 2.0},
    stop={"epochs": 20.0},
    model={"name": "mlp", "arguments": {"width": 8}},
    ema={"decay": 0.9},
)
"""Of 64 samples."""
MINIATURE = {
    **RECIPE,
    "batch": {"global_batch_size": 32},
    "learning_rate": {"base": 0.2, "warmup_epochs": 0.5, "decay": "cosine"},
    "optimizer": {"name": "rmsprop-sgd", "transition_epoch": 1.0, "transition_period_epochs": 0.5},
    "stop": {"epochs": 5.0},
    "gradient": {"noise_every_steps": 0},
    "ema": {"decay": 0.9**4},
}
"""A quarter of it, written down."""


def test_a_short_run_is_the_recipe_in_miniature(tmp_path: Path) -> None:
    rates = find_rates(build_spec(RECIPE), ready, [32], num_samples=320)
    (found,) = rates.batches
    assert (rates.num_samples, rates.share, found.num_steps) == (320, 0.25, 10)
    losses = {tried.learning_rate: tried.loss for tried in found.tried}
    assert 0.2 in losses, "it begins at the recipe's own rate, scaled by its own rule"
    trained(ready(build_spec(MINIATURE)), tmp_path)
    assert load_run(tmp_path).evaluations[-1].loss == losses[0.2]
    assert found.loss == min(loss for loss in losses.values() if loss is not None)


@pytest.mark.parametrize("name", ["lamb", "muon", "schedule-free-adamw", "lion"])
def test_the_model_is_afterwards_what_it_was(name: str) -> None:
    job = prepared(optimizer=OPTIMIZERS[name].model_validate({"name": name}).model_dump(mode="json"), learning_rate={"base": 0.01})
    before = digest(job.model)
    first = loss_of_short_run(job, 0.01)
    assert first != loss_of_short_run(job, 0.001)
    assert first == loss_of_short_run(job, 0.01)
    assert digest(job.model) == before


def test_a_rate_that_diverges_is_told_from_others(tmp_path: Path) -> None:
    rates = find_rates(build_spec(document(learning_rate={"base": 1e4})), ready)
    (found,) = rates.batches
    assert found.tried[-1].loss is None
    assert found.learning_rate < 1e4
    chart = rates_chart(rates, "made")
    assert [line.name.partition(":")[0] for line in chart.series] == ["batch 16", "lowest loss", "diverged"]
    write_png(chart, tmp_path / "rates.png")


def test_where_last_batches_are_dropped_every_batch_has_as_many_samples() -> None:
    """Of 64: an epoch is one step of 48, three of 20."""
    recipe = document(batch={"global_batch_size": 20, "last": "drop"}, stop={"epochs": 40.0}, learning_rate={"base": 0.01})
    rates = find_rates(build_spec(recipe), ready, [20, 48], num_samples=480)
    assert [found.num_steps for found in rates.batches] == [24, 10]
    with pytest.raises(PlanError, match=r"100 is more than the 64 samples"):
        find_rates(build_spec(recipe), ready, [100])


def test_a_short_run_has_short_sequences_for_as_short() -> None:
    spec = build_spec(document(batch={"global_batch_size": 16, "schedule": {"short_sequences": {"length": 8, "epochs": 6.0}}}))
    short = short_spec(spec, 16, 0.1, 0.25, 5.0, 0.0).batch.schedule.short_sequences
    assert short is not None
    assert (short.length, short.epochs) == (8, 1.5)


@pytest.mark.parametrize("scaling", ["none", "linear", "legw"])
def test_the_command_trains_the_recipe_at_the_rate_that_was_found(scaling: str, tmp_path: Path) -> None:
    """Its warm-ups and its second phase are those that the recipe's own rule makes at that batch: of 64 samples in steps of 8, at 16."""
    restart = {"epoch": 6.0, "base": 0.03, "warmup_epochs": 0.5}
    rate = {"base": 0.1, "base_global_batch_size": 8, "scaling": scaling, "warmup_epochs": 1.0, "decay": "cosine", "restart": restart}
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(document(learning_rate=rate, stop={"epochs": 9.0}, batch={"global_batch_size": 8})))
    (found,) = json.loads(largebatch("find-rate", recipe, "--batches", "16", "--json").stdout)["batches"]
    spec = read_spec(str(recipe), [word for word in found["command"].split() if "=" in word])
    first, second = (phase.scaled for phase in ready(spec).plan.rate_phases)
    times, epochs = {"none": (1.0, 1.0), "linear": (2.0, 1.0), "legw": (math.sqrt(2), 2.0)}[scaling]
    assert (first.peak, first.warmup_epochs) == (found["learning_rate"], epochs)
    assert (second.peak, second.warmup_epochs) == (pytest.approx(0.03 * times, rel=1e-5), 0.5 * epochs)


def test_the_command(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(document()))
    done = largebatch("find-rate", recipe, "--batches", "8,16", "--figure", tmp_path / "rates.html", "--set", "seed=3")
    assert "no other" not in done.stdout
    assert "batch 8, learning rate " in done.stderr, "it says what it does, where there is no terminal too"
    (command,) = [line for line in done.stdout.splitlines() if "batch.global_batch_size=8 " in line]
    assert command.startswith(f"largebatch train {recipe} --set seed=3 --set batch.global_batch_size=8 --set learning_rate.base=")
    assert (tmp_path / "rates.html").is_file()
    with pytest.raises(InputError, match="ends in neither"):
        largebatch("find-rate", recipe, "--figure", "rates.pdf")
    with pytest.raises(InputError, match=r"--samples: 15 are less than one step of the largest batch, 16\. Give 32 steps of it: 512\."):
        largebatch("find-rate", recipe, "--batches", "8,16", "--samples", "15")
    answer = json.loads(largebatch("find-rate", recipe, "--batches", "8", "--set", "seed=3", "--json").stdout)
    assert answer["batches"][0]["command"] == command

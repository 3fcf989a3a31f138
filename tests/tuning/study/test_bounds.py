"""What a study refuses by its profile alone: exactly what no plan could hold."""

from dataclasses import replace

import pytest
from made_runs import CRITICAL, made_profile, made_run

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.read import read_spec
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.tuning.results.analysis.step_time import Profile, ProfilePoint
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.bounds import advised_by_part, longest_reference, refuse_endless
from largebatch.tuning.study.sizing import size_sweep
from largebatch.tuning.sweep.space import with_fields
from largebatch.tuning.sweep.spec import ResourcesSpec

OWN = made_profile().model_copy(update={"num_train_samples": 4096})
ENDLESS = read_spec("digits-small-batch", ["stop.target_accuracy=0.9", "stop.epochs=300", "stop.at_target=false", "batch.global_batch_size=256"])
TO_TARGET = read_spec("digits-small-batch", ["stop.target_accuracy=0.9", "stop.epochs=300", "stop.at_target=true", "batch.global_batch_size=256"])


def test_runs_through_all_epochs_that_the_budget_does_not_hold_are_refused_before_one_is_trained() -> None:
    # Of the sizes 16, 64, 256, 1024 and 2048 the three largest are the cheapest: 300 epochs each of 4096 samples at 2 ms a step and 40,000 samples/s.
    sweep_s = sum(300 * 4096 * (0.002 / batch + 1 / 40_000) for batch in (256, 1024, 2048))
    with pytest.raises(
        InputError, match=f"hold no sweep of this recipe; one run at each of 3 batch sizes trains for {sweep_s:,.0f} s at least"
    ) as refused:
        refuse_endless(ENDLESS, OWN, 120.0, 110.0, [OWN])
    minutes = int(refused.value.hint.rpartition(" ")[2].rstrip("m."))
    refuse_endless(ENDLESS, OWN, 60.0 * minutes, 60.0 * minutes - 10.0, [OWN])
    refuse_endless(ENDLESS, OWN, 300.0, 290.0, [OWN])
    with pytest.raises(InputError, match="under each of 3 optimizers"):
        refuse_endless(ENDLESS, OWN, 300.0, 290.0, [OWN] * 3)
    refuse_endless(TO_TARGET, OWN, 120.0, 110.0, [OWN])


@pytest.mark.parametrize("critical", [CRITICAL, 20.0, 20_000.0])
@pytest.mark.parametrize("num_optimizers", [1, 2])
def test_after_the_longest_reference_run_no_sweep_fits_whatever_its_noise(critical: float, num_optimizers: int) -> None:
    run = made_run(256, factor=40.0)
    run = replace(run, summary=run.summary.model_copy(update={"gradient_noise_scale": critical}))
    run_s = run.summary.training_seconds
    compared = dict.fromkeys(["sgd", "lamb"], OWN) if num_optimizers > 1 else None
    refused = 0
    for budget_s in (float(seconds) for seconds in range(15, 400, 7)):
        if longest_reference(TO_TARGET, OWN, budget_s, budget_s, [OWN] * num_optimizers) >= run_s:
            continue
        refused += 1
        with pytest.raises(InputError, match="hold no sweep"):
            size_sweep(TO_TARGET, OWN, run, budget_s, ResourcesSpec(), compared, left_s=budget_s - run_s)
    assert refused
    assert longest_reference(ENDLESS, OWN, 15.0, 15.0, [OWN]) == float("inf")
    assert longest_reference(TO_TARGET, OWN, 40.0, 2.0, [OWN]) > 0.0, "what a slow start has left nothing for is refused by what it takes"


def slow_down(point: ProfilePoint, times: float) -> ProfilePoint:
    return point.model_copy(update={"seconds_per_step": times * point.seconds_per_step})


SLOWER = [slow_down(point, 5) for point in OWN.points]
DISTURBED = OWN.model_copy(update={"points": [own if own.global_batch_size == 256 else slow for own, slow in zip(OWN.points, SLOWER, strict=True)]})
"""While all batches but the recipe's were measured something else was under way."""


def through(epochs: float, busier: float = 1.0) -> RunResult:
    """The recipe's own run so far, which has not met its target. Args: busier: how many times a step takes as long as the profile says."""
    run, steps = made_run(256, reaches=False), round(epochs * 4096 / 256)
    seconds = busier * steps * OWN.seconds_per_step(256)
    changed = {"steps": steps, "samples_seen": steps * 256, "training_seconds": seconds, "wall_seconds": seconds + 1.0, "evaluation_seconds": 0.0}
    return replace(run, summary=run.summary.model_copy(update=changed))


class TestAdvice:
    """The budget that a refusal names is enough once it is given."""

    @pytest.mark.parametrize("profile", [OWN, DISTURBED], ids=["quiet", "disturbed"])
    @pytest.mark.parametrize("spec", [TO_TARGET, ENDLESS], ids=["to the target", "all epochs"])
    def test_by_a_part_of_the_recipes_own_run(self, profile: Profile, spec: TrainSpec) -> None:
        """Its rest is a fifth slower."""
        whole_s, needed_s = advised_by_part(spec, profile, through(30.0), [profile])
        assert whole_s == pytest.approx(through(300.0).summary.training_seconds, rel=0.01)
        assert longest_reference(spec, profile, needed_s, needed_s, [profile]) > whole_s
        assert size_sweep(spec, profile, through(300.0, busier=1.2), needed_s, ResourcesSpec()).num_trials >= 1

    def test_of_a_recipe_of_steps(self) -> None:
        spec = with_fields(TO_TARGET, {"stop.epochs": None, "stop.steps": 4800})
        assert advised_by_part(spec, OWN, through(30.0), [OWN]) == pytest.approx(advised_by_part(TO_TARGET, OWN, through(30.0), [OWN]))

    @pytest.mark.parametrize("profile", [OWN, DISTURBED], ids=["quiet", "disturbed"])
    def test_by_the_profile_alone(self, profile: Profile) -> None:
        with pytest.raises(InputError) as refused:
            refuse_endless(ENDLESS, profile, 120.0, 110.0, [profile])
        budget_s = 60.0 * int(refused.value.hint.rpartition(" ")[2].rstrip("m."))
        assert through(300.0).summary.training_seconds < 0.35 * budget_s, "else the recipe's own run is cut short"
        assert size_sweep(ENDLESS, profile, through(300.0, busier=1.2), budget_s, ResourcesSpec()).num_trials >= 1

    @pytest.mark.parametrize("times", [2, 4])
    @pytest.mark.parametrize("num_dearer", [1, 2])
    def test_beside_optimizers_of_dearer_steps(self, times: int, num_dearer: int) -> None:
        """A study under sgd and lamb was named a budget by the steps of sgd alone, and refused once more with it."""
        dearer = OWN.model_copy(update={"points": [slow_down(point, times) for point in OWN.points]})
        compared = dict(zip(["sgd", "lamb", "muon"], [OWN, dearer, dearer][: 1 + num_dearer], strict=False))
        under = [*compared.values()]
        _, needed_s = advised_by_part(TO_TARGET, OWN, through(30.0), under)
        with pytest.raises(InputError, match=f"under each of {1 + num_dearer} optimizers") as refused:
            refuse_endless(ENDLESS, OWN, 120.0, 110.0, under)
        named = [(TO_TARGET, needed_s), (ENDLESS, 60.0 * int(refused.value.hint.rpartition(" ")[2].rstrip("m.")))]
        for spec, budget_s in named:
            run = through(300.0, busier=1.2)
            assert longest_reference(spec, OWN, budget_s, budget_s, under) > run.summary.training_seconds
            assert size_sweep(spec, OWN, run, budget_s, ResourcesSpec(), compared).num_trials >= 1

    def test_evaluations_are_counted_before_one_is_made(self) -> None:
        """They take a fifth of the training seconds at most, and had been left out of what runs through all epochs are told to take."""
        with pytest.raises(InputError) as refused:
            refuse_endless(ENDLESS, OWN, 120.0, 110.0, [OWN])
        budget_s, run = 60.0 * int(refused.value.hint.rpartition(" ")[2].rstrip("m.")), through(300.0, busier=1.2)
        evaluation_s = 0.2 * run.summary.training_seconds
        evaluated = {"evaluation_seconds": evaluation_s, "wall_seconds": run.summary.wall_seconds + evaluation_s}
        run = replace(run, summary=run.summary.model_copy(update=evaluated))
        assert size_sweep(ENDLESS, OWN, run, budget_s, ResourcesSpec()).num_trials >= 1

    @pytest.mark.parametrize("factor", [1.0, 10.0, 40.0])
    def test_of_the_smallest_sweep(self, factor: float) -> None:
        """After a profile and a run that took less of the first budget than is counted for them of the next."""
        run = made_run(256, factor=factor)
        with pytest.raises(InputError, match="hold no sweep") as refused:
            size_sweep(TO_TARGET, OWN, run, 12.0, ResourcesSpec(), left_s=0.0)
        minutes = int(refused.value.hint.rpartition(" ")[2].rstrip("m."))
        for budget_s in (60.0 * minutes, 66.0 * minutes, 120.0 * minutes):
            assert size_sweep(TO_TARGET, OWN, run, budget_s, ResourcesSpec()).num_trials >= 1
        busier = OWN.model_copy(update={"points": [slow_down(point, 1.2) for point in OWN.points]})
        slower = {name: 1.2 * getattr(run.summary, name) for name in ("training_seconds", "wall_seconds")}
        anew = replace(run, summary=run.summary.model_copy(update=slower))
        assert size_sweep(TO_TARGET, busier, anew, 60.0 * minutes, ResourcesSpec()).num_trials >= 1, (
            "a new study, on a machine that is a fifth busier"
        )

    @pytest.mark.parametrize("spent_s", [60.0, 115.0, 400.0])
    def test_after_a_slow_start(self, spent_s: float) -> None:
        """What it has taken counts in the study that goes on with the budget that is named: it was named the budget that it had."""
        run = made_run(256)
        with pytest.raises(InputError, match="hold no sweep") as refused:
            size_sweep(TO_TARGET, OWN, run, spent_s + 3.0, ResourcesSpec(), left_s=3.0)
        budget_s = 60.0 * int(refused.value.hint.rpartition(" ")[2].rstrip("m."))
        assert size_sweep(TO_TARGET, OWN, run, budget_s, ResourcesSpec(), left_s=budget_s - spent_s).num_trials >= 1

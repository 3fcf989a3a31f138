"""What a study refuses by its profile alone: exactly what no plan could hold."""

from dataclasses import replace

import pytest
from made_runs import CRITICAL, made_profile, made_run

from largebatch.jobs.errors import InputError
from largebatch.jobs.spec.read import read_spec
from largebatch.tuning.study.bounds import longest_reference, refuse_endless
from largebatch.tuning.study.sizing import size_sweep
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
        refuse_endless(ENDLESS, OWN, 120.0, 110.0, 1)
    minutes = int(refused.value.hint.rpartition(" ")[2].rstrip("m."))
    refuse_endless(ENDLESS, OWN, 60.0 * minutes, 60.0 * minutes - 10.0, 1)
    with pytest.raises(InputError, match="under each of 3 optimizers"):
        refuse_endless(ENDLESS, OWN, 60.0 * minutes, 60.0 * minutes - 10.0, 3)
    refuse_endless(TO_TARGET, OWN, 120.0, 110.0, 1)


@pytest.mark.parametrize("critical", [CRITICAL, 20.0, 20_000.0])
@pytest.mark.parametrize("num_optimizers", [1, 2])
def test_after_the_longest_reference_run_no_sweep_fits_whatever_its_noise(critical: float, num_optimizers: int) -> None:
    run = made_run(256, factor=40.0)
    run = replace(run, summary=run.summary.model_copy(update={"gradient_noise_scale": critical}))
    run_s = run.summary.training_seconds
    compared = dict.fromkeys(["sgd", "lamb"], OWN) if num_optimizers > 1 else None
    refused = 0
    for budget_s in (float(seconds) for seconds in range(15, 400, 7)):
        if longest_reference(TO_TARGET, OWN, budget_s, budget_s, num_optimizers) >= run_s:
            continue
        refused += 1
        with pytest.raises(InputError, match="hold no sweep"):
            size_sweep(TO_TARGET, OWN, run, budget_s, ResourcesSpec(), compared, left_s=budget_s - run_s)
    assert refused
    assert longest_reference(ENDLESS, OWN, 15.0, 15.0, 1) == float("inf")
    assert longest_reference(TO_TARGET, OWN, 40.0, 2.0, 1) > 0.0, "what a slow start has left nothing for is refused by what it takes"

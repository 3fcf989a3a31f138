"""How sure a card is where the machine held up some of the runs."""

from dataclasses import replace

import pytest
from made_runs import TARGET, fine, made_run

from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.results.wording import answer_of


@pytest.mark.parametrize(
    ("held_up", "verdict"),
    [
        ({}, "sure"),
        ({"core_wait_fraction": 0.6}, "unsure"),  # of twice the soonest's time less than half is its own
        ({"core_wait_fraction": 0.2}, "sure"),
        ({"core_wait_fraction": 0.05}, "sure"),
        ({"stopped_seconds": 0.6}, "unsure"),
        ({"stopped_seconds": 0.3}, "sure"),
    ],
)
def test_what_was_held_up_may_be_as_soon(held_up: dict[str, float], verdict: str) -> None:
    """It was sure that a batch is the soonest whose rival had waited for a core most of the time, or had stood still."""

    def timed(batch: int, seconds: float, **told: float) -> list[RunResult]:
        """Three runs that met the target after about so many seconds."""
        of_batch = []
        for seed in range(3):
            one = fine(made_run(batch, seed, settings=(("batch.global_batch_size", str(batch)),)), 200)
            own = seconds * (1 + 0.005 * seed)
            factor = own / one.evaluations[-1].training_seconds
            points = tuple(at._replace(training_seconds=at.training_seconds * factor) for at in one.evaluations)
            of_batch.append(replace(one, evaluations=points, summary=one.summary.model_copy(update={"training_seconds": own, **told})))
        return of_batch

    card = answer_of(find([*timed(64, 0.5), *timed(256, 1.0, **held_up)], TARGET)).card
    assert card is not None
    assert card.choice is not None
    assert card.choice.global_batch_size == 64
    assert card.verdict == verdict
    assert card.sureness is not None
    assert ("batch 256 with sgd may be as soon on a free machine" in card.sureness.grounds) is (verdict == "unsure")

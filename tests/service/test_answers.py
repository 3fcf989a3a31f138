"""What the API says a sweep answers is what the analysis finds, neither more nor less."""

from made_runs import made_run

from largebatch.service.api.answers import SweepFindings
from largebatch.tuning.results.findings import find


def test_every_part_has_its_type() -> None:
    found = find([made_run(batch, seed) for batch in (32, 128, 512, 2048) for seed in range(3)])
    told = SweepFindings.model_validate({**found.as_dict(), "words": found.words(), "rows": found.rows()})
    assert told.critical_batch is not None
    assert found.critical_batch is not None
    assert told.critical_batch.critical_batch_size == found.critical_batch.critical_batch_size
    assert [one.choice.global_batch_size for one in told.advice if one.choice] == [one.choice.global_batch_size for one in found.advice if one.choice]
    assert {one.question for one in told.advice} == {"soonest", "cheapest", "knee"}
    assert told.model_dump(exclude={"figures", "rows"}) == found.as_dict()


def test_nothing_reached_is_an_answer_too() -> None:
    found = find([made_run(batch, reaches=False) for batch in (32, 128)])
    told = SweepFindings.model_validate({**found.as_dict(), "words": found.words(), "rows": found.rows()})
    assert (told.critical_batch, told.advice, told.batches[0].seconds_to_target.median) == (None, [], None)

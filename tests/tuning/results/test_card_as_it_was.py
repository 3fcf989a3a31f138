"""The recipe as it was, trained once: where it is the answer, and what is said of its clock."""

from dataclasses import replace

import pytest
from made_cards import card_of, line, run, runs
from made_runs import BASE, TARGET

from largebatch.tuning.results.background import BegunFrom
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.wording import answer_of


@pytest.mark.parametrize("batch", [None, 16])
def test_the_recipe_as_it_was_where_that_is_sooner(batch: int | None) -> None:
    """In samples under the batch and optimizer of the best that was searched, else in seconds."""
    searched = card_of(runs()).choice
    assert searched is not None
    reference = run(batch or searched.global_batch_size, factor=0.5 if batch is None else 0.05)
    card = card_of(runs(), recipe=BegunFrom(BASE, reference))
    assert card.title.startswith(f"The recipe as it was: batch {reference.summary.global_batch_size} with sgd")
    assert card.verdict == "unsure"
    assert card.choice is not None
    assert card.choice.seconds == pytest.approx(reference.evaluations[-1].training_seconds)
    assert card.runners_up[0].choice == searched
    cost = "samples" if batch is None else "training time"
    assert line(card, "Runner-up").endswith(f"{card.runners_up[0].times:.3g} times the {cost}.")
    assert card.runners_up[0].times > 1


@pytest.mark.parametrize("batch", [None, 16])
def test_the_sentences_below_count_the_recipe_as_it_was_where_the_card_does(batch: int | None) -> None:
    """Soonest, the frontier and a deadline that it alone keeps."""
    searched = card_of(runs()).choice
    assert searched is not None
    recipe = BegunFrom(BASE, run(batch or searched.global_batch_size, factor=0.5 if batch is None else 0.05))
    own = card_of(runs(), recipe=recipe).choice
    assert own is not None
    answer = answer_of(find(runs(), TARGET, begun_from=recipe, limits={"seconds": own.seconds}))
    told = {advice.question: advice.choice for advice in answer.advice}
    assert told["soonest"] == told[f"within {own.seconds:g} s"] == own
    assert own in answer.cost_frontier
    assert answer.words[1].startswith("Nothing that was searched was measured to be better than the recipe as it was")
    (soonest,) = [words for words in answer.words if words.startswith("Soonest: ")]
    assert soonest.startswith(f"Soonest: batch {own.global_batch_size} with sgd")
    assert len([advice for advice in answer.by_optimizer[0].advice if advice.choice == own]) >= 2


def test_the_recipe_as_it_was_where_nothing_that_was_searched_reached_the_target() -> None:
    """It is an answer: a small batch that reached the target beside a search of large ones that did not."""
    hard = max(at.score for each in runs() for at in each.evaluations) + 1e-6
    reference = run(16, factor=0.05)
    points = tuple(at._replace(score=at.score + 0.02) for at in reference.evaluations)
    recipe = BegunFrom(BASE, replace(reference, evaluations=points))
    answer = answer_of(find(runs(), hard, begun_from=recipe))
    card = answer.card
    assert card is not None
    assert card.choice is not None
    assert card.choice.global_batch_size == 16
    assert card.title.startswith("The recipe as it was: batch 16 with sgd")
    assert card.title.endswith("; nothing that was searched reached the target")
    assert line(card, "Runner-up") == "No other choice reached the target in more than half of its runs."
    assert "the search tried nothing that reached the target" in line(card, "How sure")
    assert {advice.question: advice.choice for advice in answer.advice}["soonest"] == card.choice
    assert answer.words[1].startswith("Nothing that was searched reached the target in half of its runs, but the recipe as it was, ")
    missed = answer_of(find(runs(), hard, begun_from=BegunFrom(BASE, run(16)))).card
    assert missed is not None
    assert missed.title.startswith("No answer yet")


@pytest.mark.parametrize("times", [0.97, 1.03], ids=["sooner", "later"])
def test_the_recipe_as_it_was_where_it_is_as_soon(times: float) -> None:
    """By the way between two evaluations: it is kept where its time is the shorter, and named beside the other where it is the longer."""
    searched = [run(batch, num=20) for batch in (64, 128, 512)]
    best = card_of(searched).choice
    assert best is not None
    alone = card_of([run(32, num=20)]).choice
    assert alone is not None
    reference = run(32, factor=times * best.seconds / alone.seconds, num=20)
    answer = answer_of(find(searched, TARGET, begun_from=BegunFrom(BASE, reference)))
    card = answer.card
    assert card is not None
    assert card.choice is not None
    own, other = "batch 32 with sgd", f"batch {best.global_batch_size}"
    assert card.verdict == "tied"
    assert "they differ by no more than the way between two evaluations" in line(card, "As soon")
    soonest = next(words for words in answer.words if words.startswith("Soonest: "))
    if times < 1:
        assert card.choice.global_batch_size == 32
        assert card.title.startswith(f"The recipe as it was: {own}")
        assert f", or as soon {other}" in card.title
        assert f"as soon as {other}" in soonest
    else:
        assert card.choice == best
        assert ", or as soon the recipe as it was (batch 32)" in card.title
        assert line(card, "As soon").startswith(f"The recipe as it was ({own}")
        assert "as soon as batch 32" in soonest
        assert "The recipe as it was, trained once, counts as batch 32 here; the table is of the search." in answer.words


def test_the_recipe_as_it_was_is_the_runner_up_where_nothing_else_reached_the_target() -> None:
    """A batch that was trained as the recipe has it is among what reached the target, and its batch among those that were tried."""
    card = card_of([run(128, seed) for seed in range(3)], recipe=BegunFrom(BASE, run(16, factor=20.0)))
    assert card.choice is not None
    assert card.choice.global_batch_size == 128
    assert line(card, "Runner-up").startswith("The recipe as it was (batch 16 with sgd, ")
    assert line(card, "Runner-up").endswith(" times the training time.")


@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_the_recipe_as_it_was_may_have_shared_the_machine_as_well(factor: float) -> None:
    """What is held against its seconds is in doubt as they are, whether it is the answer or not."""
    reference = run(16, factor=factor)
    busy = replace(reference, summary=reference.summary.model_copy(update={"core_wait_fraction": 0.6}))
    for own, is_told in [(reference, False), (busy, True)]:
        answer = answer_of(find(runs(), TARGET, begun_from=BegunFrom(BASE, own)))
        assert answer.card is not None
        assert answer.card.sureness is not None
        assert ("other work on the machine disturbed the clock of the recipe as it was" in answer.card.sureness.grounds) is is_told
        assert any(text.startswith("Other work on the machine disturbed the clock of the recipe as it was: ") for text in answer.words) is is_told

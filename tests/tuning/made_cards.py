"""Runs whose costs are known, and the cards of them."""

from typing import Any

from made_runs import TARGET, fine, made_run

from largebatch.tuning.results.background import BegunFrom
from largebatch.tuning.results.card.card import Card
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.results.wording import answer_of

BATCHES = (32, 128, 512, 2048)
SPREAD = 0.005
"""Between seeds, as a share."""


def run(batch: int, seed: int = 0, factor: float = 1.0, optimizer: str = "sgd", num: int = 200, **changed: Any) -> RunResult:
    settings = (("batch.global_batch_size", str(batch)), ("optimizer.name", optimizer))
    return fine(made_run(batch, seed, factor + SPREAD * seed, optimizer=optimizer, learning_rate=0.1, settings=settings, **changed), num)


def runs(num_seeds: int = 3, **changed: Any) -> list[RunResult]:
    return [run(batch, seed, **changed) for batch in BATCHES for seed in range(num_seeds)]


def card_of(runs: list[RunResult], target: float | None = TARGET, recipe: BegunFrom | None = None) -> Card:
    card = answer_of(find(runs, target, begun_from=recipe)).card
    assert card is not None
    return card


def line(card: Card, label: str) -> str:
    return next((each.text for each in card.lines if each.label == label), "")

"""What several ranks say of one evaluation."""

import math
from collections.abc import Mapping

from largebatch.jobs.engine.ranks.ranks import Ranks
from largebatch.jobs.recorder.micro_batch_noise import SAME


def of_first_rank(ranks: Ranks, scores: Mapping[str, float]) -> dict[str, float]:
    """The first rank's scores, on every rank: all go on by them, or none does. Args: scores: of the same names on every rank."""
    summed = ranks.sum_numbers(*(score if ranks.is_first else 0.0 for score in scores.values()))
    return dict(zip(scores, summed, strict=True))


def differ_in(ranks: Ranks, number: float) -> bool:
    """Whether ranks have another number each, beyond rounding; the same answer on every rank."""
    first = of_first_rank(ranks, {"": number})[""]
    return ranks.sum_numbers(float(not math.isclose(number, first, rel_tol=SAME)))[0] > 0

"""Early stopping within a group: by hand, evaluation by evaluation."""

from typing import Any

import pytest

from largebatch.tuning.sweep.ledger import Trial
from largebatch.tuning.sweep.listener import TrialReport
from largebatch.tuning.sweep.spec import EarlyStopSpec
from largebatch.tuning.sweep.trials.early_stop import EarlyStopping


def decisions(early_stop: dict[str, Any], evaluations: list[tuple[int, float, float]]) -> list[bool]:
    """Whether each run should end. Args: evaluations: (run, epochs or seconds, accuracy) in the order in which they come; 10 samples an epoch."""
    rule = EarlyStopping(EarlyStopSpec.model_validate(early_stop), 10)
    return [rule.falls_behind(trial(run), TrialReport(at, int(10 * at), accuracy)) for run, at, accuracy in evaluations]


def trial(number: int, group: int = 0, phase: Any = "search") -> Trial:
    return Trial(number=number, group=group, phase=phase, fields={}, run_id=str(number))


ASHA = {"method": "asha", "grace": 2.0, "reduction_factor": 2.0}  # rungs at 2, 4, 8 ... epochs; the better half goes on
MEDIAN = {"method": "median", "grace": 2.0}


@pytest.mark.parametrize(
    ("early_stop", "evaluations", "expected"),
    [
        (ASHA, [(0, 2, 0.5), (1, 2, 0.4), (2, 2, 0.46), (3, 2, 0.44)], [False, True, False, True]),  # cuts at 0.5, 0.45, 0.46
        (ASHA, [(0, 1, 0.9), (1, 1, 0.1)], [False, False]),  # within the grace
        (ASHA, [(0, 2, 0.5), (0, 3, 0.1), (1, 3, 0.4)], [False, False, True]),  # each run once at a rung, at its first evaluation beyond it
        (ASHA, [(0, 4, 0.9), (1, 2, 0.1), (0, 5, 0.2), (2, 2, 0.16), (3, 2, 0.15)], [False] * 4 + [True]),  # 0 enters a rung that it passed by later
        ({**ASHA, "clock": "seconds"}, [(0, 2, 0.5), (1, 2, 0.4)], [False, True]),
        (MEDIAN, [(0, 2, 0.5), (1, 2, 0.6), (2, 2, 0.1), (3, 2, 0.4)], [False, False, False, True]),  # three others before anything ends
        (MEDIAN, [(0, 2, 0.5), (1, 2, 0.6), (2, 2, 0.7), (3, 1, 0.65), (3, 2, 0.1)], [False] * 5),  # its best counts, of the grace as well
        ({"method": "none"}, [(0, 2, 0.5), (1, 2, 0.0)], [False, False]),
    ],
)
def test_runs_that_fall_behind_end(early_stop: dict[str, Any], evaluations: list[tuple[int, float, float]], expected: list[bool]) -> None:
    assert decisions(early_stop, evaluations) == expected


def test_groups_do_not_compete_and_repeats_are_never_ended() -> None:
    rule = EarlyStopping(EarlyStopSpec.model_validate(ASHA), 10)
    assert not rule.falls_behind(trial(0), TrialReport(1.0, 20, 0.9))
    assert not rule.falls_behind(trial(1, group=1), TrialReport(1.0, 20, 0.1))
    assert not rule.falls_behind(trial(2, phase="repeat"), TrialReport(1.0, 20, 0.1))
    assert rule.falls_behind(trial(3), TrialReport(1.0, 20, 0.1))

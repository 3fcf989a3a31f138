"""What a study says beside its sweep: why nothing was predicted, of what the recipe's own run lacks."""

from dataclasses import replace

import pytest
from made_runs import BASE, made_profile, made_run

from largebatch.tuning.report.contents import Attempts
from largebatch.tuning.results.background import BegunFrom
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.study.conclusion import Prediction, conclude
from largebatch.tuning.study.solutions import Solutions

MEASURED = made_run(16)
UNMEASURED = replace(MEASURED, summary=MEASURED.summary.model_copy(update={"gradient_noise_scale": None}))


@pytest.mark.parametrize(
    ("own", "why"), [(UNMEASURED, "has no gradient noise scale. Set gradient.noise_every_steps"), (made_run(16, reaches=False), "did not reach 0.9")]
)
def test_why_nothing_was_predicted(own: RunResult, why: str) -> None:
    findings = find([made_run(64)], begun_from=BegunFrom(BASE, own))
    extras = conclude(findings, made_profile(), made_profile(), Prediction("sgd", []), Solutions(runs=[]), Attempts())
    (told,) = [word for word in extras.words if word.startswith("Nothing was predicted")]
    assert told.startswith(f"Nothing was predicted before the sweep: the recipe's own run {why}")

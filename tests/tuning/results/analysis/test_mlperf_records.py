"""The scaling model against MLPerf's records on H100s, with the links' published speeds; docs/results/scale.md states the same figures.

Of each benchmark two rows give what a step costs (its fixed cost, its rate), the published points give the steps; all else is predicted. Start-up is
taken from each row's own log: what of it falls into the timed part was each submission's choice.
"""

import math

import pytest
from mlperf import BERT, BERT_GRADIENT, BERT_POINTS, DGX_H100, IMAGENET, RESNET, RESNET_GRADIENT, RESNET_POINTS, Published

from largebatch.tuning.results.analysis.beside import Beside
from largebatch.tuning.results.analysis.critical_batch import fit_critical_batch
from largebatch.tuning.results.analysis.scaling_model import BUCKETS_OVERLAP, Workload
from largebatch.tuning.results.analysis.step_time import StepTimeModel, fit_step_time
from largebatch.tuning.results.answers import CriticalBatch

RESNET_CURVE = fit_critical_batch([batch for batch, _ in RESNET_POINTS], [epochs * IMAGENET for _, epochs in RESNET_POINTS])
BERT_CURVE = fit_critical_batch(*zip(*BERT_POINTS, strict=True))
RESNET_BESIDE = Beside(evaluation_s=8 * RESNET[0].evaluation_s / 9.25, evaluate_every=4 * IMAGENET)
"""The row of 8 evaluated nine times in 35 epochs, the first one alone for two."""


def step_cost(rows: list[Published], gradient_bytes: float, overlap: float = 0.0) -> StepTimeModel:
    """Through two rows' steps, without what shows of the all-reduce that the published links take."""
    shown = [(1 - overlap) * DGX_H100.all_reduce(row.accelerators, gradient_bytes).seconds for row in rows]
    return fit_step_time([row.batch // row.accelerators for row in rows], [row.step_s - s for row, s in zip(rows, shown, strict=True)])


def workload(benchmark: str, overlap: float = 0.0) -> Workload:
    if benchmark == "resnet":
        return Workload(step_cost(RESNET[:2], RESNET_GRADIENT, overlap), RESNET_GRADIENT, DGX_H100, overlap, RESNET_BESIDE)
    return Workload(step_cost([BERT[0], BERT[2]], BERT_GRADIENT, overlap), BERT_GRADIENT, DGX_H100, overlap)


def total(row: Published, curve: CriticalBatch, of: Workload) -> float:
    evaluation_s = of.beside.evaluation_seconds(curve.samples_to_target(row.batch), row.accelerators, of.model.overhead_s)
    return curve.steps_to_target(row.batch) * of.step(row.batch, row.accelerators).seconds + evaluation_s + row.startup_s


# (benchmark, accelerators): (error of a step, error of the whole run); the rows that gave the step's cost have no error of a step.
ERRORS = {
    ("resnet", 8): (0.0, 0.060), ("resnet", 64): (0.0, 0.052), ("resnet", 768): (-0.025, 0.007), ("resnet", 2528): (-0.004, -0.084),
    ("resnet", 3584): (0.013, -0.026), ("bert", 8): (0.0, -0.082), ("bert", 64): (-0.045, 0.010), ("bert", 512): (0.0, 0.032),
    ("bert", 3472): (0.118, 0.008),
}  # fmt: skip
ROWS = [("resnet", row) for row in RESNET] + [("bert", row) for row in BERT]


@pytest.mark.parametrize(("benchmark", "row"), ROWS, ids=[f"{benchmark}-{row.accelerators}" for benchmark, row in ROWS])
def test_every_record_comes_out_with_the_error_that_is_stated(benchmark: str, row: Published) -> None:
    curve, of = (RESNET_CURVE if benchmark == "resnet" else BERT_CURVE), workload(benchmark)
    step_error = of.step(row.batch, row.accelerators).seconds / row.step_s - 1
    run_error = total(row, curve, of) / (60 * row.minutes) - 1
    assert (step_error, run_error) == pytest.approx(ERRORS[benchmark, row.accelerators], abs=0.002)
    assert abs(step_error) < 0.25
    assert abs(run_error) < 0.25


@pytest.mark.parametrize(("benchmark", "worst"), [("resnet", 0.091), ("bert", 0.124)])
def test_hiding_three_of_four_buckets_changes_little(benchmark: str, worst: float) -> None:
    of, curve = workload(benchmark, BUCKETS_OVERLAP), RESNET_CURVE if benchmark == "resnet" else BERT_CURVE
    errors = [total(row, curve, of) / (60 * row.minutes) - 1 for name, row in ROWS if name == benchmark]
    assert max(map(abs, errors)) == pytest.approx(worst, abs=0.005)


def test_one_machines_rate_without_a_steps_fixed_cost_is_half_the_truth() -> None:
    """Why a profile has small batches: 400 images a worker do not tell what 16 cost."""
    row = RESNET[3]
    rate = 400 / (RESNET[0].step_s - DGX_H100.all_reduce(8, RESNET_GRADIENT).seconds)
    of = Workload(StepTimeModel(0.0, rate), RESNET_GRADIENT, DGX_H100)
    assert of.step(row.batch, row.accelerators).seconds / row.step_s - 1 == pytest.approx(-0.51, abs=0.02)


def test_rows_of_unlike_software_do_not_give_a_steps_cost() -> None:
    """BERT's row of 64 padded its sequences where the others packed them two by two: with it for the fixed cost, the large rows are far off."""
    of = Workload(step_cost(BERT[:2], BERT_GRADIENT), BERT_GRADIENT, DGX_H100)
    assert of.step(BERT[3].batch, 3472).seconds / BERT[3].step_s - 1 == pytest.approx(0.94, abs=0.02)


def test_the_start_up_of_one_machine_is_no_other_submissions() -> None:
    row = RESNET[3]
    late = row._replace(startup_s=RESNET[0].startup_s)
    assert total(late, RESNET_CURVE, workload("resnet")) / (60 * row.minutes) - 1 == pytest.approx(0.69, abs=0.03)


def test_the_curves_have_the_published_points() -> None:
    assert math.isclose(RESNET_CURVE.critical_batch_size, 47_000, rel_tol=0.03)
    assert math.isclose(BERT_CURVE.critical_batch_size, 12_700, rel_tol=0.03)

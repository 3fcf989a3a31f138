"""Two phases of a run: where sequences are cut, and a learning rate that begins again, against formulas written out."""

from itertools import pairwise
from typing import Any

import pytest
from small_runs import document, planned

from largebatch.jobs.errors import PlanError, SpecError
from largebatch.jobs.plan.describe import learning_rate_curve, plan_facts
from largebatch.jobs.plan.step_plan import Position
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.spec.read import build_spec

LINE: dict[str, Any] = {"decay": "polynomial", "decay_power": 1.0}
SHORT: dict[str, Any] = {"short_sequences": {"length": 4, "epochs": 2.0}}


def plan(rate: dict[str, Any], schedule: dict[str, Any] | None = None, batch: int = 100, last: str = "keep", **stop: Any) -> TrainPlan:
    """1,000 samples in steps of 100, four epochs."""
    size = {"global_batch_size": batch, "micro_batch_size": 100, "last": last, "schedule": schedule or {}}
    return planned(1000, batch=size, learning_rate=rate, stop=stop or {"epochs": 4.0})


def restarted(**options: Any) -> dict[str, Any]:
    """Two epochs with a peak of 0.4 after half of one, then two with a peak of 0.2 after 0.4 of one."""
    return {"base": 0.4, "warmup_epochs": 0.5, **LINE, "restart": {"epoch": 2.0, "base": 0.2, "warmup_epochs": 0.4, **options}}


class TestRate:
    @pytest.mark.parametrize(
        ("progress", "expected"),
        [(0, 0.0), (250, 0.2), (500, 0.4), (1250, 0.2), (1999, 0.4 / 1500), (2000, 0.0), (2200, 0.1), (2400, 0.2), (3200, 0.1), (4000, 0.0)],
    )
    def test_it_falls_to_nothing_rises_again_and_falls_to_the_end(self, progress: float, expected: float) -> None:
        assert plan(restarted()).learning_rate(progress) == pytest.approx(expected, rel=1e-12, abs=1e-15)

    @pytest.mark.parametrize("decay", ["cosine", "constant", "polynomial"])
    def test_each_phase_is_a_run_of_its_own(self, decay: str) -> None:
        """Whatever the decay: the first phase is a run of two epochs, the second one of two more."""
        raised = {} if decay == "constant" else {"final_fraction": 0.1}
        both = plan({**restarted(), "decay_power": 2.0, "decay": decay, **raised})
        first = plan({"base": 0.4, "warmup_epochs": 0.5, "decay": decay, **raised}, epochs=2.0)
        second = plan({"base": 0.2, "warmup_epochs": 0.4, "decay": decay, **raised}, epochs=2.0)
        for progress in range(0, 2000, 37):
            assert both.learning_rate(progress) == first.learning_rate(progress)
            assert both.learning_rate(2000 + progress) == pytest.approx(second.learning_rate(progress), rel=1e-12)

    def test_without_warm_up_and_with_an_end_of_its_own(self) -> None:
        """One straight line in steps through a batch that doubles: from 0.4 after no epochs to 0.1 after 20 steps, to 0 after 10 more."""
        rate = {"base": 0.4, **LINE, "final_fraction": 0.25, "restart": {"epoch": 2.0, "base": 0.1, "final_fraction": 0.0}}
        made = plan(rate, {"growth": [{"epoch": 2.0, "factor": 2.0}]})
        assert [made.learning_rate(p) for p in (0, 1000, 2000, 3000, 4000)] == pytest.approx([0.4, 0.25, 0.1, 0.05, 0.0], abs=1e-15)

    @pytest.mark.parametrize("batch", [1, 50, 100, 250, 500])
    def test_the_area_is_exact_under_any_batch(self, batch: int) -> None:
        """Straight pieces between corners that are ends of steps: two triangles, cut at their peaks."""
        rate = {**restarted(warmup_epochs=0.5), "warmup_epochs": 0.5}
        made = plan(rate, {"growth": [{"epoch": 2.0, "factor": 500 / batch if batch < 500 else 1.0}]}, batch=batch)
        area, position = 0.0, Position(0, 0)
        while position.samples_seen < 4000:
            step = made.step_at(position)
            area, position = area + step.learning_rate * step.samples.size, step.end
        assert area == pytest.approx(0.4 * 2000 / 2 + 0.2 * 2000 / 2, rel=1e-12)

    @pytest.mark.parametrize(
        ("scaling", "peaks", "warmup"), [("none", (0.4, 0.2), 0.4), ("linear", (0.8, 1.6), 0.4), ("sqrt", (0.4 * 2**0.5, 0.2 * 8**0.5), 0.4),
                                         ("legw", (0.4 * 2**0.5, 0.2 * 8**0.5), 3.2)],
    )  # fmt: skip
    def test_the_rule_scales_each_phase_by_its_own_batch(self, scaling: str, peaks: tuple[float, float], warmup: float) -> None:
        """Tuned at 50: 100 is twice as much, and 400 from epoch 2 on is eight times."""
        base = {} if scaling == "none" else {"base_global_batch_size": 50}
        made = plan({**restarted(), "warmup_epochs": 0.25, "scaling": scaling, **base}, {"growth": [{"epoch": 2.0, "factor": 4.0}]})
        facts = plan_facts(made)
        assert facts["peak_learning_rate"] == pytest.approx(peaks[0])
        assert facts["learning_rate_restart"]["peak_learning_rate"] == pytest.approx(peaks[1])
        assert facts["learning_rate_restart"]["warmup_epochs"] == pytest.approx(warmup)

    def test_the_curve_shows_both_peaks(self) -> None:
        rates = [rate for _, rate in learning_rate_curve(plan(restarted()))]
        peaks = [middle for (before, middle), (_, after) in pairwise(pairwise(rates)) if before < middle > after]
        assert peaks == pytest.approx([0.4, 0.2], rel=0.05)

    @pytest.mark.parametrize(
        ("rate", "words"),
        [
            (restarted() | {"restart": {"epoch": 0.4, "base": 0.2}}, "at epoch 0.4: its first warm-up takes 0.5 epochs"),
            (restarted() | {"restart": {"epoch": 4.0, "base": 0.2}}, "at epoch 4: the run ends at epoch 4"),
            (restarted() | {"restart": {"epoch": 9.0, "base": 0.2}}, "at epoch 9: the run ends at epoch 4"),
        ],
    )
    def test_a_restart_out_of_place_is_refused(self, rate: dict[str, Any], words: str) -> None:
        with pytest.raises(PlanError, match=f"learning_rate.restart.epoch: the rate cannot begin again {words}"):
            plan(rate)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"scaling": "adascale", "base_global_batch_size": 10}, "under adascale progress follows from a measured gain"),
            ({"decay": "step", "decay_power": 2.0, "decay_milestones": [1.0]}, "the milestones of 'step' count from the start"),
            ({"decay": "constant", "decay_power": 2.0, "restart": {"epoch": 2.0, "base": 0.2, "final_fraction": 0.1}}, "does not read restart.final"),
            ({"restart": {"epoch": 2.0}}, "learning_rate.restart.base: is missing"),
        ],
    )
    def test_what_has_no_second_phase_is_refused(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(SpecError, match=words):
            build_spec(document(learning_rate={**restarted(), **changes}))


class TestSequences:
    @pytest.mark.parametrize("last", ["keep", "drop"])
    @pytest.mark.parametrize("batch", [100, 300, 1000])
    def test_steps_that_begin_before_the_epoch_are_cut(self, batch: int, last: str) -> None:
        made = plan({"base": 0.1}, SHORT, batch=batch, last=last)
        for samples in made.batches():
            step = made.step_at(Position(samples.epoch, samples.start))
            assert step.samples == samples
            assert step.sequence_length == (4 if samples.epoch < 2 else None)

    def test_the_middle_of_an_epoch(self) -> None:
        made = plan({"base": 0.1}, {"short_sequences": {"length": 4, "epochs": 1.3}})
        lengths = [made.sequence_length_of(batch) for batch in made.batches()]
        assert lengths == [4] * 13 + [None] * 27

    def test_the_batch_and_the_length_change_with_the_same_step(self) -> None:
        made = plan({"base": 0.1}, {"short_sequences": {"length": 4, "epochs": 1.7}, "growth": [{"epoch": 1.7, "factor": 3.0}]})
        kinds = {(batch.size, made.sequence_length_of(batch)) for batch in made.batches()}
        assert kinds == {(100, 4), (300, None), (100, None)}  # the last of an epoch's 1,000 are 100
        assert {(batch.size, made.sequence_length_of(batch)) for batch in made.kinds_of_batch()} == kinds

    def test_one_size_has_two_kinds_of_step(self) -> None:
        assert [made.size for made in plan({"base": 0.1}, SHORT).kinds_of_batch()] == [100, 100]

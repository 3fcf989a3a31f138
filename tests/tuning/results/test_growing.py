"""Whether a batch should grow: what was measured on the runs decides, the literature by optimizer where nothing was."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import said
from made_runs import fine, made_folder, made_profile, made_run

from largebatch.jobs.errors import InputError
from largebatch.tuning.branch.answer import BranchAnswer, Place
from largebatch.tuning.branch.critical import BranchedBatch
from largebatch.tuning.branch.schedule import BatchSchedule
from largebatch.tuning.files import BRANCH_ANSWER, BRANCHES, GROWN_RECIPE
from largebatch.tuning.results.analysis.prediction import predict
from largebatch.tuning.results.answers import GrowthAdvice
from largebatch.tuning.results.findings import find
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.results.wording import answer_of

GROWN = (("batch.schedule.growth", "[{'fraction': 0.5, 'factor': 4.0}]"), ("batch.schedule.rate_follows", "sqrt"))


def run(optimizer: str, seed: int, score: float, steps: int, schedule: tuple[tuple[str, str], ...] = (), **changed: str) -> RunResult:
    """A run of 64,000 samples at batch 64 with such a last score."""
    fields = {"batch.global_batch_size": "64", "optimizer.name": optimizer, "batch.schedule.rate_follows": "none", **dict(schedule), **changed}
    made = made_run(64, seed, optimizer=optimizer, settings=tuple(sorted(fields.items())))
    ended = {"score": score, "best_score": score, "steps": steps, "samples_seen": 64_000, "run_id": f"{optimizer}-{steps}-{seed}-{score}"}
    return RunResult(**{**vars(made), "name": "grown" if schedule else "constant", "summary": made.summary.model_copy(update=ended)})


def advice(runs: list[RunResult]) -> GrowthAdvice:
    (only,) = find(runs, 0.9).growing
    return only


def pair(optimizer: str, grown: list[float], constant: list[float], **changed: str) -> list[RunResult]:
    return [
        *(run(optimizer, seed, score, 600, GROWN, **changed) for seed, score in enumerate(grown)),
        *(run(optimizer, seed, score, 1000) for seed, score in enumerate(constant)),
    ]


@pytest.mark.parametrize(
    ("optimizer", "verdict", "said"),
    [
        ("adamw", "grow", "worth trying. The literature: a batch that doubled with the critical batch"),
        ("sgd", "grow", "arXiv:1711.00489"),
        ("muon", "keep", "not recommended unless measured. The literature: of the one comparison under Muon"),
        ("lamb", "measure", "not known. The literature: no published comparison of a growing with a constant batch is known to us"),
    ],
)
def test_the_literature_speaks_where_nothing_was_measured(optimizer: str, verdict: str, said: str) -> None:
    told = advice([run(optimizer, seed, 0.95, 1000) for seed in range(3)])
    assert (told.verdict, told.is_measured, [each.source for each in told.evidence]) == (verdict, False, ["literature"])
    assert said in told.words
    assert told.words.endswith("`largebatch branch RUN` measures it.")


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lamb"])
@pytest.mark.parametrize(
    ("grown", "constant", "verdict", "said"),
    [
        ([0.94, 0.95, 0.96], [0.945, 0.955, 0.965], "grow", "in 600 steps grown and"),
        ([0.97, 0.98, 0.99], [0.945, 0.955, 0.965], "grow", "or is better"),
        ([0.91, 0.92, 0.93], [0.945, 0.955, 0.965], "keep", "worse beyond the seeds' spread"),
    ],
    ids=["as good", "better", "worse"],
)
def test_a_measured_pair_overrules_the_literature(optimizer: str, grown: list[float], constant: list[float], verdict: str, said: str) -> None:
    told = advice(pair(optimizer, grown, constant))
    assert (told.verdict, told.is_measured) == (verdict, True)
    assert [each.source for each in told.evidence] == ["measured", "literature"]
    assert said in told.words
    assert "40% fewer" in told.words
    assert "iterature" not in told.words


def test_one_seed_is_told_and_decides_nothing() -> None:
    told = advice(pair("muon", [0.99], [0.9]))
    assert (told.verdict, told.is_measured) == ("keep", False)
    assert "a single seed does not say how much of that is chance. The literature: " in told.words


def test_schedules_that_came_out_both_ways_are_no_verdict_of_one() -> None:
    """Whichever of the two comes first."""
    early = (("batch.schedule.growth", "[{'fraction': 0.1, 'factor': 4.0}]"),)
    good, bad = pair("adamw", [0.94, 0.95], [0.94, 0.95]), [run("adamw", seed, 0.9 + seed / 100, 400, early) for seed in range(2)]
    for runs in ([*good, *bad], [*bad, *good]):
        told = advice(runs)
        assert (told.verdict, told.is_measured) == ("measure", True)
        assert "worth trying" in told.words
        assert ("not tell apart" in told.words, "worse beyond" in told.words) == (True, True)


@pytest.mark.parametrize("changed", [{"learning_rate.base": "0.3"}, {"batch.schedule.short_sequences.length": "16"}], ids=str)
def test_runs_that_differ_in_more_are_no_pair(changed: dict[str, str]) -> None:
    assert not advice(pair("adamw", [0.94, 0.95], [0.94, 0.95], **changed)).is_measured


def test_runs_of_other_lengths_are_no_pair() -> None:
    runs = pair("adamw", [0.94, 0.95], [0.94, 0.95])
    longer = [RunResult(**{**vars(each), "summary": each.summary.model_copy(update={"samples_seen": 70_000})}) for each in runs[2:]]
    assert not advice([*runs[:2], *longer]).is_measured


def test_each_optimizer_has_its_own() -> None:
    told = find([*pair("adamw", [0.94, 0.95], [0.94, 0.95]), *pair("muon", [0.91, 0.92], [0.94, 0.95])], 0.9).growing
    assert [(each.optimizer, each.verdict, each.is_measured) for each in told] == [("adamw", "grow", True), ("muon", "keep", True)]


def branched(run_dir: Path, schedule: BatchSchedule | None, optimizer: str = "sgd", low: float = 128.0) -> None:
    """What `largebatch branch` leaves beside a run. Args: low: end of the critical batch's interval."""
    critical = BranchedBatch(critical_batch_size=150.0, low=low, high=200.0, tolerance=0.1, excess={128: 0.05}, excess_errors={128: 0.01}, loss=1.0,
                             num_orders=4)  # fmt: skip
    answer = BranchAnswer(
        run=run_dir.name, optimizer=optimizer, global_batch_size=64, tokens_per_sample=None, evaluated_on="test", rate_power=1.0, num_samples=100,
        num_left=0, places=[Place(step=10, samples_seen=640, critical=critical, noise_scale=None)], schedule=schedule, words=[], rows=[],
    )  # fmt: skip
    (run_dir / BRANCHES).mkdir()
    (run_dir / BRANCHES / BRANCH_ANSWER).write_text(answer.model_dump_json())


SCHEDULE = BatchSchedule(growth=[(1.5, 2)], places=[640], rate_follows="linear", num_steps=60, num_constant_steps=100, num_more_samples=0)


@pytest.mark.parametrize(
    ("schedule", "low", "verdict", "told"),
    [
        (SCHEDULE, 128.0, "grow", "a batch of 128 from epoch 1.5 is without loss, 60 steps in place of 100; try it: largebatch train "),
        (SCHEDULE, 127.9, "measure", "worth trying. Measured on these runs: by the branches of"),
        (
            SCHEDULE,
            127.9,
            "measure",
            "60 steps in place of 100, but the interval of the critical batch reaches below it; try it with several seeds: ",
        ),
        (None, 128.0, "keep", "twice its batch of 64 is not without loss"),
    ],
)
def test_branches_that_were_measured_are_used(
    schedule: BatchSchedule | None, low: float, verdict: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = made_folder(tmp_path, 64)
    branched(run_dir, schedule, low=low)
    code, out, _ = said(capsys, "advise", run_dir)
    assert code == 0
    assert told in " ".join(out.split())
    code, out, _ = said(capsys, "advise", run_dir, "--json")
    (growing,) = json.loads(out)["growing"]
    assert (code, growing["optimizer"], growing["verdict"], growing["is_measured"]) == (0, "sgd", verdict, True)
    if schedule:
        assert growing["evidence"][0]["text"].endswith(str(run_dir / BRANCHES / GROWN_RECIPE))


@pytest.mark.parametrize(("grown", "verdict"), [(0.94, "measure"), (0.95, "grow"), (0.96, "grow")])
def test_branches_alone_do_not_outweigh_a_grown_run_that_came_out_worse(grown: float, verdict: str, tmp_path: Path) -> None:
    """One seed proves nothing, and with the branches' word for it no flat one either."""
    runs = pair("muon", [grown], [0.95])
    run_dir = made_folder(tmp_path, 64)
    branched(run_dir, SCHEDULE, "muon")
    told = advice([runs[0], replace(runs[1], folder=run_dir)])
    assert (told.verdict, told.is_measured) == (verdict, True)
    assert ("under muon: worth trying." in told.words) == (verdict == "measure")
    assert "a single seed does not say how much of that is chance. Measured on these runs: by the branches of" in told.words


def test_nothing_is_said_of_an_own_optimizer_unless_it_was_measured() -> None:
    own = "mine.optimizers:twice"
    assert find([run(own, seed, 0.95, 1000) for seed in range(3)], 0.9).growing == []
    told = advice(pair(own, [0.94, 0.95], [0.94, 0.95]))
    assert (told.verdict, [each.source for each in told.evidence]) == ("grow", ["measured"])
    assert "iterature" not in advice(pair(own, [0.94], [0.95])).words


def test_an_answer_of_branches_that_cannot_be_read_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = made_folder(tmp_path, 64)
    (run_dir / BRANCHES).mkdir()
    (run_dir / BRANCHES / BRANCH_ANSWER).write_text("{")
    code, out, _ = said(capsys, "advise", run_dir, "--json")
    assert (code, json.loads(out)["growing"][0]["is_measured"]) == (0, False)


def test_words_stand_in_the_answer() -> None:
    answer: Any = answer_of(find(pair("adamw", [0.94, 0.95], [0.94, 0.95]), 0.9))
    assert any(
        line.startswith("A batch that grows while training, under adamw: worth it. Measured on these runs: grown came to") for line in answer.words
    )


def grown_first(batch: int, seed: int) -> RunResult:
    """A run that begins at a batch, grows, and is sooner than any that stays."""
    made = made_run(batch, seed, 3.0, settings=(("batch.global_batch_size", str(batch)), *GROWN))
    points = tuple(at._replace(training_seconds=at.training_seconds / 100) for at in fine(made).evaluations)
    return replace(made, evaluations=points)


def constant(batch: int, seed: int) -> RunResult:
    return fine(made_run(batch, seed, settings=(("batch.global_batch_size", str(batch)),)))


def test_the_critical_batch_is_of_batches_that_stay() -> None:
    """A grown run that was the best of its beginning's batch stood in the fit with samples of other batches."""
    staying = [constant(batch, seed) for batch in (32, 128, 512, 2048) for seed in (0, 1)]
    alone, beside = find(staying), find([*staying, *(grown_first(32, seed) for seed in (0, 1))])
    assert alone.critical_batch is not None
    assert beside.critical_batch == alone.critical_batch
    assert [(choice.global_batch_size, choice.grows) for choice in beside.choices][:2] == [(32, True), (128, False)]
    answer = answer_of(beside)
    assert any("at 4 batch sizes; runs whose batch grows have no part in it." in line for line in answer.words)
    assert answer.rows[0]["regime"] == "-"
    assert answer.card is not None
    assert answer.card.larger_machines is None
    assert "Not known: its batch grows, and the critical batch is of batches that stay." in [line.text for line in answer.card.lines]


def test_one_batch_under_two_schedules_is_told_of_both() -> None:
    """The other was said not to have reached the target, and the one to have been chosen by its own run."""
    grows, stays = grown_first(32, 0), constant(32, 0)
    sooner = replace(stays, evaluations=tuple(at._replace(training_seconds=at.training_seconds / 1000) for at in stays.evaluations))
    for runs, does in (([grows, stays], "stays"), ([grows, sooner], "grows")):
        answer = answer_of(find(runs))
        assert len(answer.rows) == 1
        (told,) = [line for line in answer.words if "under another schedule, too" in line]
        assert told.startswith(f"Batch 32 with sgd, where it {does}, reached the target")
        assert answer.card is not None
        (second,) = [line.text for line in answer.card.lines if line.label == "Runner-up"]
        assert second.startswith(f"Batch 32{' that grows' if does == 'grows' else ''} with sgd")
        assert second.endswith(": the same batch under another schedule. No other batch did.")
        assert not any("settings were chosen by" in line for line in answer.words)


def test_runs_that_all_grow_give_no_critical_batch() -> None:
    answer = answer_of(find([grown_first(batch, seed) for batch in (32, 128, 512) for seed in (0, 1)]))
    assert answer.critical_batch is None
    assert any("0 of 0 did; runs whose batch grows have no part in it." in line for line in answer.words)


def test_a_batch_that_grows_predicts_nothing() -> None:
    with pytest.raises(InputError, match="has a batch that grows"):
        predict(grown_first(32, 0), made_profile(), 0.9, [32, 64])
    assert predict(constant(32, 0), made_profile(), 0.9, [32, 64])


def test_a_step_of_a_batch_that_grows_costs_what_no_other_does() -> None:
    grows, stays = (find([run]).choices[0] for run in (grown_first(32, 0), constant(32, 0)))
    assert stays.is_same_step(stays)
    assert not grows.is_same_step(stays)
    assert not stays.is_same_step(grows)

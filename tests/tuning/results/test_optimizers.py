"""Runs under several optimizers, planted: each has a curve of its own, and every answer names the one that it is about."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import CRITICAL, MIN_SAMPLES, RATE, STEP_S, TARGET, fine, made_profile, made_run

from largebatch.tuning.report.batch_figures import momentum_maps, steps_and_samples, time_to_target
from largebatch.tuning.report.contents import Extras, charts_of
from largebatch.tuning.report.report import write_report
from largebatch.tuning.report.run_figures import score_curves
from largebatch.tuning.results.analysis.prediction import compare, predict
from largebatch.tuning.results.findings import Findings, find
from largebatch.tuning.results.run_result import RunResult
from largebatch.tuning.results.whole_answer import SweepFindings
from largebatch.tuning.results.wording import answer_of

BATCHES = (32, 128, 512, 2048)
OWN = "mine.optimizers:twice"


def run(optimizer: str, batch: int, seed: int = 0, factor: float = 1.0, *, reaches: bool = True, **settings: str) -> RunResult:
    """A run under an optimizer, with some of its settings."""
    fields = {"batch.global_batch_size": str(batch), "learning_rate.base": "0.1", "optimizer.name": optimizer, **settings}
    return fine(made_run(batch, seed, factor, reaches=reaches, optimizer=optimizer, learning_rate=0.1, settings=tuple(sorted(fields.items()))), 50)


def two(**settings: str) -> Findings:
    """SGD is the sooner at small batches and misses at the largest; LAMB takes 1.3 times the samples, and reaches everywhere."""
    sgd = [run("sgd", batch, seed, 1 + 0.01 * seed, reaches=batch < 2048, **settings) for batch in BATCHES for seed in range(3)]
    lamb = [run("lamb", batch, seed, 1.3 + 0.01 * seed) for batch in BATCHES for seed in range(3)]
    return find([*sgd, *lamb], TARGET)


def test_each_optimizer_has_a_best_of_each_batch_size() -> None:
    answer = answer_of(two())
    assert [(batch.optimizer, batch.global_batch_size) for batch in answer.batches] == [
        (name, batch) for name in ("sgd", "lamb") for batch in BATCHES
    ]
    assert [row["optimizer"] for row in answer.rows] == ["sgd"] * 4 + ["lamb"] * 4
    assert [(side.optimizer, side.num_runs, side.reached, side.missed) for side in answer.by_optimizer] == [
        ("sgd", 12, [32, 128, 512], [2048]),
        ("lamb", 12, [*BATCHES], []),
    ]


def test_the_critical_batch_is_fitted_to_each_optimizers_own_runs() -> None:
    """LAMB's curve is planted with the same critical batch and 1.3 times the samples; one fit through both would have a scatter of 13 %."""
    findings = two()
    for side, factor in zip(answer_of(findings).by_optimizer, (1.01, 1.31), strict=True):
        critical = side.critical_batch
        assert critical is not None
        assert critical.optimizer == side.optimizer
        assert critical.critical_batch_size == pytest.approx(CRITICAL, rel=0.03)
        assert critical.min_samples == pytest.approx(factor * MIN_SAMPLES, rel=0.02)
        assert critical.error < 0.02
    assert findings.critical_batch is not None
    assert findings.critical_batch.optimizer == "sgd", "which is the sooner"
    words = answer_of(findings).words
    assert [line.split(":")[0] for line in words if line.startswith("Critical batch size")] == [
        "Critical batch size under sgd",
        "Critical batch size under lamb",
    ]


def test_the_soonest_and_the_cheapest_are_named_with_their_optimizer() -> None:
    """By the planted curve in float64: seconds of a batch are steps (STEP_S + batch / RATE)."""

    def seconds(factor: float, batch: int) -> float:
        steps = round(round(factor * MIN_SAMPLES * (1 + batch / CRITICAL)) / batch)
        return steps * (STEP_S + batch / RATE)

    soonest, cheapest, _ = two().advice
    expected = min((seconds(factor, batch), optimizer, batch) for factor, optimizer in ((1.01, "sgd"), (1.31, "lamb")) for batch in BATCHES[:3])
    assert soonest.choice is not None
    assert (soonest.choice.optimizer, soonest.choice.global_batch_size) == expected[1:]
    assert soonest.choice.seconds == pytest.approx(expected[0], rel=0.002)
    assert "no other choice compared here reaches the target sooner" in soonest.reason
    assert "batch 32 with sgd" in soonest.reason, "the cheapest"
    words = answer_of(two()).words
    assert "24 runs of 4 batch sizes under sgd and lamb" in words[0]
    assert any(line.startswith("Under sgd batch 32, 128 and 512 reached the target") and "batch 2,048 missed it" in line for line in words)
    assert any(line.startswith("Under lamb batch 32, 128, 512 and 2,048 reached the target") and "missed" not in line for line in words)
    assert cheapest.choice is not None
    assert (cheapest.choice.optimizer, cheapest.choice.global_batch_size) == ("sgd", 32)


def test_optimizers_that_the_seeds_do_not_tell_apart_are_a_tie() -> None:
    runs = [
        run(name, batch, seed, factor + 0.05 * seed) for name, factor in (("sgd", 1.0), ("muon", 1.01)) for batch in (32, 512) for seed in range(3)
    ]
    soonest = find(runs, TARGET).advice[0]
    assert soonest.choice is not None
    assert (soonest.choice.optimizer, soonest.choice.global_batch_size) == ("sgd", 512)
    assert soonest.reason.startswith("as soon as batch 512 with muon: the seeds do not tell them apart; it takes"), soonest.reason


def test_within_a_limit_the_optimizer_is_named() -> None:
    runs = [run(name, batch, reaches=name == "lamb") for name in ("sgd", "lamb") for batch in BATCHES]
    (*_, kept) = find(runs, TARGET, limits={"seconds": 1e6}).advice
    assert kept.choice is not None
    assert kept.choice.optimizer == "lamb"
    (*_, partial) = find(runs, TARGET, limits={"samples": 12_000.0}).advice
    assert "the nearest is batch 32 with lamb" in partial.reason


def test_one_that_misses_everywhere_is_said() -> None:
    runs = [run(name, batch, reaches=name == "lamb") for name in ("sgd", "lamb") for batch in BATCHES]
    findings = find(runs, TARGET)
    assert "Under sgd every batch size missed the target in half of its runs or more: 32, 128, 512 and 2,048." in answer_of(findings).words
    assert any("under sgd 0 of 4 did" in line for line in answer_of(findings).words)
    assert findings.critical_batch is not None
    assert findings.critical_batch.optimizer == "lamb"


def test_what_holds_of_several_optimizers_is_said_once() -> None:
    runs = [run(name, batch) for name in ("lamb", "soap", OWN) for batch in (32, 128)]
    words = answer_of(find([*runs, run("lion", 32)], TARGET)).words
    assert [line for line in words if line.startswith("For a critical batch size")] == [
        "For a critical batch size at least three batch sizes must reach the target in half of their runs; "
        f"under lamb, soap and {OWN} 2 of 2 each did; under lion 1 of 1 did."
    ]
    assert [line for line in words if line.startswith("A batch that grows")] == [
        "A batch that grows while training, under lamb, lion and soap: not known. The literature: no published comparison of a growing with a "
        "constant batch is known to us. `largebatch branch RUN` measures it."
    ]


def test_options_are_compared_within_an_optimizer_and_told_with_the_choice() -> None:
    """Decay differs between sgd and lamb, which is no difference of runs of one optimizer; lamb's own bound is."""
    sgd = [run("sgd", batch, **{"optimizer.weight_decay": "0.0005"}) for batch in BATCHES]
    bounds = (("10", 1.0), ("none", 1.2))
    lamb = [
        run("lamb", batch, 0, factor, **{"optimizer.weight_decay": "0.01", "optimizer.max_trust_ratio": bound})
        for batch in BATCHES
        for bound, factor in bounds
    ]
    answer = answer_of(find([*sgd, *lamb], TARGET))
    assert any("differ in more than what is compared: optimizer.max_trust_ratio (10, none)." in line for line in answer.words)
    by_optimizer = {row["optimizer"]: row["max trust ratio"] for row in answer.rows}
    assert by_optimizer == {"sgd": "-", "lamb": "10"}
    assert {batch.optimizer: batch.others for batch in answer.batches} == {"sgd": {}, "lamb": {"optimizer.max_trust_ratio": "10"}}
    soonest = answer.by_optimizer[1].advice[0].choice
    assert soonest is not None
    assert soonest.others == {"optimizer.max_trust_ratio": "10"}


def test_a_model_argument_that_groups_differ_in_is_told_with_the_choice_too() -> None:
    runs = [run("sgd", batch, 0, 1.5 - width / 200, **{"model.arguments.width": str(width)}) for batch in (32, 512) for width in (64, 128)]
    answer = answer_of(find(runs, TARGET))
    assert [row["width"] for row in answer.rows] == ["128", "128"]
    assert ", model.arguments.width 128, " in next(line for line in answer.words if line.startswith("Soonest"))


def test_a_prediction_is_held_against_the_optimizer_that_it_was_made_with() -> None:
    findings, profile = two(), made_profile()
    reference = run("sgd", 128)
    predicted = predict(reference, profile, TARGET, BATCHES)
    misses = compare(predicted, findings.measured_seconds("sgd"))
    assert [miss.global_batch_size for miss in misses] == [32, 128, 512]
    assert compare(predicted, findings.measured_seconds("lars")) == []


def test_figures_have_a_colour_for_each_optimizer() -> None:
    findings = two()
    steps, samples = steps_and_samples(findings)
    for chart in (time_to_target(findings), steps, samples):
        colours = {series.name: colour for series, colour in chart.coloured}
        assert colours["sgd"] == colours["sgd, missed"] != colours["lamb"], chart.name
        assert colours.get("lamb, fit", colours["lamb"]) == colours["lamb"]
        assert chart.marks == (), "lines that stand beside each other cannot be read"
        assert sorted(chart.x_ticks) == list(BATCHES)
    critical = next(series for series in steps.series if series.name == "critical batch")
    assert list(critical.x) == pytest.approx([CRITICAL, CRITICAL], rel=0.03)
    assert list(critical.y) == pytest.approx([factor * 2 * MIN_SAMPLES / CRITICAL for factor in (1.01, 1.31)], rel=0.05)
    names = [chart.name for chart in charts_of(findings, Extras())]
    assert len(names) == len(set(names)), "each is a file"
    assert {"score-curves-sgd", "score-curves-lamb"} <= set(names)


def test_every_optimizer_has_a_map_of_its_own_momenta() -> None:
    runs = [
        made_run(batch, momentum=momentum, optimizer=name, settings=(("batch", str(batch)), ("momentum", str(momentum)), ("optimizer.name", name)))
        for name, momenta in (("sgd", (0.0, 0.9)), ("lamb", (0.8, 0.9)), ("muon", (0.95,)))
        for batch in (32, 512)
        for momentum in momenta
    ]
    maps = momentum_maps(find(runs, TARGET))
    assert [(chart.name, chart.y_title) for chart in maps] == [("momentum-map-sgd", "momentum"), ("momentum-map-lamb", "beta1")]


def test_many_runs_are_one_line_for_each_batch_and_optimizer() -> None:
    curves = score_curves([run(name, batch, seed) for seed in range(4) for batch in (32, 512) for name in ("sgd", "lamb")])
    assert [series.name for series in curves.series] == [f"{name}, batch {batch}, 4 runs" for name in ("lamb", "sgd") for batch in (32, 512)]


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_names_an_own_optimizer_by_its_entry_point(tmp_path: Path) -> None:
    runs = [run("sgd", batch) for batch in BATCHES] + [run(OWN, batch, 0, 1.2) for batch in BATCHES]
    findings = find(runs, TARGET)
    page = write_report(tmp_path / "report", findings)
    numbers = json.loads((page.parent / "report.json").read_text())
    assert [side["optimizer"] for side in numbers["by_optimizer"]] == ["sgd", OWN]
    assert (page.parent / "score-curves-mine.optimizers-twice.png").is_file()
    text = page.read_text()
    assert f">{OWN}</td>" in text
    assert "The best of each batch size under each optimizer" in text


def test_an_answer_of_an_earlier_version_is_still_read() -> None:
    """Its choices, points and batches know nothing of optimizers beside each other."""

    def without(value: Any) -> Any:
        new = {"others", "by_optimizer", "card"}
        if isinstance(value, dict):
            return {name: without(inner) for name, inner in value.items() if name not in new}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    document = without(answer_of(find([run("sgd", batch) for batch in BATCHES], TARGET)).model_dump(mode="json"))
    del document["critical_batch"]["optimizer"]
    for point in document["score_frontier"]:
        del point["optimizer"]
    read = SweepFindings.model_validate(document)
    assert read.by_optimizer == []
    assert read.critical_batch is not None
    assert read.critical_batch.optimizer is None

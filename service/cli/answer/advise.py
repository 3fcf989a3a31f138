"""Says which batch size is best in which way: `largebatch advise`."""

import json
from typing import Annotated

import typer

from largebatch.jobs.errors import InputError
from largebatch.jobs.streams import print_answer
from largebatch.service.cli.answer.runs import compare_prediction, find_among, gather, read_profile
from largebatch.service.cli.card_view import print_card
from largebatch.service.cli.options import AsJson, RunsToRead, refuse_unless_finite, refuse_unless_positive
from largebatch.service.cli.tables import print_rows
from largebatch.service.cli.typer_parameters import spread
from largebatch.tuning.results.analysis.advice import Cost, Limit
from largebatch.tuning.results.analysis.advice import advise as advise_on
from largebatch.tuning.results.analysis.prediction import misses_in_words, predict, profile_beside_runs
from largebatch.tuning.results.analysis.reference import curve_through
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.answers import Choice
from largebatch.tuning.results.collect import Collected
from largebatch.tuning.results.run_result import RunResult, settings_of
from largebatch.tuning.results.unit import Unit, in_digits
from largebatch.tuning.results.wording import answer_of, sentence

app = typer.Typer()


@app.command(epilog="Example: largebatch advise runs/digits-batches-20260101-120000 --deadline 5")
@spread
def advise(
    runs: RunsToRead,
    deadline: Annotated[float | None, typer.Option(metavar="SECONDS", help="Training seconds that may be used.")] = None,
    max_samples: Annotated[float | None, typer.Option(help="Samples that may be used.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say which batch size is soonest, cheapest, best within a limit, and why.

    With --profile and a single run, predict the whole curve before anything else was tried. After a sweep, with
    --profile and --reference RUN, say how far the prediction from that run was off.
    """
    refuse_unless_finite("--target", runs.target)
    for option, value in (("--deadline", deadline), ("--max-samples", max_samples)):
        refuse_unless_positive(option, value)
    asked: dict[Cost, float | None] = {"seconds": deadline, "samples": max_samples}
    limits = {cost: most for cost, most in asked.items() if most is not None}
    gathered = gather(runs)
    if runs.profile is not None and runs.reference is None:
        profile, unmeasured = read_profile(runs.profile), [Limit(cost, most, None) for cost, most in limits.items()]
        _predict(_only_run(gathered), profile, runs.target, unmeasured, as_json)
        return
    findings = find_among(gathered, runs, limits)
    comparison = compare_prediction(findings, runs)
    answer = answer_of(findings)
    words = [*answer.words, *comparison.words]
    if as_json:
        errors = [{**miss._asdict(), "error": miss.error} for miss in comparison.misses]
        print_answer(json.dumps({**answer.numbers(), "words": words, "prediction_errors": errors}))
        return
    print_card(answer.card)
    print("\n".join(words))
    print_rows(answer.rows)
    if comparison.misses:
        print(misses_in_words(comparison.misses))
        print_rows([miss.row(findings.unit) for miss in comparison.misses])


def _only_run(gathered: Collected) -> RunResult:
    """The one run that a prediction is made from. Raises: InputError for none or several."""
    if len(gathered.runs) != 1:
        hint = "Give one. To see how far a prediction was off, name the run that it was made from with --reference."
        problem = " ".join([f"holds {len(gathered.runs)} runs, and a prediction is made from one.", *gathered.missing])
        raise InputError("FOLDER", problem, hint)
    return gathered.runs[0]


def _predict(run: RunResult, profile: Profile, target: float | None, limits: list[Limit], as_json: bool) -> None:
    target = run.summary.target if target is None else target
    if target is None:
        raise InputError("--target", "is missing, and the run was given none.", "Example: --target 0.97.")
    note = profile_beside_runs(profile, next(iter(settings_of([run]))), [run.optimizer])
    critical = curve_through(run, target).critical_batch
    predicted = predict(run, profile, target, [point.global_batch_size for point in profile.points])
    choices = [
        Choice(
            global_batch_size=point.global_batch_size, seconds=point.seconds, samples=point.samples, learning_rate=point.learning_rate,
            momentum=run.momentum_at(point.global_batch_size),
            momentum_half_life_samples=run.momentum_half_life_samples, optimizer=run.optimizer, num_seeds=0,
        )
        for point in predicted
    ]  # fmt: skip
    unit = profile.unit
    answers = advise_on(choices, limits, unit)
    notes = [*([note] if note else []), *_dual_noise_words(run, unit)]
    if as_json:
        print_answer(
            json.dumps({
                "target": target, "critical_batch_size": critical, "predicted": [point._asdict() for point in predicted],
                "dual_noise_scale": run.summary.dual_noise_scale, "advice": [answer.model_dump() for answer in answers], "notes": notes,
            })
        )  # fmt: skip
        return
    origin = f"run {run.summary.run_id} (critical batch {unit.words(critical)} by its gradients' noise) and the profile on {profile.device}"
    print("\n".join([f"Predicted from {origin}:", *notes, *(sentence(answer, unit) for answer in answers)]))
    rows = [
        {
            "batch": unit.batch(point.global_batch_size), "s to target": in_digits(point.seconds, 3), "steps": f"{point.steps:,.0f}",
            unit.name: f"{unit.of(point.samples):,.0f}", "learning rate": f"{point.learning_rate:.3g}",
        }
        for point in predicted
    ]  # fmt: skip
    print_rows(rows)


def _dual_noise_words(run: RunResult, unit: Unit) -> list[str]:
    """The noise scale in the optimizer's own norm, where the run measured it: nothing is computed from it."""
    if (dual := run.summary.dual_noise_scale) is None:
        return []
    euclidean = f"; its Euclidean one is {unit.words(run.summary.gradient_noise_scale)}" if run.summary.gradient_noise_scale else ""
    return [
        f"In {run.optimizer}'s own norm the run's noise scale is {unit.words(dual)}{euclidean}. The prediction stands on the Euclidean noise alone."
    ]

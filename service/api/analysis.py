"""The questions that the analysis worker answers: what a command of ours would, and nothing that a request brings.

Each imports what it needs itself: the first plan does not wait for Ray, scipy and plotly.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from largebatch.jobs.spec.train_spec import TrainSpec

if TYPE_CHECKING:
    from largebatch.tuning.results.card.card import Card
    from largebatch.tuning.results.whole_answer import SweepFindings


LARGE_WEIGHTS_BYTES = 256 << 20
"""Models by name with larger weights are planned without them: checking one takes five times as much."""
EXPORTS = ".exports"
"""Where weights that were asked for lie, below a run's folder; hidden, since they are no file that the run left."""


def plan(spec: dict[str, Any], data_dir: str, workers: int | None) -> dict[str, Any]:
    """What `largebatch plan` says: facts and lines. Raises: PlanError, DataError."""
    import torch

    from largebatch.jobs.job import prepare

    torch.set_num_threads(1)
    job = prepare(TrainSpec.model_validate(spec), torch.device("cpu"), Path(data_dir), workers, LARGE_WEIGHTS_BYTES)
    return {"facts": job.plan_in_numbers(), "lines": [{"what": what, "how": how} for what, how in job.plan_in_words()]}


def plan_sweep(sweep: dict[str, Any], base: dict[str, Any], data_dir: str) -> dict[str, Any]:
    """What `largebatch sweep --dry-run` says: how many runs, in which groups. Raises: PlanError, SpecError, DataError."""
    from largebatch.service.present.job_plan import plan_facts
    from largebatch.tuning.sweep.space import refuse_impossible
    from largebatch.tuning.sweep.spec import SweepSpec
    from largebatch.tuning.sweep.sweep import recipes_training_set, refuse_untrainable

    sweep_spec, spec = SweepSpec.model_validate(sweep), TrainSpec.model_validate(base)
    num_runs = refuse_impossible(sweep_spec, spec, recipes_training_set(spec, Path(data_dir)))
    is_checked = refuse_untrainable(sweep_spec, spec, Path(data_dir), "cpu", LARGE_WEIGHTS_BYTES)
    return plan_facts(sweep_spec, num_runs, is_checked=is_checked)


def beside_each_other(folders: list[str]) -> list[str]:
    """What `largebatch compare` says of runs beside each other, in sentences. Raises: InputError for damaged files."""
    from largebatch.tuning.report import run_figures
    from largebatch.tuning.results.collect import collect

    return run_figures.beside_each_other(collect(map(Path, folders)))


def findings(folder: str, with_figures: bool = False) -> "SweepFindings":
    """What a sweep's runs say so far: choices, frontier, critical batch, advice. Raises: InputError while no run has ended.

    Args: with_figures: the report's figures too, as plotly's JSON.
    """
    from largebatch.tuning.report.contents import Extras, charts_of
    from largebatch.tuning.report.plotly_pen import as_json
    from largebatch.tuning.results.findings import find_in
    from largebatch.tuning.results.wording import answer_of

    results = find_in(Path(folder))
    figures = [
        {"name": chart.name, "title": chart.title, "caption": f"{chart.meaning} {chart.caption}".strip(), "figure": as_json(chart)}
        for chart in (charts_of(results, Extras()) if with_figures else ())
    ]
    answer = answer_of(results)
    return answer.model_copy(update={"figures": figures if with_figures else None, "card": answer.card and _for_anybody(answer.card, folder)})


def _for_anybody(card: "Card", folder: str) -> "Card":
    """The card of somebody who is elsewhere: with no folder of this machine."""
    from largebatch.tuning.results.card.ready_recipe import for_anybody

    lines = [line.model_copy(update={"text": line.text.replace(folder, Path(folder).name)}) for line in card.lines]
    return card.model_copy(update={"lines": lines, "recipe": card.recipe and for_anybody(card.recipe)})


def weights(run_dir: str, best: bool) -> str:
    """What `largebatch export` writes, below the run's folder, once for each checkpoint. Returns: the file. Raises: InputError, CheckpointError."""
    from largebatch.jobs.models.weights import write_weights
    from largebatch.jobs.resume import weights_of_run

    found = weights_of_run(Path(run_dir), best, lambda text: None, "best")
    file = Path(run_dir) / EXPORTS / f"{'best' if best else 'newest'}-step-{found.step}.safetensors"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        for earlier in file.parent.glob(f"{file.name.partition('-')[0]}-*"):
            earlier.unlink()
        write_weights(file, found.weights, "weights")
    return str(file)

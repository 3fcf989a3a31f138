"""What the runs of a folder say together, for MLflow: see `ParentAnswer`."""

from pathlib import Path

from largebatch.jobs.tracking.parent_answer import ByBatch, ParentAnswer
from largebatch.tuning.results.findings import Findings
from largebatch.tuning.results.wording import answer_of


def write_answer(folder: Path, findings: Findings) -> None:
    """Leave the answer in a sweep's folder; the mirror takes it from there. Raises: StorageError."""
    numbers = []
    for optimizer, side in findings.by_optimizer.items():
        under = f"{optimizer}/" if findings.compares_optimizers else ""
        for best in side.best:
            values = {
                "seconds_to_target": best.seconds.median, "steps_to_target": best.steps.median, "samples_to_target": best.samples.median,
                f"best_{findings.metric.name}": best.best_score.median, "learning_rate": best.first.learning_rate,
            }  # fmt: skip
            numbers += [
                ByBatch(name=f"{under}{name}", batch=best.global_batch_size, value=value) for name, value in values.items() if value is not None
            ]
    answer = answer_of(findings)
    card = [] if answer.card is None else [f"**{answer.card.title}**", *(f"{line.label}: {line.text}" for line in answer.card.lines)]
    ParentAnswer(words=[*card, *answer.words], by_batch=numbers).write(folder)

"""The soonest choice as a recipe that trains it, beside the report."""

from pathlib import Path

import yaml

from largebatch.jobs.run.run_folder import resumed_spec, was_recorded, write_text
from largebatch.tuning.results.findings import Findings

SOONEST = "soonest.yaml"


def write_soonest(folder: Path, findings: Findings) -> Path | None:
    """The recipe of the choice that is soonest to the target, its optimizer with every option; None where none reached it, runs have no
    folder, or another program's loop trained it.

    Raises: CheckpointError, SpecError for a run's folder that has no spec any more; StorageError.
    """
    soonest = min(findings.reached, key=lambda best: best.rank, default=None)
    if soonest is None or soonest.first.folder is None or was_recorded(soonest.first.folder):
        return None
    spec = resumed_spec(soonest.first.folder, [])
    document = {**spec.model_dump(mode="json", exclude_defaults=True), "optimizer": spec.optimizer.model_dump(mode="json")}
    cost = f"{soonest.seconds.text} s to {findings.metric.name} {findings.target:g}"
    said = f"# Batch {soonest.global_batch_size:,} with {soonest.first.optimizer}: {cost}\n"
    as_soon = [f"batch {tie.global_batch_size:,} with {tie.optimizer}" for tie in findings.advice[0].ties]
    said += f"# As soon, as far as was measured: {', '.join(as_soon)}\n" if as_soon else ""
    path = folder / SOONEST
    write_text(path, said + yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return path

"""The textbook's table, small batch against large batch, filled with what was measured."""

from collections.abc import Sequence
from typing import Any

from largebatch.tuning.measure.sharpness import sharpness_rows
from largebatch.tuning.results.analysis.configurations import Configuration
from largebatch.tuning.results.analysis.scaling_model import Link, step_seconds
from largebatch.tuning.results.analysis.step_time import Profile
from largebatch.tuning.results.findings import Findings

LINK = Link(10e9 / 8, 50e-6)
"""Ten gigabits a second and fifty microseconds: an ordinary network between machines."""


def small_against_large(findings: Findings, profile: Profile, sharpness: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of: what, at the smallest batch, at the largest; empty for fewer than two batches.

    Args: sharpness: of the two solutions, as a study writes it; may be empty.
    """
    if len(findings.best) < 2:
        return []
    ends = findings.best[0], findings.best[-1]
    small, large = (best.global_batch_size for best in ends)
    workers = max(large // small, 2)
    steps = [profile.seconds_per_step(batch) for batch in (small, large)]
    shared = [step_seconds(batch, min(workers, batch), profile.model, profile.gradient_bytes, LINK) for batch in (small, large)]
    rows = [
        ("time per update, one device", *(f"{seconds:.3g} s" for seconds in steps)),
        (f"time per update, {workers} devices at 10 Gbit/s (model)", *(f"{seconds:.3g} s" for seconds in shared)),
        ("time per epoch, one device", *(f"{s * profile.num_train_samples / b:.3g} s" for s, b in zip(steps, (small, large), strict=True))),
        ("gradient noise over signal: noise scale / batch", *(_noise(best) for best in ends)),
        ("optimisation: steps to the target", *(best.steps.text for best in ends)),
        ("optimisation: samples to the target", *(best.samples.text for best in ends)),
        *_solution_rows(sharpness),
    ]
    return [{"": what, f"batch {small:,}": of_small, f"batch {large:,}": of_large} for what, of_small, of_large in rows]


def _noise(best: Configuration) -> str:
    return "-" if best.noise_scale is None else f"{best.noise_scale / best.global_batch_size:.3g}"


def _solution_rows(sharpness: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    if len(sharpness) != 2:
        return []
    epochs = sharpness[0]["epochs"]
    rows = [
        _row(f"optimisation: train accuracy after {epochs:g} epochs", sharpness, "train_accuracy", ".4f"),
        _row(f"generalisation: test accuracy after {epochs:g} epochs", sharpness, "test_accuracy", ".4f"),
    ]
    rows += [(f"sharpness, {what}", f"{small:.3g}", f"{large:.3g}") for what, (small, large) in sharpness_rows(sharpness)]
    return [*rows, _row("top Hessian eigenvalue", sharpness, "top_eigenvalue", ".3g")]


def _row(what: str, sharpness: Sequence[dict[str, Any]], field: str, form: str) -> tuple[str, str, str]:
    small, large = ("-" if solution[field] is None else format(solution[field], form) for solution in sharpness)
    return what, small, large

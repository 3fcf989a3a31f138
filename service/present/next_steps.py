"""What can be done from a job on: its commands, and of a run that did not do what was wanted, what to change."""

import re
from typing import Any

from pydantic import Field

from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.recorded import is_recorded
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.job import FINAL, Described, Job, Kind, State
from largebatch.service.present.commands import file_command, spec_command

LOWER = 3.0
"""By what the learning rate is divided after a run that diverged."""
LONGER = 2.0
"""By what the epochs are multiplied after one that missed its target."""
OUT_OF_MEMORY = ("out of memory", "signal 9")
"""How a reason says so; a machine that runs out of it kills."""


class Remedy(Described):
    """One change that may help."""

    text: str
    set: dict[str, Any] = Field(default={})
    """The change by dotted names, as a new run takes it."""
    resumes: bool = False
    """Whether the run itself can go on with it."""


class NextSteps(Described):
    """What a person may do about a job: commands that do the same again, and remedies."""

    train_command: str
    """Does the same on a machine with this program; empty where nobody can but another program's loop, which has trained the run."""
    submit_command: str
    """Submits the same to a service; empty like the other."""
    remedies: list[Remedy]
    """Most likely first; empty where nothing has to change."""


def next_steps(job: Job, *, has_code: bool = True) -> NextSteps:
    """A job's next steps. Args: has_code: whether code that it came with is the asker's, too, and can be named."""
    steps = _next_steps(job, "FOLDER" if job.code and not has_code else job.code)
    if not job.code or has_code:
        return steps
    theirs = f"# Its code {job.code[:12]} is {job.owner}'s: ask for it, and send it from a folder of yours.\n"
    return steps.model_copy(update={"submit_command": theirs + steps.submit_command})


def _next_steps(job: Job, code: str | None) -> NextSteps:
    """Args: code: what own code is sent by."""
    if is_recorded(job.spec):
        return NextSteps(train_command="", submit_command="", remedies=[])
    holds = "".join(f" --{name} {value:g}" for name, value in (("gpus", job.gpus), ("priority", job.priority)) if value)
    holds += f" --code {code}" if code else ""
    if job.kind is Kind.SWEEP:
        sweep = {name: value for name, value in job.spec.items() if value not in (None, {}, [])}
        train, submit = (file_command(command, "sweep.json", sweep, more) for command, more in (
            ("largebatch sweep", ""), ("largebatch remote submit --sweep", holds)))  # fmt: skip
    elif job.kind is Kind.STUDY:
        optimizers = f" --optimizers {','.join(job.spec['optimizers'])}" if job.spec["optimizers"] else ""
        budget = f" --budget {job.spec['budget_s']:g}s{optimizers}"
        train, submit = (spec_command(command, job.recipe, job.base or {}, budget + more) for command, more in (
            ("largebatch study", ""), ("largebatch remote submit", f" --study{holds}")))  # fmt: skip
    else:
        workers = f" --workers {job.workers}" if job.workers else ""
        train, submit = (spec_command(command, job.recipe, job.spec, workers + more) for command, more in (
            ("largebatch train", ""), ("largebatch remote submit", holds)))  # fmt: skip
    return NextSteps(train_command=train, submit_command=submit, remedies=remedies(job))


def remedies(job: Job) -> list[Remedy]:
    """What to change after a run that ended without what was wanted."""
    if job.kind is not Kind.RUN:
        return _of_many(job)
    if job.state not in FINAL:
        return []
    spec, reason = TrainSpec.model_validate(job.spec), (job.reason or "").lower()
    if job.outcome == Outcome.DIVERGED:
        return _after_divergence(spec, job.progress.get("step"), job.progress.get("epoch"))
    if job.outcome == Outcome.MISSED and spec.stop.epochs is not None:
        epochs = spec.stop.epochs * LONGER
        text = f"It missed its target in {spec.stop.epochs:g} {'epoch' if spec.stop.epochs == 1 else 'epochs'}: let it go on to {epochs:g}."
        return [Remedy(text=text, set={"stop.epochs": epochs}, resumes=job.added_bytes is None)]
    if any(words in reason for words in OUT_OF_MEMORY):
        micro = spec.batch.micro_batch_size
        half = max(micro // 2, 1) if isinstance(micro, int) else 16
        text = f"It ran out of memory, it seems: pass {half} samples forward at once, which changes no result; or hold more memory."
        return [Remedy(text=text, set={"batch.micro_batch_size": half})]
    if job.state is State.FAILED:
        code = " Mended code of yours is another bundle: --code FOLDER." if job.code else ""
        return [Remedy(text=f"Mend what the reason above says: edit it and run it again. The log has more.{code}")]
    return []


def _of_many(job: Job) -> list[Remedy]:
    """After a sweep or a study that ended before it was done."""
    if job.state not in (State.FAILED, State.CANCELLED):
        return []
    if enough := re.search(r"--budget (\d+)m\b", job.reason or ""):
        text = f"Give it {enough[1]} min in all, and let it go on from what it has measured."
        return [Remedy(text=text, set={"budget_s": 60.0 * int(enough[1])}, resumes=True)]
    return [Remedy(text="Mend what it says and submit it again, or resume it: runs that have ended are kept.")]


def _after_divergence(spec: TrainSpec, step: int | None, epoch: float | None) -> list[Remedy]:
    rate, at = spec.learning_rate.base, "" if step is None else f" at step {step:,}"
    warmup = spec.learning_rate.warmup_epochs
    reached = rate
    if warmup and epoch is not None and epoch < warmup:  # the whole rate never was in force
        reached = rate * epoch / warmup
        at += f" of its warm-up, at about {reached:.3g}"
    lower = float(f"{reached / LOWER:.2g}")
    found = [Remedy(text=f"It diverged{at}: lower the learning rate from {rate:g} to {lower:g}.", set={"learning_rate.base": lower})]
    if not warmup:
        found.append(Remedy(text="Or let the rate rise slowly: one epoch of warm-up.", set={"learning_rate.warmup_epochs": 1.0}))
    if spec.gradient.clip_norm is None:
        found.append(Remedy(text="Or clip the gradient to a norm of 1.", set={"gradient.clip_norm": 1.0}))
    return found

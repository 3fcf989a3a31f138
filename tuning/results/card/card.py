"""What a card is: the recommendation, what it saves, what comes next to it, how sure it is, and the recipe that trains it.

Every door shows `title`, `lines` and the recipe as they are; the other fields are the same for programs.
"""

from typing import Literal

from pydantic import Field

from largebatch.tuning.results.answers import Answer, Choice


class CardLine(Answer):
    """One line of a card."""

    label: str
    text: str


class RunnerUp(Answer):
    """The choice that comes next, or one that is as soon."""

    choice: Choice
    times: float
    """Its seconds to the target over those of the recommended choice."""
    tied_by: Literal["seeds", "evaluations"] | None
    """What does not tell it from the recommended choice; None: it is later."""


class Saving(Answer):
    """What the recommended choice saves against the recipe that the runs began from."""

    against: Choice | None
    """What that costs; None where it missed the target."""
    is_tuned: bool
    """False: the recipe as it was, trained once; True: its batch and optimizer with the best settings that were found for them."""
    cost: Literal["seconds", "samples"]
    """What is compared: samples where batch and optimizer are the same, for a step then costs as much, and the clocks differ by chance alone."""
    times: float | None
    """Its cost over that of the recommended choice; below 1: the recommended choice takes more. None where it missed the target."""
    tied_by: Literal["seeds", "evaluations"] | None
    """What does not tell the two apart."""


class OnWorkers(Answer):
    """What a model of steps and network says of several workers."""

    num_workers: int
    global_batch_size: int
    """The best on so many."""
    seconds: float
    speedup: float
    """Over one worker at its own best batch, by the same model."""
    misfit: float
    """By how much the model's step times are off the measured ones, at most: 0.1 is ten per cent."""


class LargerMachines(Answer):
    """What machines that take larger batches as fast would change."""

    critical_batch_size: float
    is_boundless: bool = False
    """Whether that is no finding, but where the search for it ended: it is above `low`."""
    low: float
    high: float | None
    """Of its 95 % interval; None where the points do not bound it."""
    fewer_steps: float | None
    """Steps to the target at the recommended batch over those at an endless one by `high`: no machine makes it sooner by more. None as `high` is."""
    on_workers: OnWorkers | None
    """None where no profile of the steps is there, or the critical batch is boundless."""


Verdict = Literal["sure", "tied", "unsure"]


class Sureness(Answer):
    """How sure the recommendation is."""

    verdict: Verdict
    """sure: several seeds that did not choose it, no other choice is as soon, or may be on a free machine, and ranges of so many seeds lie apart by
    chance in one of ten cases at most; tied: another choice is as soon; unsure: anything else."""
    grounds: list[str]
    surer: list[str]
    """What would make it surer, the most telling first."""


class ReadyRecipe(Answer):
    """The recommended choice as a recipe."""

    text: str
    """YAML that `largebatch train` reads."""
    command: str
    """What trains it, from the folder that its runs were trained in."""


class Card(Answer):
    """One answer: what to take, and why one may believe it."""

    title: str
    """The recommendation, or that there is none."""
    verdict: Verdict
    """Of `sureness`; unsure where nothing is recommended."""
    target: str
    """`test accuracy 0.95`."""
    setting: str
    """What the runs share, how many there are, and how the target was chosen."""
    choice: Choice | None
    """None where no choice reached the target in half of its runs."""
    saving: Saving | None = None
    """None where it is not known which recipe the runs began from, or that is the recommended choice itself."""
    runners_up: list[RunnerUp] = Field(default_factory=list)
    """All that are as soon, else the next one."""
    larger_machines: LargerMachines | None = None
    """None where three batch sizes did not reach the target."""
    sureness: Sureness | None = None
    recipe: ReadyRecipe | None = None
    """None of runs that another program trained, or that MLflow alone has."""
    lines: list[CardLine]
    """All of it in words."""

"""The form of a new study: a recipe as for a run, the time that it may take, and the optimizers that are compared."""

from typing import Any

from largebatch.service.api.forms.fields import Field, Here, Typed, View, as_value, list_of
from largebatch.service.api.forms.run_form import run_submission, run_view

BUDGET, OPTIMIZERS = "budget_s", "optimizers"
USUAL_RECIPE = "digits-small-batch"
USUAL_MINUTES = "30"


def study_view(typed: Typed, here: Here) -> View:
    """The form. Raises: SpecError, NotFoundError."""
    (_, first), *others, (machine, held) = (view := run_view(_as_of_a_run(typed), here)).groups
    asked = [
        Field(BUDGET, "Time in all, minutes", typed.get(BUDGET, USUAL_MINUTES), "the more, the more batch sizes and seeds; 60 for two optimizers"),
        Field(OPTIMIZERS, "Optimizers compared", typed.get(OPTIMIZERS, ""), "such as sgd, lamb; empty: the recipe's alone"),
    ]
    return view._replace(groups=[("", [*first, *asked]), *others, (machine, [field for field in held if field.name != "workers"])])


def study_submission(typed: Typed, here: Here) -> dict[str, Any]:
    """What was typed, as POST /v1/studies takes it. Raises: SpecError, NotFoundError."""
    budget_s = budget_of(typed.get(BUDGET, USUAL_MINUTES))
    optimizers = list_of(OPTIMIZERS, typed.get(OPTIMIZERS, ""))
    return {**run_submission(_as_of_a_run(typed), here), BUDGET: budget_s, OPTIMIZERS: optimizers}


def budget_of(text: str) -> Any:
    """Seconds of minutes that were typed; what is no number stays as it is, and is refused by its type. Raises: SpecError."""
    minutes = as_value(BUDGET, text)
    return 60.0 * minutes if isinstance(minutes, int | float) else minutes


def _as_of_a_run(typed: Typed) -> dict[str, str]:
    return {"recipe": USUAL_RECIPE, **{name: text for name, text in typed.items() if name not in {BUDGET, OPTIMIZERS, "workers"}}}

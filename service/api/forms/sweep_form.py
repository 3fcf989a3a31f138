"""The form of a new sweep: what is compared, and the search over the learning rate that each combination gets."""

from typing import Any

from largebatch.service.api.forms.fields import Field, Here, Typed, View, as_value, list_of, resource_group, resources
from largebatch.service.api.forms.run_form import changes_in
from largebatch.service.api.requests import recipe_specs
from largebatch.tuning.sweep.optimizers import OPTIMIZER, RATE_POWER
from largebatch.tuning.sweep.spec import BATCH, HALF_LIVES, MOMENTUM, RATE

HALF_LIFE = HALF_LIVES[0]
LOW, HIGH, TRIALS = f"search.space.{RATE}.low", f"search.space.{RATE}.high", "search.trials"
COMPARED = {
    BATCH: ("Batch sizes", "16, 64, 256", "with commas between"),
    OPTIMIZER: ("Optimizers", "", "such as sgd, lamb; empty: the recipe's alone"),
    MOMENTUM: ("Momenta", "0.0, 0.9", "empty: the recipe's"),
    HALF_LIFE: ("Half-lives of momentum", "", "in place of momenta: in samples, the same at every batch"),
}
SEARCHED = {
    LOW: ("Lowest learning rate", "0.05", "at the smallest batch; it rises with the root of the batch"),
    HIGH: ("Highest", "1.0", "both empty: what is usual for each optimizer"),
    TRIALS: ("Learning rates tried in each", "4", ""),
    "repeats": ("Further seeds of each best", "2", "which alone are reported"),
}
ENDS = {
    "set.stop.target_accuracy": ("Target accuracy", "0.95", "empty: the recipe's"),
    "set.stop.epochs": ("Epochs", "10", "empty: the recipe's"),
}


def sweep_view(typed: Typed, here: Here) -> View:
    """The form."""
    recipe = typed.get("recipe") or "digits-small-batch"
    chosen = recipe_specs().get(recipe)
    first = Field("recipe", "Recipe", recipe, chosen.description if chosen else "", tuple(recipe_specs()), decides=True)
    cpus = "one run at a time" if here.settings.ray_address else "the whole machine"
    machine = resource_group(typed, here, f"{cpus}; each run takes one", is_run=False)
    groups = [
        (title, [Field(name, label, typed.get(name, usual), hint) for name, (label, usual, hint) in told.items()])
        for title, told in (("Compared", COMPARED), ("Searched in each", SEARCHED), ("Every run", ENDS))
    ]
    return View([("", [first]), *groups, machine], box=typed.get("set", ""))


def sweep_submission(typed: Typed, here: Here) -> dict[str, Any]:
    """What was typed, as POST /v1/sweeps takes it. Raises: SpecError."""
    asked = {field.name: field.value for _, fields in sweep_view(typed, here).groups for field in fields}
    each = {name: values for name in COMPARED if (values := list_of(f"each.{name}", asked[name]))}
    ends = {name.removeprefix("set."): value for name in ENDS if (value := as_value(name, asked[name])) is not None}
    if "stop.epochs" in ends:
        ends["stop.steps"] = None
    ends |= changes_in(typed.get("set", ""))
    low, high = (as_value(name, asked[name]) for name in (LOW, HIGH))
    is_effective = bool(each.keys() & {MOMENTUM, HALF_LIFE}) and OPTIMIZER not in each
    space = {} if low is None and high is None else {RATE: {"low": low, "high": high, "times_batch": RATE_POWER, "is_effective": is_effective}}
    search = {"trials": as_value(TRIALS, asked[TRIALS]), "space": space}
    sweep = {"recipe": asked["recipe"], "set": ends, "each": each, "repeats": as_value("repeats", asked["repeats"]), "search": search}
    return {"sweep": sweep, **resources(typed)}

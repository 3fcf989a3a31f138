"""The form of a new run: a recipe's most important fields, those of its optimizer, and a box for all others."""

from typing import Any, NamedTuple

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.optim.by_samples.options import half_life_fields
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.read import build_spec
from largebatch.jobs.spec.recorded import is_recorded
from largebatch.jobs.spec.text import parse_yaml
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.jobs.tracking.params import flat
from largebatch.service.api.forms.fields import (
    RESOURCES,
    WAS,
    Field,
    Here,
    Typed,
    View,
    as_text,
    as_value,
    resource_group,
    resources,
    resources_of,
)
from largebatch.service.api.requests import recipe_specs
from largebatch.service.job import Job
from largebatch.service.present.commands import changes_of
from largebatch.tuning.sweep.optimizers import OPTIMIZER_NAME, USUAL_BATCH, usual_rate
from largebatch.tuning.sweep.space import with_fields

USUAL_RECIPE = "digits-lamb"
RATE = "learning_rate.base"
NOTHING = "null"
CHOICES = ("recipe", "like", OPTIMIZER_NAME)
"""What decides which other fields there are, and what stands in them."""


class Beginning(NamedTuple):
    """What a form begins from."""

    recipe: str | None
    like: Job | None
    """A run whose whole spec it begins from, where it was made from no recipe."""
    own: TrainSpec
    """Of the recipe, or of that run."""
    spec: TrainSpec
    """Under the optimizer that was chosen."""


def beginning(typed: Typed, here: Here) -> Beginning:
    """What was chosen. Raises: SpecError, NotFoundError."""
    like, recipe = here.find(typed["like"]) if typed.get("like") else None, typed.get("recipe") or USUAL_RECIPE
    if like is None and recipe not in recipe_specs():
        raise SpecError("recipe", f"{recipe[:100]!r} is not a recipe.", nearest(recipe[:100], recipe_specs()))
    own = TrainSpec.model_validate(like.spec) if like else recipe_specs()[recipe]
    chosen = typed.get(OPTIMIZER_NAME)
    if chosen not in OPTIMIZERS or chosen == own.optimizer.name:
        return Beginning(None if like else recipe, like, own, own)
    batch = own.batch.global_batch_size
    rate = usual_rate(chosen, batch if isinstance(batch, int) else USUAL_BATCH)
    spec = with_fields(own, {OPTIMIZER_NAME: chosen, **({} if rate is None else {RATE: float(f"{rate:.2g}")})})
    return Beginning(None if like else recipe, like, own, spec)


def like_another(typed: Typed, here: Here) -> dict[str, str]:
    """What would be typed for a run to be the same as the one that `like` names, and on top of it what was typed."""
    job = here.find(typed["like"])
    if is_recorded(job.spec):
        raise SpecError("like", "another program's loop has trained this run: there is nothing to run again from here.", "Run that program.")
    changes = changes_of(job.recipe, job.spec)
    begins = {"like": job.id} if job.recipe is None or changes is None else {"recipe": job.recipe}
    same = {**_as_typed(changes or {}, job), **resources_of(job, here.settings)}
    return {**same, **{name: text for name, text in typed.items() if name != "like"}, **begins}


def answer_as_typed(job: Job, recipe: str) -> dict[str, str]:
    """What would be typed for a run of a card's recipe. Args: job: the sweep or study whose answer it is. Raises: SpecError."""
    base = TrainSpec.model_validate(job.base)
    spec = build_spec(parse_yaml(recipe, "recipe")).model_copy(update={"description": base.description}).model_dump(mode="json")
    changes, before = changes_of(job.recipe, spec), flat(base.model_dump(mode="json"))
    if changes is not None and job.recipe is not None:
        return {"recipe": job.recipe, **_as_typed(changes, job)}
    return {"like": job.id, **_as_typed({name: value for name, value in flat(spec).items() if name not in before or before[name] != value}, job)}


def _as_typed(changes: dict[str, Any], job: Job) -> dict[str, str]:
    """Changes of a spec, and a job's code."""
    same = {name: NOTHING if value is None else as_text(value) for name, value in flat(changes).items()}
    return {**same, **({"code": job.code} if job.code else {})}


def fields_of(spec: TrainSpec) -> list[Field]:
    """The fields of a recipe that people change most, with its values."""
    values, optimizer = flat(spec.model_dump(mode="json")), spec.optimizer
    momentum, found = optimizer.momentum_option, list[Field]()

    def add(label: str, hint: str, *names: str) -> None:
        """Args: names: of alternatives: that which has a value, or the first."""
        there = [name for name in names if name in values]
        if there:
            name = next((name for name in there if values[name] is not None), there[0])
            found.append(Field(name, f"{label}, tokens" if name.endswith("tokens") else label, as_text(values[name]), hint))

    add("Global batch size", "samples of one step; full: the whole training set", "batch.global_batch_size", "batch.global_batch_tokens")
    options = tuple(OPTIMIZERS) if optimizer.name in OPTIMIZERS else (optimizer.name, *OPTIMIZERS)
    found.append(Field(OPTIMIZER_NAME, "Optimizer", optimizer.name, "another one begins at its usual rate", options, decides=True))
    add("Learning rate", "at its peak", RATE)
    add("Warm-up, epochs", "over which the rate rises", "learning_rate.warmup_epochs")
    if momentum:
        add("Momentum" if momentum == "momentum" else f"Momentum ({momentum})", "what a step keeps of those before", f"optimizer.{momentum}")
    if momentum in optimizer.decays:
        hint = "in its place: samples after which half of a gradient is left, the same at every batch"
        add("Half-life of momentum", hint, *(f"optimizer.{field}" for field in half_life_fields(momentum)))
    add("Weight decay", "pulls the weights towards 0", "optimizer.weight_decay")
    add("Steps" if spec.stop.epochs is None else "Epochs", "how long it trains at most", "stop.epochs", "stop.steps")
    add(f"Target {spec.stop.target_metric or 'accuracy'}", "empty: none", "stop.target.value" if spec.stop.target else "stop.target_accuracy")
    add("Seed", "draws weights, order and augmentation", "seed")
    return found


def fill(typed: Typed, here: Here) -> tuple[Beginning, list[Field], str]:
    """What a form begins from, and its fields and its box with what a person has typed since. Raises: SpecError, NotFoundError."""
    stood: dict[str, str] = {}
    if f"{WAS}recipe" in typed:
        before = beginning({name: typed.get(f"{WAS}{name}", "") for name in CHOICES}, here)
        stood = {field.name: field.value for field in fields_of(before.spec)}
        if typed.get("recipe", "") != (before.recipe or "") and typed.get(OPTIMIZER_NAME) == before.own.optimizer.name:
            typed = {**typed, OPTIMIZER_NAME: ""}  # nobody chose it: the other recipe's own takes its place
    begins = beginning(typed, here)
    fields = [
        field if field.decides or text is None or text == stood.get(field.name) else field._replace(value="" if text == NOTHING else text)
        for field in fields_of(begins.spec)
        for text in [typed.get(field.name)]
    ]
    known = {field.name for field in fields} | stood.keys() | {*CHOICES, *RESOURCES}
    of_a_spec = {name: text for name, text in typed.items() if "." in name or name in TrainSpec.model_fields}
    others = [f"{name}={text}" for name, text in of_a_spec.items() if name not in known and not name.startswith(WAS)]
    return begins, fields, "\n".join(filter(None, [typed.get("set", "").strip(), *others]))


def run_view(typed: Typed, here: Here) -> View:
    """The form. Raises: SpecError, NotFoundError."""
    begins, fields, box = fill(typed, here)
    chosen = {"recipe": begins.recipe or "", "like": begins.like.id if begins.like else "", OPTIMIZER_NAME: begins.spec.optimizer.name}
    hidden = {f"{WAS}{name}": value for name, value in chosen.items()}
    if begins.like:
        first, hidden["like"] = [], begins.like.id
    else:
        first = [Field("recipe", "Recipe", chosen["recipe"], begins.own.description, tuple(recipe_specs()), decides=True)]
    cpus = "one a worker" if here.settings.ray_address else "the whole machine, so that nothing slows its clock"
    return View([("", first), ("Training", fields), resource_group(typed, here, cpus, is_run=True)], hidden, box)


def run_submission(typed: Typed, here: Here) -> dict[str, Any]:
    """What was typed, as POST /v1/runs takes it. Raises: SpecError, NotFoundError."""
    begins, fields, box = fill(typed, here)
    changes: dict[str, Any] = {}
    if begins.spec.optimizer.name != begins.own.optimizer.name:
        changes = {OPTIMIZER_NAME: begins.spec.optimizer.name, RATE: begins.spec.learning_rate.base}
    stood = {field.name: field.value for field in fields_of(begins.spec)}
    changes |= {field.name: as_value(field.name, field.value) for field in fields if field.value != stood[field.name]}
    asked = {"recipe": begins.recipe} if begins.like is None else {"spec": begins.like.spec}
    return {**asked, "set": changes | changes_in(box), **resources(typed)}


def changes_in(box: str) -> dict[str, Any]:
    """The box's lines. Raises: SpecError."""
    changes = {}
    for line in filter(None, map(str.strip, box.splitlines())):
        name, equals, text = line.partition("=")
        if not equals or not name.strip():
            raise SpecError("set", f"{line[:100]!r} is not of the form field=value.", "Example: optimizer.weight_decay=0.01")
        changes[name.strip()] = as_value("set", text)
    return changes

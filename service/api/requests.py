"""From what came over the network to a job that may be queued: everything a stranger could slip in is refused here."""

import hashlib
import json
import math
import re
import secrets
import time
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, SkipValidation

from largebatch.jobs.errors import InputError, SpecError, nearest
from largebatch.jobs.launch.options import most_workers
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.spec.read import build_spec, recipe_paths, refuse_unlisted_entry_points
from largebatch.jobs.spec.text import OVER_THE_NETWORK, read_document, refuse_beyond
from largebatch.jobs.spec.train_spec import TrainSpec
from largebatch.service.bundle import DIGEST, FIELD, references_in
from largebatch.service.db.tokens import ForbiddenError
from largebatch.service.job import Job, Kind
from largebatch.service.present.job_plan import runs_at_once
from largebatch.service.settings import USUAL_GIB, Settings
from largebatch.tuning.study.options import compared_optimizers, refuse_unstudied
from largebatch.tuning.sweep.optimizers import ENTRY_POINT, OPTIMIZER, OPTIMIZER_NAME, optimizer_fields
from largebatch.tuning.sweep.space import groups, refuse_impossible, sweep_spec, with_fields
from largebatch.tuning.sweep.spec import ResourcesSpec, SweepSpec

LONGEST_PATH = 200
MOST_RUNS = 5000
MOST_VALUES = 1000
LEAST_CPUS, LEAST_GIB = 0.25, 0.5
"""Of each process of a job: a run takes about 0.6 GiB before it has any data, and what holds less is not slower but in everybody's way."""
OF_A_STUDY = {"--budget": "budget_s", "--optimizers": "optimizers"}
"""What the command's options are called here."""
SEND_CODE = "Send your code along: as a zip in the form, or largebatch remote submit RECIPE --code FOLDER."
LARGEST_SPEC = 64 << 10
"""Bytes; the spec travels in one environment variable, and the kernel takes 128 KiB."""


def _matching(pattern: str, wanted: str) -> tuple[Any, AfterValidator]:
    """Text of one form. Args: pattern: for programs, which the OpenAPI document tells; wanted: the same for people."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {wanted}, not {json.dumps(text[:60])}")
        return text

    return Field(json_schema_extra={"pattern": f"^({pattern})$"}), AfterValidator(check)


def _name(text: str) -> str:
    if not text.strip() or len(text) > 100 or not text.isprintable():
        raise ValueError("a name has 1 to 100 characters, all of which can be printed")
    return text.strip()


def _tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    if len(tags) > MOST_TAGS or not all(re.fullmatch(TAG, tag) and tag.isprintable() for tag in tags):
        raise ValueError(f"at most {MOST_TAGS} tags, each of at most 40 characters that can be printed, without spaces, commas and #")
    return tuple(dict.fromkeys(tags))


MOST_TAGS, TAG = 20, r"[^\s#,]{1,40}"
_TAGS_SCHEMA: dict[str, Any] = {"maxItems": MOST_TAGS, "items": {"type": "string", "pattern": f"^{TAG}$"}}
Tags = Annotated[tuple[str, ...], Field(strict=False, json_schema_extra=_TAGS_SCHEMA), AfterValidator(_tags)]
Name = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": 100}), AfterValidator(_name)]
Notes = Annotated[str, Field(max_length=2000)]


class JobChange(BaseModel):
    """What people say of a job, and may say anew at any time."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    name: Name = ""
    """In any words; its id stays as it is."""
    tags: Tags = ()
    notes: Notes = ""
    project: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """Whose people may read it: one's own project; null: nobody else."""


class Submit(BaseModel):
    """What every submission says beside what to train."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: Annotated[str, *_matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", "a name: letters of ASCII, digits and . _ -, at most 60 in all")] | None = (
        None
    )
    """Begins the id; default the recipe's name."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Higher goes first among your own jobs; before other owners' an administrator's alone, behind them anybody's."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[str, *_matching(r"[1-9][0-9]{0,6}(:[1-9][0-9]{0,6})?", "a number of workers such as 4, or bounds such as 2:8")] | None = None
    """N or MIN:MAX workers by Ray; null: one process."""
    cpus: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Cores to hold, at least a quarter for each process, shared out among a run's workers; null: all of this machine's, so that no other job slows
    its clock (a Ray cluster: one a worker; a sweep there: what max_concurrent of its runs need, or one)."""
    memory_gib: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Memory to hold, in GiB, all of its processes together; null: 1.5 for each of them, but no more than jobs may hold here."""
    gpus: Annotated[int, Field(ge=0, le=100_000)] = 0
    """GPUs to hold, shared out in the same way."""
    deadline_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    """Seconds from now after which it is ended."""
    tags: Tags = ()
    notes: Notes = ""
    is_private: bool = False
    """Keep it from the people of one's project, where the operator lets them see each other's."""
    code: Annotated[str, *_matching(DIGEST, "the SHA-256 of a bundle that was sent to /v1/code")] | None = None
    """Own code: a bundle by its SHA-256, where the operator allows it. Its modules are what the spec's entry points name."""


class RecipeSubmit(Submit):
    """A recipe with changes, or a whole spec."""

    recipe: Annotated[str, Field(max_length=100)] | None = None
    """A recipe's name, as GET /v1/recipes lists them."""
    spec: SkipValidation[TrainSpec | None] = None
    """A whole TrainSpec in place of a recipe. Described by its type, judged by `build_spec`, whose sentences are better."""
    set: dict[str, JsonValue] = Field(default_factory=dict, max_length=200)
    """Changes by dotted name, such as {"batch.global_batch_size": 512}."""


class RunSubmit(RecipeSubmit):
    """A training run."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"recipe": "digits-lamb", "set": {"stop.epochs": 10}}]})


class StudySubmit(RecipeSubmit):
    """A study of a recipe: which batch size, optimizer and momentum reach its target soonest."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"recipe": "digits-small-batch", "budget_s": 1800}]})

    budget_s: Annotated[float, Field(gt=0, le=1e7)] = 1800.0
    """Seconds of wall-clock time that all of it may take."""
    optimizers: list[Annotated[str, Field(max_length=100)]] = Field(default_factory=list, max_length=20)
    """Optimizers that are compared as batch sizes are, by name; none: the recipe's alone."""


class SweepSubmit(Submit):
    """A sweep: what is compared and what is searched, over one recipe."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sweep": {"recipe": "digits-small-batch", "each": {"batch.global_batch_size": [32, 256]}}}]}
    )

    sweep: SkipValidation[SweepSpec]
    """A SweepSpec, described and judged as `spec` is; its recipe is a name that GET /v1/recipes lists."""


def job_of_run(submission: RunSubmit, owner: str, settings: Settings) -> Job:
    """A queued job. Raises: SpecError."""
    spec = _spec_of(submission, settings)
    return _job(submission, Kind.RUN, owner, settings, spec.name, most_workers(submission.workers), spec=spec.model_dump(mode="json"),
                recipe=submission.recipe, **settings_of(spec))  # fmt: skip


def job_of_study(submission: StudySubmit, owner: str, settings: Settings) -> Job:
    """A queued job. Raises: SpecError."""
    if settings.ray_address is not None:
        problem = "a study trains in its own process, one run at a time, and this service's jobs run on a Ray cluster."
        raise InputError("study", problem, "Submit a sweep; or on a machine of the cluster: largebatch study.")
    if submission.workers is not None:
        raise SpecError("workers", "is for runs; a study's train one after another, each on all cores that the study holds.", "Leave it out.")
    spec = _spec_of(submission, settings)
    try:
        refuse_unstudied(spec, submission.budget_s)
        optimizers = compared_optimizers(spec, submission.optimizers)
    except InputError as error:  # named as the command's options are
        raise type(error)(OF_A_STUDY.get(error.field, error.field), error.problem, error.hint) from None
    for name in optimizers:
        with_fields(spec, optimizer_fields(name))
    asked = {"budget_s": submission.budget_s, "optimizers": optimizers}
    # Two processes: the study's own, and one of its sweep's runs.
    return _job(submission, Kind.STUDY, owner, settings, spec.name, 2, spec=asked, base=spec.model_dump(mode="json"), recipe=submission.recipe)


def _spec_of(submission: RecipeSubmit, settings: Settings) -> TrainSpec:
    """The spec that was asked for. Raises: SpecError."""
    if (submission.recipe is None) == (submission.spec is None):
        raise SpecError("recipe", "give either a recipe or a spec.", "GET /v1/recipes lists the recipes.")
    document = recipe_document(str(submission.recipe)) if submission.spec is None else _mapping("spec", submission.spec)
    for part in (document, submission.set):
        refuse_beyond(part, "spec", OVER_THE_NETWORK)
    fields = {**submission.set, **({} if submission.name is None else {"name": submission.name})}
    spec = with_fields(build_spec({"name": "run", **document}), fields)
    refuse_for_strangers(spec, settings, submission.code)
    return spec


def recipe_document(name: str) -> dict[str, Any]:
    """A recipe that comes along, never a file of the asker's choice. Raises: SpecError."""
    paths = recipe_paths()
    if name not in paths:
        raise SpecError("recipe", f"{name[:100]!r} is not a recipe.", nearest(name[:100], paths))
    return {"name": name, **read_document(paths[name])}


@cache
def recipe_specs() -> dict[str, TrainSpec]:
    """The whole specs of the recipes that come along, by name."""
    return {name: build_spec(recipe_document(name)) for name in recipe_paths()}


def job_of_sweep(submission: SweepSubmit, owner: str, settings: Settings) -> Job:
    """A queued job. Raises: SpecError."""
    if settings.store is not None:
        raise InputError("sweep", "sweeps need a folder that machines share, and this service keeps runs by URI.", "Send runs, or ask its operator.")
    document = _mapping("sweep", submission.sweep)
    refuse_beyond(document, "spec", OVER_THE_NETWORK)
    sweep = sweep_spec(document)
    spaces = [sweep.search.space, *sweep.search.by_optimizer.values()]
    lists = [*sweep.each.values(), *(values for space in spaces for values in space.values() if isinstance(values, list))]
    if max(map(len, lists), default=0) > MOST_VALUES or max(sweep.repeats, sweep.search.trials or 0) > MOST_RUNS:
        raise SpecError("sweep", f"has a list of more than {MOST_VALUES} values, or more than {MOST_RUNS} trials.", "Compare fewer.")
    most = math.prod(len(values) for values in sweep.each.values()) * sweep.num_in_group
    if most > MOST_RUNS:
        raise SpecError("sweep", f"{most:.3g} runs are more than one sweep may have here ({MOST_RUNS}).", "Compare fewer values.")
    base = with_fields(build_spec(recipe_document(sweep.recipe)), sweep.set)
    try:
        for group in groups(sweep):
            refuse_for_strangers(with_fields(base, group.fields), settings, submission.code)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise SpecError("sweep", f"cannot be made into runs: {str(error)[:200]}.", "Look at the values of each and search.") from error
    names = {name for space in spaces for name in space}
    searched = {"dataset", "tracking", "model", "task"} & {name.partition(".")[0] for name in names}
    searched |= names & {OPTIMIZER, OPTIMIZER_NAME, ENTRY_POINT}
    if searched:
        raise SpecError("search.space", f"a search here may not change {', '.join(sorted(searched))}.", "Compare such fields with each.")
    refuse_impossible(sweep, base)
    name = submission.name or sweep.name or sweep.recipe
    cpus, resources = _sweep_resources(submission, sweep.resources, settings)
    named = sweep.model_copy(update={"name": name, "resources": resources})
    processes = resources.workers * max(resources.max_concurrent or 1, resources.max_searching or 1)
    return _job(submission.model_copy(update={"cpus": cpus}), Kind.SWEEP, owner, settings, name, processes, spec=named.model_dump(mode="json"),
                base=base.model_dump(mode="json"), recipe=sweep.recipe)  # fmt: skip


def _sweep_resources(submission: SweepSubmit, asked: ResourcesSpec, settings: Settings) -> tuple[float, ResourcesSpec]:
    """The cores that a sweep holds, and its resources with as many runs at once as fit into these. Raises: InputError if not even one does."""
    if submission.workers is not None:
        raise SpecError("workers", "is for runs; a sweep has its own resources.", "Write sweep.resources.workers: so many for each of its runs.")
    gpus_per_worker = float(submission.gpus > 0) if asked.gpus_per_worker is None else asked.gpus_per_worker  # those of others are not to be taken
    each_cpus, each_gpus = asked.workers * asked.cpus_per_worker, asked.workers * gpus_per_worker
    cpus = submission.cpus
    if cpus is None:
        cpus = settings.cpus if settings.ray_address is None else each_cpus * (asked.max_concurrent or 1)
    fits = runs_at_once(cpus, submission.gpus, asked.model_copy(update={"gpus_per_worker": gpus_per_worker}))
    if fits < 1:
        field = "cpus" if cpus < each_cpus else "gpus"
        problem = f"one run of this sweep needs {each_cpus:g} CPUs and {each_gpus:g} GPUs, and the sweep holds {cpus:g} and {submission.gpus}."
        raise InputError(field, problem, "Ask for more, or give each run less: sweep.resources.")
    memory = settings.memory_gib if submission.memory_gib is None else submission.memory_gib
    least = LEAST_GIB if submission.memory_gib is not None else USUAL_GIB
    in_memory = MOST_RUNS if memory == math.inf else max(int(memory / (asked.workers * least)), 1)
    at_once = min(fits, in_memory, asked.max_concurrent or MOST_RUNS)
    searching = asked.max_searching and min(fits, in_memory, asked.max_searching)
    return cpus, asked.model_copy(update={"gpus_per_worker": gpus_per_worker, "max_concurrent": at_once, "max_searching": searching})


def _job(submission: Submit, kind: Kind, owner: str, settings: Settings, name: str, processes: int, **fields: Any) -> Job:
    """Args: processes: that train at a time."""
    if submission.code is not None:
        refuse_code(settings)
        if not references_in(fields):
            hint = "Name what is to be called, such as model.entry_point=my_code:build, or leave it out."
            raise SpecError(FIELD, "is given, and nothing names it.", hint)
    workers = most_workers(submission.workers)
    if submission.device == "cuda" and not submission.gpus:
        raise InputError("gpus", "none is asked for, and the device is cuda.", "Ask for one for each worker.")
    if submission.device == "cpu" and submission.gpus:
        raise InputError("gpus", f"{submission.gpus} would lie idle: the device is cpu.", "Ask for none, or for another device.")
    if submission.gpus % workers:
        problem = f"{submission.gpus} cannot be shared out evenly among {workers} workers."
        raise InputError("gpus", problem, f"Ask for {workers}, or another number of workers.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise SpecError("name", f"{name[:100]!r} cannot name a job here.", "Use letters of ASCII, digits, '-', '_' and '.'.")
    if len(json.dumps(fields)) > LARGEST_SPEC:
        raise SpecError("spec", f"is larger than {LARGEST_SPEC >> 10} KiB.", "No spec needs that.")
    now = time.time()
    on_ray = settings.ray_address is not None
    cpus = submission.cpus if submission.cpus is not None else float(workers) if on_ray else settings.cpus
    if not on_ray and (cpus > settings.cpus or submission.gpus > settings.gpus):
        field, asked, has = ("cpus", cpus, settings.cpus) if cpus > settings.cpus else ("gpus", submission.gpus, settings.gpus)
        raise InputError(field, f"{asked:g} {'is' if asked == 1 else 'are'} asked for, and this machine has {has:g}.", "Ask for less.")
    memory_gib = settings.usual_memory_gib(processes) if submission.memory_gib is None else submission.memory_gib
    if not on_ray and memory_gib > settings.memory_gib:
        problem = f"{memory_gib:g} GiB are asked for, and jobs on this machine may hold {settings.memory_gib:.3g} together."
        raise InputError("memory_gib", problem, "Ask for less.")
    least_gib = LEAST_GIB if on_ray else min(LEAST_GIB, settings.memory_gib / processes)  # on a machine of less a run may be tried
    for field, held, least in (("cpus", cpus, LEAST_CPUS), ("memory_gib", memory_gib, least_gib)):
        if held < least * processes:
            problem = (
                f"{held:g} for all of its {processes} processes is less than {least:g} for each." if processes > 1 else f"must be at least {least:g}."
            )
            raise InputError(field, problem, "Ask for more.")
    if submission.gpus > settings.max_gpus_per_owner:
        raise InputError("gpus", f"{submission.gpus} is more than one owner may hold ({settings.max_gpus_per_owner}).", "Ask for fewer.")
    return Job(
        id=f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(4)}", kind=kind, owner=owner, name=name,
        device=submission.device, workers=submission.workers, cpus=cpus, gpus=submission.gpus, memory_gib=memory_gib,
        priority=submission.priority, priority_among_owners=min(submission.priority, 0), created_at_s=now,
        deadline_at_s=None if submission.deadline_s is None else now + submission.deadline_s, tags=submission.tags, notes=submission.notes,
        code=submission.code, **fields,
    )  # fmt: skip


def refuse_code(settings: Settings) -> None:
    """Raises: ForbiddenError where the operator takes no code of people's own."""
    if not settings.allows_code:
        hint = "Ask its operator, who allows it with: largebatch serve --allow-code"
        raise ForbiddenError(FIELD, "this service takes no code of its people's own.", hint)


def refuse_for_strangers(spec: TrainSpec, settings: Settings, code: str | None = None) -> None:
    """What a person at the machine may do, and a request may not. Args: code: what the entry points are looked for in. Raises: SpecError."""
    if code is None:
        refuse_unlisted_entry_points(spec, settings.entry_points, SEND_CODE if settings.allows_code else "")
    if spec.tracking.mlflow_uri is not None:
        raise SpecError("tracking.mlflow_uri", "is the operator's to choose.", "Leave it out.")
    if spec.dataset.download and not settings.allows_download:
        raise SpecError("dataset.download", "this server fetches no data sets.", "Ask its operator to put the data set in place.")
    path, weights = spec.dataset.arguments.get("path"), spec.model.weights
    if path is not None and _inside(settings.data_dir, path) is None:
        raise SpecError("dataset.arguments.path", "is not a folder inside the server's data folder.", "Give a path relative to it.")
    # It must be there: what is not is looked for elsewhere, too, and the answer would tell whether it is.
    if weights is not None and not ((file := _inside(settings.data_dir, weights)) and file.is_file()):
        raise SpecError("model.weights", "is not a file inside the server's data folder.", "Give a path relative to it.")
    if spec.dataset.num_workers > settings.cpus and settings.ray_address is None:
        raise SpecError("dataset.num_workers", f"{spec.dataset.num_workers} is more than this machine's {settings.cpus:g} CPUs.", "Use fewer.")


def _inside(root: Path, path: Any) -> Path | None:
    """What a path below a folder leads to, links followed; None where that is outside, or no path."""
    if not isinstance(path, str) or len(path) > LONGEST_PATH or "\0" in path:
        return None
    reached = (root / path).resolve()
    return reached if reached.is_relative_to(root.resolve()) else None


class ResumeChanges(BaseModel):
    """How a run that goes on is to end."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"set": {"stop.epochs": 20}}]})

    set: dict[str, JsonValue] = Field(default_factory=dict, max_length=20)
    """Changes of fields of `stop` by dotted name; everything else stays as it was."""


def resumed_spec(job: Job, changes: ResumeChanges) -> dict[str, Any] | None:
    """A run's spec with another end; None where nothing is to change. Raises: SpecError."""
    if not changes.set:
        return None
    for field in changes.set:
        if not field.startswith("stop."):
            raise SpecError(field, "cannot change in a run that goes on: only its end (stop) can.", "For anything else start a new run.")
    refuse_beyond(changes.set, "set", OVER_THE_NETWORK)
    spec = with_fields(TrainSpec.model_validate(job.spec), changes.set)
    epoch, stop = job.progress.get("epoch", 0.0), spec.stop
    if stop.epochs is not None and stop.epochs <= epoch:
        raise SpecError("stop.epochs", f"{stop.epochs:g} are no more than the {epoch:.4g} that it has done.", "Give more.")
    is_met = job.outcome == Outcome.REACHED and stop.target == TrainSpec.model_validate(job.spec).stop.target
    if is_met and stop.at_target and "stop.target_accuracy" not in changes.set:
        raise SpecError("stop.at_target", "the run has met its target, and would end at once.", "Set it to false, or give another target.")
    return spec.model_dump(mode="json")


def settings_of(spec: TrainSpec) -> dict[str, Any]:
    """What lists show and sort by of a run's spec."""
    batch, optimizer = spec.batch.global_batch_size, spec.optimizer.model_dump()
    named = optimizer.get("entry_point") or optimizer["name"]
    return {"global_batch_size": batch if isinstance(batch, int) else None, "optimizer": named[:200], "learning_rate": spec.learning_rate.base,
            "momentum": optimizer.get("momentum", optimizer.get("beta1")), "seed": spec.seed}  # fmt: skip


def digest_of(submission: BaseModel) -> str:
    """Whether two requests ask for the same."""
    return hashlib.sha256(json.dumps(submission.model_dump(warnings=False), sort_keys=True).encode()).hexdigest()


def _mapping(field: str, value: Any) -> dict[str, Any]:
    """What came in place of a model. Raises: SpecError."""
    if not isinstance(value, dict):
        raise SpecError(field, "must be a mapping of keys to values.", "GET /v1/recipes/digits-lamb shows one.")
    return dict(value)

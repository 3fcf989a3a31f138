"""Tries whether each sample's own gradient of a model's norms can be told, before a run measures noise by them.

A norm sees rows. That these are the samples' in their order, that nothing but the norms' own passes uses their parameters, and that what a
task says a sample weighs adds up is found out on a few real samples; docs/decisions/037 says what is refused.
"""

import torch
from torch import Tensor, nn

from largebatch.jobs.data.loaders import first_samples
from largebatch.jobs.engine.gradient.norm_gradients import FIELD, HINT, Gradients, layer_norms, sample_gradients, trained
from largebatch.jobs.engine.gradient.precision import in_precision
from largebatch.jobs.engine.model_check.passes import Passes
from largebatch.jobs.engine.model_errors import errors_in_words
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.modes import evaluation_mode
from largebatch.jobs.plan.train_plan import TrainPlan
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import Tree, map_leaves, num_samples, rows
from largebatch.jobs.tasks.base import Task

NUM_SAMPLES = 4
"""Samples that pass through, at once and one by one; fewer where a micro-batch is smaller, for so many are known to fit into memory."""


def refuse_untold_norm_gradients(plan: TrainPlan, model: nn.Module, task: Task, dataset: Dataset, device: torch.device) -> None:
    """Raise PlanError unless the gradients of a model's norms can be taken apart by samples. The model is left as it was."""
    norms = layer_norms(model)
    if not norms:
        others = sorted({type(module).__name__ for module in model.modules() if "norm" in type(module).__name__.lower()})
        among = f" (it has {', '.join(others)})" if others else ""
        raise PlanError(FIELD, f"the model has no nn.LayerNorm or nn.RMSNorm with weights that train{among}.", HINT)
    spec, size = plan.spec, min(NUM_SAMPLES, plan.micro_batch_size, len(dataset.train))
    batch = task.prepared(first_samples(dataset.train, dataset, size, device, spec.model.channels_last), spec.seed, Slice(0, 0, size), device)
    passes = Passes(spec, model, task)
    try:
        _refuse_other_uses(passes, batch)
        _refuse_mixed_rows(passes, batch)
    finally:
        passes.end()


def _refuse_other_uses(passes: Passes, batch: Tree) -> None:
    """Raise PlanError where samples' gradients do not add up to a parameter's: something else than its norm's own passes uses it."""
    norms, params = layer_norms(passes.model), [param for param in passes.model.parameters() if param.requires_grad]
    with sample_gradients(norms, num_samples(batch)) as gradients:
        whole = dict(zip(params, passes.training(batch).gradient, strict=True))
    for norm in norms:
        for name, param in trained(norm).items():
            told = gradients.get(param, torch.zeros(1, param.numel(), device=param.device))
            if bool((told.sum(0) - whole[param].reshape(-1)).norm() > passes.rounding * told.abs().sum(0).norm()):
                problem = f"the {name} of a {type(norm).__name__} gets a gradient that does not come from this norm's own passes alone."
                raise PlanError(FIELD, problem, HINT)


def _refuse_mixed_rows(passes: Passes, batch: Tree) -> None:
    """Raise PlanError where a sample by itself has another gradient than among others: the rows of a norm's input are not the samples'.

    In evaluation mode, where nothing is drawn at random.
    """
    together = _gradients(passes, batch)
    for index in range(num_samples(batch)):
        alone = _gradients(passes, rows(batch, index, index + 1))
        for norm in layer_norms(passes.model):
            for param in trained(norm).values():
                if param in together and bool((together[param][index] - alone.get(param, 0)).norm() > passes.rounding * together[param].norm()):
                    problem = f"a {type(norm).__name__} takes rows that are not the samples' in their order, or mix samples."
                    raise PlanError(FIELD, problem, HINT)


def _gradients(passes: Passes, batch: Tree) -> Gradients:
    model, size = passes.model, num_samples(batch)
    passes.begin()
    with errors_in_words(batch, "evaluation", model, passes.task), evaluation_mode(model), sample_gradients(layer_norms(model), size) as gradients:
        forward = in_precision(model, passes.spec.precision, next(model.parameters()).device)
        passes.task.probe(forward, map_leaves(Tensor.clone, batch)).backward()  # type: ignore[no-untyped-call]
    return gradients

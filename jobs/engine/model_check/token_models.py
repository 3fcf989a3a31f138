"""Tries whether a model of tokens takes all of the vocabulary, and whether it predicts each token without having seen it."""

import torch
from torch import Tensor, nn

from largebatch.jobs.engine.model_check.passes import Passes, before_each_run
from largebatch.jobs.errors import PlanError
from largebatch.jobs.samples.number_ranges import IGNORED
from largebatch.jobs.samples.trees import Tree, rows
from largebatch.jobs.tasks.outputs import logits_of

NUM_SEQUENCES = 2
"""Each takes tokens of the other."""
MOST_ROUNDING = 1e-2
"""Of logits before what has changed, computed by the same steps: more than a unit of bfloat16."""


def refuse_small_vocabulary(passes: Passes, samples: Tree, vocabulary_size: int | None) -> None:
    """Raise PlanError for an embedding of the tokens with fewer rows than there are tokens: the first beyond them would end the run.

    Args: samples: (tokens, ...), (N, T); vocabulary_size: of the data set; None: not known.
    """
    if vocabulary_size is None:
        return
    few = rows(samples, 0, NUM_SEQUENCES)
    names = {module: name for name, module in passes.model.named_modules() if isinstance(module, nn.Embedding)}

    def look(embedding: nn.Embedding, inputs: tuple[Tensor, ...]) -> None:
        are_tokens = bool(inputs) and inputs[0].shape == few[0].shape and torch.equal(inputs[0], few[0])
        if are_tokens and embedding.num_embeddings < vocabulary_size:  # before it looks a token up that is beyond
            problem = f"its {names[embedding]} has {embedding.num_embeddings:,} rows, and the data set {vocabulary_size:,} tokens (vocabulary_size)."
            raise PlanError("model", problem, "Build it for as many; an entry point's argument vocabulary_size is given by the data set.")

    with before_each_run(names, look):
        passes.given_in_evaluation(few)


def refuse_foresight(passes: Passes, samples: Tree) -> None:
    """Raise PlanError for logits that change with the tokens that they are to predict, or with later ones.

    Nothing is tried where targets are not the next tokens: a model may look at all of a sequence to say of what kind each of its tokens is.

    Args: samples: (tokens, targets), both (N, T), maybe with the targets' bytes.
    """
    few = rows(samples, 0, NUM_SEQUENCES)
    tokens_NT, targets_NT, *others = few
    length, counts_NT = tokens_NT.shape[1], targets_NT != IGNORED
    if length < 2 or not _are_next(tokens_NT, targets_NT, counts_NT):
        return
    reference_NTV = _logits(passes, few)
    # A model may look far ahead, by one token alone, or see all of a prefix.
    for first in sorted({1, -(-length // 4), -(-length // 2), length - 1}):
        changed_NT = tokens_NT.clone()
        changed_NT[:, first:] = tokens_NT.roll((1, 1), (0, 1))[:, first:]
        logits_NTV = _logits(passes, (changed_NT, targets_NT, *others))
        apart = _largest_change(reference_NTV, logits_NTV, counts_NT & (torch.arange(length, device=counts_NT.device) < first))
        if apart > min(passes.rounding, MOST_ROUNDING):
            raise PlanError(
                "model",
                "predicts tokens by looking at them: its logits at earlier positions change"
                f" (by {100 * apart:.3g}%) when the tokens from position {first} on are others.",
                "Mask what comes later: is_causal=True in attention (transformers: is_decoder=True), convolutions padded on the left alone, no norm"
                " along the sequence. A model that looks both ways is trained by task.name=masked-language-modelling.",
            )


def _are_next(tokens_NT: Tensor, targets_NT: Tensor, counts_NT: Tensor) -> bool:
    counted = counts_NT[:, :-1]
    return bool(counted.any()) and bool((targets_NT[:, :-1] == tokens_NT[:, 1:])[counted].all())


def _logits(passes: Passes, samples: Tree) -> Tensor:
    return logits_of(passes.given_in_evaluation(samples)[0])


def _largest_change(reference_NTV: Tensor, changed_NTV: Tensor, looked_at_NT: Tensor) -> float:
    """At any of the positions that are looked at, over the largest logits at one of these; 0 where there is none."""
    if not looked_at_NT.any():
        return 0.0
    apart = (reference_NTV - changed_NTV).float().norm(dim=-1)[looked_at_NT].max()
    largest = reference_NTV.float().norm(dim=-1)[looked_at_NT].max()
    return float(apart / largest) if largest > 0 else 0.0

"""Masked language modelling, as BERT has it (Devlin et al., arXiv:1810.04805, section 3.1).

Letters: N sequences, T tokens of each.
"""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from largebatch.jobs.samples.number_ranges import IGNORED
from largebatch.jobs.samples.sample_draws import SampleDraws
from largebatch.jobs.tasks.base import Batch, Forward
from largebatch.jobs.tasks.language_modelling import LanguageModelling
from largebatch.jobs.tasks.outputs import logits_of

MASKED, RANDOM = 0.8, 0.1
"""Of the positions that are to be told: how many show the mask, and how many another token; the others show what they are."""


class MaskedLanguageModelling(LanguageModelling):
    """Hidden tokens told from both sides. A batch as read is (tokens, targets); what is hidden is drawn by (seed, epoch, place of the sample).

    Of the positions whose target counts, each is chosen with probability `masked_fraction`; of the chosen 80 % show the mask, 10 % a token at
    random, 10 % what they are. The loss is over the chosen alone, and the weight is their number. Evaluation hides the same each time.

    A position that holds the padding token and does not count is padding. A model whose `forward` takes an `attention_mask`, as ours and those of
    transformers do, is given one, 1 for each token and 0 for padding: what a sequence is filled up with changes nothing of what it is told.

    Args:
        vocabulary_size: tokens that a random one is drawn from.
        mask_token: what a masked position shows.
        padding_token: what fills up shorter sequences; None: nothing is known to.
    """

    def __init__(
        self,
        vocabulary_size: int,
        mask_token: int,
        masked_fraction: float = 0.15,
        bytes_per_token: Sequence[int] = (),
        padding_token: int | None = None,
        *,
        counts_bytes: bool | None = None,
    ) -> None:
        super().__init__(bytes_per_token, counts_bytes=counts_bytes)
        self._padding_token, self._model_takes_mask = padding_token, False
        self._vocabulary_size, self._mask_token, self._masked_fraction = vocabulary_size, mask_token, masked_fraction

    def meet(self, model: nn.Module) -> None:
        """See `Task`: whether it takes a mask of the padding."""
        self._model_takes_mask = "attention_mask" in inspect.signature(model.forward).parameters

    def logits(self, model: Forward, batch: Batch) -> Tensor:
        """See `LanguageModelling`. A sequence of padding alone, as a document's end is cut into, sees itself: nothing of it counts."""
        if not self._model_takes_mask or self._padding_token is None:
            return logits_of(model(batch[0]))
        mask_NT = batch[-1]
        return logits_of(model(batch[0], attention_mask=torch.where(mask_NT.any(1, keepdim=True), mask_NT, 1)))

    def prepare(self, batch: Batch, draws: SampleDraws) -> Batch:
        """Hide tokens; the targets are the tokens themselves, and those that are not chosen do not count. Where padding is known a mask follows."""
        tokens_NT, counts_NT = batch[0], batch[1] != IGNORED
        length = tokens_NT.shape[1]
        is_chosen_NT = (draws.uniform("chosen", length) < self._masked_fraction) & counts_NT
        kind_NT = draws.uniform("kind", length)
        shown_NT = torch.where(is_chosen_NT & (kind_NT < MASKED), self._mask_token, tokens_NT)
        is_random_NT = is_chosen_NT & (kind_NT >= MASKED) & (kind_NT < MASKED + RANDOM)
        shown_NT = torch.where(is_random_NT, draws.integers("token", self._vocabulary_size, length), shown_NT)
        targets_NT = torch.where(is_chosen_NT, tokens_NT, IGNORED)
        if self._padding_token is None:
            return shown_NT, targets_NT, *batch[2:]
        return shown_NT, targets_NT, *batch[2:], (counts_NT | (tokens_NT != self._padding_token)).to(torch.int64)

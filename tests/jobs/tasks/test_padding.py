"""What fills up shorter sequences changes nothing of what a model says of the tokens that are there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import losses, prepared, trained
from torch import Tensor

from largebatch.jobs.data.make_tokens import byte_tokenizer, make_tokens
from largebatch.jobs.errors import DataError
from largebatch.jobs.preparing.batches import evaluation_batches
from largebatch.jobs.preparing.prepared import Prepared
from largebatch.jobs.samples.sample_draws import EVALUATION
from largebatch.jobs.samples.slice import Slice
from largebatch.jobs.samples.trees import leaves

ROUNDING = 1e-5
"""A hundred times float32's: attention with a mask adds up in another order."""
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
MODELS: dict[str, dict[str, Any]] = {
    "ours": {"name": "transformer-encoder", "arguments": {"width": 16, "depth": 2, "num_heads": 2}},
    "bert": {"name": "transformers:BertForMaskedLM", "arguments": BERT},
}
NEXT: dict[str, dict[str, Any]] = {
    "ours": {"name": "transformer", "arguments": {"width": 16, "depth": 2, "num_heads": 2}},
    "gpt2": {"name": "transformers:GPT2LMHeadModel", "arguments": {"n_layer": 2, "n_embd": 16, "n_head": 2}},
}


def text(folder: Path) -> None:
    """Documents of 2 to 14 bytes, in sequences of 24."""
    source = folder / "text.txt"
    source.write_text("\n\n".join("abcdefghijklmnop"[number % 3 : 5 + number % 11] for number in range(90)))
    make_tokens([source], folder / "text", byte_tokenizer(), separator="\n\n")


def job(folder: Path, task: str, model: dict[str, Any], **parts: Any) -> Prepared:
    arguments = {"path": "text", "sequence_length": 24, "documents": "padded"}
    document = {"task": {"name": task}, "dataset": {"name": "tokens", "arguments": arguments}, "model": model, **parts}
    return prepared(folder, **document)


def seen(made: Prepared) -> tuple[Tensor, Tensor, Tensor]:
    """(Logits that the task uses of 8 test samples, where tokens are, the tokens)."""
    samples = Slice(0, 0, 8)
    read = evaluation_batches(made, made.dataset.test).read(samples)
    batch = made.task.prepared(read, 0, samples._replace(epoch=EVALUATION), made.device)
    made.model.eval()
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)  # attention that looks somewhere
        return made.task.logits(made.model, batch), read[1] != -100, batch[0]


@pytest.mark.parametrize("model", MODELS)
def test_a_padded_sequence_is_told_as_it_is_alone(model: str, tmp_path: Path) -> None:
    text(tmp_path)
    made = job(tmp_path, "masked-language-modelling", MODELS[model])
    logits, is_there, tokens = seen(made)
    assert not bool(is_there.all(1).any())
    for padded, there, row in zip(logits, is_there, tokens, strict=True):
        with torch.no_grad():
            output = made.model(row[None, there])
        alone = (output if isinstance(output, Tensor) else output.logits)[0]
        assert float((padded[there] - alone).abs().max()) <= ROUNDING * float(alone.abs().max())


@pytest.mark.parametrize("model", NEXT)
def test_a_model_that_sees_what_came_before_alone_gets_no_mask(model: str, tmp_path: Path) -> None:
    text(tmp_path)
    made = job(tmp_path, "language-modelling", NEXT[model])
    logits, counts, tokens = seen(made)
    with torch.no_grad():
        output = made.model(tokens)
    assert torch.equal(logits, output if isinstance(output, Tensor) else output.logits)
    other = torch.where(counts | counts.roll(1, 1), tokens, 7)  # what fills up, behind the last token, is of no consequence
    with torch.no_grad():
        changed = made.model(other)
    assert torch.equal(logits[counts], (changed if isinstance(changed, Tensor) else changed.logits)[counts])


@pytest.mark.parametrize("model", MODELS)
def test_splits_and_short_sequences_of_padded_documents_give_the_same(model: str, tmp_path: Path) -> None:
    """Pieces of a document's end are padding alone, of which nothing counts and nothing is undefined."""
    text(tmp_path)
    found = []
    for size in (16, 5):
        short = {"global_batch_size": 16, "micro_batch_size": size, "schedule": {"short_sequences": {"length": 8, "epochs": 1}}}
        parts = {"batch": short, "stop": {"epochs": 2}, "gradient": {"noise_every_steps": 0}}
        still = {
            **MODELS[model],
            "arguments": {
                **MODELS[model]["arguments"],
                **({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if model == "bert" else {}),
            },
        }
        trained(job(tmp_path, "masked-language-modelling", still, **parts), tmp_path / str(size))
        found.append(losses(tmp_path / str(size)))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_own_samples_say_what_fills_them_up() -> None:
    mask = {"task": {"name": "masked-language-modelling", "mask_token": 8, "masked_fraction": 0.3}, "model": MODELS["ours"]}
    for token, num_parts in ((None, 2), (0, 3)):
        made = prepared(**mask, dataset={"entry_point": "own_tasks:documents", "arguments": {"padding_token": token, "shift": 0}})
        batch = made.task.prepared(evaluation_batches(made, made.dataset.test).read(Slice(0, 0, 8)), 0, Slice(EVALUATION, 0, 8), made.device)
        assert len(leaves(batch)) == num_parts
    with pytest.raises(DataError, match="padding_token of the training set is 'pad'; it must be the number of a token"):
        prepared(**mask, dataset={"entry_point": "own_tasks:documents", "arguments": {"padding_token": "pad", "shift": 0}})

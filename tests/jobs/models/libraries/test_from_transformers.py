"""Models of the transformers library, built from their configurations alone, train as they are."""

from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import trained

from largebatch.jobs.errors import SpecError
from largebatch.jobs.models.libraries.from_transformers import transformers_model
from largebatch.jobs.models.table import build_model
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.model_and_data import ModelSpec

TINY = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
TOKENS = {"dataset": {"entry_point": "own_tasks:documents"}, "task": {"name": "language-modelling"}}
CASES: dict[str, dict[str, Any]] = {
    "GPT-2": {**TOKENS, "model": {"name": "transformers:GPT2LMHeadModel", "arguments": {"n_layer": 1, "n_embd": 16, "n_head": 2}}},
    "Llama": {**TOKENS, "model": {"name": "transformers:LlamaForCausalLM", "arguments": TINY}},
    "BERT": {
        "dataset": {"entry_point": "own_tasks:documents", "arguments": {"shift": 0}},
        "task": {"name": "masked-language-modelling", "mask_token": 8, "masked_fraction": 0.5},
        "model": {"name": "transformers:BertForMaskedLM", "arguments": TINY},
    },
    "ViT": {
        "dataset": small_runs.synthetic(shape=(3, 8, 8)),
        "model": {"name": "transformers:ViTForImageClassification", "arguments": {**TINY, "patch_size": 4}},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_it_trains_in_any_micro_batches(name: str, tmp_path: Path) -> None:
    """Dropout is off: attention's own draws belong to the micro-batch."""
    case = CASES[name]
    without = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if name == "GPT-2" else {}
    if name in {"BERT", "ViT"}:
        without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = {**case["model"], "arguments": {**case["model"]["arguments"], **without}}
    scores = []
    for size in (16, 6):
        parts = {**case, "model": model, "batch": {"global_batch_size": 16, "micro_batch_size": size}, "stop": {"epochs": 3}}
        job = small_runs.prepared(**{**parts, "optimizer": {"name": "adamw"}, "learning_rate": {"base": 0.01}})
        trained(job, tmp_path / str(size))
        losses = [record.loss for record in evaluations(read_records(tmp_path / str(size)))]
        assert losses[-1] < losses[0]
        scores.append(losses[-1])
    assert scores[1] == pytest.approx(scores[0], rel=2e-3)


def test_attention_that_draws_for_the_micro_batch_is_said_by_its_name() -> None:
    """Also under classification, and not where it draws nothing; what the hidden dropouts drop is the samples' own."""
    for rate, words in ((0.0, []), (0.1, ["The model draws from torch's own generators in training, in vit.layers.0.attention and 1 other part"])):
        arguments = {**TINY, "num_hidden_layers": 2, "patch_size": 4, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": rate}
        model = {"name": "transformers:ViTForImageClassification", "arguments": arguments}
        job = small_runs.prepared(**{**CASES["ViT"], "model": model, "batch": {"global_batch_size": 16, "micro_batch_size": 8}})
        assert [notice.partition(":")[0] for notice in job.findings.notices] == words


def test_it_has_a_label_for_each_number_that_the_data_want() -> None:
    """Of several labels, and of regression."""
    dataset = Dataset("any", [], [], None, (3, 8, 8), for_model={"num_outputs": 5})
    assert transformers_model("ViTForImageClassification", {**TINY, "patch_size": 4}, dataset).config.num_labels == 5


def test_special_tokens_beyond_the_vocabulary_are_none() -> None:
    """GPT-2's are 50256, and the library warns of them."""
    assert small_runs.prepared(**CASES["GPT-2"]).model.config.eos_token_id is None
    assert small_runs.prepared(**CASES["Llama"]).model.config.eos_token_id == 2
    dataset = Dataset("any", [], [], None, (12,), input_dtype=torch.int64)
    given = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 9}
    assert transformers_model("GPT2LMHeadModel", given, dataset).config.bos_token_id is None, "where the recipe says how many tokens there are"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"name": "transformers:GPT3"}, "transformers has no model 'GPT3'"),
        ({"name": "transformers:GPT2LMHeadModel", "arguments": {"n_embd": 15, "n_head": 2}}, "model.arguments: GPT2LMHeadModel cannot be built"),
        ({"name": "transformers:GPT2LMHeadModel", "arguments": {"n_layers": 1}}, "n_layer"),
        ({"name": "transformer", "arguments": {"width": 15}}, "must be an even number of features"),
    ],
)
def test_others_are_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        small_runs.prepared(**{**TOKENS, "model": model})


def test_there_is_a_position_for_each_token() -> None:
    """RoBERTa counts them from behind the one of padding; a configuration that was given fewer is refused under the name it was given by."""
    causal = {**TINY, "is_decoder": True, "pad_token_id": 1}
    assert small_runs.prepared(**{**TOKENS, "model": {"name": "transformers:RobertaForCausalLM", "arguments": causal}}).model.config.pad_token_id == 1
    for name, arguments, option, words in (
        (
            "GPT2LMHeadModel",
            {"n_layer": 1, "n_embd": 16, "n_head": 2},
            "n_positions",
            "are 8 positions, .* 12 tokens. Give at least 12",
        ),
        ("LlamaForCausalLM", TINY, "max_position_embeddings", "are 8 positions, .* 12 tokens. Give at least 12"),
        ("RobertaForCausalLM", causal, "max_position_embeddings", "12 tokens, and 2 more stand for padding. Give at least 14"),
    ):
        with pytest.raises(SpecError, match=f"model.arguments.{option}: .*{words}"):
            small_runs.prepared(**{**TOKENS, "model": {"name": f"transformers:{name}", "arguments": {**arguments, option: 8}}})


def test_a_set_that_does_not_say_how_long_its_sequences_are_has_a_position_for_each_token_too() -> None:
    """All samples are as long as the first."""
    tokens = {**TOKENS, "dataset": {"entry_point": "own_tasks:nameless"}}
    arguments = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 9}
    gpt = {"name": "transformers:GPT2LMHeadModel", "arguments": arguments}
    with pytest.raises(SpecError, match=r"model.arguments.n_positions: are 8 positions, and a sequence has 12 tokens\. Give at least 12"):
        small_runs.prepared(**{**tokens, "model": {**gpt, "arguments": {**arguments, "n_positions": 8}}})
    assert small_runs.prepared(**{**tokens, "model": gpt}).model.config.n_positions >= 12
    assert small_runs.prepared(**{**tokens, "model": {"name": "transformer", "arguments": {"width": 16}}}).plan.tokens_per_sample is None
    with pytest.raises(SpecError, match=r"transformer is built for a number of tokens, .* Give the training set an attribute vocabulary_size"):
        build_model(ModelSpec(name="transformer"), Dataset("any", [], [], None, (12,), input_dtype=torch.int64), 0)


def test_no_token_of_the_data_is_taken_for_padding_unless_somebody_says_so() -> None:
    """BERT's usual one is 0, of which the vector is zeros and never trains; RoBERTa counts its positions by it, and is refused without one."""
    model = CASES["BERT"]["model"]
    for given, padding in (({}, None), ({"pad_token_id": 3}, 3)):
        parts = {**CASES["BERT"], "model": {**model, "arguments": {**model["arguments"], **given}}}
        embedding = small_runs.prepared(**parts).model.get_input_embeddings()
        assert (embedding.padding_idx, bool(embedding.weight[0].any())) == (padding, True)
    with pytest.raises(SpecError, match=r"model.arguments.pad_token_id: is not given: RobertaForCausalLM takes token 1 for padding"):
        small_runs.prepared(**{**TOKENS, "model": {"name": "transformers:RobertaForCausalLM", "arguments": {**TINY, "is_decoder": True}}})


def test_what_is_given_goes_before_what_the_data_says_under_either_name() -> None:
    """GPT-2 knows max_position_embeddings as n_positions."""
    arguments = {"n_layer": 1, "n_embd": 16, "n_head": 2}
    for name in ("n_positions", "max_position_embeddings"):
        job = small_runs.prepared(**{**TOKENS, "model": {"name": "transformers:GPT2LMHeadModel", "arguments": {**arguments, name: 40}}})
        assert job.model.config.n_positions == 40

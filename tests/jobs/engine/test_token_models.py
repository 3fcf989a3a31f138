"""A language model that sees the token that it is to predict, or takes fewer tokens than there are, is refused."""

from typing import Any

import pytest
import small_runs

from largebatch.jobs.errors import PlanError

DOCUMENTS = {"entry_point": "own_tasks:documents"}
ENCODER = {"name": "transformer-encoder", "arguments": {"width": 16, "depth": 1, "num_heads": 2}}


def prepare(model: dict[str, Any], dataset: dict[str, Any] | None = None, **parts: Any) -> None:
    recipe = {"task": {"name": "language-modelling"}, "dataset": dataset or DOCUMENTS, "model": model, "batch": {"global_batch_size": 20}}
    small_runs.prepared(**{**recipe, "optimizer": {"name": "adamw"}, "stop": {"epochs": 1}, **parts})


def own(model: str, **arguments: Any) -> dict[str, Any]:
    return {"entry_point": f"token_models:{model}", "arguments": arguments}


SEEING = [ENCODER, own("Convolved", right=1), own("Convolved", right=2), own("Normalised"), own("Recurrent", bidirectional=True), own("Prefixed")]
BLIND = [{**ENCODER, "name": "transformer"}, own("Convolved", right=0), own("Recurrent", bidirectional=False)]


@pytest.mark.parametrize("model", SEEING, ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_that_sees_what_it_predicts_is_refused(model: dict[str, Any], precision: str) -> None:
    with pytest.raises(PlanError, match="predicts tokens by looking at them"):
        prepare(model, precision=precision)


@pytest.mark.parametrize("model", BLIND, ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_that_sees_what_stands_before_passes(model: dict[str, Any], precision: str) -> None:
    prepare(model, precision=precision)


def test_what_is_given_may_be_seen_whole() -> None:
    prepare(own("Prefixed"), {"entry_point": "token_models:prefixed"})


@pytest.mark.parametrize("model", SEEING, ids=str)
def test_targets_that_are_no_next_tokens_may_be_told_by_all(model: dict[str, Any]) -> None:
    prepare(model, {"entry_point": "token_models:tagged"})


@pytest.mark.parametrize("num_rows", [1, 8])
def test_a_vocabulary_beyond_the_embedding_is_told_of_before_training(num_rows: int) -> None:
    with pytest.raises(PlanError, match=rf"its embedding has {num_rows} rows, and the data set 9 tokens"):
        prepare(own("Convolved", right=0, num_rows=num_rows))


def test_an_embedding_of_more_tokens_passes() -> None:
    prepare(own("Convolved", right=0, num_rows=16))

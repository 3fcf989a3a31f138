"""Any model of the `transformers` library, built from its configuration alone: nothing is fetched, all weights are fresh."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.samples.dataset import Dataset
from largebatch.jobs.spec.mistakes import cannot_be_built, refuse_unknown_arguments

TRANSFORMERS = "transformers:"
"""Begins the names of these models: transformers:GPT2LMHeadModel."""


def transformers_model(name: str, arguments: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """A model of a class of the library.

    Args:
        name: the class, such as GPT2LMHeadModel, BertForMaskedLM, ViTForImageClassification.
        arguments: of its configuration; the sizes that follow from the data need not be given.
    Raises: SpecError.
    """
    try:
        import transformers
    except ImportError:
        raise SpecError("model.name", f"{name} is of the transformers library, which is not installed.", "pip install 'largebatch[text]'") from None
    kind = getattr(transformers, name, None)
    if kind is None or not hasattr(kind, "config_class"):
        known = [known for known in dir(transformers) if known.endswith(("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForImageClassification"))]
        raise SpecError(
            "model.name", f"transformers has no model {name!r}.", nearest(name, known, listed=["GPT2LMHeadModel", "BertForMaskedLM", "..."])
        )
    from_data: dict[str, int] = {}
    try:
        usual = kind.config_class()
        known_by = {**getattr(usual, "attribute_map", {})}
        refuse_unknown_arguments("model", name, arguments, sorted({*usual.to_dict(), *known_by}))
        given = {known_by.get(option, option) for option in arguments}
        from_data = {option: size for option, size in _from_data(usual, dataset).items() if known_by.get(option, option) not in given}
        config = kind.config_class(**{**from_data, **_tokens_beyond(usual, {**from_data, **arguments}), **arguments})
        config.use_cache = False  # of generation: it would hold every layer's keys and values
        _take_no_token_for_padding(kind, config, dataset, arguments)
        _give_positions(kind, config, dataset, arguments)
        model: nn.Module = kind(config)
    except SpecError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise cannot_be_built(name, from_data, arguments, str(error)) from error
    return model


def _from_data(config: Any, dataset: Dataset) -> dict[str, int]:
    """The sizes that follow from the data, by the configuration's own names for them."""
    sizes = {
        "vocab_size": dataset.for_model.get("vocabulary_size"),
        "max_position_embeddings": dataset.sequence_length,
        "num_labels": dataset.num_classes or dataset.for_model.get("num_outputs"),
        "num_channels": dataset.input_shape[0] if len(dataset.input_shape) == 3 else None,
        "image_size": dataset.input_shape[-1] if len(dataset.input_shape) == 3 else None,
    }
    return {option: size for option, size in sizes.items() if size is not None and hasattr(config, option)}


def _give_positions(kind: Any, config: Any, dataset: Dataset, arguments: Mapping[str, Any]) -> None:
    """Let a configuration have a position for each token of a sequence. Raises: SpecError where it was given fewer."""
    length, positions = dataset.sequence_length, getattr(config, "max_position_embeddings", None)
    if length is None or not isinstance(positions, int):
        return
    # RoBERTa's kin count positions from behind the one that stands for padding.
    needed = length + max((behind + 1 for behind in _padded_positions(kind, config)), default=0)
    known_by = {"max_position_embeddings": "max_position_embeddings", **config.attribute_map}
    given = next((option for option in arguments if known_by.get(option, option) == known_by["max_position_embeddings"]), None)
    if given is None:
        config.max_position_embeddings = max(positions, needed)
    elif positions < needed:
        also = f", and {needed - length} more stand for padding" if needed > length else ""
        hint = f"Give at least {needed}, leave it out, or cut the data into shorter sequences (dataset.sequence_length)."
        raise SpecError(f"model.arguments.{given}", f"are {positions} positions, and a sequence has {length} tokens{also}.", hint)


def _padded_positions(kind: Any, config: Any) -> list[int]:
    """The positions that stand for padding, where a model's table of positions has one."""
    with torch.device("meta"):
        tables = [part for name, part in kind(config).named_modules() if name.endswith("position_embeddings") and isinstance(part, nn.Embedding)]
    return [part.padding_idx for part in tables if part.padding_idx is not None]


def _take_no_token_for_padding(kind: Any, config: Any, dataset: Dataset, arguments: Mapping[str, Any]) -> None:
    """Let every token of the data be one: a configuration's usual padding would stay a vector of zeros that never trains, without a word.

    Raises: SpecError where the model counts positions by its padding and therefore needs some.
    """
    token, size = getattr(config, "pad_token_id", None), dataset.for_model.get("vocabulary_size")
    if "pad_token_id" in arguments or size is None or token is None or not 0 <= token < size:
        return
    if _padded_positions(kind, config):
        problem = f"is not given: {kind.__name__} takes token {token} for padding, never trains it and counts positions without it."
        raise SpecError("model.arguments.pad_token_id", problem, f"Give the token that pads your data (arguments: {{pad_token_id: {token}}}).")
    config.pad_token_id = None


def _tokens_beyond(usual: Any, sizes: Mapping[str, Any]) -> dict[str, None]:
    """The special tokens of a configuration that the vocabulary does not hold, such as GPT-2's 50256: there are none of them."""
    size = sizes.get("vocab_size", math.inf)
    return {option: None for option, token in usual.to_dict().items() if option.endswith("_token_id") and isinstance(token, int) and token >= size}

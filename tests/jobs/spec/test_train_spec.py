"""TrainSpec: frozen, strict, and the same after being written and read again."""

import json
import re
from pathlib import Path
from typing import Any

import pydantic
import pytest

from largebatch.jobs.errors import SpecError
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.spec.read import build_spec, read_spec, recipe_paths
from largebatch.jobs.spec.train_spec import LearningRateSpec, TrainSpec
from largebatch.jobs.spec_base import Spec

DOCUMENT: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "batch": {"global_batch_size": "full", "schedule": {"growth": [{"epoch": 1, "factor": 0.5}]}},
    "optimizer": {"name": "sgd"},
    "learning_rate": {"base": 1, "decay": "step", "decay_milestones": [1, 2.5]},
    "stop": {"epochs": 3},
}


def every_part() -> list[type[Spec]]:
    found: list[type[Spec]] = []
    pending: list[type[Spec]] = [Spec]
    while pending:
        part = pending.pop()
        found.append(part)
        pending.extend(part.__subclasses__())
    return found


def test_it_cannot_be_changed() -> None:
    spec = build_spec(DOCUMENT)
    with pytest.raises(pydantic.ValidationError):
        spec.seed = 3  # type: ignore[misc]
    with pytest.raises(pydantic.ValidationError):
        spec.batch.global_batch_size = 3  # type: ignore[misc]


def test_a_whole_number_will_do_for_a_fraction_but_not_the_other_way() -> None:
    spec = build_spec(DOCUMENT)
    assert spec.learning_rate.base == 1.0
    assert spec.learning_rate.decay_milestones == (1.0, 2.5)
    with pytest.raises(ValueError, match="whole number"):
        build_spec({**DOCUMENT, "seed": 1.0})


def test_every_word_is_in_the_docs() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "spec.md").read_text()
    words = {word.rpartition(".")[2] for word in re.findall(r"`([a-z0-9_.]+)`", page)}
    missing = {
        f"{part.__name__}.{name}"
        for part in every_part()
        if part.__module__ == "largebatch.jobs.spec.train_spec"
        for name in part.model_fields
        if name not in words
    }
    assert missing == set()


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ({"decay_milestones": [1.0]}, "decay 'constant' does not read decay_milestones; it reads none of these options"),
        ({"decay": "cosine", "decay_power": 1.0}, "decay 'cosine' does not read decay_power; it reads final_fraction"),
        ({"decay": "polynomial", "decay_factor": 0.5}, "decay 'polynomial' does not read decay_factor; it reads decay_power and final_fraction"),
        ({"decay": "step", "decay_milestones": [1.0], "final_fraction": 0.1}, "decay 'step' does not read final_fraction"),
    ],
    ids=str,
)
def test_options_of_another_decay_are_refused(rate: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        build_spec({**DOCUMENT, "learning_rate": {"base": 1, **rate}})


def test_a_written_spec_holds_every_decay_option_and_is_read_again() -> None:
    for rate in ({}, {"decay": "cosine", "final_fraction": 0.1}, {"decay": "polynomial", "decay_power": 1.0}):
        spec = build_spec({**DOCUMENT, "learning_rate": {"base": 1, **rate}})
        written = spec.model_dump(mode="json")
        assert set(written["learning_rate"]) == set(LearningRateSpec.model_fields)
        assert build_spec(written) == spec


@pytest.mark.parametrize("recipe", recipe_paths())
def test_written_and_read_again_it_is_the_same(recipe: str) -> None:
    spec = read_spec(recipe)
    assert build_spec(json.loads(spec.model_dump_json())) == spec
    assert build_spec(spec.model_dump(mode="json")) == spec


def test_every_field_says_what_it_means() -> None:
    """Hints and the schema come from the descriptions; a section's is its class's docstring."""
    for part in every_part():
        assert part.__doc__
        for name, field in part.model_fields.items():
            is_section = any(other.__name__ in str(field.annotation) for other in every_part())
            assert field.description or is_section, f"{part.__name__}.{name}"
    TrainSpec.model_json_schema()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_the_options_of_the_named_optimizer_are_taken_and_written(name: str) -> None:
    own = OPTIMIZERS[name].model_fields
    assert set(build_spec({**DOCUMENT, "optimizer": {"name": name}}).model_dump()["optimizer"]) == set(own)
    for option, default in {option: field.default for config in OPTIMIZERS.values() for option, field in config.model_fields.items()}.items():
        document = {**DOCUMENT, "optimizer": {option: default, "name": name}}
        if option in own:
            build_spec(document)
        else:
            with pytest.raises(SpecError, match=f"optimizer: {name} does not read {option}; it reads"):
                build_spec(document)


@pytest.mark.parametrize(("name", "is_fine"), [("a-b_c.1", True), ("", False), (".hidden", False), ("a b", False), ("../up", False), ("a\n", False)])
def test_a_name_is_part_of_a_folder(name: str, is_fine: bool) -> None:
    if is_fine:
        assert build_spec({**DOCUMENT, "name": name}).name == name
    else:
        with pytest.raises(ValueError, match="name: may hold"):
            build_spec({**DOCUMENT, "name": name})

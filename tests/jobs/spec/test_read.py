"""From files, overrides and mappings to a spec. What is refused, and how, is in tests/end_to_end/test_bad_input.py."""

import io
import json
import os
import threading
from pathlib import Path

import pytest
from small_runs import document

from largebatch.jobs.errors import SpecError, nearest
from largebatch.jobs.optim.configs.registry import OPTIMIZERS
from largebatch.jobs.plan.train_plan import USUAL_NOISE_EVERY
from largebatch.jobs.spec.mistakes import OTHER_WORDS
from largebatch.jobs.spec.read import build_spec, entry_points, read_spec, recipe_paths, refuse_unlisted_entry_points
from largebatch.jobs.spec.train_spec import GradientSpec

YAML = """
dataset: {name: digits}
model: {name: mlp}
batch: {global_batch_size: 32}
optimizer: {name: sgd}
learning_rate: {base: 1e-3}
stop: {epochs: 1}
"""


def written(tmp_path: Path, text: str, name: str = "mine.yaml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 1e-3), ("1E3", 1e3), ("+2.5e2", 250.0), (".5e1", 5.0), ("1.e-1", 0.1), ("0.25", 0.25), ("3", 3.0)]
)
def test_numbers_are_numbers(tmp_path: Path, text: str, number: float) -> None:
    """YAML 1.1, which PyYAML follows, takes 1e-3 for text."""
    spec = read_spec(written(tmp_path, YAML.replace("1e-3", text)))
    assert spec.learning_rate.base == number
    assert read_spec("digits-lamb", [f"learning_rate.base={text}"]).learning_rate.base == number


def test_text_that_looks_like_a_number_can_be_quoted(tmp_path: Path) -> None:
    assert read_spec(written(tmp_path, YAML + "name: '1e3'\n")).name == "1e3"


@pytest.mark.parametrize(
    ("file", "name"),
    [("mine.yaml", "mine"), ("my recipe.yaml", "my-recipe"), (".hidden.yaml", "hidden"), ("é.yaml", "run"), ("-x.yaml", "x"), ("a.b.yaml", "a.b")],
)
def test_a_spec_is_named_after_its_file(tmp_path: Path, file: str, name: str) -> None:
    assert read_spec(written(tmp_path, YAML, file)).name == name


def test_json_and_yaml_are_the_same(tmp_path: Path) -> None:
    from_yaml = read_spec(written(tmp_path, YAML))
    from_json = read_spec(written(tmp_path, from_yaml.model_dump_json(), "mine.json"))
    assert from_json == from_yaml


def test_broken_json_says_where(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"is not JSON: .*line 1 column 7"):
        read_spec(written(tmp_path, '{"a": }', "mine.json"))


def test_defaults_may_be_merged_and_overridden(tmp_path: Path) -> None:
    text = YAML.replace("{global_batch_size: 32}", "&b {global_batch_size: 32, last: drop}")
    assert read_spec(written(tmp_path, text)).batch.last == "drop"
    merged = text.replace("batch: &b {global_batch_size: 32, last: drop}", "batch: {<<: {global_batch_size: 32, last: drop}, global_batch_size: 64}")
    batch = read_spec(written(tmp_path, merged)).batch
    assert (batch.global_batch_size, batch.last) == (64, "drop")


def test_a_key_given_twice_deep_inside_says_where(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"line 4, column 32: key 'global_batch_size' is given twice"):
        read_spec(written(tmp_path, YAML.replace("size: 32}", "size: 32, global_batch_size: 64}")))


def test_overrides_reach_anywhere_and_the_last_wins() -> None:
    spec = read_spec(
        "digits-lamb",
        ["batch.global_batch_size=512", "batch.global_batch_size=full", "model.arguments.width=7", "ema.decay=0.5", "checkpoint.every_seconds=null"],
    )
    assert (spec.batch.global_batch_size, spec.model.arguments["width"], spec.ema.decay) == ("full", 7, 0.5)
    assert spec.checkpoint.every_seconds is None


@pytest.mark.parametrize("other", ["lamb", "adamw", "lion"])
def test_another_optimizer_forgets_the_defaults_of_the_recipes_own(other: str) -> None:
    options = {"momentum": 0.9, "nesterov": False, "weight_decay": 0.1}
    recipe = json.dumps({**json.loads(read_spec("digits-lamb").model_dump_json()), "optimizer": {"name": "sgd", **options}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECIPE", recipe)
        spec = read_spec("env:RECIPE", [f"optimizer.name={other}"])
    assert (spec.optimizer.name, spec.optimizer.weight_decay) == (other, 0.1)


def test_the_defaults_that_are_forgotten_are_the_recipes_optimizers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.9 is sgd's default and not muon's; a default of muon's may be a whole optimizer."""
    document = json.loads(read_spec("digits-lamb").model_dump_json())
    for name, optimizer in (("sgd", {"name": "sgd", "momentum": 0.9}), ("muon", json.loads(OPTIMIZERS["muon"](name="muon").model_dump_json()))):
        monkeypatch.setenv("RECIPE", json.dumps({**document, "optimizer": optimizer}))
        assert read_spec("env:RECIPE", ["optimizer.name=lamb"]).optimizer == OPTIMIZERS["lamb"](name="lamb"), name


def test_another_optimizer_does_not_forget_what_somebody_chose(tmp_path: Path) -> None:
    chosen = written(tmp_path, YAML.replace("{name: sgd}", "{name: sgd, momentum: 0.95}"))
    assert read_spec(chosen, ["optimizer.name=lars"]).optimizer.momentum == 0.95  # it reads it, too
    with pytest.raises(SpecError, match=r"lamb does not read momentum, which the recipe sets to 0\.95.*--set 'optimizer=\{name: lamb\}'"):
        read_spec(chosen, ["optimizer.name=lamb"])
    assert read_spec(chosen, ["optimizer={name: lamb}"]).optimizer.name == "lamb"
    with pytest.raises(SpecError, match="lamb does not read momentum; it reads"):
        read_spec(chosen, ["optimizer.name=lamb", "optimizer.momentum=0.9"])


def test_another_task_than_ones_own_is_given_whole(tmp_path: Path) -> None:
    own = written(tmp_path, f"{YAML}\ntask: {{entry_point: 'mine:build'}}\n")
    with pytest.raises(SpecError, match=r"task.entry_point says mine:build, a task of your own; .*: --set 'task=\{name: multi-label\}'"):
        read_spec(own, ["task.name=multi-label"])
    assert read_spec(own, ["task={name: multi-label}"]).task.name == "multi-label"


@pytest.mark.parametrize("amount", ["0", "-3", "0.0", "1.0", "1.5", ".nan"])
def test_a_validation_part_without_samples_or_beyond_all_is_refused_in_one_sentence(amount: str) -> None:
    words = r"must be a number of training samples from 1 on, or a fraction of them between 0 and 1, not .*; leave it out to hold out none"
    with pytest.raises(SpecError, match=words):
        read_spec("digits-lamb", [f"dataset.validation={amount}"])


def test_a_target_in_accuracy_replaces_one_in_another_metric_and_the_other_way_round(tmp_path: Path) -> None:
    spec = read_spec("tiny-gpt", ["stop.target_accuracy=0.5"])
    assert (spec.stop.target, spec.stop.target_accuracy) == (None, 0.5)
    other = read_spec("digits-lamb", ["stop.target.metric=loss", "stop.target.value=0.1"])
    assert (other.stop.target_metric, other.stop.target_accuracy) == ("loss", None)
    with pytest.raises(SpecError, match="give one of target and target_accuracy"):
        read_spec("tiny-gpt", ["stop.target_accuracy=0.5", "stop.target.value=1"])


def test_a_batch_in_tokens_replaces_the_one_in_samples(tmp_path: Path) -> None:
    spec = read_spec("tiny-gpt", ["batch.global_batch_tokens=16384"])
    assert (spec.batch.global_batch_size, spec.batch.global_batch_tokens) == (None, 16384)
    recipe = tmp_path / "mine.json"
    recipe.write_text(spec.model_dump_json())
    assert read_spec(str(recipe), ["batch.global_batch_size=full"]).batch.global_batch_tokens is None
    with pytest.raises(SpecError, match="exactly one of"):
        read_spec("tiny-gpt", ["batch.global_batch_tokens=16384", "batch.global_batch_size=8"])


def test_what_a_terminal_that_knows_ascii_alone_hands_over_is_read() -> None:
    typed = "größe".encode().decode("ascii", "surrogateescape")
    assert read_spec("digits-lamb", [f"name={typed}"]).name == "größe"
    with pytest.raises(SpecError, match="cannot be written"):
        read_spec("digits-lamb", ["name=gr\udcf6"])


def test_standard_input_and_pipes_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(YAML.encode())))
    assert read_spec("-").name == "run"
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(YAML,))
    writer.start()
    assert read_spec(str(pipe)).batch.global_batch_size == 32
    writer.join()


def test_the_words_say_how_often_noise_is_measured() -> None:
    described = GradientSpec.model_fields["noise_every_steps"].description or ""
    assert f"else {USUAL_NOISE_EVERY}." in " ".join(described.split())
    assert f"else every {USUAL_NOISE_EVERY};" in (Path(__file__).resolve().parents[3] / "docs" / "spec.md").read_text()


def test_overrides_can_hold_lists_mappings_and_equals_signs() -> None:
    spec = read_spec("digits-lamb", ["learning_rate.decay=step", "learning_rate.decay_milestones=[1, 2]", "description=a=b", "ema={decay: 0.9}"])
    assert spec.learning_rate.decay_milestones == (1, 2)
    assert spec.description == "a=b"
    assert spec.ema is not None


def test_a_file_comes_before_a_recipe_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, YAML, "digits-lamb")
    assert read_spec("digits-lamb").optimizer.name == "sgd"


def test_the_first_mistake_is_an_unknown_key() -> None:
    """A typo leaves its field missing too; the typo is what to say."""
    with pytest.raises(SpecError) as refused:
        build_spec({"dataset": {"nam": "digits"}, "seed": "x"})
    assert (refused.value.field, refused.value.hint) == ("dataset.nam", "Did you mean name?")


def test_mistakes_are_three_parts_of_one_line() -> None:
    with pytest.raises(SpecError) as refused:
        build_spec({**json.loads(read_spec("digits-lamb").model_dump_json()), "precision": "float16"})
    assert (refused.value.field, refused.value.problem) == ("precision", 'must be "float32" or "bfloat16", not "float16".')
    assert refused.value.hint == "Did you mean bfloat16 or float32?"
    assert str(refused.value) == " ".join(refused.value.args).replace("precision", "precision:", 1)
    assert SpecError("f", "two\nlines", "and\n more").args == ("f", "two lines", "and more")


def test_a_value_that_cannot_be_shown_is_still_refused() -> None:
    circle: list[object] = []
    circle.append(circle)
    for value, kind in ((circle, "list"), (10**5000, "int"), ({(1, 2): 3}, "dict")):
        with pytest.raises(SpecError, match=f"^precision: must be .*, not a {kind} that cannot be shown"):
            build_spec({**json.loads(read_spec("digits-lamb").model_dump_json()), "precision": value})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("nesterov", "optimizer.nesterov"),
        ("steps", "stop.steps"),
        ("stop.epoch", "epochs"),
        ("stop.target", "stop.target_accuracy"),
        ("warmup", "learning_rate.warmup_epochs"),
        ("grad_clip", "gradient.clip_norm"),
        ("optimizer.lr", "learning_rate.base"),
        ("optimizer.learning_rate", "learning_rate.base"),
        ("batch.size", "batch.global_batch_size"),
        ("model.width", "model.arguments.width"),
        ("model.nmae", "name"),
        ("output_dir", "the option --output-dir"),
        ("seeed", "seed"),
    ],
)
def test_an_unknown_key_leads_to_the_one_that_is_meant(key: str, meant: str) -> None:
    with pytest.raises(SpecError) as refused:
        read_spec("digits-small-batch", [f"{key}=1"])
    assert refused.value.field == key
    assert refused.value.hint.lower().endswith(f"did you mean {meant}?")


def test_every_word_of_other_programs_leads_to_a_field_of_ours() -> None:
    document = read_spec("digits-small-batch").model_dump()
    for meant in OTHER_WORDS.values():
        if not meant.startswith("the option"):
            for field in meant.split(" and "):
                section, _, key = field.partition("=")[0].partition(".")
                assert section in document, field
                assert not key or key in {
                    *(document[section] or {}),
                    *(option for config in OPTIMIZERS.values() for option in config.model_fields),
                }, field


def test_nearest() -> None:
    assert nearest("widht", ["width", "depth"]) == "Did you mean width?"
    assert nearest("zzz", ["width", "depth"]) == "Known: depth, width."
    assert nearest("zzz", ["width", "depth"], ["few"]) == "Known: few."


class TestEntryPoints:
    SPEC = build_spec(document(dataset={"entry_point": "mine:load"}, model={"entry_point": "mine:build"}))

    def test_they_are_found(self) -> None:
        assert entry_points(self.SPEC) == {"dataset.entry_point": "mine:load", "model.entry_point": "mine:build"}
        assert entry_points(read_spec("digits-lamb")) == {}

    def test_listed_ones_may_run(self) -> None:
        refuse_unlisted_entry_points(self.SPEC, {"mine:load", "mine:build", "other:f"})
        refuse_unlisted_entry_points(read_spec("digits-lamb"), ())

    @pytest.mark.parametrize(
        ("allowed", "field"),
        [
            ((), "dataset.entry_point"),
            (("mine:load",), "model.entry_point"),
            (("mine:build",), "dataset.entry_point"),
            (("mine",), "dataset.entry_point"),
        ],
    )
    def test_others_are_refused(self, allowed: tuple[str, ...], field: str) -> None:
        with pytest.raises(SpecError) as refused:
            refuse_unlisted_entry_points(self.SPEC, allowed)
        assert refused.value.field == field
        assert f"Allowed: {', '.join(allowed) or 'none'}." in refused.value.hint
        named = {reference for reference in ("mine:load", "mine:build") if reference not in allowed}
        assert all(repr(reference) in refused.value.problem for reference in named), "all at once"
        assert set(refused.value.hint.split("largebatch serve ")[1].split()) == {"--entry-point", *named}


def test_every_recipe_is_found() -> None:
    assert len(recipe_paths()) >= 10
    for name, path in recipe_paths().items():
        assert path.stem == name
        assert read_spec(name).name == name

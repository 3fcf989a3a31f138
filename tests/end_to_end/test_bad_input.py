"""One table of mistakes, tried through both doors: one sentence, exit code 2, nothing written."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from small_runs import document

from largebatch.jobs.__main__ import main as jobs_main
from largebatch.service.cli.main import main as largebatch_main

Door = Callable[[list[str]], int]


def through_largebatch(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["largebatch", "train", *arguments])
        with pytest.raises(SystemExit) as ended:
            largebatch_main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


DOORS: dict[str, Door] = {"largebatch": through_largebatch, "python-m-jobs": jobs_main}

SPEC = document(name="small", dataset={"name": "digits"}, batch={"global_batch_size": 256}, learning_rate={"base": 0.1}, stop={"steps": 2})


class Mistake(NamedTuple):
    """A spec (whole sections replaced, or the file's text) or arguments, and what the sentence must hold."""

    field: str
    problem: str
    hint: str = ""
    parts: dict[str, Any] = {}  # noqa: RUF012
    text: str | None = None
    arguments: tuple[str, ...] = ()
    recipe: str | None = None
    """Given in place of the file; "": none at all."""


def of(field: str, problem: str, hint: str = "", **parts: Any) -> Mistake:
    return Mistake(field, problem, hint, parts)


WITH_NORM = {"name": "mlp", "arguments": {"batch_norm": True}}
MISTAKES: dict[str, Mistake] = {
    # ---- keys and types
    "unknown section": of("bacth", "is not a known key", "Did you mean batch or batch_norm?", bacth={}),
    "unknown key": of("batch.global_batch_sise", "is not a known key", "Did you mean global_batch_size", batch={"global_batch_sise": 3}),
    "unknown key in a list": of(
        "batch.schedule.growth.0.facter",
        "is not a known key",
        "Did you mean factor",
        batch={"global_batch_size": 9, "schedule": {"growth": [{"epoch": 1, "facter": 2}]}},
    ),
    "unknown key comes first": of("batch.micro", "is not a known key", "micro_batch_size", batch={"micro": 3}, stop={"steps": "x"}),
    "missing key": of("learning_rate.base", "is missing", "The rate that was tuned", learning_rate={}),
    "no batch": of("batch", "give exactly one of global_batch_size and global_batch_tokens", batch={}),
    "tokens of what has none": of(
        "batch.global_batch_tokens", "do not count in tokens", "batch.global_batch_size", batch={"global_batch_tokens": 64}
    ),
    "text for a number": of("batch.global_batch_size", 'whole number or "full", not "many"', "Samples per", batch={"global_batch_size": "many"}),
    "true for a number": of("batch.global_batch_size", "whole number", "not true", batch={"global_batch_size": True}),
    "fraction for a count": of("stop.steps", "a whole number, not 1.5", "Optimizer steps", stop={"steps": 1.5}),
    "text for a rate": of("learning_rate.base", 'a number, not "fast"', "The rate that was tuned", learning_rate={"base": "fast"}),
    "number for a switch": of("compile", "true or false, not 1", "torch.compile", compile=1),
    "number for a text": of("dataset.name", "text", "digits, mnist", dataset={"name": 5}),
    "text for a section": of("batch", 'a mapping of keys to values, not "x"', batch="x"),
    "null for a section": of("optimizer", "a mapping of keys to values, not null", optimizer=None),
    "list for a number": of("batch.global_batch_size", "not [[1]]", "Samples per", batch={"global_batch_size": [[1]]}),
    "list in a list": of(
        "learning_rate.decay_milestones.0", "must be a number, not [1]", learning_rate={"base": 0.1, "decay": "step", "decay_milestones": [[1], 2]}
    ),
    "number for a list": of("learning_rate.decay_milestones", "must be a list, not 3", "epochs", learning_rate={"base": 0.1, "decay_milestones": 3}),
    # ---- values
    "batch of 0": of("batch.global_batch_size", 'above 0 or "full", not 0', "Samples per", batch={"global_batch_size": 0}),
    "batch above the set": of(
        "batch.global_batch_size", "5000 is more than the 1437 samples", "The largest is 1437", batch={"global_batch_size": 5000}
    ),
    "micro-batch by name": of(
        "batch.micro_batch_size", 'whole number or "auto", not "big"', "one forward pass", batch={"global_batch_size": 8, "micro_batch_size": "big"}
    ),
    "span of 1": of("batch_norm.span", 'at least 2 or "auto" or "global", not 1', "share statistics", batch_norm={"span": 1}),
    "span that does not divide": of(
        "batch_norm.span",
        "100 does not divide global_batch_size 256",
        "64 or 128. Nearest batches: 200 or 300",
        model=WITH_NORM,
        batch_norm={"span": 100},
    ),
    "target in percent": of("stop.target_accuracy", "at most 1.0, not 99", "Write 0.99 for 99 %.", stop={"steps": 2, "target_accuracy": 99}),
    "target of 0": of("stop.target_accuracy", "above 0, not 0", "as a fraction", stop={"steps": 2, "target_accuracy": 0}),
    "no horizon": of("stop", "give epochs or steps", stop={}),
    "infinite rate": Mistake("learning_rate.base", "a finite number", "The rate that was tuned", arguments=("--set", "learning_rate.base=.inf")),
    "infinite epochs": Mistake("stop.epochs", "a finite number", "Passes over", arguments=("--set", "stop.epochs=.inf")),
    "rate that is no number": Mistake("learning_rate.base", "not NaN", "The rate that was tuned", arguments=("--set", "learning_rate.base=.nan")),
    "negative seed": Mistake("seed", "at least 0, not -1", "Draws initial weights", arguments=("--set", "seed=-1")),
    "name with a slash": of("name", "may hold letters", name="a/b"),
    "name like an option": of("name", "not begin with '.' or '-'", name="-x"),
    "name too long for a folder": of("name", "has 300 bytes", "at most 100", name="a" * 300),
    "name of long letters": of("name", "has 102 bytes", "at most 100", name="漢" * 34),
    "number that YAML 1.1 takes for octal": of("batch.global_batch_size", 'a whole number or "full", not "010"', batch={"global_batch_size": "010"}),
    # ---- names
    "unknown optimizer": of("optimizer.name", 'must be "sgd", "adamw", "lars", "lamb", ', "Did you mean lars", optimizer={"name": "lasr"}),
    "unknown model": of("model.name", "'resnet8' is not a model", "resnet9", model={"name": "resnet8"}),
    "model like no other": of("model.name", "'xyzzy' is not a model", "Known: mlp, transformer", model={"name": "xyzzy"}),
    "unknown data set": of("dataset.name", "'cifar' is not a data set", "Did you mean cifar10", dataset={"name": "cifar"}),
    "option of another optimizer": of("optimizer", "sgd does not read beta1", "it reads", optimizer={"name": "sgd", "beta1": 0.9}),
    "momentum and its half-life": of(
        "optimizer",
        "give one of momentum and momentum_half_life_samples",
        optimizer={"name": "sgd", "momentum": 0.9, "momentum_half_life_samples": 4096.0},
    ),
    "two half-lives of one": of(
        "optimizer",
        "give one of beta2_half_life_samples and beta2_half_life_tokens",
        optimizer={"name": "adamw", "beta2_half_life_samples": 9.0, "beta2_half_life_tokens": 9.0},
    ),
    "momentum and its half-life of muon's other rule": of(
        "optimizer.other",
        "give one of beta1 and beta1_half_life_samples",
        optimizer={"name": "muon", "other": {"name": "adamw", "beta1": 0.9, "beta1_half_life_samples": 9.0}},
    ),
    "half-life of nothing": of("optimizer.momentum_half_life_samples", "must be above 0", optimizer={"name": "sgd", "momentum_half_life_samples": 0}),
    "endless half-life": of(
        "optimizer.beta2_half_life_samples",
        "more than 200,000 steps",
        "at most 5.12e+07",
        optimizer={"name": "adamw", "beta2_half_life_samples": 1e9},
    ),
    "half-life in tokens of what has none": of(
        "optimizer.momentum_half_life_tokens",
        "do not count in tokens",
        "Give optimizer.momentum_half_life_samples",
        optimizer={"name": "sgd", "momentum_half_life_tokens": 4096.0},
    ),
    "half-life under a schedule-free optimizer": of(
        "optimizer",
        "schedule-free-sgd does not read momentum_half_life_samples",
        optimizer={"name": "schedule-free-sgd", "momentum_half_life_samples": 9.0},
    ),
    "half-life of an optimizer of one's own": of(
        "optimizer",
        "own (torch.optim:NAdam) does not read beta1_half_life_samples",
        optimizer={"name": "own", "entry_point": "torch.optim:NAdam", "beta1_half_life_samples": 9.0},
    ),
    "weight decay and its time scale": of(
        "optimizer",
        "give one of weight_decay and weight_decay_time_scale",
        optimizer={"name": "adamw", "weight_decay": 0.1, "weight_decay_time_scale": 0.3},
    ),
    "time scale of a decay that is coupled": of(
        "optimizer",
        "sgd does not read weight_decay_time_scale",
        "for decoupled weight decay, and read by adamw, lion, muon, shampoo, soap.",
        optimizer={"name": "sgd", "weight_decay_time_scale": 0.3},
    ),
    "time scale of the other one of two rules": of(
        "optimizer.other",
        "lamb does not read weight_decay_time_scale",
        "for decoupled weight decay, and read by adamw.",
        optimizer={"name": "muon", "other": {"name": "lamb", "weight_decay_time_scale": 0.3}},
    ),
    "time scale below a step": of(
        "optimizer.weight_decay_time_scale",
        "no more than a step of 256",
        "more than 0.5",
        optimizer={"name": "adamw", "weight_decay_time_scale": 0.01},
    ),
    "nesterov without momentum": of("optimizer", "nesterov needs a momentum", optimizer={"name": "sgd", "nesterov": True, "momentum": 0.0}),
    "name and entry point": of("model", "exactly one of name and entry_point", model={"name": "mlp", "entry_point": "a:b"}),
    "neither": of("dataset", "exactly one of name and entry_point", dataset={}),
    "argument of no model": of(
        "model.arguments.widht", "is not a known key", "Did you mean width?", model={"name": "mlp", "arguments": {"widht": 3}}
    ),
    "argument of the wrong type": of("model.arguments", "mlp cannot be built", model={"name": "mlp", "arguments": {"width": "wide"}}),
    "argument of no data set": of(
        "dataset.arguments.size", "is not a known key", "digits takes no arguments", dataset={"name": "digits", "arguments": {"size": 3}}
    ),
    "model for larger images": of("model.name", "keskar-c2 needs images of at least 32x32, not 8x8", "Try lenet", model={"name": "keskar-c2"}),
    "entry point of no form": of("model.entry_point", "'mine' is not of the form", "Example: my_model:build", model={"entry_point": "mine"}),
    "entry point of no module": of(
        "model.entry_point", "module 'no_such_module' is not found", "Run from the folder", model={"entry_point": "no_such_module:f"}
    ),
    # ---- fields that need each other
    "scaling without a base": of("learning_rate", "scaling 'linear' needs base_global_batch_size", learning_rate={"base": 0.1, "scaling": "linear"}),
    "steps without milestones": of("learning_rate", "needs decay_milestones", learning_rate={"base": 0.1, "decay": "step"}),
    "fractions of some milestones": of(
        "learning_rate",
        "one number for each of decay_milestones, not 1 for 2",
        learning_rate={"base": 0.1, "decay": "step", "decay_milestones": [0, 1], "decay_fractions": [0.5]},
    ),
    "factor and fractions": of(
        "learning_rate",
        "give one of decay_factor and decay_fractions",
        learning_rate={"base": 0.1, "decay": "step", "decay_milestones": [1], "decay_fractions": [0.5], "decay_factor": 0.2},
    ),
    "fall at the start": of(
        "learning_rate", "to begin low, give decay_fractions", learning_rate={"base": 0.1, "decay": "step", "decay_milestones": [0, 1]}
    ),
    "fractions under cosine": of(
        "learning_rate", "'cosine' does not read decay_fractions", learning_rate={"base": 0.1, "decay": "cosine", "decay_fractions": [0.5]}
    ),
    "batch that follows fractions": of(
        "batch.schedule.follows_rate",
        "may begin below the peak and rise",
        "Give decay_factor",
        batch={"global_batch_size": 16, "schedule": {"follows_rate": {"largest_factor": 4}}},
        learning_rate={"base": 0.1, "decay": "step", "decay_milestones": [0, 1], "decay_fractions": [0.5, 0.1]},
        stop={"epochs": 2},
    ),
    "growth out of order": of(
        "batch.schedule",
        "rising order",
        batch={"global_batch_size": 9, "schedule": {"growth": [{"epoch": 2, "factor": 2}, {"epoch": 1, "factor": 3}]}},
    ),
    "growth above the set": of(
        "batch.schedule.growth",
        "would grow to 25600",
        "The largest factor is 5.6",
        batch={"global_batch_size": 256, "schedule": {"growth": [{"epoch": 1, "factor": 100}]}},
    ),
    "growth to less than a sample": of(
        "batch.schedule.growth",
        "would shrink to 0.256 samples",
        "The smallest factor is 0.0039",
        batch={"global_batch_size": 256, "schedule": {"growth": [{"epoch": 1, "factor": 0.001}]}},
    ),
    "doubled above the set": of(
        "batch.schedule.doubling",
        "would grow to 2048",
        "It may double at most 2 times: doubling.times=2",
        batch={"global_batch_size": 256, "schedule": {"doubling": {"epoch": 1, "times": 5}}},
    ),
    "a batch that follows a rate that does not fall": of(
        "batch.schedule.follows_rate",
        "nothing to follow: decay constant leaves 1 of the peak",
        "Choose a decay that falls",
        batch={"global_batch_size": 9, "schedule": {"follows_rate": {"largest_factor": 8}}},
    ),
    "growth in tokens of what has none": of(
        "batch.schedule.growth",
        "do not count in tokens",
        "in samples, or in epochs",
        batch={"global_batch_size": 9, "schedule": {"growth": [{"tokens": 1000, "factor": 8}]}},
    ),
    "growth in two units": of(
        "batch.schedule",
        "must all be told in the same unit",
        "give all in epoch, or all in samples",
        batch={"global_batch_size": 9, "schedule": {"growth": [{"epoch": 1, "factor": 8}, {"samples": 9000, "factor": 9}]}},
    ),
    "crop of images in memory": of(
        "dataset.augment.resized_crop", "is for image folders", "translate", dataset={"name": "digits", "augment": {"resized_crop": True}}
    ),
    # ---- the file
    "not YAML": Mistake("spec.yaml", "is not YAML at line 2, column 2", text="a: [1\nb: 2\n"),
    "key given twice": Mistake("spec.yaml", "line 3, column 1: key 'a' is given twice", text="a: 1\nb: 2\na: 3\n"),
    "code in YAML": Mistake("spec.yaml", "could not determine a constructor", text="a: !!python/object/apply:os.getcwd []\n"),
    "a list": Mistake("spec.yaml", "a recipe is a mapping", "largebatch recipes", text="- 1\n- 2\n"),
    "an empty file": Mistake("spec.yaml", "a recipe is a mapping", "largebatch recipes", text=""),
    "a binary file": Mistake("spec.yaml", "cannot be", text="a: \x00\n"),
    "a file without end": Mistake("/dev/zero", "is longer than 256 KiB", "No spec is", recipe="/dev/zero"),
    "no such recipe": Mistake("", "'digits-lam' is neither a file nor a recipe", "Did you mean digits-lamb", recipe="digits-lam"),
    "no such file": Mistake("", "'nowhere.yaml' is neither a file nor a recipe", "Known: bert-lamb-32k, ", recipe="nowhere.yaml"),
    "no such file, but one like it": Mistake("", "'sepc.yaml' is neither a file nor a recipe", "Did you mean spec.yaml?", recipe="sepc.yaml"),
    "a file without its ending": Mistake("", "'spec' is neither a file nor a recipe", "Did you mean spec.yaml?", recipe="spec"),
    "name of no possible file": Mistake("", "is neither a file nor a recipe", "Known: ", recipe="x" * 3000),
    "a folder": Mistake("", "is a folder, not a recipe", "--resume RUN_DIR", recipe="."),
    "no recipe": Mistake("", "is missing", "--resume RUN_DIR", recipe=""),
    # ---- arguments
    "override without =": Mistake("--set", "'seed' is not of the form key.sub=value", "Example: --set", arguments=("--set", "seed")),
    "override without a key": Mistake("--set", "'=3' is not of the form", "Example: --set", arguments=("--set", "=3")),
    "override that is no YAML": Mistake("--set seed", "is not YAML at line 1, column 2", arguments=("--set", "seed=[")),
    "override below a value": Mistake("--set", "seed holds a value, not keys", arguments=("--set", "seed=1", "--set", "seed.x=1")),
    "override by nothing": Mistake("seed", "a whole number, not null", "Draws initial", arguments=("--set", "seed=")),
    "unknown key in an override": Mistake("batch.size", "is not a known key", "global_batch_size", arguments=("--set", "batch.size=1")),
    "field under its common name": Mistake(
        "batch_size", "is not a known key", "Did you mean batch.global_batch_size?", arguments=("--set", "batch_size=32")
    ),
    "field without its section": Mistake("momentum", "is not a known key", "Did you mean optimizer.momentum?", arguments=("--set", "momentum=0.5")),
    "value in place of a section": Mistake(
        "batch", "a mapping of keys to values, not 32", "Did you mean batch.global_batch_size? Its keys: global", arguments=("--set", "batch=32")
    ),
    "name that is a number": Mistake("name", "must be text, not 123", "In quotes it is text", arguments=("--set", "name=123")),
    "unknown device": Mistake("--device", "'gpu' is not a device", "Choose auto, cpu or cuda", arguments=("--device", "gpu")),
    "resume of no run": Mistake("--resume", "is not a run's folder: it has no spec.json", "Give the folder", recipe="", arguments=("--resume", ".")),
    "resume of nothing": Mistake("--resume", "nowhere is not a run's folder", "Give the folder", recipe="", arguments=("--resume", "nowhere")),
    "resume and a recipe": Mistake("", "a resumed run has its", "Leave it out", arguments=("--resume", ".")),
    "output in a file": Mistake("--output-dir", "is a file, not a folder", "Give a folder", arguments=("--output-dir", "spec.yaml/runs")),
    # ---- data
    "MNIST that is not there": of(
        "--data-dir", "MNIST/raw/train-images-idx3-ubyte is missing and 3 more", "dataset.download=true", dataset={"name": "mnist"}
    ),
    "image folder that is not there": of("--data-dir", "train is not an image folder", "PATH/train/CLASS", dataset={"name": "image-folder"}),
    "synthetic set of none": of(
        "dataset.arguments.num_train", "a whole number above 0, not 0", dataset={"name": "synthetic", "arguments": {"num_train": 0}}
    ),
}


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # entry points put the current folder there


def refused(door: Door, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a refusal; everything that must hold of any refusal is checked here."""
    Path("runs").mkdir(exist_ok=True)
    before = tree(Path())
    code = door(arguments)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert tree(Path()) == before, "a refusal wrote something"
    return err


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(mistake: Mistake, door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    text = json.dumps({**SPEC, **mistake.parts}) if mistake.text is None else mistake.text
    Path("spec.yaml").write_text(text)
    recipe = "spec.yaml" if mistake.recipe is None else mistake.recipe
    device = [] if "--device" in mistake.arguments else ["--device", "cpu"]
    sentence = refused(door, [*([recipe] if recipe else []), *device, *mistake.arguments], capsys)
    kind, _, rest = sentence.partition(": ")
    assert kind in {"SpecError", "PlanError", "DataError", "InputError", "CheckpointError"}
    assert rest.startswith(mistake.field)
    assert mistake.problem in rest
    assert mistake.hint in rest
    # Nobody reads past a screen line or five: even lists of names stay short.
    assert len(rest) < 600 or mistake.recipe == "x" * 3000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_cuda_that_is_not_there(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(door, ["digits-lamb", "--device", "cuda"], capsys)
    assert "--device: cuda is not there" in sentence
    assert "--device cpu or auto" in sentence


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_an_output_folder_that_refuses(door: Door, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    Path("runs").mkdir()
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: None if path == Path("runs") else refuse(path))
    sentence = refused(door, ["digits-lamb", "--device", "cpu"], capsys)
    assert "--output-dir: " in sentence
    assert "cannot be written (Permission denied)" in sentence
    assert "Give another --output-dir." in sentence


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_a_spec_without_mistakes_is_not_refused(door: Door, capsys: pytest.CaptureFixture[str]) -> None:
    """Without this, a door that refuses everything would pass all of the above."""
    Path("spec.yaml").write_text(json.dumps(SPEC))
    assert door(["spec.yaml", "--device", "cpu"]) == 0, capsys.readouterr().err
    assert len(list(Path("runs").glob("small-*/summary.json"))) == 1

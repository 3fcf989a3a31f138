"""Several ranks are one process: the same samples in every step, the same losses, the same parameters.

Ranks add their parts of a sum in another order than one process does, so the last bits differ: a sum of n float32
terms in any order is off by at most n 2^-24 sum |terms| (Higham, 4.4), and what one step rounds the later ones carry
on. Two micro-batches in one process differ for the same reason; their distance after the same steps is the yardstick.

The networks are smooth. Where a ReLU's input is within rounding of zero, the last bit decides whether a sample takes part
in that unit's gradient: on one kind of processor a single such sample moved the parameters by 2e-3, in one process too.
"""

import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import small_runs
import torch
from small_runs import ROOT, distance, losses, parameters, same, starts
from torch.nn import functional

from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import EvalRecord, NoticeRecord, StepRecord

HERE = Path(__file__).parent
STEPS, INTO_THE_THIRD_EPOCH, LONG, BATCH = 7, 15, 50, 250  # digits has 1437 training samples: five steps of 250 and one of 187 an epoch
WORLDS = (2, 3)
BY_TWO = ("sgd", "batch-norm", "norms-at-average", "tokens", "pairs", "lion", "muon", "unreached")
"""The cases that two ranks train in the ordinary run, for other tests look at them; in `make slow` two train the others as well."""
OFTEN = (*BY_TWO, "lamb", "dropout", "growing-batch", "batch-follows-rate", "two-phases", "denoising", "laid-out", "hooked")
"""The cases that are trained in the ordinary run: one for each way in which the ranks' parts of a step may differ."""
PATIENCE_S = 180.0
"""For jobs that take some ten seconds on a free machine."""
MODEL = {"name": "mlp", "arguments": {"width": 24, "depth": 2, "activation": "gelu"}}
WITH_BATCH_NORM = {"name": "mlp", "arguments": {"width": 24, "depth": 2, "activation": "gelu", "batch_norm": True}}


def document(**parts: Any) -> dict[str, Any]:
    usual = {
        "dataset": {"name": "digits", "augment": {"translate": 1}},
        "model": MODEL,
        "batch": {"global_batch_size": BATCH, "micro_batch_size": 50},
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4},
        "learning_rate": {"base": 0.2, "warmup_epochs": 1.0, "decay": "cosine"},
        "stop": {"steps": STEPS},
        "checkpoint": {"every_steps": 5, "keep": 9, "every_seconds": None},
    }
    return small_runs.document(**{**usual, **parts})


def on_few(**parts: Any) -> dict[str, Any]:
    return document(batch={"global_batch_size": 50, "micro_batch_size": 10}, **parts)


IN_OWN_NORM = {"noise_norm": "optimizer", "noise_every_steps": 3}
EQUAL: dict[str, dict[str, Any]] = {
    "sgd": document(stop={"steps": LONG}),
    "lamb": document(optimizer={"name": "lamb", "weight_decay": 0.01}, learning_rate={"base": 0.005}, ema={"decay": 0.9}),
    "lion": document(
        optimizer={"name": "lion", "weight_decay": 0.1},
        learning_rate={"base": 0.002},
        model={"entry_point": "rank_strangers:in_float64"},
        gradient=IN_OWN_NORM,
    ),
    "rmsprop-sgd": document(
        optimizer={"name": "rmsprop-sgd", "weight_decay": 1e-4, "transition_epoch": 0.5, "transition_period_epochs": 1.0},
        learning_rate={"base": 0.1},
        model={"entry_point": "rank_strangers:in_float64"},
        stop={"steps": 11},  # beyond the transition
    ),
    "schedule-free": document(optimizer={"name": "schedule-free-sgd"}, learning_rate={"base": 0.2, "warmup_epochs": 1.0}),
    "norms-at-average": document(
        optimizer={"name": "schedule-free-sgd"},
        learning_rate={"base": 0.2, "warmup_epochs": 1.0},
        model=WITH_BATCH_NORM,
        batch_norm={"span": 25},
    ),
    "own-optimizer": document(optimizer={"entry_point": "torch.optim:NAdam"}, learning_rate={"base": 0.002}),
    # In float64, for muon rounds its matrices to bfloat16: what float32 adds up in another order is 2^-8 apart, then.
    "muon": document(
        optimizer={"name": "muon", "weight_decay": 0.01},
        learning_rate={"base": 0.01},
        model={"entry_point": "rank_strangers:in_float64"},
        gradient=IN_OWN_NORM,
    ),
    "lars-clipped": document(
        optimizer={"name": "lars", "weight_decay": 1e-4}, learning_rate={"base": 2.0, "warmup_epochs": 2.0}, gradient={"clip_norm": 1.0}
    ),
    "batch-norm": document(model=WITH_BATCH_NORM, batch_norm={"span": 25}),
    "batch-norm-last-steps": document(model=WITH_BATCH_NORM, batch_norm={"span": 25, "average_last_steps": 3}),
    "norms": document(model={"entry_point": "rank_strangers:Normalising"}, batch_norm={"span": 25}),
    "growing-batch": document(
        batch={"global_batch_size": 250, "micro_batch_size": 50, "schedule": {"growth": [{"epoch": 2.0, "factor": 2.5}]}},
        stop={"steps": INTO_THE_THIRD_EPOCH},
    ),
    "batch-follows-rate": document(  # 250, 500, and from the third epoch on 1000 samples, in groups of 25
        model=WITH_BATCH_NORM,
        batch_norm={"span": 25},
        batch={"global_batch_size": 250, "micro_batch_size": 50, "schedule": {"follows_rate": {"largest_factor": 4}}},
        learning_rate={"base": 0.1, "decay": "step", "decay_factor": 0.5, "decay_milestones": [1.0, 2.0, 3.0]},
        stop={"steps": INTO_THE_THIRD_EPOCH},
    ),
    "half-lives": document(
        optimizer={"name": "lamb", "beta1_half_life_samples": 1500.0, "beta2_half_life_samples": 20000.0, "weight_decay": 0.01},
        learning_rate={"base": 0.005},
        batch={"global_batch_size": 250, "micro_batch_size": 50, "schedule": {"growth": [{"epoch": 2.0, "factor": 2.5}]}},
        stop={"steps": INTO_THE_THIRD_EPOCH},
    ),
    "dropout": document(model={"entry_point": "rank_strangers:dropping"}),
    "unreached": document(model={"entry_point": "rank_strangers:branching"}, stop={"steps": INTO_THE_THIRD_EPOCH}),
    # 50 of 240 samples a step: sequences whose tokens count are very different in number, pairs that are all compared, noise of the samples' own.
    "tokens": on_few(
        task={"name": "language-modelling"},
        dataset={"entry_point": "own_tasks:documents", "arguments": {"num_train": 240}},
        model={"name": "transformer", "arguments": {"width": 16, "depth": 1, "num_heads": 2}},
        gradient={"noise_from": "norms", "noise_every_steps": 3},
    ),
    "two-phases": document(  # 5 steps of sequences that are cut, then 4 of whole ones in batches twice as large
        task={"name": "language-modelling"},
        dataset={"entry_point": "own_tasks:documents", "arguments": {"num_train": 240}},
        model={"name": "transformer", "arguments": {"width": 16, "depth": 1, "num_heads": 2, "dropout": 0.2}, "activation_checkpointing": True},
        batch={
            "global_batch_size": 50,
            "micro_batch_size": 10,
            "schedule": {"short_sequences": {"length": 4, "epochs": 1.0}, "growth": [{"epoch": 1.0, "factor": 2.0}]},
        },
        learning_rate={"base": 0.2, "decay": "cosine", "restart": {"epoch": 1.0, "base": 0.1, "warmup_epochs": 0.5}},
        stop={"steps": 9},
    ),
    "pairs": on_few(
        task={"name": "contrastive", "labels": True, "neighbours": 7, "references": 100},
        dataset={"entry_point": "own_tasks:views", "arguments": {"num_train": 240, "labelled": True}},
        model={"entry_point": "own_tasks:Towers"},
    ),
    "masked": on_few(  # of which padding is known, and attended by nothing
        task={"name": "masked-language-modelling", "mask_token": 8, "masked_fraction": 0.4},
        dataset={"entry_point": "own_tasks:documents", "arguments": {"num_train": 240, "padding_token": 0, "shift": 0}},
        model={"name": "transformer-encoder", "arguments": {"width": 16, "depth": 1, "num_heads": 2}},
    ),
    "regression": on_few(task={"name": "regression"}, dataset={"entry_point": "own_tasks:curve"}, model=MODEL),
    "sample-weights": on_few(
        task={"name": "classification", "sample_weights": True},
        dataset={"entry_point": "own_tasks:weighted"},
        model={"entry_point": "own_tasks:linear"},
    ),
    "soft-labels": on_few(
        task={"name": "classification", "soft_labels": True},
        dataset={"entry_point": "own_tasks:weighted", "arguments": {"kind": "shares"}},
        model=MODEL,
    ),
    "several-labels": on_few(
        task={"name": "multi-label"}, dataset={"entry_point": "own_tasks:weighted", "arguments": {"kind": "shares"}}, model=MODEL
    ),
    "denoising": on_few(
        task={"entry_point": "own_tasks:Denoise"},
        dataset={"entry_point": "own_tasks:pictures", "arguments": {"num_train": 240}},
        model={"entry_point": "own_tasks:Denoiser"},
    ),
    "frozen-and-groups": document(
        model={**WITH_BATCH_NORM, "freeze": ["1.*"]},
        batch_norm={"span": 25},
        optimizer={"name": "sgd", "weight_decay": 1e-4, "groups": [{"pattern": "*.weight", "learning_rate_factor": 0.5}]},
    ),
    "class-weights": document(task={"name": "classification", "class_weights": [1, 5, 1, 1, 0.2, 1, 1, 3, 1, 1]}),
    "hooked": document(model={"entry_point": "rank_strangers:hooked"}),
    "laid-out": document(
        model={"entry_point": "rank_strangers:LaidOut"},
        optimizer={"name": "adamw", "weight_decay": 0.01},
        learning_rate={"base": 0.003},
        ema={"decay": 0.9},
    ),
}
NARROW: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "model": {"entry_point": "rank_strangers:in_bfloat16"},
    "optimizer": {"name": "sgd", "momentum": 0.0},
    "learning_rate": {"base": 1.0},
    "gradient": {"noise_every_steps": 0},
    "stop": {"steps": 1},
}
ONE_LARGE: dict[str, Any] = {
    **NARROW,
    "task": {"name": "regression"},
    "dataset": {"entry_point": "rank_strangers:one_large_among_small"},
    "model": {"entry_point": "rank_strangers:linear_in_bfloat16"},
    "batch": {"global_batch_size": 4, "micro_batch_size": 1},
}
OTHERS: dict[str, dict[str, Any]] = {
    "bfloat16": document(reduction={"compression": "bfloat16"}, stop={"steps": LONG}),
    "powersgd": document(reduction={"compression": "powersgd", "powersgd_rank": 2}, stop={"steps": LONG}),
    "local-steps": document(reduction={"local_steps": 4, "local_from_epoch": 2.0}, stop={"steps": LONG}),
    "narrow": document(**NARROW, batch={"global_batch_size": 1400, "micro_batch_size": 1}),
    "differing": document(model={"entry_point": "rank_strangers:Differing"}, stop={"steps": 3}),
    "short-memory": document(model={"entry_point": "rank_strangers:out_of_memory", "arguments": {"fits": 30}}, stop={"steps": 3}),
    "roomy": document(model={"entry_point": "rank_strangers:out_of_memory"}, stop={"steps": 3}),
    "short-memory-in-evaluation": document(model={"entry_point": "rank_strangers:out_of_memory", "arguments": {"evaluates": 30}}, stop={"steps": 3}),
    "no-memory-in-evaluation": document(model={"entry_point": "rank_strangers:out_of_memory", "arguments": {"evaluates": 0}}, stop={"steps": 3}),
    # An epoch of two steps of 718 and one of a single sample, which one rank alone has.
    "local-steps-tail": document(
        batch={"global_batch_size": 718, "micro_batch_size": 359}, reduction={"local_steps": 4}, ema={"decay": 0.9}, stop={"steps": 8}
    ),
    "gap": document(dataset={"entry_point": "rank_strangers:with_a_gap"}),
    "diverging": document(learning_rate={"base": 1e9}),
    "failing": document(model={"entry_point": "rank_strangers:failing"}, stop={"steps": 3}),
    "extra-state": document(model={"entry_point": "rank_strangers:WithExtraState"}, stop={"steps": 3}),
    "idle": document(model={"name": "mlp", "arguments": {"batch_norm": True}}, batch_norm={"span": "global"}),
}


if find_spec("pytorch_optimizer"):
    # Along the longer side of a matrix soap's first gradient leaves some of its basis to rounding: that side has no factor here (decision 049).
    of_two = {"model": {"entry_point": "rank_strangers:in_float64"}}
    EQUAL["soap"] = document(optimizer={"name": "soap", "max_precondition_dim": 30}, learning_rate={"base": 0.003}, **of_two)
    EQUAL["shampoo"] = document(optimizer={"name": "shampoo"}, learning_rate={"base": 0.05}, **of_two)


def on_unlike_data(entry_point: str, kind: str, **options: Any) -> dict[str, Any]:
    return document(dataset={"entry_point": f"rank_strangers:{entry_point}", "arguments": {"kind": kind}, **options}, stop={"steps": 7})


UNLIKE: dict[str, dict[str, Any]] = {
    "order": on_unlike_data("held", "order", may_change=True),  # over time, not between ranks
    "length": on_unlike_data("held", "length"),
    "classes": on_unlike_data("held", "classes"),
    "augments": on_unlike_data("read", "augments"),
    "dies": on_unlike_data("read", "dies", num_workers=1),
}


class Job(NamedTuple):
    """One entry of what `ranks.py` is told."""

    run_dir: Path
    document: dict[str, Any]
    resumes: bool = False


class Ranks:
    """`ranks.py`, which imports torch once for all that it is told."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", HERE)))}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "ranks.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    def run(self, folder: Path, world_size: int, jobs: list[Job]) -> list[list[dict[str, Any]]]:
        """Every rank's summaries."""
        folder.mkdir(parents=True, exist_ok=True)
        for job in jobs:
            (job.run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        told = [{"run_dir": str(job.run_dir), "document": job.document, "resumes": job.resumes} for job in jobs]
        number = len(list(folder.iterdir()))
        answers = [Path(f"{folder}/answers-{number}.{rank}") for rank in range(world_size)]
        task = {"world_size": world_size, "meeting": f"{folder}/meeting-{number}", "answers": f"{folder}/answers-{number}", "jobs": told}
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(task), file=self._process.stdin, flush=True)
        assert select.select([self._process.stdout], [], [], PATIENCE_S)[0], "the ranks do not end"
        code = self._process.stdout.readline()
        assert code == "0\n", "\n".join(Path(f"{path}.errors").read_text()[-4000:] for path in answers)
        return [[json.loads(line) for line in path.read_text().splitlines()] for path in answers]

    def end(self) -> None:
        """With all the ranks that may still be there."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    started = Ranks()
    yield started
    started.end()


def in_parts(given: dict[str, Any], number: int) -> dict[str, Any]:
    """With a global batch in so many micro-batches."""
    return {**given, "batch": {**given["batch"], "micro_batch_size": given["batch"]["global_batch_size"] // number}}


@pytest.fixture(scope="module")
def folder(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case of OFTEN by one process, in two micro-batches and in one, and by three ranks; some by two."""
    made = tmp_path_factory.mktemp("ranks")
    train_each(ranks, made, OFTEN)
    ranks.run(made, 2, [Job(made / f"2-{name}", EQUAL[name]) for name in BY_TWO])
    return made


def train_each(ranks: Ranks, folder: Path, names: Iterable[str]) -> None:
    given = {name: EQUAL[name] for name in names}
    by_one = [Job(folder / f"1-{name}", each if name == "sgd" else in_parts(each, 2)) for name, each in given.items()]
    ranks.run(folder, 1, by_one + [Job(folder / f"other-{name}", in_parts(each, 1)) for name, each in given.items()])
    ranks.run(folder, 3, [Job(folder / f"3-{name}", each) for name, each in given.items()])


@pytest.fixture(scope="module")
def folder_of_all(ranks: Ranks, folder: Path) -> Path:
    """The same, with every case by every number of ranks."""
    train_each(ranks, folder, [name for name in EQUAL if name not in OFTEN])
    ranks.run(folder, 2, [Job(folder / f"2-{name}", given) for name, given in EQUAL.items() if name not in BY_TWO])
    return folder


def assert_ranks_are_one_process(folder: Path, case: str, world_size: int) -> None:
    one, many = folder / f"1-{case}", folder / f"{world_size}-{case}"
    yardstick = distance(parameters(one), parameters(folder / f"other-{case}"))
    assert yardstick < 1e-3
    assert (yardstick > 0) == (case != "lion"), "rounding tells runs apart, but where signs alone count"
    assert distance(parameters(one), parameters(many)) <= 10 * yardstick + 2.0**-20
    assert len(losses(many)) == EQUAL[case]["stop"]["steps"]
    assert losses(many)[0] == pytest.approx(losses(one)[0], rel=2.0**-20)
    assert losses(many) == pytest.approx(losses(one), rel=1e-3)


USUAL = [*((case, 3) for case in OFTEN), *((case, 2) for case in BY_TWO)]


@pytest.mark.parametrize(("case", "world_size"), USUAL)
def test_ranks_are_one_process(folder: Path, case: str, world_size: int) -> None:
    assert_ranks_are_one_process(folder, case, world_size)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "world_size"), [both for both in itertools.product(EQUAL, WORLDS) if both not in USUAL])
def test_ranks_are_one_process_in_every_case(folder_of_all: Path, case: str, world_size: int) -> None:
    assert_ranks_are_one_process(folder_of_all, case, world_size)


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("case", ["sgd", "norms-at-average"])
def test_every_evaluation_counts_every_sample_once(folder: Path, case: str, world_size: int) -> None:
    one, many = ([r for r in read_records(folder / f"{world}-{case}") if isinstance(r, EvalRecord)] for world in (1, world_size))
    assert [record.step for record in one] == [record.step for record in many]
    # 360 test samples: a prediction that flips in its last bit is one sample.
    assert [r.score for r in many] == pytest.approx([r.score for r in one], abs=1.5 / 360)
    assert [r.loss for r in many] == pytest.approx([r.loss for r in one], rel=1e-4)


@pytest.mark.parametrize("world_size", WORLDS)
def test_scores_of_pairs_are_of_all_ranks_pairs(folder: Path, world_size: int) -> None:
    one, many = ([r for r in read_records(folder / f"{world}-pairs") if isinstance(r, EvalRecord)] for world in (1, world_size))
    assert {"knn_accuracy", "recall_at_1", "recall_at_5", "batch_accuracy", "loss"} == set(one[0].scores)
    for mine, theirs in zip(one, many, strict=True):
        assert mine.score == mine.scores["knn_accuracy"]
        assert theirs.scores == pytest.approx(mine.scores, rel=1e-4, abs=1.5 / 32)  # one of 32 test samples in its last bit


def test_ranks_of_one_micro_batch_each_pass_pairs_once(ranks: Ranks, tmp_path: Path) -> None:
    pairs = EQUAL["pairs"] | {"batch": {"global_batch_size": 51, "micro_batch_size": 17}}
    ranks.run(tmp_path, 1, [Job(tmp_path / "one", pairs)])
    ranks.run(tmp_path, 3, [Job(tmp_path / "many", pairs | {"model": {"entry_point": "rank_strangers:OncePassed"}})])
    assert distance(parameters(tmp_path / "one"), parameters(tmp_path / "many")) <= 1e-5


def pairs_loss(kind: str, model: torch.nn.Module, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The mean over the whole batch, in one piece."""
    own, other, log_scale = model(first, second)
    own, other = functional.normalize(own, dim=1), functional.normalize(other, dim=1)
    number = len(own)
    if kind == "siglip":
        signs = 2 * torch.eye(number, dtype=own.dtype) - 1
        return functional.softplus(-signs * (own @ other.T * log_scale.exp())).sum() / number
    if kind == "clip":
        similarities, partners = own @ other.T * log_scale.exp(), torch.arange(number)
        return (functional.cross_entropy(similarities, partners) + functional.cross_entropy(similarities.T, partners)) / 2
    both = torch.cat([own, other])
    similarities = (both @ both.T * log_scale.exp()).masked_fill(torch.eye(2 * number, dtype=torch.bool), -torch.inf)
    return functional.cross_entropy(similarities, torch.arange(2 * number).roll(number))


def test_1024_pairs_in_micro_batches_of_16_on_three_ranks_are_one_batch(ranks: Ranks, tmp_path: Path) -> None:
    """One plain step at a rate of 1: what the weights moved by is the gradient, to the rounding of the weights."""
    documents = {
        kind: document(
            task={"name": "contrastive", "loss": kind},
            dataset={"entry_point": "own_tasks:views", "arguments": {"num_train": 1024}},
            model={"entry_point": "own_tasks:Towers"},
            batch={"global_batch_size": 1024, "micro_batch_size": 16},
            optimizer={"name": "sgd", "momentum": 0.0, "weight_decay": 0.0},
            learning_rate={"base": 1.0},
            stop={"steps": 1},
        )
        for kind in ("clip", "simclr", "siglip")
    }
    ranks.run(tmp_path, 3, [Job(tmp_path / kind, given) for kind, given in documents.items()])
    for kind, given in documents.items():
        job = small_runs.prepared(**given)
        before = {name: parameter.detach().clone() for name, parameter in job.model.named_parameters()}
        exact = job.model.double()
        loss = pairs_loss(kind, exact, *(leaf.double() for leaf in job.dataset.train.batch))
        loss.backward()
        assert losses(tmp_path / kind) == [pytest.approx(float(loss.detach()), rel=2e-6)]
        after = parameters(tmp_path / kind)
        for name, parameter in exact.named_parameters():
            assert parameter.grad is not None
            rounding = 2.0**-24 * float(before[name].abs().max()) + 2e-6 * float(parameter.grad.abs().max())
            assert float((before[name] - after[name] - parameter.grad).abs().max()) <= 4 * rounding, (kind, name)


def test_the_noise_is_measured_between_ranks(folder: Path) -> None:
    one, many = ([r for r in read_records(folder / f"{world}-sgd") if isinstance(r, StepRecord)] for world in (1, 3))
    assert all(record.covariance_trace is not None for record in many)
    # One estimate of an unbiased quantity against another, with 5 and with 3 pieces a step, over 30 steps.
    traces = [sum(record.covariance_trace or 0.0 for record in records) for records in (one, many)]
    assert traces[1] == pytest.approx(traces[0], rel=0.5)


@pytest.mark.parametrize("world_size", WORLDS)
def test_the_noise_of_the_norms_is_that_of_one_rank(folder: Path, world_size: int) -> None:
    one, many = ([r for r in read_records(folder / f"{world}-tokens") if isinstance(r, StepRecord)] for world in (1, world_size))
    for name in ("norms_covariance_trace", "norms_gradient_norm_squared"):
        alone, together = ([getattr(record, name) for record in records] for records in (one, many))
        assert [value is not None for value in alone] == [record.step % 3 == 0 for record in one]
        assert together[2] == pytest.approx(alone[2], rel=1e-3), "before what one step rounds the later ones carry on"
        assert [value or 0.0 for value in together] == pytest.approx([value or 0.0 for value in alone], rel=0.02)


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("name", ["lion", "muon"])
def test_the_noise_in_the_optimizers_own_norm_is_that_of_one_rank(folder: Path, name: str, world_size: int) -> None:
    """The halves are cut at the middle of the batch, which with three ranks lies within the second one's share."""
    one, many = ([r for r in read_records(folder / f"{world}-{name}") if isinstance(r, StepRecord)] for world in (1, world_size))
    for field in ("dual_variance", "dual_norm_squared"):
        alone, together = ([getattr(record, field) for record in records] for records in (one, many))
        assert [value is not None for value in alone] == [record.step % 3 == 0 for record in one]
        # float64 but for the loss, whose gradient with respect to the outputs is float32; what one step rounds the later ones carry on.
        assert together[2] == pytest.approx(alone[2], rel=1e-5)
        assert [value or 0.0 for value in together] == pytest.approx([value or 0.0 for value in alone], rel=0.02, abs=0.02 * alone[2])


def test_a_parameter_that_no_rank_reaches_is_left_alone(folder: Path) -> None:
    before = parameters(folder / "1-unreached", 5)
    for world_size in (1, *WORLDS):
        after = parameters(folder / f"{world_size}-unreached")
        assert torch.equal(before["never.weight"], after["never.weight"])
        assert not torch.equal(before["sometimes.weight"], after["sometimes.weight"])


def test_any_resize_goes_on_with_the_same_run(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    given = {case: {**EQUAL[case], "learning_rate": {"base": 0.2}} for case in ("sgd", "batch-norm")}
    for world_size, steps in ((2, 5), (1, 8), (3, 14)):
        ranks.run(tmp_path / str(world_size), world_size, [Job(tmp_path / c, {**g, "stop": {"steps": steps}}, steps > 5) for c, g in given.items()])
    whole = {case: {**document, "stop": {"steps": 14}} for case, document in given.items()}
    ranks.run(tmp_path / "one", 1, [Job(tmp_path / f"{case}-1", document) for case, document in whole.items()])
    for case in given:
        run_dir = tmp_path / case
        assert distance(parameters(run_dir), parameters(tmp_path / f"{case}-1")) <= 1e-5
        assert [(record.world_size, record.step) for record in starts(run_dir)] == [(2, 0), (1, 5), (3, 8)]
        shares = [record.samples_per_rank or [] for record in starts(run_dir)]
        assert [sum(share) for share in shares] == [BATCH] * 3
        assert shares[2] == ([83, 83, 84] if case == "sgd" else [75, 75, 100])


def test_the_same_number_of_ranks_repeats_itself_bit_for_bit(ranks: Ranks, folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "stopped"
    jobs = [Job(run_dir, EQUAL["batch-norm"]), Job(tmp_path / "again", EQUAL["batch-norm"])]
    ranks.run(tmp_path, 2, jobs)
    for path in (run_dir / "checkpoints").glob("*"):
        if "-00000005." not in path.name:
            path.unlink()
    ranks.run(tmp_path, 2, [Job(run_dir, EQUAL["batch-norm"], resumes=True)])
    assert all(same(parameters(folder / "2-batch-norm"), parameters(other)) for other in (tmp_path / "again", run_dir))


@pytest.fixture(scope="module")
def others(ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, dict[str, Any]]]]:
    """Every case of OTHERS by two ranks: (folder, each rank's answers)."""
    made = tmp_path_factory.mktemp("others")
    documents = OTHERS | UNLIKE
    answers = ranks.run(made, 2, [Job(made / name, given) for name, given in documents.items()])
    return made, [dict(zip(documents, given, strict=True)) for given in answers]


@pytest.mark.parametrize(("case", "near"), [("bfloat16", 0.05), ("powersgd", 0.5), ("local-steps", 0.5)])
def test_what_is_sent_less_trains_nearly_the_same(folder: Path, others: Any, case: str, near: float) -> None:
    made, answers = others
    one, other = losses(folder / "1-sgd"), losses(made / case)
    assert other != one
    assert other[-1] == pytest.approx(one[-1], rel=near)
    assert other[-1] < 0.75 * other[0]
    assert answers[0][case]["parameters_sha256"] == answers[1][case]["parameters_sha256"], "the ranks are equal at the end"


def test_many_micro_batches_of_bfloat16_lose_nothing(ranks: Ranks, others: Any, tmp_path: Path) -> None:
    """700 of each rank: added up in bfloat16, the gradient was wrong by 0.59 of its largest number. Both ranks round to 2^-9, and so does the sum."""
    whole = document(**NARROW, batch={"global_batch_size": 1400, "micro_batch_size": 1400})
    ranks.run(tmp_path, 1, [Job(tmp_path / "whole", whole)])
    assert distance(parameters(others[0] / "narrow"), parameters(tmp_path / "whole")) <= 2.0**-6


@pytest.mark.parametrize("reduction", [{}, {"local_steps": 2}, {"compression": "powersgd"}], ids=str)
def test_what_many_ranks_hold_in_bfloat16_is_added_up_in_float32(ranks: Ranks, tmp_path: Path, reduction: dict[str, Any]) -> None:
    """Four ranks hold 256, 1, 1 and 1 of each number, in whichever order they are added: in bfloat16, 256 + 1 is 256."""
    ranks.run(tmp_path, 4, [Job(tmp_path / "many", document(**ONE_LARGE, reduction=reduction))])
    assert parameters(tmp_path / "many")["layer.weight"].tolist() == [[float(torch.tensor(-259 / 4).bfloat16())] * 4]


def test_until_local_steps_begin_nothing_differs(folder: Path, others: Any) -> None:
    assert losses(others[0] / "local-steps")[:12] == losses(folder / "2-sgd")[:12]


def test_memory_that_one_rank_lacks_is_every_ranks_matter(others: Any) -> None:
    made, answers = others
    assert [answer["short-memory"]["micro_batch_size"] for answer in answers] == [25, 25]
    records = [record for record in read_records(made / "short-memory") if isinstance(record, NoticeRecord)]
    notices = [record for record in records if not record.text.startswith("The machine was busy")]  # with other tests, perhaps
    assert [("50 -> 25" in record.text, record.step) for record in notices] == [(True, 0)]
    assert len(losses(made / "short-memory")) == 3


def test_evaluation_that_one_rank_lacks_memory_for_counts_every_sample(others: Any) -> None:
    made, answers = others
    assert answers[0]["short-memory-in-evaluation"]["score"] == answers[0]["roomy"]["score"]
    assert losses(made / "short-memory-in-evaluation") == losses(made / "roomy")
    for answer in answers:
        assert "evaluation runs out of memory even with one sample" in answer["no-memory-in-evaluation"]["error"]


def test_steps_alone_pass_over_ranks_without_samples_and_average_the_average_too(others: Any) -> None:
    made, answers = others
    records = [record for record in read_records(made / "local-steps-tail") if isinstance(record, StepRecord)]
    assert [record.global_batch_size for record in records] == [718, 718, 1, 718, 718, 1, 718, 718]
    assert len({answer["local-steps-tail"]["parameters_sha256"] for answer in answers}) == 1, "weights and their average, which is what is evaluated"


def test_ranks_that_hold_different_buffers_stop_together(others: Any) -> None:
    for answer in others[1]:
        assert "workers hold different values of the buffer rank" in answer["differing"]["error"]


def test_all_ranks_diverge_together(others: Any) -> None:
    assert {answer["diverging"]["outcome"] for answer in others[1]} == {"diverged"}
    assert len({answer["diverging"]["steps"] for answer in others[1]}) == 1


def test_a_sample_that_is_not_finite_is_named_by_all_ranks(others: Any) -> None:
    for answer in others[1]:
        assert "training sample 3 holds NaN or infinity" in answer["gap"]["error"]


def test_a_span_that_cannot_be_shared_out_is_refused(others: Any) -> None:
    for answer in others[1]:
        assert "batch_norm.span" in answer["idle"]["error"]
        assert "at most 125" in answer["idle"]["error"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("order", r"(the label of )?training sample \d+ is"),
        ("length", "299 training samples on worker 1, 300 on worker 0"),
        ("classes", r"the label of test sample \d+ is 2 on worker 1, 0 on worker 0"),
    ],
)
def test_ranks_with_other_data_are_refused_on_every_rank(others: Any, case: str, words: str) -> None:
    made, answers = others
    for answer in answers:
        assert re.match(f"dataset: differs between workers: {words}", answer[case]["error"])
    assert not losses(made / case)


def test_what_samples_draw_on_each_rank_is_no_difference(others: Any) -> None:
    assert [answer["augments"]["steps"] for answer in others[1]] == [7, 7]


def test_a_reading_process_of_one_rank_that_dies_is_every_ranks_matter(others: Any) -> None:
    for answer in others[1]:
        assert "a reading process was ended by SIGKILL" in answer["dies"]["error"]


def test_what_one_ranks_model_raises_ends_all_with_one_sentence(others: Any) -> None:
    sentences = {answer["failing"]["error"] for answer in others[1]}
    assert len(sentences) == 1
    assert "model: failed at step 2, training on 50 samples: KeyError: 'boom'" in sentences.pop()


def test_what_a_model_keeps_besides_tensors_is_rank_0s(others: Any) -> None:
    assert len({answer["extra-state"]["parameters_sha256"] for answer in others[1]}) == 1

"""Runs whose sequences are short at first: against a restatement in float64, and by any split, resumed anywhere, on any data that has sequences."""

from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from small_runs import CPU, distance, losses, parameters, trained
from torch import Tensor, nn
from torch.nn import functional

from largebatch.jobs.engine.warm_up import warm_up
from largebatch.jobs.errors import PlanError
from largebatch.jobs.models.table import build_model
from largebatch.jobs.preparing.new_state import new_state
from largebatch.jobs.run.journal import evaluations, read_records
from largebatch.jobs.run.records import StepRecord
from largebatch.jobs.samples.keyed_random import sample_order
from largebatch.jobs.samples.slice import Slice

LENGTH, SHORT, SAMPLES = 12, 4, 60
"""Of `own_tasks:documents`: tokens of a sequence, tokens while they are short, training samples."""
CUT = {"length": SHORT, "epochs": 1.0}
LM: dict[str, Any] = {"name": "language-modelling"}
MLM: dict[str, Any] = {"name": "masked-language-modelling", "masked_fraction": 0.5, "mask_token": 8}
BERT = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "attention_probs_dropout_prob": 0.0}


def document(task: dict[str, Any] = LM, micro_batch_size: int = 60, dropout: float = 0.0, **parts: Any) -> dict[str, Any]:
    """Two epochs, 8 steps, of short sequences, then two, 4 steps, of whole ones in batches twice as large, with a rate that begins again."""
    kind = "transformer" if task["name"] == "language-modelling" else "transformer-encoder"
    schedule = {"short_sequences": {"length": SHORT, "epochs": 2.0}, "growth": [{"epoch": 2.0, "factor": 2.0}]}
    return small_runs.document(
        **{
            "task": task,
            "dataset": {"entry_point": "own_tasks:documents", "arguments": {"shift": int(kind == "transformer")}},
            "model": {"name": kind, "arguments": {"width": 16, "depth": 1, "num_heads": 2, "dropout": dropout}},
            "batch": {"global_batch_size": 15, "micro_batch_size": micro_batch_size, "schedule": schedule},
            "optimizer": {"name": "sgd", "momentum": 0.9},
            "learning_rate": {
                "base": 0.3, "warmup_epochs": 0.5, "decay": "polynomial", "decay_power": 1.0,
                "restart": {"epoch": 2.0, "base": 0.2, "warmup_epochs": 1.0},
            },
            "stop": {"epochs": 4.0},
            **parts,
        }
    )  # fmt: skip


def prepared(*given: Any, **parts: Any) -> Any:
    return small_runs.prepared(**document(*given, **parts))


def rate(progress: float) -> float:
    """Two epochs of 60 samples up to 0.3 and down, then two up to 0.2 and down."""
    start, peak, warmup = (0.0, 0.3, 30.0) if progress < 120 else (120.0, 0.2, 60.0)
    done = progress - start
    return peak * done / warmup if done < warmup else peak * (120 - done) / (120 - warmup)


def restated(job: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and last weights of the same run in float64: whole batches, cut by hand, and torch's own SGD."""
    model = build_model(job.spec.model, job.dataset, job.spec.seed).double()
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    found, progress = [], 0.0
    for epoch, size in ((0, 15), (1, 15), (2, 30), (3, 30)):
        order = sample_order(job.spec.seed, epoch, SAMPLES)
        for start in range(0, SAMPLES, size):
            batch = job.dataset.train.gather(order[start : start + size])
            tokens, targets = job.task.prepared(batch, job.spec.seed, Slice(epoch, start, start + size), CPU)
            if epoch < 2:
                pieces = [slice(first, first + SHORT) for first in range(0, LENGTH, SHORT)]
                tokens = torch.stack([row[piece] for row in tokens for piece in pieces])
                targets = torch.stack([row[piece] for row in targets for piece in pieces])
            loss = functional.cross_entropy(model(tokens).reshape(-1, 9), targets.reshape(-1), ignore_index=-100)
            optimizer.param_groups[0]["lr"] = rate(progress + size / 2)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            found.append(float(loss.detach()))
            progress += size
    return found, model.state_dict()


@pytest.mark.parametrize("micro_batch_size", [60, 7])
@pytest.mark.parametrize("task", [LM, MLM], ids=["next token", "masked"])
def test_it_is_the_run_restated_in_float64(task: dict[str, Any], micro_batch_size: int, tmp_path: Path) -> None:
    """12 steps; what float32 rounds in one the later ones carry on."""
    job = prepared(task, micro_batch_size)
    trained(job, tmp_path)
    expected, weights = restated(prepared(task, micro_batch_size))
    assert losses(tmp_path) == pytest.approx(expected, rel=2e-5)
    assert distance({name: tensor.double() for name, tensor in parameters(tmp_path).items()}, weights) < 2e-4


def test_whole_sequences_are_another_run(tmp_path: Path) -> None:
    """Else the comparison above could not tell them apart: what stands before a cut is not seen behind it."""
    schedule = {"growth": [{"epoch": 2.0, "factor": 2.0}]}
    runs = {"cut": prepared(), "whole": prepared(batch={"global_batch_size": 15, "micro_batch_size": 60, "schedule": schedule})}
    found = {}
    for name, job in runs.items():
        trained(job, tmp_path / name)
        found[name] = losses(tmp_path / name)
    assert abs(found["cut"][1] - found["whole"][1]) > 1e-4


def test_dropout_belongs_to_the_samples(tmp_path: Path) -> None:
    for micro_batch_size in (60, 7):
        trained(prepared(MLM, micro_batch_size, dropout=0.3), tmp_path / str(micro_batch_size))
    assert losses(tmp_path / "7") == pytest.approx(losses(tmp_path / "60"), rel=2e-5)


@pytest.mark.parametrize("steps", [3, 8, 10])
def test_it_resumes_in_either_phase_and_between_them_bit_for_bit(steps: int, tmp_path: Path) -> None:
    """8 steps are short, 4 whole; stopped by a listener, for another horizon would be another rate."""
    whole = trained(prepared(MLM, 7, 0.3), tmp_path / "whole")
    trained(prepared(MLM, 7, 0.3), tmp_path / "parts", small_runs.stopping_after(steps))
    assert small_runs.steps(tmp_path / "parts") == list(range(1, steps + 1))
    resumed = trained(prepared(MLM, 7, 0.3), tmp_path / "parts", resumes=True)
    assert resumed.parameters_sha256 == whole.parameters_sha256


@pytest.mark.parametrize("micro_batch_size", [60, 7])
def test_noise_of_the_norms_is_of_whole_samples(micro_batch_size: int, tmp_path: Path) -> None:
    """Each of the first step's 15 samples by itself, all its pieces together, in float64."""
    parts = {"gradient": {"noise_from": "norms", "noise_every_steps": 1}, "stop": {"steps": 1}, "learning_rate": {"base": 0.1}}
    trained(prepared(LM, micro_batch_size, **parts), tmp_path)
    job = prepared(LM, **parts)
    model = build_model(job.spec.model, job.dataset, job.spec.seed).double()
    norms = [parameter for module in model.modules() if isinstance(module, nn.RMSNorm) for parameter in module.parameters()]
    tokens, targets = (leaf.reshape(15, 3, SHORT) for leaf in job.dataset.train.gather(sample_order(job.spec.seed, 0, SAMPLES)[:15]))
    total = (targets != -100).sum()
    shares = (targets != -100).sum((1, 2)).double() / total
    rows = []
    for sample in range(15):
        loss = functional.cross_entropy(model(tokens[sample]).reshape(-1, 9), targets[sample].reshape(-1), ignore_index=-100, reduction="sum")
        rows.append(torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss / total, norms)]))
    whole, factors = torch.stack(rows).sum(0), 1 / (1 - 2 * shares)
    spread = (factors * (torch.stack(rows) - shares[:, None] * whole).square().sum(1)).sum()
    variance = spread / (1 + (factors * shares.square()).sum())
    (record,) = [record for record in read_records(tmp_path) if isinstance(record, StepRecord)]
    assert record.norms_covariance_trace == pytest.approx(15 * float(variance), rel=1e-4)
    assert record.norms_gradient_norm_squared == pytest.approx(float(whole.square().sum() - variance), rel=1e-3)


def test_evaluation_is_of_whole_sequences(tmp_path: Path) -> None:
    job = prepared(stop={"steps": 4}, learning_rate={"base": 0.1})
    trained(job, tmp_path)
    model = build_model(job.spec.model, job.dataset, job.spec.seed)
    model.load_state_dict(parameters(tmp_path))
    tokens, targets = job.dataset.test.gather(torch.arange(len(job.dataset.test)))
    expected = functional.cross_entropy(model(tokens).reshape(-1, 9), targets.reshape(-1), ignore_index=-100)
    assert list(evaluations(read_records(tmp_path)))[-1].loss == pytest.approx(float(expected.detach()), rel=1e-6)


def test_models_of_transformers_take_both(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    small = {**BERT, "hidden_dropout_prob": 0.2}
    for micro_batch_size in (60, 7):
        job = prepared(MLM, micro_batch_size, model={"name": "transformers:BertForMaskedLM", "arguments": small})
        trained(job, tmp_path / str(micro_batch_size))
    assert losses(tmp_path / "7") == pytest.approx(losses(tmp_path / "60"), rel=2e-4)


@pytest.mark.parametrize(
    ("compiles", "shapes"), [(False, [(27, 4), (48, 4), (9, 12), (16, 12)]), (True, [(27, 4), (30, 4), (48, 4), (9, 12), (10, 12), (16, 12)])]
)
def test_kernels_are_set_up_for_both_lengths(compiles: bool, shapes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 25 are 16 + 9, the last of an epoch is 10: a compiled model meets it, too."""
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(torch, "compile", lambda model: model)
    batch = {"global_batch_size": 25, "micro_batch_size": 16, "schedule": {"short_sequences": CUT}}
    job = prepared(batch=batch, compile=compiles, gradient={"noise_every_steps": 0})
    state = new_state(job)
    state.model.register_forward_pre_hook(lambda module, arguments: seen.append(tuple(arguments[0].shape)))
    warm_up(state, job.plan, job.dataset)
    assert seen == shapes


class Fixed(nn.Module):
    """A model that takes sequences of one length alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(9, 9), nn.Parameter(torch.zeros(LENGTH, 9))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embedding(tokens) + self.positions


def fixed() -> Fixed:
    return Fixed()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"batch": {"length": 5}}, r"short_sequences.length: 5 tokens are no divisor of a sample's 12. Nearest: 4 or 6"),
        ({"batch": {"length": 12}}, "length: 12 tokens are not shorter than a sample's 12. Nearest: 4 or 6"),
        ({"task": {"name": "regression"}, "dataset": {"entry_point": "own_tasks:curve"}, "model": {"name": "mlp"}}, "the task is regression"),
        ({"task": {"name": "contrastive"}, "dataset": {"entry_point": "own_tasks:views"}}, "the task is contrastive"),
        ({"task": {"name": "classification"}, "dataset": small_runs.synthetic(), "model": {"name": "mlp"}}, "the task is classification"),
        ({"dataset": {"entry_point": "own_tasks:nameless"}}, "the length of a sample of own_tasks:nameless is not known"),
        ({"model": {"entry_point": "test_two_phases:fixed"}}, r"model: cannot take 24 samples of shape \(4,\), int64, in training"),
    ],
)
def test_what_cannot_be_cut_is_refused(parts: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    cut = {**CUT, **parts.pop("batch", {})}
    given = {**document(), **parts, "batch": {"global_batch_size": 15, "micro_batch_size": 15, "schedule": {"short_sequences": cut}}}
    with pytest.raises(PlanError, match=words):
        small_runs.prepared(**given)

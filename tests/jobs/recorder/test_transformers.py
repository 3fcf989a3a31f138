"""`largebatch.transformers.Callback` with the library's own Trainer."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import largebatch
from largebatch.jobs.errors import InputError
from largebatch.jobs.run.journal import read_records
from largebatch.jobs.run.records import NoticeRecord

SLEEP_S = 0.2
LOSS = largebatch.Metric("loss", "lower")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's advice


class Net(nn.Module):
    """Keeps what it computed, so that it can be compared with what was recorded."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.losses: list[float] = []

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(x)
        loss = nn.functional.cross_entropy(logits, labels)
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss, "logits": logits}


def samples(number: int) -> list[dict[str, Any]]:
    drawn = torch.Generator().manual_seed(number)
    return [{"x": torch.randn(4, generator=drawn), "labels": int(torch.randint(0, 3, (), generator=drawn))} for _ in range(number)]


def trained(
    net: Net, folder: Path, metric: largebatch.Metric = LOSS, num_passes: int = 1, num_samples: Any = None, eval_dataset: Any = None, **given: Any
) -> Any:
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate, which is not installed")
    import transformers

    def slow_scores(predicted: Any) -> dict[str, float]:
        time.sleep(SLEEP_S)
        return {"size": float(len(predicted.label_ids))}

    class SlowSaves(transformers.TrainerCallback):  # type: ignore[misc]
        """As a large model would be saved."""

        def on_save(self, *arguments: Any, **named: Any) -> None:
            time.sleep(SLEEP_S)

    class Repeating(transformers.Trainer):  # type: ignore[misc]
        """Passes each micro-batch several times, as R-Drop does (Liang et al., arXiv:2106.14448)."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            outputs = [model(**inputs) for _ in range(num_passes)]
            loss = torch.stack([each["loss"] for each in outputs]).mean()
            return (loss, outputs[0]) if return_outputs else loss

    callback = largebatch.transformers.Callback(dataset="drawn", metric=metric, num_samples=num_samples, output_dir=folder / "runs", target=0.0)
    usual = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "learning_rate": 0.4, "optim": "sgd", "seed": 5,
        "eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder / "trainer"), **{**usual, **given})
    trainer = (Repeating if num_passes > 1 else transformers.Trainer)(
        net,
        arguments,
        train_dataset=samples(44),
        eval_dataset=eval_dataset or samples(9),
        compute_metrics=slow_scores,
        callbacks=[SlowSaves(), callback],
    )
    try:
        trainer.train()
    except InterruptedError:
        trainer.train()  # as a person does in a notebook
    return callback


def test_what_the_trainer_did_is_written_down(tmp_path: Path) -> None:
    net, began = Net(), time.perf_counter()
    run = largebatch.load_run(trained(net, tmp_path).recorder.run_dir)
    wall = time.perf_counter() - began
    # 44 samples in micro-batches of 8, 8 | 8, 8 | 8, 4: three steps an epoch.
    assert [step.global_batch_size for step in run.steps] == [16, 16, 12] * 2
    assert [step.samples_seen for step in run.steps] == [16, 32, 44, 60, 76, 88]
    # The Trainer weighs micro-batches alike; it is its loss that is recorded.
    means = [sum(net.losses[number : number + 2]) / 2 for number in range(0, 12, 2)]
    assert [step.loss for step in run.steps] == pytest.approx(means, rel=1e-4)
    assert [step.learning_rate for step in run.steps] == pytest.approx([0.4 * (6 - number) / 6 for number in range(6)])
    assert all(step.gradient_norm for step in run.steps)
    assert [(at.step, at.samples_seen, at.scores["size"]) for at in run.evaluations] == [(3, 44, 9.0), (6, 88, 9.0)]
    summary, spec = run.summary, run.spec
    assert summary is not None
    assert (summary.outcome, summary.steps, summary.micro_batch_size, summary.gradient_accumulation_steps) == ("missed", 6, 8, 2)
    assert summary.training_seconds <= wall - 4 * SLEEP_S
    assert summary.evaluation_seconds >= 2 * SLEEP_S
    assert (spec.model.name, spec.dataset.name, spec.seed, spec.batch.global_batch_size) == ("Net", "drawn", 5, 16)
    assert spec.model_dump()["recorded"] == {"trainer": "transformers"}
    assert spec.model_dump()["optimizer"]["name"] == "sgd"
    assert spec.learning_rate.base == 0.4


def test_steps_that_the_trainer_does_not_log_are_counted(tmp_path: Path) -> None:
    run = largebatch.load_run(trained(Net(), tmp_path, logging_steps=4, save_strategy="no").recorder.run_dir)
    assert [(step.step, step.samples_seen) for step in run.steps] == [(4, 60)]
    assert run.summary is not None
    assert (run.summary.steps, run.summary.samples_seen) == (6, 88)


def test_a_micro_batch_that_passes_twice_is_counted_once(tmp_path: Path) -> None:
    """Samples, epochs and batches were twice what they are."""
    folder = trained(Net(), tmp_path, num_passes=2).recorder.run_dir
    run = largebatch.load_run(folder)
    assert [step.global_batch_size for step in run.steps] == [16, 16, 12] * 2
    assert run.summary is not None
    assert (run.summary.samples_seen, run.summary.epochs) == (88, 2.0)
    notices = [record.text for record in read_records(folder) if isinstance(record, NoticeRecord)]
    assert [sum(words in notice for notice in notices) for words in ("its samples are counted once", "noise scale is not measured")] == [1, 1]


def test_what_cannot_be_recorded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metric: no evaluation gave eval_f1.*eval_loss, eval_size"):
        trained(Net(), tmp_path, largebatch.Metric("f1", "higher"))


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_a_library_that_is_not_installed_is_named_with_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in {name, *(imported for imported in sys.modules if imported.startswith(f"{name}."))}:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"largebatch.{name}", raising=False)
    monkeypatch.delitem(vars(largebatch), name, raising=False)
    with pytest.raises(ImportError, match=rf"^largebatch.{name} needs .*which is not installed: pip install 'largebatch\[{name}\]'$"):
        getattr(largebatch, name)


class FailsAtOnce(Net):
    """Raises in one training pass, once."""

    def __init__(self, error: Exception, at: int, largest: int) -> None:
        super().__init__()
        self.error, self.at, self.largest, self.num_passes = error, at, largest, 0

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        self.num_passes += self.training
        if self.training and (self.num_passes == self.at or len(x) > self.largest):
            raise self.error
        return super().forward(x, labels)


def test_a_training_that_begins_again_counts_its_own_passes(tmp_path: Path) -> None:
    run = largebatch.load_run(trained(FailsAtOnce(InterruptedError(), 4, 8), tmp_path, save_strategy="no").recorder.run_dir)
    assert [step.global_batch_size for step in run.steps] == [16, 16, 12] * 2
    assert all(step.covariance_trace is not None for step in (*run.steps[:2], *run.steps[3:5]))
    assert [record.text for record in read_records(run.path) if isinstance(record, NoticeRecord) and "several times" in record.text] == []


def test_the_batch_is_the_one_that_the_trainer_found_to_fit(tmp_path: Path) -> None:
    net = FailsAtOnce(torch.cuda.OutOfMemoryError("CUDA out of memory."), 0, 4)
    run = largebatch.load_run(trained(net, tmp_path, auto_find_batch_size=True, save_strategy="no").recorder.run_dir)
    assert run.summary is not None
    assert (run.summary.global_batch_size, run.summary.micro_batch_size, run.summary.samples_seen) == (8, 4, 88)
    assert {step.global_batch_size for step in run.steps[:5]} == {8}


def test_an_epoch_that_ends_before_its_step_is_the_batch(tmp_path: Path) -> None:
    run = largebatch.load_run(trained(Net(), tmp_path, gradient_accumulation_steps=9, save_strategy="no").recorder.run_dir)
    assert run.summary is not None
    assert (run.summary.global_batch_size, run.summary.micro_batch_size, [step.global_batch_size for step in run.steps]) == (44, 8, [44, 44])


class Packed(Net):
    """Told its batch as one row, as padding-free collators give it."""

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().forward(x[0], labels[0])


def test_a_batch_in_one_row_is_refused_unless_its_samples_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")

    def packs(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"x": torch.stack([each["x"] for each in features])[None], "labels": torch.tensor([[each["labels"] for each in features]])}

    monkeypatch.setattr(transformers.trainer, "default_data_collator", packs)
    with pytest.raises(InputError, match="num_samples: of a batch would be 1, the length of its first tensor, and the loader's batches are of 8"):
        trained(Packed(), tmp_path / "refused", eval_strategy="no")
    (refused,) = (tmp_path / "refused" / "runs").iterdir()
    summary = largebatch.load_run(refused).summary
    assert summary is not None
    assert summary.outcome == "failed"
    told = trained(Packed(), tmp_path / "told", num_samples=lambda named: named["labels"].numel(), eval_strategy="no", save_strategy="no")
    assert [step.global_batch_size for step in largebatch.load_run(told.recorder.run_dir).steps] == [16, 16, 12] * 2


def test_of_several_sets_all_evaluations_are_timed(tmp_path: Path) -> None:
    metric = largebatch.Metric("second_loss", "lower")
    sets = {"first": samples(9), "second": samples(10)}
    run = largebatch.load_run(trained(Net(), tmp_path, metric, eval_dataset=sets, save_strategy="no").recorder.run_dir)
    assert [at.scores.keys() for at in run.evaluations] == [{"second_loss", "second_size"}] * 2
    assert run.summary is not None
    assert run.summary.evaluation_seconds >= 4 * SLEEP_S

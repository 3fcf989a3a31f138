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


def trained(net: Net, folder: Path, metric: largebatch.Metric = LOSS, num_passes: int = 1, **given: Any) -> Any:
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

    callback = largebatch.transformers.Callback(dataset="drawn", metric=metric, output_dir=folder / "runs", target=0.0)
    usual = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "learning_rate": 0.4, "optim": "sgd", "seed": 5,
        "eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 1, "report_to": [], "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder / "trainer"), **{**usual, **given})
    trainer = (Repeating if num_passes > 1 else transformers.Trainer)(
        net, arguments, train_dataset=samples(44), eval_dataset=samples(9), compute_metrics=slow_scores, callbacks=[SlowSaves(), callback]
    )
    trainer.train()
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

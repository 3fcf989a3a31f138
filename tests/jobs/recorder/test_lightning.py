"""`largebatch.lightning.Callback` with Lightning's own Trainer."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import largebatch
from largebatch.jobs.errors import InputError
from largebatch.jobs.run.journal import failure, read_records

lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice, on loaders for one

SCORE = largebatch.Metric("val_loss", "lower")
SLEEP_S = 0.2


def data(number: int) -> TensorDataset:
    drawn = torch.Generator().manual_seed(number)
    return TensorDataset(torch.randn(number, 4, generator=drawn), torch.randint(0, 3, (number,), generator=drawn))


class Net(lightning.LightningModule):  # type: ignore[misc]
    """Keeps what it computed, so that it can be compared with what was recorded."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.fails_at = nn.Linear(4, 3), fails_at
        self.losses: list[tuple[float, int]] = []
        self.scores: list[float] = []

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        if len(self.losses) == self.fails_at:
            raise ZeroDivisionError("here")
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.losses.append((loss.item(), len(batch[1])))
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        time.sleep(SLEEP_S)
        loss = nn.functional.cross_entropy(self.layer(batch[0]), batch[1])
        self.log("val_loss", loss)
        self.scores.append(loss.item())

    def configure_optimizers(self) -> Any:
        sgd = torch.optim.SGD(self.parameters(), lr=0.4, momentum=0.9)
        return [sgd], [{"scheduler": torch.optim.lr_scheduler.StepLR(sgd, 1, 0.5), "interval": "step"}]


class SlowSaves(lightning.Callback):  # type: ignore[misc]
    """As a large model would be saved."""

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
        time.sleep(SLEEP_S)


def fit(net: Net, folder: Path, **given: Any) -> Any:
    callback = largebatch.lightning.Callback(dataset="drawn", metric=SCORE, output_dir=folder / "runs", target=0.0, **given)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[callback, SlowSaves()], accumulate_grad_batches=2, logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(net, DataLoader(data(44), 8), DataLoader(data(9), 9))
    return callback


def test_what_the_trainer_did_is_written_down(tmp_path: Path) -> None:
    lightning.seed_everything(5)
    net, began = Net(), time.perf_counter()
    run = largebatch.load_run(fit(net, tmp_path).recorder.run_dir)
    wall = time.perf_counter() - began
    # 44 samples in micro-batches of 8, 8 | 8, 8 | 8, 4: three steps an epoch.
    assert [step.global_batch_size for step in run.steps] == [16, 16, 12] * 2
    assert [step.samples_seen for step in run.steps] == [16, 32, 44, 60, 76, 88]
    pairs = [net.losses[number : number + 2] for number in range(0, 12, 2)]
    means = [sum(loss * size for loss, size in pair) / sum(size for _, size in pair) for pair in pairs]
    assert [step.loss for step in run.steps] == pytest.approx(means, rel=1e-6)  # float32's rounding
    assert [step.learning_rate for step in run.steps] == pytest.approx([0.4 / 2**number for number in range(6)])
    assert [(at.step, at.samples_seen) for at in run.evaluations] == [(3, 44), (6, 88)]
    assert [at.score for at in run.evaluations] == pytest.approx(net.scores[1:], rel=1e-6)  # the first is what Lightning tries before training
    summary, spec = run.summary, run.spec
    assert summary is not None
    assert (summary.outcome, summary.steps, summary.micro_batch_size, summary.gradient_accumulation_steps) == ("missed", 6, 8, 2)
    # Slept through: one validation before training, two in it, and two checkpoints.
    assert summary.training_seconds <= wall - 5 * SLEEP_S
    assert summary.evaluation_seconds >= 2 * SLEEP_S
    assert (spec.model.name, spec.dataset.name, spec.seed) == ("Net", "drawn", 5)
    assert spec.model_dump()["recorded"] == {"trainer": "lightning"}
    assert spec.batch.global_batch_size == 16


def test_a_fit_that_fails_is_written_down_as_that(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fit(Net(fails_at=5), tmp_path)
    (run_dir,) = (tmp_path / "runs").iterdir()
    run = largebatch.load_run(run_dir)
    assert run.summary is not None
    assert (run.summary.outcome, run.summary.steps, failure(read_records(run_dir))) == ("failed", 2, "ZeroDivisionError: here")


@pytest.mark.parametrize(
    ("loader", "metric", "sentence"),
    [
        (DataLoader(data(8), 8), largebatch.Metric("val_loss2", "lower"), "evaluation: has no val_loss2"),
        ([data(8)[:]], SCORE, "global_batch_size: is not known"),
    ],
)
def test_what_cannot_be_recorded_is_refused(loader: Any, metric: largebatch.Metric, sentence: str, tmp_path: Path) -> None:
    callback = largebatch.lightning.Callback(dataset="drawn", metric=metric, output_dir=tmp_path)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[callback],
    )  # fmt: skip
    with pytest.raises(InputError, match=sentence):
        trainer.fit(Net(), loader, DataLoader(data(9), 9))

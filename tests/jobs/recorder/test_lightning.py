"""`largebatch.lightning.Callback` with Lightning's own Trainer."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Forked
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


def trained(
    net: Any, folder: Path, loader: Any, *others: Any, metric: largebatch.Metric = SCORE, num_samples: Any = None, **given: Any
) -> largebatch.Run:
    """The run that one epoch leaves."""
    callback = largebatch.lightning.Callback(dataset="drawn", metric=metric, output_dir=folder, num_samples=num_samples)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[callback, *others], **{"max_epochs": 1, **given},
    )  # fmt: skip
    trainer.fit(net, loader, DataLoader(data(9), 9))
    return largebatch.load_run(callback.recorder.run_dir)


class OptimisesByItself(Net):
    """Past Lightning, so that its count of steps stays 0; several times in each training step, or every so many."""

    def __init__(self, num_steps: int = 1, every: int = 1) -> None:
        super().__init__()
        self.automatic_optimization, self.num_steps, self.every = False, num_steps, every

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        sgd = self.optimizers(use_pl_optimizer=False)
        for _ in range(self.num_steps):
            loss = super().training_step(batch, number)
            self.manual_backward(loss)
            if (number + 1) % self.every == 0:
                sgd.step()
                sgd.zero_grad()
        return loss


def test_steps_are_counted_where_a_module_optimises_past_lightning(tmp_path: Path) -> None:
    run = trained(OptimisesByItself(), tmp_path, DataLoader(data(20), 8))
    assert [(step.global_batch_size, step.samples_seen) for step in run.steps] == [(8, 8), (8, 16), (4, 20)]
    with pytest.raises(InputError, match="optimizer: took 2 steps in one training_step"):
        trained(OptimisesByItself(num_steps=2), tmp_path, DataLoader(data(20), 8))
    with pytest.raises(InputError, match="global_batch_size: is 8, and the first step has 24 samples"):
        trained(OptimisesByItself(every=3), tmp_path, DataLoader(data(24), 8))
    unseen = trained(OptimisesByItself(every=9), tmp_path, DataLoader(data(24), 8))
    assert unseen.summary is not None
    assert unseen.summary.outcome == "failed"


def test_accumulation_is_that_of_the_steps(tmp_path: Path) -> None:
    schedule = lightning.pytorch.callbacks.GradientAccumulationScheduler
    run = trained(Net(), tmp_path, DataLoader(data(48), 8), schedule({0: 3}))
    assert run.summary is not None
    assert (run.summary.global_batch_size, run.summary.gradient_accumulation_steps, run.summary.steps) == (24, 3, 2)
    assert all(step.covariance_trace is not None for step in run.steps)
    with pytest.raises(InputError, match="accumulate_grad_batches: changes from epoch to epoch"):
        trained(Net(), tmp_path, DataLoader(data(48), 8), schedule({0: 3, 1: 2}))


def test_an_epoch_that_ends_before_its_step_is_the_batch(tmp_path: Path) -> None:
    for given in ({"accumulate_grad_batches": 8}, {"accumulate_grad_batches": 8, "limit_train_batches": 2}):
        run = trained(Net(), tmp_path, DataLoader(data(20), 8), **given)
        assert run.summary is not None
        read = 16 if "limit_train_batches" in given else 20
        assert (run.summary.global_batch_size, run.summary.micro_batch_size, run.steps[0].global_batch_size) == (read, 8, read)


class Pictures(Net):
    """As detection has them: a tuple of pictures of their own sizes, and one of labels."""

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        pictures, labels = batch
        return super().training_step((torch.stack([picture.flatten()[:4] for picture in pictures]), torch.stack(labels)), number)


def test_a_batch_whose_first_tensor_is_one_sample_is_refused(tmp_path: Path) -> None:
    pictures = [(torch.ones(3, 2 + number % 3, 4), torch.tensor(number % 3)) for number in range(20)]
    loader = DataLoader(pictures, 8, collate_fn=lambda samples: tuple(zip(*samples, strict=True)))
    with pytest.raises(InputError, match=r"num_samples: of a batch would be 3, .* the loader's batches are of 8"):
        trained(Pictures(), tmp_path, loader)
    run = trained(Pictures(), tmp_path, loader, num_samples=lambda batch: len(batch[1]))
    assert [step.global_batch_size for step in run.steps] == [8, 8, 4]


class LogsMore(Net):
    """Logs a loss of training, and another score in the first validation alone."""

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        loss = super().training_step(batch, number)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        super().validation_step(batch, number)
        if self.trainer.current_epoch == 0:
            self.log("rare", 0.5)


def test_scores_are_those_that_validation_logged(tmp_path: Path) -> None:
    run = trained(LogsMore(), tmp_path, DataLoader(data(20), 8), max_epochs=2)
    assert [at.scores.keys() for at in run.evaluations] == [{"val_loss", "rare"}, {"val_loss"}]
    rare = trained(LogsMore(), tmp_path, DataLoader(data(20), 8), metric=largebatch.Metric("rare", "higher"), max_epochs=2)
    assert [(at.step, at.score) for at in rare.evaluations] == [(3, 0.5)]
    with pytest.raises(InputError, match="evaluation: has no loss"):
        trained(LogsMore(), tmp_path, DataLoader(data(20), 8), metric=largebatch.Metric("loss", "lower"))


PROGRAM = """
import sys
import lightning, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import largebatch
from largebatch.lightning import Callback

class Net(lightning.LightningModule):
    def __init__(self, whole):
        super().__init__()
        self.layer, self.whole = nn.Linear(1, 1), whole
    def training_step(self, batch, number):
        return self.layer(batch[0]).square().mean()
    def validation_step(self, batch, number):
        self.log("val_loss", batch[0].mean(), sync_dist=self.whole)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def fit(whole):
    callback = Callback(dataset="drawn", metric=largebatch.Metric("val_loss", "lower"), output_dir=sys.argv[1])
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", accumulate_grad_batches=2, callbacks=[callback], logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )
    samples = TensorDataset(torch.arange(44.0).unsqueeze(1))
    trainer.fit(Net(whole), DataLoader(samples, 4), DataLoader(samples, 22))

fit(True)
try:
    fit(False)
except largebatch.jobs.errors.InputError as error:
    print(error)
"""


def test_two_processes_write_one_run_of_the_global_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    imported = ("largebatch.lightning", "torch._dynamo")
    ranks = [Forked("-c", PROGRAM, tmp_path, folder=tmp_path, imports=imported, LOCAL_RANK=str(rank), **meet) for rank in (0, 1)]
    said = [rank.communicate(timeout=180) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    of_whole, of_parts = sorted(
        (largebatch.load_run(folder) for folder in tmp_path.iterdir() if folder.is_dir()), key=lambda run: run.summary.outcome
    )
    # 22 samples a rank in micro-batches of 4, 4 | 4, 4 | 4, 2: three steps.
    assert [step.global_batch_size for step in of_whole.steps] == [16, 16, 12]
    assert (of_whole.summary.world_size, of_whole.summary.global_batch_size, of_whole.summary.samples_seen) == (2, 16, 44)
    assert of_whole.evaluations[0].score == 21.5  # the mean of 0 to 43
    # The sampler hands each rank every second sample: means of 21 and 22.
    assert of_parts.summary.outcome == "failed"
    assert ["evaluation: of val_loss is of each process's own part of the data, 2" in out for out, _ in said] == [True, True], said

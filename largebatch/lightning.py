"""`largebatch.lightning.Callback`: writes our run folder from a Lightning Trainer.

trainer = Trainer(callbacks=[largebatch.lightning.Callback(dataset="digits", metric=largebatch.Metric("val_acc", "higher"))])
"""

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from largebatch.jobs.errors import InputError
from largebatch.jobs.recorder.batches import BatchSamples, begins_whole, largest_share, samples_of_epoch
from largebatch.jobs.recorder.micro_batch_noise import MicroBatch
from largebatch.jobs.recorder.recorder import Recorder
from largebatch.jobs.recorder.scores import differ_in
from largebatch.jobs.run.records import Outcome
from largebatch.jobs.tasks.metric import Metric

try:
    from lightning.pytorch import Callback as LightningCallback
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
except ImportError as error:
    raise ImportError("largebatch.lightning needs Lightning, which is not installed: pip install 'largebatch[lightning]'") from error

SEED = "PL_GLOBAL_SEED"
"""Where Lightning's seed_everything leaves the seed."""


class Callback(LightningCallback):  # type: ignore[misc]
    """Records each `fit` of a Trainer with one optimizer.

    The clock counts from the reading of each batch to the end of its step. Not in it: validation, checkpoints, and the reading of the one
    batch that follows either. Where gradients are accumulated, the noise scale is told by the gradients of the micro-batches.

    Args:
        dataset: its name; runs are compared where it is the same.
        metric: what the run is judged by, by the name under which validation logs it.
        model: its name; None: the LightningModule's class.
        seed: None: as `seed_everything` left it, else 0.
        global_batch_size: None: the loader's batch, times accumulation, times processes.
        num_train_samples: None: the length of the training data.
        num_samples: of a batch; None: the length of its first tensor, which must be the loader's batch.
        options: as of `largebatch.Recorder`: target, settings, noise_every_steps, evaluated_on, name, output_dir, learning_rate ...
    Raises: InputError for what cannot be recorded, when training starts.
    """

    def __init__(
        self,
        *,
        dataset: str,
        metric: Metric,
        model: str | None = None,
        seed: int | None = None,
        global_batch_size: int | None = None,
        num_train_samples: int | None = None,
        num_samples: Callable[[Any], int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self._dataset, self._metric, self._model, self._seed = dataset, metric, model, seed
        self._global_batch_size, self._num_train_samples, self._num_samples = global_batch_size, num_train_samples, num_samples
        self._options = options
        self.recorder: Recorder | None = None
        """Of the last fit."""
        self._num_steps = self._samples = self._batch_samples = 0
        self._weighted: float | Tensor | None = 0.0
        self._validation_began_s = 0.0
        self._logged_before: dict[str, Any] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a run. Raises: InputError."""
        if len(trainer.optimizers) != 1:
            raise InputError("optimizer", f"there are {len(trainer.optimizers)}, and a recorded run has one.", "Record with largebatch.Recorder.")
        if trainer.global_step:
            problem = f"the Trainer goes on from step {trainer.global_step}, and a recording begins with its run."
            raise InputError("ckpt_path", problem, "Leave the callback out, or train from the start.")
        loader, accumulate = trainer.train_dataloader, _accumulation(trainer)
        batch, size = self._global_batch_size, getattr(loader, "batch_size", None)
        if batch is None:
            if size is None:
                raise InputError(
                    "global_batch_size", "is not known: the training data are no DataLoader with a batch_size.", "Give it to the callback."
                )
            batch = largest_share(loader, size, min(accumulate, trainer.num_training_batches), trainer.world_size) * trainer.world_size
        self.recorder = Recorder(
            model=self._model or type(pl_module).__name__,
            dataset=self._dataset,
            optimizer=trainer.optimizers[0],
            global_batch_size=batch,
            num_train_samples=samples_of_epoch(loader, self._num_train_samples),
            micro_batch_size=size or math.ceil(batch / trainer.world_size / accumulate),
            seed=int(os.environ.get(SEED, "0")) if self._seed is None else self._seed,
            metric=self._metric,
            **{"trainer": "lightning", **self._options},
        )
        self._num_steps = self._samples = 0
        self._weighted, self._has_stepped, self._has_score = 0.0, False, False
        self._batches = BatchSamples(self._num_samples, size, begins_whole(loader))
        self._own_steps = 0
        self._hook = trainer.optimizers[0].register_step_post_hook(self._count_step)
        self.recorder.begin()
        if not pl_module.automatic_optimization:
            self.recorder.micro_batch_noise.refuse("the module optimises by itself")
        if trainer.strategy.handles_gradient_accumulation:
            self.recorder.micro_batch_noise.refuse(f"{type(trainer.strategy).__name__} accumulates by itself")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The first batch is about to be read."""
        self._running().start_clock()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Go on after a validation or a checkpoint."""
        if not self._running().trains:
            self._running().start_clock()
        self._batch_samples = self._batches.of(batch)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Measure the micro-batch's gradient, where it is one of several."""
        if trainer.accumulate_grad_batches > 1:
            self._running().micro_batch_noise.begin()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """Say what Lightning has multiplied the micro-batch's mean loss by; here nothing is unscaled or clipped yet."""
        noise, scaler = self._running().micro_batch_noise, getattr(trainer.precision_plugin, "scaler", None)
        if trainer.accumulate_grad_batches > 1 and noise.is_due:
            scale = 1.0 if scaler is None else scaler.get_scale()
            noise.end(MicroBatch(self._batch_samples, coefficient=scale / trainer.accumulate_grad_batches))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add a micro-batch up; write a line where its step is done."""
        number = self._batch_samples
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is None or self._weighted is None:
            self._weighted = None  # the module optimises by itself, and did not say
        else:  # Lightning hands the micro-batch's loss over divided by how many there are
            whole = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self._weighted = self._weighted + loss.detach().double() * whole * number
        self._samples += number
        num_steps = self._steps_since(trainer, pl_module.automatic_optimization)
        if not num_steps:
            return
        if num_steps > 1:
            problem = f"took {num_steps} steps in one training_step, and what each of them reads is not known."
            raise InputError("optimizer", problem, "Record with largebatch.Recorder.")
        recorder, self._has_stepped = self._running(), True
        recorder.step(None if self._weighted is None else self._weighted / self._samples, self._samples)
        recorder.mark()
        self._samples, self._weighted = 0, 0.0

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock; what was since the step was no training."""
        if self._records(trainer):
            self._stop_clock()
            self._validation_began_s, self._logged_before = time.perf_counter(), dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Write down what validation logged. Raises: InputError where the metric is not among it."""
        if self._records(trainer):
            logged, before = trainer.callback_metrics, self._logged_before  # what training or an earlier validation logged stays among it
            scores = {name: float(value) for name, value in logged.items() if value is not before.get(name)}
            if self._metric.name not in scores and self._has_score:
                return  # logged in some validations alone
            self._refuse_part(scores)
            self._has_score = True
            self._running().evaluation(scores, time.perf_counter() - self._validation_began_s)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        """Stop the clock until the next batch."""
        if self.recorder is not None and self.recorder.is_recording:
            self._stop_clock()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock until the next epoch."""
        self._stop_clock()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the summary."""
        if self.recorder is None or not self.recorder.is_recording:
            return
        if self._samples and not self._has_stepped:
            self._end(Outcome.FAILED, "no step() of the optimizer was seen, in Lightning or of torch")
        else:
            self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Write down what training failed of, or that it was stopped."""
        if self.recorder is None or not self.recorder.is_recording:
            return
        if isinstance(exception, Exception):
            self._end(Outcome.FAILED, f"{type(exception).__name__}: {exception}")
        else:
            self._end(Outcome.STOPPED)

    def _count_step(self, *given: Any) -> None:
        self._own_steps += 1

    def _steps_since(self, trainer: Any, is_automatic: bool) -> int:
        """The optimizer's steps since this was asked last: Lightning's count; torch's where a module that optimises by itself goes past it."""
        of_lightning, of_torch = int(trainer.global_step) - self._num_steps, self._own_steps
        self._num_steps, self._own_steps = trainer.global_step, 0
        return of_lightning if is_automatic else max(of_lightning, of_torch)

    def _end(self, outcome: Outcome | None = None, reason: str = "") -> None:
        self._hook.remove()
        self._running().end(outcome, reason)

    def _records(self, trainer: Any) -> bool:
        """Whether a validation belongs to a fit, and is not what Lightning tries before it."""
        return not trainer.sanity_checking and self.recorder is not None and self.recorder.is_recording

    def _refuse_part(self, scores: Mapping[str, float]) -> None:
        """Raise InputError, on every rank, where ranks have other scores: Lightning hands each a part of the validation data."""
        name = self._metric.name
        if name in scores and differ_in(self._running().ranks, scores[name]):
            problem = f"of {name} is of each process's own part of the data, {scores[name]:g} here."
            raise InputError("evaluation", problem, f'Log it of the whole: self.log("{name}", ..., sync_dist=True).')

    def _stop_clock(self) -> None:
        self._running().stop_clock(to_mark=not self._samples)

    def _running(self) -> Recorder:
        assert self.recorder is not None, "Lightning calls on_train_start first"
        return self.recorder


def _accumulation(trainer: Any) -> int:
    """How many micro-batches a rank's step has. Raises: InputError where that changes from epoch to epoch."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            numbers = set(callback.scheduling.values())
            if len(numbers) > 1:
                problem = f"changes from epoch to epoch ({callback.scheduling}), and a recorded run has one batch."
                raise InputError("accumulate_grad_batches", problem, "Leave the callback out, or accumulate alike in all epochs.")
            return int(numbers.pop())
    return int(trainer.accumulate_grad_batches)
